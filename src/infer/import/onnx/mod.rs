//! ONNX files (<https://onnx.ai>), operator sets 7 to 28, and of older ones what did not change.
//!
//! All shapes are static once the inputs are bound, so subgraphs that compute shapes are constants and vanish here, and
//! operators find their tensor-valued parameters resolved. f16 tensors become f32. Everything that is not supported is
//! collected and reported at once.

pub mod attributes;
mod inputs;
pub(crate) mod order;
pub mod proto;
mod qlinear;
pub mod tensors;

use super::ImportOptions;
use super::error::{ImportError, Unsupported};
use super::mapped::MappedFile;
use crate::infer::graph::{Fact, Format, Graph, Node, ValueId};
use crate::infer::op::OpError;
use crate::infer::ops::context::check_shape;
use crate::infer::ops::control_flow;
use crate::infer::ops::late::Late;
use crate::infer::ops::{self, NodeContext};
use crate::infer::tensor::Tensor;
use attributes::Attributes;
use bytes::Bytes;
use prost::Message;
use proto::{DataType, GraphProto, ModelProto, NodeProto, TensorProto};
use std::collections::HashMap;
use std::path::{Component, Path};

/// Operator sets that are accepted.
const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// Before this one, operators had no broadcasting, and some other attributes.
const OPSET_COMPLETE: i64 = 7;

/// What already meant the same in operator set 1, unless an attribute says otherwise; unknown attributes are refused.
const SINCE_ONE: &[&str] = &[
    "Abs",
    "AveragePool",
    "Ceil",
    "Constant",
    "Conv",
    "Div",
    "Exp",
    "Flatten",
    "Floor",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "LRN",
    "LeakyRelu",
    "Log",
    "MatMul",
    "MaxPool",
    "Mul",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Shape",
    "Sigmoid",
    "Softmax",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Add",
];

/// Results of constant folding may have this many elements each, and this many together.
const FOLDED_MAX: usize = 64 << 20;
const FOLDED_TOTAL_MAX: usize = 256 << 20;

/// What is known of a name.
#[derive(Clone, Debug)]
enum Known {
    Value(ValueId),
    /// Its node was refused; what depends on it is not looked at further.
    Refused,
    /// An output that no operator here produces, such as the mask of a Dropout: an error only where it is used.
    NotProduced(String),
}

/// Names of one graph: of the model's, or of a branch that is taken into it.
#[derive(Default)]
struct Scope<'a> {
    initializers: HashMap<&'a str, &'a TensorProto>,
    known: HashMap<&'a str, Known>,
}

impl<'a> Scope<'a> {
    fn of(graph: &'a GraphProto) -> Scope<'a> {
        let initializers = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        Scope { initializers, known: HashMap::new() }
    }
}

/// An operator, the inputs that it keeps, and what is known of its outputs.
type BuiltNode = (Box<dyn crate::infer::op::Op>, Vec<Option<ValueId>>, Vec<Fact>);

struct Importer<'a> {
    file: &'a GraphProto,
    opset: Option<i64>,
    /// The model's graph, and the branches around the node that is looked at, outermost first.
    scopes: Vec<Scope<'a>>,
    graph: Graph,
    unsupported: Vec<Unsupported>,
    folded_elements: usize,
    directory: Option<&'a Path>,
    /// The model's file, where it is one.
    mapped: Option<&'a MappedFile>,
    /// Files with tensors that lie outside, by their name in the model.
    outside: HashMap<String, Bytes>,
}

/// Reads an ONNX model. Tensors in other files are refused; [`super::import_file`] finds them.
///
/// # Errors
/// [`ImportError::NotAModel`] for files of another kind, [`ImportError::Malformed`] for damaged ones,
/// [`ImportError::MissingOption`] for dynamic sizes that nothing binds, and [`ImportError::Unsupported`] with everything
/// that is not supported.
pub fn import_onnx(bytes: Bytes, name: &str, options: &ImportOptions) -> Result<Graph, ImportError> {
    import_onnx_from(bytes, name, options, None, None)
}

/// As [`import_onnx`]; tensors outside the file are looked for in `directory`. The memory of tensors inside is given back
/// to `mapped` as they are decoded, if the bytes are of it.
pub(super) fn import_onnx_from(
    bytes: Bytes,
    name: &str,
    options: &ImportOptions,
    directory: Option<&Path>,
    mapped: Option<&MappedFile>,
) -> Result<Graph, ImportError> {
    let model = parse(bytes, name)?;
    let no_graph = || ImportError::NotAModel { name: name.to_string(), why: "there is no graph in it".to_string() };
    let file = model.graph.as_ref().filter(|g| !g.output.is_empty()).ok_or_else(no_graph)?;
    let default_domain = model.opset_import.iter().find(|o| is_default_domain(&o.domain));
    if let Some(found) = default_domain.filter(|o| !OPSETS.contains(&o.version)) {
        return Err(ImportError::Unsupported(vec![Unsupported {
            node: "the model".into(),
            op: "opset_import".into(),
            why: format!(
                "operator set {}; {} to {} are supported. Export again with one of these",
                found.version,
                OPSETS.start(),
                OPSETS.end()
            ),
        }]));
    }
    let order = order::sorted(file, &|_| false)?;
    let mut importer = Importer {
        file,
        opset: default_domain.map(|o| o.version),
        scopes: vec![Scope::of(file)],
        graph: Graph::new(name, Format::Onnx),
        unsupported: Vec::new(),
        folded_elements: 0,
        directory,
        mapped,
        outside: HashMap::new(),
    };
    for sparse in &file.sparse_initializer {
        let name = sparse.values.as_ref().map_or("", |v| v.name.as_str());
        importer.refuse(name, "initializer", "is sparse; only dense tensors are supported".into());
    }
    importer.add_inputs(options)?;
    for index in order {
        importer.add_node(file, index);
    }
    importer.add_outputs()?;
    if !importer.unsupported.is_empty() {
        return Err(ImportError::Unsupported(importer.unsupported));
    }
    let mut graph = importer.graph;
    qlinear::take_apart(&mut graph);
    graph.metadata = model.metadata_props.iter().map(|p| (p.key.clone(), p.value.clone())).collect();
    Ok(graph)
}

fn is_default_domain(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

fn parse(bytes: Bytes, name: &str) -> Result<ModelProto, ImportError> {
    let refused = |why: String| ImportError::NotAModel { name: name.to_string(), why };
    // Every writer begins with ir_version: field 1, a small varint.
    let looks_like_onnx = matches!(bytes[..], [0x08, 1..32, ..]);
    match bytes.len() {
        0 => Err(refused("the file is empty".into())),
        _ => ModelProto::decode(bytes).map_err(|e| {
            if looks_like_onnx {
                ImportError::malformed(format!("'{name}' begins as an ONNX file, but is truncated or damaged ({e})"))
            } else {
                refused("not an ONNX file".into())
            }
        }),
    }
}

/// What to do about an operator that is not known.
fn advice(op_type: &str) -> &'static str {
    match op_type {
        "EfficientNMS_TRT" | "BatchedNMS_TRT" => {
            "export without post-processing: suppression is done after the network"
        }
        "Scan" => "export with static shapes, so that no control flow is left",
        _ => "the operator is not known; simplify the network or export it another way",
    }
}

impl<'a> Importer<'a> {
    fn refuse(&mut self, node: &str, op: &str, why: String) {
        self.unsupported.push(Unsupported { node: node.to_string(), op: op.to_string(), why });
    }

    fn add_inputs(&mut self, options: &ImportOptions) -> Result<(), ImportError> {
        for input in &self.file.input {
            if self.scopes.iter().any(|s| s.initializers.contains_key(input.name.as_str())) {
                continue;
            }
            let (dtype, shape) = inputs::bind(input, options)?;
            let known = if let Some(dtype) = dtype {
                let id = self.graph.add_value(&input.name, Fact::new(dtype, &shape));
                self.graph.inputs.push(id);
                Known::Value(id)
            } else {
                let why = "is of a type that is not known; f32, f16, f64, i64, i32, u8, i8 and bool are supported";
                self.refuse(&input.name, "input", why.into());
                Known::Refused
            };
            if self.learn(&input.name, known).is_some() {
                return Err(ImportError::malformed(format!("two inputs are named '{}'", input.name)));
            }
        }
        Ok(())
    }

    fn add_outputs(&mut self) -> Result<(), ImportError> {
        for output in &self.file.output {
            match self.find(&output.name) {
                Some(Known::Value(id)) => {
                    let tensor = output.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
                    self.graph.outputs.push(id);
                    self.graph.half_outputs.push(tensor.is_some_and(|t| t.elem_type == DataType::Float16 as i32));
                    self.graph.declared_outputs.push(tensor.and_then(inputs::declared));
                }
                Some(Known::Refused) => {}
                Some(Known::NotProduced(why)) => self.refuse(&output.name, "output", why),
                None => return Err(ImportError::malformed(format!("output '{}' is not computed", output.name))),
            }
        }
        Ok(())
    }

    fn learn(&mut self, name: &'a str, known: Known) -> Option<Known> {
        self.scopes.last_mut()?.known.insert(name, known)
    }

    /// What a name stands for, looked for from the inside out; initializers are decoded when first asked for.
    fn find(&mut self, name: &'a str) -> Option<Known> {
        let at = self.scopes.iter().rposition(|s| s.known.contains_key(name) || s.initializers.contains_key(name))?;
        if let Some(known) = self.scopes[at].known.get(name) {
            return Some(known.clone());
        }
        let initializer = *self.scopes[at].initializers.get(name)?;
        let (directory, outside) = (self.directory, &mut self.outside);
        let known = match tensors::decode(initializer, &mut |t| external(t, directory, outside)) {
            Ok(tensor) => Known::Value(self.graph.add_constant(name, &tensor)),
            Err(why) => {
                self.refuse(name, "initializer", why);
                Known::Refused
            }
        };
        if let Some(file) = self.mapped {
            file.let_go(&initializer.raw_data);
        }
        self.scopes[at].known.insert(name, known.clone());
        Some(known)
    }

    fn add_node(&mut self, file: &'a GraphProto, index: usize) {
        let node = &file.node[index];
        let name = order::node_name(file, index);
        let outcome = self.try_node(node, &name);
        if !matches!(outcome, Ok(true)) {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                self.learn(output, Known::Refused);
            }
        }
        if let Err(e) = outcome {
            self.refuse(&name, &node.op_type, e.to_string());
        }
    }

    /// The branch of an If whose condition is known. `Ok(None)` for everything else.
    fn branch(&mut self, node: &'a NodeProto) -> Result<Option<&'a GraphProto>, OpError> {
        let [condition] = node.input.as_slice() else { return Ok(None) };
        let Some(Known::Value(condition)) = self.find(condition) else { return Ok(None) };
        let truth = self.graph.fact(condition).constant.as_ref().map(Tensor::to_i64);
        let Some([truth]) = truth.as_deref() else { return Ok(None) };
        let attributes = Attributes::new(&node.attribute);
        let branch = attributes.graph(if *truth != 0 { "then_branch" } else { "else_branch" })?;
        if branch.output.len() != node.output.len() || !branch.input.is_empty() {
            return Err(OpError::Invalid("the inputs or outputs of its branch do not fit it".into()));
        }
        Ok(Some(branch))
    }

    /// Takes the nodes of a branch into the graph; the outputs of the If are those of the branch.
    fn inline(&mut self, node: &'a NodeProto, branch: &'a GraphProto) -> Result<(), OpError> {
        let is_outer =
            |name: &str| self.scopes.iter().any(|s| s.known.contains_key(name) || s.initializers.contains_key(name));
        let order = order::sorted(branch, &is_outer).map_err(|e| OpError::Invalid(e.to_string()))?;
        self.scopes.push(Scope::of(branch));
        for index in order {
            self.add_node(branch, index);
        }
        let found: Vec<Option<Known>> = branch.output.iter().map(|o| self.find(&o.name)).collect();
        self.scopes.pop();
        for (output, known) in node.output.iter().zip(found) {
            let known = known.ok_or_else(|| OpError::Invalid("an output of its branch is not computed".into()))?;
            if !output.is_empty() {
                self.learn(output, known);
            }
        }
        Ok(())
    }

    /// An If or a Loop that is left to the host, or what it comes to where it reads constants only.
    fn control_flow(&mut self, node: &'a NodeProto, opset: i64) -> Result<Option<BuiltNode>, OpError> {
        let captured = order::captured(node);
        let Some(op) = control_flow::build(node, &captured, opset)? else {
            return Err(OpError::Unsupported(advice(&node.op_type).into()));
        };
        let names = node.input.iter().map(String::as_str).chain(captured);
        let Some(inputs) = self.values_of(names)? else { return Ok(None) };
        let constants: Vec<Option<&Tensor>> =
            inputs.iter().map(|i| i.and_then(|i| self.graph.fact(i).constant.as_ref())).collect();
        let all_constant = inputs.iter().zip(&constants).all(|(input, c)| input.is_none() || c.is_some());
        let folded = if all_constant { op.fold(&constants) } else { None };
        let outputs = match folded {
            Some(tensors) => tensors.iter().map(Fact::of).collect(),
            None => vec![Fact::late(); node.output.len()],
        };
        Ok(Some((Box::new(op), inputs, outputs)))
    }

    /// Adds a node, or the constants that it comes to. `Ok(false)`: it depends on something that was refused.
    fn try_node(&mut self, node: &'a NodeProto, name: &str) -> Result<bool, OpError> {
        if !is_default_domain(&node.domain) {
            return Err(OpError::Unsupported(format!(
                "domain '{}'; only operators of the ONNX standard are supported",
                node.domain
            )));
        }
        let opset = self
            .opset
            .ok_or_else(|| OpError::Invalid("the file imports no version of the standard operators".into()))?;
        if opset < OPSET_COMPLETE && !SINCE_ONE.contains(&node.op_type.as_str()) {
            return Err(OpError::Unsupported(format!(
                "differs in operator set {opset}; convert the file to {OPSET_COMPLETE} or later (onnx.version_converter)"
            )));
        }
        let Some((op_type, build)) = ops::entry(&node.op_type) else {
            if node.op_type == "If"
                && let Some(branch) = self.branch(node)?
            {
                self.inline(node, branch)?;
                return Ok(true);
            }
            let Some(built) = self.control_flow(node, opset)? else { return Ok(false) };
            self.place(node, name, built);
            return Ok(true);
        };
        let Some(mut inputs) = self.values_of(node.input.iter().map(String::as_str))? else { return Ok(false) };
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let output_count = node.output.iter().rposition(|o| !o.is_empty()).map_or(0, |last| last + 1);
        let late = inputs.iter().flatten().any(|&i| self.graph.fact(i).late);
        let built = match late {
            true => Err(OpError::RunTime(String::new())),
            false => self.build_node(node, build, opset, &inputs, output_count),
        };
        let built: BuiltNode = match built {
            Err(OpError::RunTime(_)) => {
                let attributes = node.attribute.clone();
                let late = Late { op_type, build, opset, attributes, output_count };
                (Box::new(late), inputs, vec![Fact::late(); output_count])
            }
            other => other?,
        };
        self.place(node, name, built);
        Ok(true)
    }

    /// Puts a node into the graph, or only its outputs where they are constants.
    fn place(&mut self, node: &'a NodeProto, name: &str, (op, kept, outputs): BuiltNode) {
        let folded = outputs.iter().all(|f| f.constant.is_some());
        let produced = outputs.len();
        let mut ids = Vec::with_capacity(produced);
        for (k, fact) in outputs.into_iter().enumerate() {
            match node.output.get(k).filter(|o| !o.is_empty()) {
                Some(output) => {
                    let id = self.graph.add_value(output, fact);
                    self.learn(output, Known::Value(id));
                    ids.push(id);
                }
                None => ids.push(self.graph.add_value(&format!("{name}:{k}"), fact)),
            }
        }
        for (k, output) in node.output.iter().enumerate().skip(produced).filter(|(_, o)| !o.is_empty()) {
            let why = format!("uses output {k} of {} '{name}', which is not supported", node.op_type);
            self.learn(output, Known::NotProduced(why));
        }
        let placed = Node { name: name.to_string(), op, inputs: kept, outputs: ids };
        if !folded {
            self.graph.nodes.push(placed);
        } else if node.op_type == "DequantizeLinear" || (node.op_type == "Transpose" && self.is_dequantised(&placed)) {
            self.graph.dequantised.push(placed);
        }
    }

    /// Whether the node reads numbers that integers were made into.
    fn is_dequantised(&self, node: &Node) -> bool {
        self.graph.dequantised.iter().any(|of| node.inputs.first() == Some(&Some(of.outputs[0])))
    }

    /// The operator, the inputs that it keeps, and its outputs, folded where all inputs are constants.
    fn build_node(
        &mut self,
        node: &NodeProto,
        build: ops::Builder,
        opset: i64,
        inputs: &[Option<ValueId>],
        output_count: usize,
    ) -> Result<BuiltNode, OpError> {
        let facts: Vec<Option<Fact>> = inputs.iter().map(|i| i.map(|i| self.graph.fact(i).clone())).collect();
        let mut context = NodeContext::new(
            &node.op_type,
            opset,
            Attributes::new(&node.attribute),
            facts.iter().map(Option::as_ref).collect(),
            output_count,
        );
        let op = build(&mut context)?;
        context.refuse_unread()?;
        let kept = context.kept(inputs);
        let kept_facts: Vec<Option<&Fact>> = kept.iter().map(|i| i.map(|i| self.graph.fact(i))).collect();
        let mut outputs = op.infer(&kept_facts)?;
        for fact in &outputs {
            check_shape(&fact.shape)?;
        }
        let constants: Vec<Option<&Tensor>> = kept_facts.iter().map(|f| f.and_then(|f| f.constant.as_ref())).collect();
        let all_constant = kept.iter().zip(&constants).all(|(input, c)| input.is_none() || c.is_some());
        if all_constant {
            self.folded_elements = fold(&*op, &constants, &mut outputs, self.folded_elements)?;
        }
        Ok((op, kept, outputs))
    }

    /// The values of some names, `None` for an empty one; `Ok(None)` where one was refused before.
    fn values_of(&mut self, names: impl Iterator<Item = &'a str>) -> Result<Option<Vec<Option<ValueId>>>, OpError> {
        let mut values = Vec::new();
        let mut complete = true;
        for name in names {
            if name.is_empty() {
                values.push(None);
                continue;
            }
            match self.find(name) {
                Some(Known::Value(id)) => values.push(Some(id)),
                Some(Known::Refused) => complete = false,
                Some(Known::NotProduced(why)) => return Err(OpError::Unsupported(why)),
                None => return Err(OpError::Invalid(format!("input '{name}' is not computed before it"))),
            }
        }
        Ok(complete.then_some(values))
    }
}

/// Computes the outputs where the operator can and they are not too large; returns the new total of folded elements.
fn fold(
    op: &dyn crate::infer::op::Op,
    constants: &[Option<&Tensor>],
    outputs: &mut [Fact],
    folded_before: usize,
) -> Result<usize, OpError> {
    let counts: Vec<usize> = outputs.iter().map(|f| f.shape.iter().product()).collect();
    let total = counts.iter().fold(folded_before, |total, &n| total.saturating_add(n));
    if counts.iter().any(|&n| n > FOLDED_MAX) || total > FOLDED_TOTAL_MAX {
        return Ok(folded_before);
    }
    let Some(results) = op.eval(constants) else { return Ok(folded_before) };
    for (fact, tensor) in outputs.iter_mut().zip(results?) {
        if !fact.late && (fact.shape != tensor.shape() || fact.dtype != tensor.dtype()) {
            return Err(OpError::Invalid(format!(
                "folds to {tensor:?} where {} {:?} was expected",
                fact.dtype, fact.shape
            )));
        }
        *fact = Fact::of(&tensor);
    }
    Ok(total)
}

/// Bytes of a tensor that lies in another file beside the model.
fn external(
    tensor: &TensorProto,
    directory: Option<&Path>,
    outside: &mut HashMap<String, Bytes>,
) -> Result<Bytes, String> {
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let location = entry("location").ok_or("lies in another file, but its name is missing")?;
    let directory =
        directory.ok_or_else(|| format!("lies in the file '{location}', which cannot be found from here"))?;
    if !Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("lies in the file '{location}', which is not below the model's folder"));
    }
    if !outside.contains_key(location) {
        let bytes = MappedFile::open(&directory.join(location)).map_err(|e| e.to_string())?.bytes();
        outside.insert(location.to_string(), bytes);
    }
    let bytes = outside.get(location).ok_or("is not there")?;
    let number = |key: &str| match entry(key) {
        Some(text) => text.parse::<usize>().map(Some).map_err(|_| format!("has {key} '{text}' in '{location}'")),
        None => Ok(None),
    };
    let start = number("offset")?.unwrap_or(0);
    let end = match number("length")? {
        Some(length) => start.checked_add(length),
        None => Some(bytes.len()),
    };
    match end {
        Some(end) if start <= end && end <= bytes.len() => Ok(bytes.slice(start..end)),
        _ => Err(format!("reaches outside the file '{location}' of {} bytes", bytes.len())),
    }
}

#[cfg(test)]
mod tests;
