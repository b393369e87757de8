//! Computes at load what does not depend on the input.

use super::PassReport;
use crate::infer::graph::{Fact, Graph};
use crate::infer::ops::control_flow::ControlFlow;
use crate::infer::tensor::Tensor;

pub fn run(graph: &mut Graph) -> PassReport {
    let mut report = PassReport::new("fold constants");
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in std::mem::take(&mut graph.nodes) {
        let inputs: Option<Vec<Option<&Tensor>>> = node
            .inputs
            .iter()
            .map(|i| match i {
                None => Some(None),
                Some(i) => graph.fact(*i).constant.as_ref().map(Some),
            })
            .collect();
        let folded = match node.op.downcast::<ControlFlow>() {
            // The importer has tried, within bounds.
            Some(_) => None,
            None => inputs.filter(|i| i.iter().any(Option::is_some)).and_then(|i| node.op.eval(&i)),
        };
        match folded {
            Some(Ok(outputs)) => {
                for (id, tensor) in node.outputs.iter().zip(&outputs) {
                    graph.values[id.0].fact = Fact::of(tensor);
                }
                report.did(format!("{} '{}'", node.op.name(), node.name));
            }
            Some(Err(why)) => {
                report.did_not(format!("{} '{}': {why}", node.op.name(), node.name));
                kept.push(node);
            }
            None => kept.push(node),
        }
    }
    graph.nodes = kept;
    report
}
