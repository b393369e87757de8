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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::graph::Format;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;
    use crate::infer::ops::dense::{Numbers, from_numbers};
    use crate::infer::tensor::DType;
    use crate::session::{Backend, Model, Session, SessionOptions};

    struct Builder(Graph);

    impl Builder {
        fn integers(&mut self, shape: &[usize], dtype: DType, value: impl Fn(i64) -> i64) -> ValueId {
            let values = (0..shape.iter().product::<usize>() as i64).map(value).collect();
            self.0.add_constant("integers", &from_numbers(shape, dtype, &Numbers::Int(values)).expect("tensor"))
        }

        fn scales(&mut self, shape: &[usize], least: f32) -> ValueId {
            let values = (0..shape.iter().product::<usize>()).map(|i| least + 0.00071 * i as f32).collect();
            self.0.add_constant("scales", &Tensor::from_f32(shape, values).expect("tensor"))
        }

        fn node(&mut self, op_type: &str, inputs: &[ValueId], attributes: &[AttributeProto]) -> ValueId {
            let facts: Vec<Fact> = inputs.iter().map(|i| self.0.fact(*i).clone()).collect();
            let op = build_for_test(op_type, 13, attributes, &facts.iter().collect::<Vec<_>>()).expect("builds");
            let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
            self.0.add_node(op_type, op, &inputs).expect("fits")[0]
        }
    }

    /// Convolutions, one in groups, and a product of rows, with or without a scale for each filter.
    fn network(dtype: DType, per_filter: bool) -> Builder {
        let mut b = Builder(Graph::new("operators on integers", Format::Onnx));
        let x = b.0.add_value("x", Fact::f32(&[2, 6, 5, 7]));
        b.0.inputs.push(x);
        let middle = if dtype == DType::U8 { 128 } else { 0 };
        let of = |count: usize| if per_filter { vec![count] } else { vec![] };
        let scale = [0.0173, 0.0519, 0.0437, 0.061].map(|s| b.scales(&[], s));
        let zero = [0, 7, -3, 2].map(|z| b.integers(&[], dtype, |_| middle + z));
        let q = b.node("QuantizeLinear", &[x, scale[0], zero[0]], &[]);
        let weights = b.integers(&[12, 3, 3, 3], DType::I8, |i| i * 37 % 255 - 127);
        let (s, z) = (b.scales(&of(12), 0.0021), b.integers(&of(12), DType::I8, |_| 0));
        let bias = b.integers(&[12], DType::I32, |i| 900 * i - 4000);
        let attributes = [AttributeProto::ints("pads", &[1, 0, 1, 2]), AttributeProto::int("group", 2)];
        let inputs = [q, scale[0], zero[0], weights, s, z, scale[1], zero[1], bias];
        let q = b.node("QLinearConv", &inputs, &attributes);
        let weights = b.integers(&[5, 12, 1, 1], DType::U8, |i| i * 91 % 256);
        let (s, z) = (b.scales(&of(5), 0.0037), b.integers(&of(5), DType::U8, |i| 120 + i));
        let q = b.node("QLinearConv", &[q, scale[1], zero[1], weights, s, z, scale[2], zero[2]], &[]);
        let weights = b.integers(&[7, 4], DType::I8, |i| i * 53 % 255 - 127);
        let (s, z) = (b.scales(&[], 0.0041), b.integers(&[], DType::I8, |_| 0));
        let q = b.node("QLinearMatMul", &[q, scale[2], zero[2], weights, s, z, scale[3], zero[3]], &[]);
        let y = b.node("DequantizeLinear", &[q, scale[3], zero[3]], &[]);
        b.0.outputs.push(y);
        b
    }

    #[test]
    fn taken_apart_they_are_the_same_network_and_run_on_bytes() {
        for (dtype, per_filter) in [(DType::U8, true), (DType::I8, true), (DType::U8, false)] {
            let whole = network(dtype, per_filter).0;
            let mut graph = whole.clone();
            take_apart(&mut graph);
            let names: Vec<&str> = graph.nodes.iter().map(|node| node.op.name()).collect();
            assert!(names.contains(&"Conv") && names.contains(&"MatMul"), "{names:?}");
            assert!(!names.iter().any(|name| name.starts_with("QLinear")), "{names:?}");
            let model = Model::from_graph(graph);
            let (on_bytes, _) = model.on_bytes.as_ref().expect("runs on bytes");
            assert!(on_bytes.nodes.iter().all(|node| node.op.is_on_bytes()), "{:?}", on_bytes.nodes);
            let on_f32 = Model { on_bytes: None, ..model.clone() };
            let values = (0..2 * 6 * 5 * 7).map(|i| (i as f32 * 0.37).sin() * 2.0).collect();
            let input = Tensor::from_f32(&[2, 6, 5, 7], values).expect("tensor");
            let options = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
            let run = |model: &Model| {
                let mut session = Session::new(model, &options).expect("plans");
                session.run(&[("x", input.clone())]).expect("runs").remove(0).1.to_f32()
            };
            // Sums of integers, rounded once.
            let wanted = run(&Model::as_it_is(whole));
            for got in [run(&model), run(&on_f32)] {
                let off = |(a, b): (&f32, &f32)| ((a - b) / 0.061).abs();
                assert!(got.iter().zip(&wanted).map(off).all(|steps| steps < 1.01));
                let moved = got.iter().zip(&wanted).map(off).filter(|steps| *steps > 0.5).count();
                assert!(moved * 100 <= got.len(), "{moved} of {}", got.len());
            }
            assert!(wanted.iter().any(|&y| y != wanted[0]));
        }
    }

    #[test]
    fn scales_that_are_computed_leave_a_node_as_it_is() {
        let Builder(mut graph) = network(DType::U8, true);
        let nodes = graph.nodes.len();
        for i in [1, 2, 3] {
            let scale = graph.nodes[i].inputs[4].expect("a scale");
            graph.values[scale.0].fact.constant = None;
        }
        take_apart(&mut graph);
        assert_eq!(graph.nodes.len(), nodes);
    }
}
