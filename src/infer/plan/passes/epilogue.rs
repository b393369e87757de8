//! Activations and residual additions into the convolution (or elementwise operator) before them.
//!
//! A residual addition moves the convolution to where the addition stood, so that both operands are known.

use super::PassReport;
use super::pattern::Edges;
use crate::infer::activation::Activation;
use crate::infer::graph::{Graph, ValueId};
use crate::infer::kernels::conv::Residual;
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::conv::Conv;
use crate::infer::ops::elementwise::Elementwise;

pub fn run(graph: &mut Graph) -> PassReport {
    let mut report = PassReport::new("fuse activations and residual additions into epilogues");
    let mut edges = Edges::of(graph);
    let mut i = 0;
    while i < graph.nodes.len() {
        let outcome = match fuse_activation(graph, &edges, i) {
            Outcome::NoMatch => fuse_residual(graph, &edges, i),
            other => other,
        };
        match outcome {
            Outcome::NoMatch => i += 1,
            Outcome::Refused(why) => {
                report.did_not(why);
                i += 1;
            }
            // The node at `i` is gone (or is now the moved convolution): look at the same place again.
            Outcome::Fused(note) => {
                report.did(note);
                edges = Edges::of(graph);
            }
        }
    }
    report
}

enum Outcome {
    NoMatch,
    Refused(String),
    Fused(String),
}

fn fuse_activation(graph: &mut Graph, edges: &Edges, index: usize) -> Outcome {
    let node = &graph.nodes[index];
    let (Some(activate), Some(&Some(x))) = (node.op.downcast::<Activate>(), node.inputs.first()) else {
        return Outcome::NoMatch;
    };
    let activation = activate.activation;
    let Some(producer) = edges.producer(x) else { return Outcome::NoMatch };
    let before = &graph.nodes[producer];
    let note = format!("{} '{}' into '{}'", activation.label(), node.name, before.name);
    let fused: Box<dyn crate::infer::op::Op> = if let Some(conv) = before.op.downcast::<Conv>() {
        if conv.activation != Activation::None || conv.residual == Residual::AfterActivation {
            return Outcome::Refused(format!("{note}: it has an activation already"));
        }
        Box::new(Conv { activation, ..conv.clone() })
    } else if let Some(elementwise) = before.op.downcast::<Elementwise>() {
        if elementwise.activation != Activation::None {
            return Outcome::Refused(format!("{note}: it has an activation already"));
        }
        Box::new(Elementwise { activation, ..elementwise.clone() })
    } else {
        return Outcome::NoMatch;
    };
    if !edges.has_one_reader(x) {
        return Outcome::Refused(format!("{note}: {} readers", edges.readers(x)));
    }
    let output = node.outputs[0];
    graph.nodes[producer].op = fused;
    graph.nodes[producer].outputs[0] = output;
    graph.nodes.remove(index);
    Outcome::Fused(note)
}

fn fuse_residual(graph: &mut Graph, edges: &Edges, index: usize) -> Outcome {
    let node = &graph.nodes[index];
    let Some(add) = node.op.downcast::<Elementwise>() else { return Outcome::NoMatch };
    let [Some(a), Some(b)] = node.inputs[..] else { return Outcome::NoMatch };
    if add.function != Function::Add || a == b {
        return Outcome::NoMatch;
    }
    let output = node.outputs[0];
    let shape = &graph.fact(output).shape;
    let candidate = |x: ValueId, r: ValueId| -> Option<(usize, Result<(), String>)> {
        let producer = edges.producer(x)?;
        let conv = graph.nodes[producer].op.downcast::<Conv>()?;
        let name = &graph.nodes[producer].name;
        let verdict = if graph.fact(x).shape != *shape || graph.fact(r).shape != *shape {
            Err(format!("'{name}': operands of different shapes"))
        } else if graph.fact(r).constant.is_some() {
            Err(format!("'{name}': the other operand is a constant"))
        } else if conv.residual != Residual::None {
            Err(format!("'{name}' has a residual already"))
        } else if conv.activation != Activation::None && add.activation != Activation::None {
            Err(format!("'{name}' has an activation before and one after the addition"))
        } else if !edges.has_one_reader(x) {
            Err(format!("'{name}' has {} readers", edges.readers(x)))
        } else {
            Ok(())
        };
        Some((producer, verdict))
    };
    // Prefer the convolution that runs last: its operand is then certainly known.
    let mut options: Vec<(usize, Result<(), String>, ValueId)> = [(a, b), (b, a)]
        .into_iter()
        .filter_map(|(x, r)| candidate(x, r).map(|(producer, verdict)| (producer, verdict, r)))
        .collect();
    options.sort_by_key(|(producer, ..)| std::cmp::Reverse(*producer));
    let Some((producer, _, residual)) = options.iter().find(|(_, verdict, _)| verdict.is_ok()).cloned() else {
        return match options.into_iter().find_map(|(_, verdict, _)| verdict.err()) {
            Some(why) => Outcome::Refused(format!("addition '{}' into {why}", node.name)),
            None => Outcome::NoMatch,
        };
    };
    let note = format!("addition '{}' into '{}'", node.name, graph.nodes[producer].name);
    let add_activation = add.activation;
    let mut conv_node = graph.nodes[producer].clone();
    let Some(conv) = conv_node.op.downcast::<Conv>().cloned() else { return Outcome::NoMatch };
    let fused = if conv.activation == Activation::None {
        Conv { activation: add_activation, residual: Residual::BeforeActivation, ..conv }
    } else {
        Conv { residual: Residual::AfterActivation, ..conv }
    };
    conv_node.op = Box::new(fused);
    conv_node.inputs.resize(3, None);
    conv_node.inputs.push(Some(residual));
    conv_node.outputs[0] = output;
    graph.nodes[index] = conv_node;
    graph.nodes.remove(producer);
    Outcome::Fused(note)
}
