//! Computes at load what does not depend on the input. A tensor without elements does not.

use super::PassReport;
use crate::infer::graph::{Fact, Graph};
use crate::infer::ops::control_flow::ControlFlow;
use crate::infer::ops::dense::{self, Numbers};
use crate::infer::tensor::Tensor;

/// The only value that a tensor without elements can have.
fn empty(fact: &Fact) -> Option<Tensor> {
    let is_empty = !fact.late && fact.shape.contains(&0);
    is_empty.then(|| dense::from_numbers(&fact.shape, fact.dtype, &Numbers::Int(Vec::new())).ok()).flatten()
}

pub fn run(graph: &mut Graph) -> PassReport {
    let mut report = PassReport::new("fold constants");
    // An input stays one, for whoever sets it; what reads it is computed here.
    let empty_inputs: Vec<(usize, Tensor)> =
        graph.inputs.iter().filter_map(|i| Some((i.0, empty(graph.fact(*i))?))).collect();
    let is_input = |id: usize| empty_inputs.iter().find(|(i, _)| *i == id).map(|(_, tensor)| tensor);
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in std::mem::take(&mut graph.nodes) {
        let inputs: Option<Vec<Option<&Tensor>>> = node
            .inputs
            .iter()
            .map(|i| match i {
                None => Some(None),
                Some(i) => graph.fact(*i).constant.as_ref().or_else(|| is_input(i.0)).map(Some),
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
            None => {
                for output in &node.outputs {
                    let fact = graph.fact(*output);
                    if let Some(empty) = empty(fact).filter(|_| fact.constant.is_none()) {
                        graph.values[output.0].fact.constant = Some(empty);
                    }
                }
                kept.push(node);
            }
        }
    }
    graph.nodes = kept;
    report
}
