//! Batch normalisation, and addition or multiplication by one number per channel, into the convolution before it.
//!
//! conv(x, w) + b followed by s·y + t is conv(x, s·w) + (s·b + t); computed in f64.

use super::PassReport;
use super::pattern::Edges;
use crate::infer::activation::Activation;
use crate::infer::graph::{Graph, Node, ValueId};
use crate::infer::kernels::conv::Residual;
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::batch_norm::BatchNorm;
use crate::infer::ops::conv::Conv;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::tensor::Tensor;

pub fn run(graph: &mut Graph) -> PassReport {
    let mut report = PassReport::new("fold batch norm and per-channel arithmetic into convolutions");
    let mut edges = Edges::of(graph);
    let mut i = 0;
    while i < graph.nodes.len() {
        match fold(graph, &edges, i) {
            Ok(Some(note)) => {
                report.did(note);
                graph.nodes.remove(i);
                edges = Edges::of(graph);
            }
            Ok(None) => i += 1,
            Err(why) => {
                report.did_not(why);
                i += 1;
            }
        }
    }
    report
}

/// Scale and shift per channel that a node applies to its one run-time input; the channels are along `axis`.
pub(super) fn affine_of(graph: &Graph, node: &Node, axis: usize) -> Option<(ValueId, Vec<f64>, Vec<f64>)> {
    let channels = *graph.fact(node.outputs[0]).shape.get(axis)?;
    let per_channel = |value: ValueId| -> Option<Vec<f64>> {
        let tensor = graph.fact(value).constant.as_ref()?;
        let values = tensor.to_f32();
        let rank = graph.fact(node.outputs[0]).shape.len();
        let lead = rank.checked_sub(tensor.rank())?;
        let only_channels = tensor.shape().iter().enumerate().all(|(i, &n)| n == 1 || lead + i == axis);
        match values.len() {
            1 => Some(vec![f64::from(values[0]); channels]),
            n if n == channels && only_channels => Some(values.iter().map(|&v| f64::from(v)).collect()),
            _ => None,
        }
    };
    let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    if let Some(bn) = node.op.downcast::<BatchNorm>() {
        if axis != 1 {
            return None;
        }
        let read = |k: usize| -> Option<Vec<f64>> {
            let v = graph.fact(*inputs.get(k)?).constant.as_ref()?.to_f32();
            (v.len() == channels).then(|| v.iter().map(|&x| f64::from(x)).collect())
        };
        let (scale, shift, mean, variance) = (read(1)?, read(2)?, read(3)?, read(4)?);
        let s: Vec<f64> = scale.iter().zip(&variance).map(|(s, v)| s / (v + f64::from(bn.epsilon)).sqrt()).collect();
        let t = (0..channels).map(|c| shift[c] - mean[c] * s[c]).collect();
        return Some((inputs[0], s, t));
    }
    let op = node.op.downcast::<Elementwise>()?;
    let [a, b] = inputs[..] else { return None };
    if op.activation != Activation::None {
        return None;
    }
    let ones = vec![1.0; channels];
    let zeros = vec![0.0; channels];
    let (x, c, swapped) = match (per_channel(a), per_channel(b)) {
        (None, Some(c)) => (a, c, false),
        (Some(c), None) => (b, c, true),
        _ => return None,
    };
    match (op.function, swapped) {
        (Function::Add, _) => Some((x, ones, c)),
        (Function::Sub, false) => Some((x, ones, c.iter().map(|v| -v).collect())),
        (Function::Mul, _) => Some((x, c, zeros)),
        (Function::Div, false) if c.iter().all(|&v| v != 0.0) => Some((x, c.iter().map(|v| 1.0 / v).collect(), zeros)),
        _ => None,
    }
}

fn fold(graph: &mut Graph, edges: &Edges, index: usize) -> Result<Option<String>, String> {
    let node = &graph.nodes[index];
    let Some((x, scale, shift)) = affine_of(graph, node, 1) else { return Ok(None) };
    let output = node.outputs[0];
    if graph.fact(x).shape != graph.fact(output).shape {
        return Ok(None);
    }
    let name = node.name.clone();
    let kind = node.op.name();
    let Some(producer) = edges.producer(x) else { return Ok(None) };
    let Some(conv) = graph.nodes[producer].op.downcast::<Conv>() else { return Ok(None) };
    let conv_name = graph.nodes[producer].name.clone();
    if !edges.has_one_reader(x) {
        return Err(format!("{kind} '{name}': '{conv_name}' has other readers"));
    }
    if conv.activation != Activation::None || conv.residual != Residual::None {
        return Err(format!("{kind} '{name}': '{conv_name}' has an activation before it"));
    }
    let inputs = graph.nodes[producer].inputs.clone();
    let constant = |id: Option<ValueId>| id.and_then(|id| graph.fact(id).constant.clone());
    let Some(weights) = constant(inputs.get(1).copied().flatten()) else {
        return Err(format!("{kind} '{name}': weights of '{conv_name}' are no constant"));
    };
    let bias = match inputs.get(2).copied().flatten() {
        None => vec![0.0; scale.len()],
        some => match constant(some) {
            Some(t) => t.to_f32(),
            None => return Err(format!("{kind} '{name}': bias of '{conv_name}' is no constant")),
        },
    };
    let per_filter = weights.len() / scale.len().max(1);
    let new_weights: Vec<f32> =
        weights.to_f32().iter().enumerate().map(|(i, &w)| (f64::from(w) * scale[i / per_filter]) as f32).collect();
    let new_bias: Vec<f32> =
        bias.iter().enumerate().map(|(c, &b)| (f64::from(b) * scale[c] + shift[c]) as f32).collect();
    let weights = Tensor::from_f32(weights.shape(), new_weights)?;
    let bias = Tensor::from_f32(&[new_bias.len()], new_bias)?;
    let w = graph.add_constant(&format!("{conv_name}.weights"), &weights);
    let b = graph.add_constant(&format!("{conv_name}.bias"), &bias);
    let conv_node = &mut graph.nodes[producer];
    conv_node.inputs.truncate(1);
    conv_node.inputs.extend([Some(w), Some(b)]);
    conv_node.outputs[0] = output;
    Ok(Some(format!("{kind} '{name}' into '{conv_name}'")))
}
