//! QLinearConv and QLinearMatMul as what they mean: DequantizeLinear, Conv or MatMul, QuantizeLinear. Passes and kernels
//! then know one way of writing quantised networks. What has scales that are no constants stays as it is.

use crate::infer::graph::{Fact, Graph, Node, ValueId};
use crate::infer::op::Op;
use crate::infer::ops::quantise::{Meaning, QLinear};
use crate::infer::tensor::Tensor;

/// Takes all such nodes apart.
pub fn take_apart(graph: &mut Graph) {
    for node in std::mem::take(&mut graph.nodes) {
        let meaning = node.op.downcast::<QLinear>().and_then(|op| {
            let facts: Vec<Option<&Fact>> = node.inputs.iter().map(|i| i.map(|i| graph.fact(i))).collect();
            op.meaning(&facts, graph.fact(node.outputs[0]))
        });
        match meaning {
            Some(meaning) => parts(graph, &node, meaning),
            None => graph.nodes.push(node),
        }
    }
}

fn parts(graph: &mut Graph, node: &Node, meaning: Meaning) {
    let name = |of: &str| format!("{}.{of}", node.name);
    let mut inputs = Vec::with_capacity(3);
    for (i, (op, of)) in meaning.operands.into_iter().enumerate() {
        let given: Vec<Option<ValueId>> = of.iter().map(|&i| node.inputs[i]).collect();
        let shape = given[0].map(|x| graph.fact(x).shape.clone()).unwrap_or_default();
        let value = graph.add_value(&name(["x", "weights"][i]), Fact::f32(&shape));
        let constants: Option<Vec<Option<&Tensor>>> =
            given.iter().map(|i| i.and_then(|i| graph.fact(i).constant.as_ref()).map(Some)).collect();
        let folded = constants.and_then(|given| op.eval(&given)?.ok()?.into_iter().next());
        let part = Node { name: name(["x", "weights"][i]), op, inputs: given, outputs: vec![value] };
        match folded {
            Some(numbers) => {
                graph.values[value.0].fact = Fact::of(&numbers);
                graph.dequantised.push(part);
            }
            None => graph.nodes.push(part),
        }
        inputs.push(Some(value));
    }
    if let Some(bias) = &meaning.bias {
        inputs.push(Some(graph.add_constant(&name("bias"), bias)));
    }
    let shape = graph.fact(node.outputs[0]).shape.clone();
    let product = graph.add_value(&name("product"), Fact::f32(&shape));
    push(graph, node.name.clone(), meaning.on_numbers, inputs, product);
    let (quantise, [scale, zero]) = meaning.quantise;
    let inputs = vec![Some(product), node.inputs[scale], node.inputs[zero]];
    push(graph, name("quantised"), quantise, inputs, node.outputs[0]);
}

fn push(graph: &mut Graph, name: String, op: Box<dyn Op>, inputs: Vec<Option<ValueId>>, output: ValueId) {
    graph.nodes.push(Node { name, op, inputs, outputs: vec![output] });
}
