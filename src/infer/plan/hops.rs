//! Hops: where a plan for a GPU leaves the device, computes on the host, and returns.
//!
//! Steps that work on host tensors stand between steps on the device. Each change to the host and back costs a wait for
//! the device, so steps are put in the order with the fewest such changes: all steps of one kind that can run do so
//! before the first of the other kind. For two kinds that is optimal, but for which of them begins; both are tried.

use super::step::{Plan, Step};
use crate::infer::kernel::Place;
use std::collections::HashMap;
use std::ops::Range;

/// One stay on the host: copies to it, operators, copies to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The steps, all of them on the host; those before and behind are on the device.
    pub steps: Range<usize>,
    /// Elements that are copied from the device first, and to it at the end.
    pub down_elements: usize,
    pub up_elements: usize,
}

impl Hop {
    /// Operators and nodes that the host computes, in order.
    pub fn nodes<'a>(&self, plan: &'a Plan) -> impl Iterator<Item = (&'static str, &'a str)> {
        plan.steps[self.steps.clone()]
            .iter()
            .filter_map(|step| step.kernel.host().map(|host| (host.op.name(), step.node.as_str())))
    }

    /// A line for people; elements on the device have `element_bytes`.
    pub fn describe(&self, plan: &Plan, element_bytes: usize) -> String {
        let nodes: Vec<String> = self.nodes(plan).map(|(op, node)| format!("{op} '{node}'")).collect();
        format!(
            "{} bytes from the device, {} node(s), {} bytes to the device: {}",
            self.down_elements * element_bytes,
            nodes.len(),
            self.up_elements * element_bytes,
            nodes.join(", ")
        )
    }
}

/// True for a step that runs on the host in a plan for another device.
fn is_on_host(step: &Step) -> bool {
    step.kernel.place() != Place::Device
}

/// For each step the earlier ones whose results it needs. Each element is written once, so nothing else orders steps.
fn dependencies(steps: &[Step]) -> Vec<Vec<usize>> {
    let mut written: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut made: HashMap<usize, usize> = HashMap::new();
    let mut all = Vec::with_capacity(steps.len());
    for (i, step) in steps.iter().enumerate() {
        let (taken, given) = step.kernel.host_places();
        let mut needs: Vec<usize> =
            step.reads.iter().flat_map(|v| written.get(&v.buffer.0).into_iter().flatten().copied()).collect();
        needs.extend(taken.iter().filter_map(|place| made.get(place).copied()));
        needs.sort_unstable();
        needs.dedup();
        all.push(needs);
        for view in &step.writes {
            written.entry(view.buffer.0).or_default().push(i);
        }
        made.extend(given.into_iter().map(|place| (place, i)));
    }
    all
}

/// The steps by kind in turn, `host` first; within a kind as they stood.
fn alternate(kinds: &[bool], needs: &[Vec<usize>], host: bool) -> Vec<usize> {
    let mut done = vec![false; kinds.len()];
    let mut order = Vec::with_capacity(kinds.len());
    let mut kind = host;
    while order.len() < kinds.len() {
        // What a step needs stands before it, so one pass finds all that can run.
        for i in 0..kinds.len() {
            if !done[i] && kinds[i] == kind && needs[i].iter().all(|&j| done[j]) {
                done[i] = true;
                order.push(i);
            }
        }
        kind = !kind;
    }
    order
}

fn host_runs(kinds: &[bool], order: &[usize]) -> usize {
    (0..order.len()).filter(|&i| kinds[order[i]] && (i == 0 || !kinds[order[i - 1]])).count()
}

/// Puts the steps of a plan in the order with the fewest hops.
pub fn arrange(steps: Vec<Step>) -> Vec<Step> {
    let kinds: Vec<bool> = steps.iter().map(is_on_host).collect();
    if !kinds.contains(&true) {
        return steps;
    }
    let needs = dependencies(&steps);
    let (device, host) = (alternate(&kinds, &needs, false), alternate(&kinds, &needs, true));
    let order = if host_runs(&kinds, &host) < host_runs(&kinds, &device) { host } else { device };
    let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| steps[i].take()).collect()
}

/// The hops of steps in their final order.
pub fn hops(steps: &[Step]) -> Vec<Hop> {
    let mut hops: Vec<Hop> = Vec::new();
    for (i, step) in steps.iter().enumerate().filter(|(_, step)| is_on_host(step)) {
        let continues = hops.last().is_some_and(|hop| hop.steps.end == i);
        if !continues {
            hops.push(Hop { steps: i..i, down_elements: 0, up_elements: 0 });
        }
        if let Some(hop) = hops.last_mut() {
            hop.steps.end = i + 1;
            match step.kernel.place() {
                Place::Download(..) => hop.down_elements += step.reads.iter().map(super::View::len).sum::<usize>(),
                Place::Upload(_) => hop.up_elements += step.writes.iter().map(super::View::len).sum::<usize>(),
                Place::Device | Place::Host => {}
            }
        }
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::activation::Activation;
    use crate::infer::graph::{Fact, Format, Graph, ValueId};
    use crate::infer::op::Op;
    use crate::infer::ops::activation::Activate;
    use crate::infer::ops::concat::Concat;
    use crate::infer::ops::function::HostFunction;
    use crate::infer::plan::lower::{Target, plan_graph};
    use crate::infer::plan::step::OutputPlace;

    /// Large enough that the device does what it can.
    const SHAPE: [usize; 4] = [1, 8, 128, 128];

    fn relu() -> Box<dyn Op> {
        Box::new(Activate { activation: Activation::Relu })
    }

    fn host() -> Box<dyn Op> {
        HostFunction::boxed("Same", vec![Fact::f32(&SHAPE)], |inputs| {
            Ok(vec![inputs[0].cloned().unwrap_or_else(|| crate::infer::tensor::Tensor::scalar_f32(0.0))])
        })
    }

    fn add(graph: &mut Graph, name: &str, op: Box<dyn Op>, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().map(|&i| Some(i)).collect();
        graph.add_node(name, op, &inputs).expect("a node")[0]
    }

    fn graph() -> (Graph, ValueId) {
        let mut graph = Graph::new("g", Format::Onnx);
        let x = graph.add_value("x", Fact::f32(&SHAPE));
        graph.inputs = vec![x];
        (graph, x)
    }

    #[test]
    fn branches_share_a_hop() {
        let (mut graph, x) = graph();
        // Written as a, host of a, b, host of b, as files often do; both hosts can wait for both branches.
        let a = add(&mut graph, "a", relu(), &[x]);
        let ha = add(&mut graph, "ha", host(), &[a]);
        let b = add(&mut graph, "b", relu(), &[a]);
        let hb = add(&mut graph, "hb", host(), &[b]);
        let end = add(&mut graph, "end", relu(), &[ha]);
        graph.outputs = vec![end, hb];
        let (plan, _) = plan_graph(&graph, Target::GPU).expect("plans");
        assert_eq!(plan.hops.len(), 1);
        let len: usize = SHAPE.iter().product();
        assert_eq!((plan.hops[0].down_elements, plan.hops[0].up_elements), (2 * len, len));
        assert_eq!(plan.hops[0].nodes(&plan).collect::<Vec<_>>(), [("Same", "ha"), ("Same", "hb")]);
        assert!(matches!(plan.host.outputs[..], [OutputPlace::Memory, OutputPlace::Host(_)]));
        assert!(plan_graph(&graph, Target::CPU).is_ok_and(|(plan, _)| plan.hops.is_empty()));
    }

    #[test]
    fn a_value_comes_over_once_and_goes_back_once() {
        let (mut graph, x) = graph();
        let a = add(&mut graph, "a", relu(), &[x]);
        let h = add(&mut graph, "h", host(), &[a]);
        let again = add(&mut graph, "again", host(), &[h]);
        let third = add(&mut graph, "third", host(), &[a]);
        // The parts of a Concat that the host computes are uploaded to buffers of their own and copied.
        let joined = add(&mut graph, "joined", Box::new(Concat { axis: 1 }), &[a, again, h]);
        let end = add(&mut graph, "end", relu(), &[joined]);
        graph.outputs = vec![end, third];
        let (plan, _) = plan_graph(&graph, Target::GPU).expect("plans");
        assert_eq!(plan.hops.len(), 1);
        let len: usize = SHAPE.iter().product();
        assert_eq!((plan.hops[0].down_elements, plan.hops[0].up_elements), (len, 2 * len));
        assert_eq!(plan.fallbacks().count(), 3);
        assert!(plan.hops_in_short(4).is_some_and(|line| line.contains(&(3 * len * 4).to_string())));
    }

    #[test]
    fn the_kind_that_saves_a_hop_begins() {
        // Host, device, host and, apart, device: the device first would make two hops of it.
        let kinds = [true, false, true];
        let needs = [vec![], vec![0], vec![]];
        assert_eq!(alternate(&kinds, &needs, true), [0, 2, 1]);
        assert_eq!(host_runs(&kinds, &[0, 2, 1]), 1);
        assert_eq!(host_runs(&kinds, &[0, 1, 2]), 2);
    }
}
