//! QuantizeLinear followed by DequantizeLinear, as files quantised for training or by calibration have them around every
//! operator, becomes f32 arithmetic: clip(round(x / s)) · s, with the bounds of the integer type less the zero point. That
//! is the same number, without integers in between, and runs on every backend. Only one scale per tensor.

use super::PassReport;
use super::pattern::Edges;
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, Graph, Node, ValueId};
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::tensor::{DType, Tensor};

pub fn run(graph: &mut Graph) -> PassReport {
    let mut report = PassReport::new("compute quantised pairs in f32");
    let edges = Edges::of(graph);
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    let old = std::mem::take(&mut graph.nodes);
    for node in &old {
        let pair = match node.op.name() {
            "DequantizeLinear" => pair_of(graph, &old, &edges, node),
            _ => None,
        };
        let Some(pair) = pair else {
            nodes.push(node.clone());
            continue;
        };
        report.did(format!("'{}'", node.name));
        let shape = graph.fact(pair.x).shape.clone();
        let mut step = |graph: &mut Graph, op: Elementwise, inputs: &[ValueId], output: Option<ValueId>| {
            let output =
                output.unwrap_or_else(|| graph.add_value(&format!("{}.quantised", node.name), Fact::f32(&shape)));
            let inputs = inputs.iter().copied().map(Some).collect();
            nodes.push(Node { name: node.name.clone(), op: Box::new(op), inputs, outputs: vec![output] });
            output
        };
        let steps = step(graph, Elementwise::new(Function::Div), &[pair.x, pair.quantise_scale], None);
        let clip = Activation::Clip { lo: pair.bounds[0], hi: pair.bounds[1] };
        let whole = step(graph, Elementwise { function: Function::Round, activation: clip }, &[steps], None);
        step(graph, Elementwise::new(Function::Mul), &[whole, pair.scale], Some(node.outputs[0]));
    }
    graph.nodes = nodes;
    report
}

struct Pair {
    x: ValueId,
    quantise_scale: ValueId,
    scale: ValueId,
    /// Least and largest quantised value, less the zero point.
    bounds: [f32; 2],
}

fn pair_of(graph: &Graph, nodes: &[Node], edges: &Edges, dequantise: &Node) -> Option<Pair> {
    let quantised = dequantise.inputs.first().copied().flatten()?;
    let quantise = &nodes[edges.producer(quantised)?];
    if quantise.op.name() != "QuantizeLinear" {
        return None;
    }
    let (least, largest) = match graph.fact(quantised).dtype {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        _ => return None,
    };
    let x = quantise.inputs.first().copied().flatten()?;
    let is_f32 = |id: ValueId| !graph.fact(id).is_host() && graph.fact(id).dtype == DType::F32;
    if !is_f32(x) || !is_f32(dequantise.outputs[0]) {
        return None;
    }
    let parameters = |node: &Node| -> Option<(ValueId, f32)> {
        let scale = node.inputs.get(1).copied().flatten()?;
        let one = |tensor: &Tensor| (tensor.len() == 1).then(|| tensor.to_f32()[0]);
        let value = one(graph.fact(scale).constant.as_ref()?)?;
        let zero = match node.inputs.get(2).copied().flatten() {
            Some(zero) => one(graph.fact(zero).constant.as_ref()?)?,
            None => 0.0,
        };
        // A scale of rank 1 would add an axis to a value of rank 0.
        let fits = graph.fact(scale).shape.len() <= graph.fact(x).shape.len();
        (value > 0.0 && value.is_finite() && fits).then_some((scale, zero))
    };
    let ((quantise_scale, zero), (scale, same)) = (parameters(quantise)?, parameters(dequantise)?);
    (zero == same).then_some(Pair { x, quantise_scale, scale, bounds: [least - zero, largest - zero] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::graph::Format;
    use crate::infer::ops::context::build_for_test;
    use crate::infer::ops::dense::{Numbers, from_numbers};
    use crate::session::{Backend, Model, Session, SessionOptions};

    #[test]
    fn a_pair_is_the_same_number_without_integers() {
        for (dtype, zero, least, largest) in [(DType::U8, 130, 0, 255), (DType::I8, -3, -128, 127)] {
            let mut graph = Graph::new("pair", Format::Onnx);
            let x = graph.add_value("x", Fact::f32(&[1, 3, 2, 2]));
            graph.inputs.push(x);
            let scale = graph.add_constant("scale", &Tensor::scalar_f32(0.125));
            let zero_point = from_numbers(&[], dtype, &Numbers::Int(vec![zero])).expect("zero point");
            let zero_point = graph.add_constant("zero", &zero_point);
            let mut last = x;
            for name in ["QuantizeLinear", "DequantizeLinear"] {
                let facts = [last, scale, zero_point].map(|v| graph.fact(v).clone());
                let op = build_for_test(name, 13, &[], &[&facts[0], &facts[1], &facts[2]]).expect("builds");
                last = graph.add_node(name, op, &[Some(last), Some(scale), Some(zero_point)]).expect("fits")[0];
            }
            graph.outputs.push(last);
            let model = Model::from_graph(graph);
            assert!(model.graph.nodes.iter().all(|n| !n.op.name().ends_with("Linear")), "{:?}", model.graph.nodes);
            // Halves of a step, and what saturates.
            let values = vec![0.0, 0.0625, 0.1875, -0.0625, -0.1875, 1.0, -1.03, 99.0, -99.0, 15.9, -16.4, 15.75];
            let options = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
            let mut session = Session::new(&model, &options).expect("plans");
            let input = Tensor::from_f32(&[1, 3, 2, 2], values.clone()).expect("shape");
            let got = session.run(&[("x", input)]).expect("runs").remove(0).1.to_f32();
            let want = |x: f32| {
                let q =
                    (f64::from(x / 0.125).round_ties_even() + zero as f64).clamp(f64::from(least), f64::from(largest));
                ((q - zero as f64) * 0.125) as f32
            };
            assert_eq!(got, values.iter().map(|&x| want(x)).collect::<Vec<_>>());
        }
    }
}
