//! Any operator on dense host tensors: through its own `eval`, or by planning it alone and running the twins.

use super::lower::{Target, plan_with};
use super::step::{BufferKind, Plan};
use super::transfer::gather;
use super::view::View;
use crate::infer::graph::{Fact, Format, Graph};
use crate::infer::op::{Op, OpError};
use crate::infer::ops::dense::{self, Numbers};
use crate::infer::tensor::{DType, Tensor};
use std::cell::Cell;

/// Whole numbers up to here are exact in f32.
const EXACT_IN_F32: f32 = 16_777_216.0;

/// The outputs of an operator. Operators without an `eval` compute in f32.
///
/// # Errors
/// What the operator says of these inputs; and integers that f32 cannot hold.
pub fn evaluate(op: &dyn Op, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if let Some(outputs) = op.eval(inputs) {
        return outputs;
    }
    let types = op.infer(
        &inputs.iter().map(|t| t.map(Fact::of)).collect::<Vec<_>>().iter().map(Option::as_ref).collect::<Vec<_>>(),
    )?;
    if types.iter().all(|fact| fact.shape.contains(&0)) {
        let empty = |fact: &Fact| dense::from_numbers(&fact.shape, fact.dtype, &Numbers::Float(Vec::new()));
        return types.iter().map(empty).collect();
    }
    if inputs.iter().flatten().any(|t| t.is_empty()) {
        return Err(OpError::Unsupported("an input has no elements".into()));
    }
    let mut graph = Graph::new("one node", Format::Onnx);
    let mut ids = Vec::with_capacity(inputs.len());
    for input in inputs {
        ids.push(match input {
            None => None,
            Some(t) => {
                let values = checked(t, t.to_f32())?;
                let t = Tensor::from_f32(t.shape(), values).map_err(OpError::Invalid)?;
                Some(graph.add_constant("input", &t))
            }
        });
    }
    graph.outputs = graph.add_node(op.name(), op.clone_op(), &ids)?;
    let (plan, _) = plan_with(&graph, Target::CPU, false)
        .map_err(|e| OpError::Unsupported(e.first().map_or_else(String::new, |e| e.why.clone())))?;
    let results = run_alone(&plan);
    let mut outputs = Vec::with_capacity(results.len());
    for (fact, (view, values)) in types.iter().zip(results) {
        let tensor = Tensor::from_f32(&view.shape, values).map_err(OpError::Invalid)?;
        if fact.dtype == DType::F32 {
            outputs.push(tensor);
            continue;
        }
        let exact = Tensor::new(view.shape.clone(), tensor.elements().clone()).map_err(OpError::Invalid)?;
        if !matches!(fact.dtype, DType::F64 | DType::F16) {
            refuse_inexact(&exact.to_f32())?;
        }
        outputs.push(dense::from_numbers(&view.shape, fact.dtype, &dense::numbers(&exact))?);
    }
    Ok(outputs)
}

fn checked(tensor: &Tensor, values: Vec<f32>) -> Result<Vec<f32>, OpError> {
    if matches!(tensor.dtype(), DType::I32 | DType::I64) {
        refuse_inexact(&values)?;
    }
    Ok(values)
}

fn refuse_inexact(values: &[f32]) -> Result<(), OpError> {
    match values.iter().find(|v| v.abs() >= EXACT_IN_F32) {
        Some(v) => Err(OpError::Unsupported(format!("computes integers as f32, which is not exact for {v}"))),
        None => Ok(()),
    }
}

/// Runs the twins of a plan whose inputs are all constants.
fn run_alone(plan: &Plan) -> Vec<(View, Vec<f32>)> {
    let mut buffers: Vec<Vec<f32>> = plan
        .buffers
        .iter()
        .map(|b| match &b.kind {
            BufferKind::Constant(tensor) => tensor.to_f32(),
            _ => vec![0.0; b.len_elements],
        })
        .collect();
    let cells: Vec<&[Cell<f32>]> =
        buffers.iter_mut().map(|b| Cell::from_mut(b.as_mut_slice()).as_slice_of_cells()).collect();
    for step in &plan.steps {
        let of = |views: &[View]| views.iter().map(|v| cells[v.buffer.0]).collect::<Vec<_>>();
        step.kernel.run_twin(step, &of(&step.reads), &of(&step.writes));
    }
    plan.outputs.iter().map(|(_, view)| (view.clone(), gather(&buffers[view.buffer.0], view))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::ops::softmax::Softmax;

    #[test]
    fn operators_without_eval_run_alone() {
        let x = Tensor::from_f32(&[2, 3], vec![1.0, 1.0, 1.0, 0.0, 0.0, 100.0]).expect("tensor");
        let y = evaluate(&Softmax { axis: 1, log: false, flattens: false }, &[Some(&x)]).expect("evaluates");
        assert_eq!(y[0].shape(), [2, 3]);
        let third = 1.0 / 3.0;
        for (got, want) in y[0].to_f32().iter().zip([third, third, third, 0.0, 0.0, 1.0]) {
            assert!((got - want).abs() < 1e-6);
        }
        assert!(refuse_inexact(&[3.0, -16_777_217.0]).is_err());
    }
}
