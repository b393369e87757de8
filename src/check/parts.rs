//! The network in parts: what each node that is left after the passes stands for in the file, and that computed plainly.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::Error;
use crate::infer::graph::{Graph, ValueId};
use crate::infer::plan::evaluate::evaluate;
use crate::infer::tensor::Tensor;

/// Values of the file by their number in its graph.
pub type Values = HashMap<ValueId, Tensor>;

/// Some values that still exist after the passes, and the nodes of the file that lead to them from others that do.
#[derive(Clone, Debug)]
pub struct Part {
    /// Index of the node after the passes; `None` for values that no node is left for.
    pub node: Option<usize>,
    pub outputs: Vec<ValueId>,
    /// What the nodes read that is no constant.
    pub inputs: Vec<ValueId>,
    /// Indices of the file's nodes, in an order in which they can run.
    pub covers: Vec<usize>,
}

/// Values that both graphs have: inputs, and what a node computes in both. Passes keep the numbers of values.
pub fn shared_values(plain: &Graph, optimised: &Graph) -> HashSet<ValueId> {
    let produced = plain.producers();
    let is_shared = |id: &ValueId| {
        produced.get(id.0).is_some_and(Option::is_some)
            && plain.fact(*id).constant.is_none()
            && optimised.fact(*id).constant.is_none()
    };
    let computed = optimised.nodes.iter().flat_map(|node| node.outputs.iter().copied()).filter(is_shared);
    computed.chain(plain.inputs.iter().copied()).collect()
}

/// One part for each node after the passes that computes a value of the file, and one for each of `also` that none
/// computes; in an order in which they can be computed one after the other.
pub fn parts(plain: &Graph, optimised: &Graph, also: &[ValueId]) -> Vec<Part> {
    let shared = shared_values(plain, optimised);
    let producers = plain.producers();
    let mut parts: Vec<Part> = Vec::with_capacity(optimised.nodes.len());
    for (i, node) in optimised.nodes.iter().enumerate() {
        let outputs: Vec<ValueId> = node.outputs.iter().copied().filter(|id| shared.contains(id)).collect();
        if !outputs.is_empty() {
            parts.push(part(plain, &producers, &shared, Some(i), outputs));
        }
    }
    let mut extra: Vec<ValueId> = also.iter().copied().filter(|id| !shared.contains(id)).collect();
    extra.sort_unstable();
    extra.dedup();
    let computed = extra.into_iter().filter(|id| producers[id.0].is_some() && plain.fact(*id).constant.is_none());
    parts.extend(computed.map(|id| part(plain, &producers, &shared, None, vec![id])));
    // What a part reads is computed by earlier nodes of the file.
    parts.sort_by_key(|part| part.outputs.iter().filter_map(|id| producers[id.0]).max());
    parts
}

fn part(
    plain: &Graph,
    producers: &[Option<usize>],
    shared: &HashSet<ValueId>,
    node: Option<usize>,
    outputs: Vec<ValueId>,
) -> Part {
    let (mut inputs, mut covers) = (BTreeSet::new(), BTreeSet::new());
    let mut open = outputs.clone();
    while let Some(id) = open.pop() {
        let Some(producer) = producers[id.0] else { continue };
        if !covers.insert(producer) {
            continue;
        }
        for &input in plain.nodes[producer].inputs.iter().flatten() {
            if plain.fact(input).constant.is_some() || outputs.contains(&input) {
                continue;
            }
            if shared.contains(&input) {
                inputs.insert(input);
            } else {
                open.push(input);
            }
        }
    }
    Part { node, outputs, inputs: inputs.into_iter().collect(), covers: covers.into_iter().collect() }
}

impl Part {
    /// Computes the outputs from the inputs: the file's nodes one by one, each alone, in f32 and on one thread.
    ///
    /// # Errors
    /// What an operator says of these values.
    pub fn evaluate(&self, plain: &Graph, values: &Values) -> Result<Values, Error> {
        let mut made = Values::new();
        for &index in &self.covers {
            let node = &plain.nodes[index];
            let failed = |why: String| Error::Input(format!("node '{}' ({}): {why}", node.name, node.op.name()));
            let mut inputs: Vec<Option<&Tensor>> = Vec::with_capacity(node.inputs.len());
            for input in &node.inputs {
                inputs.push(match input {
                    None => None,
                    Some(id) => {
                        let known = made.get(id).or_else(|| values.get(id)).or(plain.fact(*id).constant.as_ref());
                        Some(known.ok_or_else(|| failed(format!("'{}' is not computed", plain.value(*id).name)))?)
                    }
                });
            }
            let outputs = evaluate(&*node.op, &inputs).map_err(|why| failed(why.to_string()))?;
            made.extend(node.outputs.iter().copied().zip(outputs));
        }
        made.retain(|id, _| self.outputs.contains(id));
        Ok(made)
    }
}

/// For each value that a part reads, the index of the last one that does.
pub fn last_readers(parts: &[Part]) -> HashMap<ValueId, usize> {
    parts.iter().enumerate().flat_map(|(i, part)| part.inputs.iter().map(move |&id| (id, i))).collect()
}
