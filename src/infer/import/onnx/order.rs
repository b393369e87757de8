//! An order in which the nodes of a file can run. Files should be sorted already, but need not be.

use super::proto::{GraphProto, NodeProto};
use crate::infer::import::ImportError;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// How many names a message lists.
const NAMED_MAX: usize = 10;

/// What to call a node: its name, or that of its first output.
pub fn node_name(graph: &GraphProto, index: usize) -> String {
    let node = &graph.node[index];
    let first_output = node.output.iter().find(|o| !o.is_empty());
    match (node.name.as_str(), first_output) {
        ("", Some(output)) => output.clone(),
        ("", None) => format!("node {index}"),
        (name, _) => name.to_string(),
    }
}

/// Names that the graphs inside a node (the branches of an If, the body of a Loop) read from around it, each once.
pub fn captured(node: &NodeProto) -> Vec<&str> {
    let mut free = Vec::new();
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            let mut defined: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
            defined.extend(graph.initializer.iter().map(|t| t.name.as_str()));
            defined.extend(graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
            let outputs = graph.output.iter().map(|o| o.name.as_str());
            let read = graph.node.iter().flat_map(|n| n.input.iter().map(String::as_str).chain(captured(n)));
            free.extend(read.chain(outputs).filter(|name| !name.is_empty() && !defined.contains(name)));
        }
    }
    let mut seen = HashSet::new();
    free.retain(|name| seen.insert(*name));
    free
}

/// Indices of the nodes, each after the producers of its inputs; the order of the file is kept where it is one.
/// `is_outer` tells which names are known around the graph, for the graphs inside a node.
///
/// # Errors
/// A value with two producers, an input that nothing produces, a cycle.
pub fn sorted(graph: &GraphProto, is_outer: &dyn Fn(&str) -> bool) -> Result<Vec<usize>, ImportError> {
    let mut given: HashSet<&str> = HashSet::new();
    for initializer in &graph.initializer {
        if !given.insert(&initializer.name) {
            return Err(ImportError::malformed(format!("two initializers are named '{}'", initializer.name)));
        }
    }
    given.extend(graph.input.iter().map(|i| i.name.as_str()));
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            let second = producers.insert(output, i);
            if second.is_some() || given.contains(output.as_str()) {
                return Err(ImportError::malformed(format!(
                    "value '{output}', an output of node '{}', is defined twice",
                    node_name(graph, i)
                )));
            }
        }
    }
    let mut undefined = Vec::new();
    let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    let mut waiting = vec![0usize; graph.node.len()];
    for (i, node) in graph.node.iter().enumerate() {
        for input in node.input.iter().map(String::as_str).filter(|n| !n.is_empty()).chain(captured(node)) {
            match producers.get(input) {
                Some(&producer) => {
                    consumers[producer].push(i);
                    waiting[i] += 1;
                }
                None if given.contains(input) || is_outer(input) => {}
                None => undefined.push(format!("'{input}' (of node '{}')", node_name(graph, i))),
            }
        }
    }
    if !undefined.is_empty() {
        return Err(ImportError::malformed(format!(
            "{} input(s) are neither initializers nor computed: {}",
            undefined.len(),
            some(&undefined)
        )));
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..graph.node.len()).filter(|&i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(graph.node.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &consumer in &consumers[i] {
            waiting[consumer] -= 1;
            if waiting[consumer] == 0 {
                ready.push(Reverse(consumer));
            }
        }
    }
    if order.len() < graph.node.len() {
        return Err(ImportError::malformed(format!("the nodes form a cycle: {}", cycle(graph, &producers, &waiting))));
    }
    Ok(order)
}

/// Names of the nodes of one cycle, found by walking back from a node that never became ready.
fn cycle(graph: &GraphProto, producers: &HashMap<&str, usize>, waiting: &[usize]) -> String {
    let mut seen: Vec<Option<usize>> = vec![None; graph.node.len()];
    let mut path = Vec::new();
    let mut at = waiting.iter().position(|&w| w > 0);
    while let Some(i) = at {
        if let Some(start) = seen[i] {
            let names: Vec<String> = path[start..].iter().rev().map(|&n| node_name(graph, n)).collect();
            return some(&names);
        }
        seen[i] = Some(path.len());
        path.push(i);
        let node = &graph.node[i];
        let inputs = node.input.iter().map(String::as_str).chain(captured(node));
        let inputs = inputs.filter_map(|n| producers.get(n).copied());
        at = inputs.into_iter().find(|&p| waiting[p] > 0);
    }
    "(not found)".to_string()
}

fn some(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMED_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::proto::{AttributeProto, AttributeType, TensorProto};
    use super::*;

    fn graph(nodes: &[(&str, &[&str], &[&str])]) -> GraphProto {
        let strings = |v: &[&str]| v.iter().map(|s| s.to_string()).collect();
        let node = |(name, input, output): &(&str, &[&str], &[&str])| NodeProto {
            name: name.to_string(),
            input: strings(input),
            output: strings(output),
            ..Default::default()
        };
        let initializer = vec![TensorProto { name: "w".into(), ..Default::default() }];
        GraphProto { node: nodes.iter().map(node).collect(), initializer, ..Default::default() }
    }

    #[test]
    fn unordered_nodes_are_put_in_order() {
        let g = graph(&[("c", &["b", "a"], &["c"]), ("b", &["a", ""], &["b"]), ("a", &["w"], &["a"])]);
        assert_eq!(sorted(&g, &|_| false).ok(), Some(vec![2, 1, 0]));
    }

    #[test]
    fn what_branches_read_comes_first() {
        let mut branch = graph(&[("inner", &["w", "late"], &["y"])]);
        branch.output = vec![super::super::proto::ValueInfoProto { name: "also".into(), r#type: None }];
        let attribute = AttributeProto {
            name: "body".into(),
            g: Some(branch),
            r#type: AttributeType::Graph as i32,
            ..Default::default()
        };
        let mut g = graph(&[("if", &["w"], &["out"]), ("b", &["w"], &["late"]), ("c", &["w"], &["also"])]);
        g.node[0].attribute = vec![attribute];
        assert_eq!(captured(&g.node[0]), ["late", "also"], "w is the branch's own");
        assert_eq!(sorted(&g, &|_| false).ok(), Some(vec![1, 2, 0]));
        g.node.remove(1);
        assert!(sorted(&g, &|_| false).is_err());
        assert!(sorted(&g, &|name| name == "late").is_ok());
    }

    #[test]
    fn contradictions_name_the_nodes() {
        let message = |nodes: &[(&str, &[&str], &[&str])]| sorted(&graph(nodes), &|_| false).map_err(|e| e.to_string());
        let cyclic =
            message(&[("p", &["z"], &["x"]), ("q", &["x"], &["y"]), ("r", &["y"], &["z"]), ("s", &["z"], &["o"])]);
        let e = cyclic.expect_err("cycle");
        assert!(e.contains("cycle") && e.contains('p') && e.contains('q') && e.contains('r'), "{e}");
        assert!(message(&[("n", &["gone"], &["y"])]).is_err_and(|e| e.contains("'gone'") && e.contains("'n'")));
        assert!(message(&[("n", &["w"], &["y"]), ("m", &["w"], &["y"])]).is_err_and(|e| e.contains("twice")));
        assert!(message(&[("n", &["w"], &["w"])]).is_err_and(|e| e.contains("twice")));
    }
}
