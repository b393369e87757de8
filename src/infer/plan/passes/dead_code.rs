//! Removes nodes whose results nobody reads.

use super::PassReport;
use crate::infer::graph::Graph;

pub fn run(graph: &mut Graph) -> PassReport {
    let mut report = PassReport::new("remove dead code");
    let mut live = vec![false; graph.values.len()];
    for output in &graph.outputs {
        live[output.0] = true;
    }
    let mut keep = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|o| live[o.0]) {
            keep[i] = true;
            for input in node.inputs.iter().flatten() {
                live[input.0] = true;
            }
        }
    }
    let mut i = 0;
    graph.nodes.retain(|node| {
        i += 1;
        if !keep[i - 1] {
            report.did(format!("{} '{}'", node.op.name(), node.name));
        }
        keep[i - 1]
    });
    // Constants that only removed nodes read would hold their memory for as long as the graph lives.
    for (value, live) in graph.values.iter_mut().zip(&live) {
        if !live {
            value.fact.constant = None;
        }
    }
    report
}
