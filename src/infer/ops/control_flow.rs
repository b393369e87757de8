//! If and Loop. Where the condition of an If is known at load, the importer takes the branch into the graph and nothing
//! of the If remains. Everything else is one node, computed on the host: its branches and bodies are run node by node.
//! So there are no shapes before it runs.

use super::context::present;
use super::dense::{self, Numbers};
use super::late::Late;
use crate::infer::graph::Fact;
use crate::infer::import::onnx::attributes::Attributes;
use crate::infer::import::onnx::order;
use crate::infer::import::onnx::proto::{DimensionValue, GraphProto, NodeProto};
use crate::infer::import::onnx::tensors;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::evaluate::evaluate;
use crate::infer::tensor::{DType, Tensor};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

/// An evaluation may run this many nodes inside a Loop and compute this many elements, so that none runs forever.
const RUN_MAX: Budget = Budget { nodes: 1 << 22, elements: 1 << 32 };
/// The same at load.
const FOLD_MAX: Budget = Budget { nodes: 1 << 14, elements: 1 << 22 };

#[derive(Clone, Copy, Debug)]
struct Budget {
    nodes: u64,
    elements: u64,
}

/// A node of a body. Values are numbered: first what the body reads from around it, then its inputs, then the rest.
#[derive(Clone, Debug)]
struct BodyNode {
    op: Box<dyn Op>,
    inputs: Vec<Option<usize>>,
    outputs: Vec<Option<usize>>,
}

/// A graph inside a node, ready to be run again and again.
#[derive(Debug)]
struct Body {
    constants: Vec<(usize, Tensor)>,
    nodes: Vec<BodyNode>,
    outputs: Vec<usize>,
    inputs: usize,
    values: usize,
    /// Declared element types and shapes of the outputs, for a Loop that never runs.
    declared: Vec<Option<Fact>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    If,
    Loop,
}

/// ONNX If and Loop. The inputs are those of the standard, `given` of them, then what the bodies read from around them.
#[derive(Clone, Debug)]
pub struct ControlFlow {
    kind: Kind,
    given: usize,
    bodies: Arc<Vec<Body>>,
    output_count: usize,
}

fn unsupported<T>(why: String) -> Result<T, OpError> {
    Err(OpError::Unsupported(why))
}

/// The operator of an If or Loop whose bodies read `captured` from around them; `None` for other nodes.
///
/// # Errors
/// Everything in the bodies that is not supported, and bodies that do not fit the node.
pub fn build(node: &NodeProto, captured: &[&str], opset: i64) -> Result<Option<ControlFlow>, OpError> {
    let attributes = Attributes::new(&node.attribute);
    let (kind, graphs) = match node.op_type.as_str() {
        "If" => (Kind::If, vec![attributes.graph("then_branch")?, attributes.graph("else_branch")?]),
        "Loop" => (Kind::Loop, vec![attributes.graph("body")?]),
        _ => return Ok(None),
    };
    let output_count = node.output.len();
    let mut bodies = Vec::new();
    for graph in graphs {
        let body = Body::new(graph, captured, opset)?;
        let fits = match kind {
            Kind::If => body.inputs == 0 && body.outputs.len() == output_count,
            // M and the condition; the iteration and the condition.
            Kind::Loop => {
                node.input.len() >= 2
                    && body.inputs == node.input.len()
                    && body.outputs.len() == output_count + 1
                    && body.outputs.len() + 1 >= body.inputs
            }
        };
        if !fits {
            return Err(OpError::Invalid(format!("the inputs or outputs of '{}' do not fit it", graph.name)));
        }
        bodies.push(body);
    }
    match attributes.unread().as_slice() {
        [] => Ok(Some(ControlFlow { kind, given: node.input.len(), bodies: Arc::new(bodies), output_count })),
        unread => unsupported(format!("attribute(s) {} are not known", unread.join(", "))),
    }
}

impl Body {
    fn new(graph: &GraphProto, captured: &[&str], opset: i64) -> Result<Body, OpError> {
        let order =
            order::sorted(graph, &|name| captured.contains(&name)).map_err(|e| OpError::Invalid(e.to_string()))?;
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut values = 0;
        let mut number = || {
            values += 1;
            values - 1
        };
        for name in captured.iter().copied().chain(graph.input.iter().map(|i| i.name.as_str())) {
            numbers.insert(name, number());
        }
        let mut constants = Vec::new();
        for initializer in &graph.initializer {
            let tensor = tensors::decode_inline(initializer)
                .map_err(|why| OpError::Unsupported(format!("'{}' inside it {why}", initializer.name)))?;
            let at = number();
            numbers.insert(&initializer.name, at);
            constants.push((at, tensor));
        }
        let mut nodes = Vec::new();
        let mut missing = Vec::new();
        for index in order {
            let node = &graph.node[index];
            match body_operator(node, opset) {
                Err(why) => {
                    missing.push(format!("{} '{}' inside it: {why}", node.op_type, order::node_name(graph, index)))
                }
                Ok((op, captures)) => {
                    let known = |name: &str| numbers.get(name).copied();
                    let inputs = node.input.iter().map(String::as_str).chain(captures).map(known).collect();
                    nodes.push(BodyNode { op, inputs, outputs: Vec::new() });
                }
            }
            let mut outputs = Vec::with_capacity(node.output.len());
            for name in &node.output {
                outputs.push((!name.is_empty()).then(&mut number));
                if let Some(Some(at)) = outputs.last() {
                    numbers.insert(name, *at);
                }
            }
            if let Some(last) = nodes.last_mut() {
                last.outputs = outputs;
            }
        }
        if !missing.is_empty() {
            return unsupported(missing.join("; "));
        }
        let outputs = graph.output.iter().map(|o| numbers.get(o.name.as_str()).copied());
        let outputs: Option<Vec<usize>> = outputs.collect();
        let outputs = outputs.ok_or_else(|| OpError::Invalid("an output inside it is not computed".into()))?;
        let declared = graph.output.iter().map(|output| {
            let tensor = output.r#type.as_ref()?.tensor_type.as_ref()?;
            let extent = |d: &_| match d {
                Some(DimensionValue::Value(v)) => usize::try_from(*v).unwrap_or(0),
                _ => 0,
            };
            let shape: Vec<usize> = tensor.shape.as_ref()?.dim.iter().map(|d| extent(&d.value)).collect();
            Some(Fact::new(tensors::dtype_of(tensor.elem_type)?, &shape))
        });
        let declared = declared.collect();
        Ok(Body { constants, nodes, outputs, inputs: graph.input.len(), values, declared })
    }

    fn run(
        &self,
        captured: &[Option<&Tensor>],
        inputs: &[Tensor],
        left: &Cell<Budget>,
    ) -> Result<Vec<Tensor>, OpError> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.values];
        let known = captured.iter().map(|t| t.cloned()).chain(inputs.iter().cloned().map(Some));
        for (slot, value) in values.iter_mut().zip(known) {
            *slot = value;
        }
        for (at, tensor) in &self.constants {
            values[*at] = Some(tensor.clone());
        }
        for node in &self.nodes {
            let mut inputs: Vec<Option<&Tensor>> =
                node.inputs.iter().map(|i| i.and_then(|i| values[i].as_ref())).collect();
            let computed = match node.op.downcast::<ControlFlow>() {
                Some(inner) => inner.run(&inputs, left)?,
                None => {
                    while inputs.last().is_some_and(Option::is_none) {
                        inputs.pop();
                    }
                    evaluate(&*node.op, &inputs)?
                }
            };
            let elements: usize = computed.iter().map(Tensor::len).sum();
            let now = left.get();
            let (Some(nodes), Some(elements)) = (now.nodes.checked_sub(1), now.elements.checked_sub(elements as u64))
            else {
                return unsupported("computes too much".into());
            };
            left.set(Budget { nodes, elements });
            for (output, tensor) in node.outputs.iter().zip(computed) {
                if let Some(at) = output {
                    values[*at] = Some(tensor);
                }
            }
        }
        let result = self.outputs.iter().map(|&i| values[i].clone());
        result.collect::<Option<_>>().ok_or_else(|| OpError::Invalid("an output inside it is not computed".into()))
    }
}

/// The operator of a node in a body, built anew in each run, and what it reads from around it.
fn body_operator(node: &NodeProto, opset: i64) -> Result<(Box<dyn Op>, Vec<&str>), OpError> {
    if !matches!(node.domain.as_str(), "" | "ai.onnx") {
        return unsupported(format!("domain '{}'", node.domain));
    }
    let captured = order::captured(node);
    if let Some(op) = build(node, &captured, opset)? {
        return Ok((Box::new(op), captured));
    }
    let Some((op_type, build)) = super::entry(&node.op_type) else {
        return unsupported("the operator is not known".into());
    };
    let attributes = node.attribute.clone();
    Ok((Box::new(Late { op_type, build, opset, attributes, output_count: node.output.len() }), Vec::new()))
}

fn truth(tensor: &Tensor) -> Result<bool, OpError> {
    match (tensor.dtype(), tensor.to_i64().as_slice()) {
        (DType::Bool, [truth]) => Ok(*truth != 0),
        _ => Err(OpError::Invalid(format!("the condition is {tensor:?}, not one boolean"))),
    }
}

impl ControlFlow {
    /// Runs it at load, if that is quickly done.
    pub fn fold(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        self.run(inputs, &Cell::new(FOLD_MAX)).ok()
    }

    fn run(&self, inputs: &[Option<&Tensor>], left: &Cell<Budget>) -> Result<Vec<Tensor>, OpError> {
        let (given, captured) = inputs.split_at(self.given.min(inputs.len()));
        match self.kind {
            Kind::If => self.bodies[usize::from(!truth(present(given, 0)?)?)].run(captured, &[], left),
            Kind::Loop => self.run_loop(given, captured, left),
        }
    }

    fn run_loop(
        &self,
        given: &[Option<&Tensor>],
        captured: &[Option<&Tensor>],
        left: &Cell<Budget>,
    ) -> Result<Vec<Tensor>, OpError> {
        let body = &self.bodies[0];
        let trips = given.first().copied().flatten().and_then(|t| t.to_i64().first().copied()).unwrap_or(i64::MAX);
        let mut condition = given.get(1).copied().flatten().map_or(Ok(true), truth)?;
        let carried = given.len().saturating_sub(2);
        let mut state = (2..given.len()).map(|i| present(given, i).cloned()).collect::<Result<Vec<_>, _>>()?;
        let mut scanned: Vec<Vec<Tensor>> = vec![Vec::new(); body.outputs.len().saturating_sub(1 + carried)];
        let mut trip = 0;
        while condition && trip < trips {
            let mut inputs = vec![
                Tensor::from_i64(&[], vec![trip]).map_err(OpError::Invalid)?,
                dense::from_numbers(&[], DType::Bool, &Numbers::Int(vec![1]))?,
            ];
            inputs.append(&mut state);
            let mut outputs = body.run(captured, &inputs, left)?.into_iter();
            condition = outputs.next().map_or(Ok(false), |c| truth(&c))?;
            state = outputs.by_ref().take(carried).collect();
            scanned.iter_mut().zip(outputs).for_each(|(all, one)| all.push(one));
            trip += 1;
            if body.nodes.is_empty() && trip >= 1 << 20 {
                return unsupported("computes too much".into());
            }
        }
        for (k, parts) in scanned.into_iter().enumerate() {
            state.push(match parts.first() {
                Some(first) => {
                    if parts.iter().any(|p| p.shape() != first.shape()) {
                        return Err(OpError::Invalid("what it collects changes its shape".into()));
                    }
                    let shape = [&[parts.len()], first.shape()].concat();
                    let parts: Vec<&Tensor> = parts.iter().collect();
                    dense::append(&parts)?.reshaped(&shape).map_err(OpError::Invalid)?
                }
                None => {
                    let declared = body.declared.get(1 + carried + k).cloned().flatten();
                    let fact =
                        declared.ok_or_else(|| OpError::Invalid("never runs, and has no declared shape".into()))?;
                    let shape = [&[0], fact.shape.as_slice()].concat();
                    dense::from_numbers(&shape, fact.dtype, &Numbers::Int(Vec::new()))?
                }
            });
        }
        Ok(state)
    }
}

impl Op for ControlFlow {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::If => "If",
            Kind::Loop => "Loop",
        }
    }

    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::late(); self.output_count])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        Some(self.run(inputs, &Cell::new(RUN_MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::{AttributeProto, AttributeType, ValueInfoProto};

    fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
        let strings = |v: &[&str]| v.iter().map(|s| s.to_string()).collect();
        NodeProto { op_type: op_type.into(), input: strings(input), output: strings(output), ..Default::default() }
    }

    fn graph(inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
        let named = |v: &[&str]| v.iter().map(|n| ValueInfoProto { name: n.to_string(), r#type: None }).collect();
        GraphProto { node: nodes, input: named(inputs), output: named(outputs), ..Default::default() }
    }

    fn with(mut node: NodeProto, graphs: Vec<(&str, GraphProto)>) -> NodeProto {
        let attribute = |(name, g): (&str, GraphProto)| AttributeProto {
            name: name.into(),
            g: Some(g),
            r#type: AttributeType::Graph as i32,
            ..Default::default()
        };
        node.attribute = graphs.into_iter().map(attribute).collect();
        node
    }

    fn boolean(value: bool) -> Tensor {
        dense::from_numbers(&[], DType::Bool, &Numbers::Int(vec![i64::from(value)])).expect("boolean")
    }

    #[test]
    fn a_loop_carries_and_collects() {
        // sum += step while trip < limit; collects the sums. `step` is read from around the loop.
        let body = graph(
            &["i", "go", "sum"],
            vec![
                node("Add", &["sum", "step"], &["next"]),
                node("Identity", &["next"], &["seen"]),
                node("Identity", &["go"], &["on"]),
            ],
            &["on", "next", "seen"],
        );
        let node = with(node("Loop", &["M", "cond", "start"], &["last", "all"]), vec![("body", body)]);
        let captured = order::captured(&node);
        assert_eq!(captured, ["step"]);
        let op = build(&node, &captured, 17).expect("builds").expect("a loop");
        let (trips, start) = (Tensor::from_i64(&[], vec![3]).expect("M"), Tensor::scalar_f32(1.0));
        let (go, step) = (boolean(true), Tensor::scalar_f32(0.5));
        let run = |trips: &Tensor, go: &Tensor| {
            op.eval(&[Some(trips), Some(go), Some(&start), Some(&step)]).expect("evaluates")
        };
        let result = run(&trips, &go).expect("runs");
        assert_eq!((result[0].to_f32(), result[1].to_f32()), (vec![2.5], vec![1.5, 2.0, 2.5]));
        assert!(run(&trips, &boolean(false)).is_err_and(|e| e.to_string().contains("never runs")), "unknown shape");
        assert!(
            op.fold(&[Some(&Tensor::from_i64(&[], vec![1 << 40]).expect("M")), Some(&go), Some(&start), Some(&step)])
                .is_none()
        );
    }

    #[test]
    fn an_if_takes_its_branch_and_names_what_is_missing() {
        let branch = |op: &str| graph(&[], vec![node(op, &["x"], &["y"])], &["y"]);
        let with_branches = |a: &str, b: &str| {
            with(node("If", &["cond"], &["z"]), vec![("then_branch", branch(a)), ("else_branch", branch(b))])
        };
        let chosen = with_branches("Neg", "Abs");
        let op = build(&chosen, &["x"], 17).expect("builds").expect("an if");
        let x = Tensor::scalar_f32(-2.0);
        for (condition, want) in [(true, 2.0), (false, 2.0)] {
            let got = op.eval(&[Some(&boolean(condition)), Some(&x)]).expect("evaluates").expect("runs");
            assert_eq!(got[0].to_f32(), [want]);
        }
        let e = build(&with_branches("Neg", "NoSuch"), &["x"], 17).expect_err("unknown");
        assert!(e.to_string().contains("NoSuch"), "{e}");
    }
}
