//! ReduceProd, ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSum, ReduceLogSumExp, and any reduction over an axis without
//! elements. On host tensors; of f32 by the kernel of sums, with functions before and behind it.

use super::context::{NodeContext, present, resolve_axes, stretched};
use super::dense;
use super::function::{HostFunction, floats, tensor_of};
use super::reshape::Reshape;
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::kernels::reduce::{Reduce, ReduceKind};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor};

fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 => f64::NEG_INFINITY,
        DType::I64 => i64::MIN as f64,
        DType::I32 => f64::from(i32::MIN),
        DType::I8 => f64::from(i8::MIN),
        DType::U8 | DType::Bool => 0.0,
    }
}

fn highest(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 => f64::INFINITY,
        DType::I64 => i64::MAX as f64,
        DType::I32 => f64::from(i32::MAX),
        DType::I8 => f64::from(i8::MAX),
        DType::U8 => f64::from(u8::MAX),
        DType::Bool => 1.0,
    }
}

/// The value of a run of elements.
fn reduce(name: &str, dtype: DType, run: &[f64]) -> f64 {
    let sum = || run.iter().sum::<f64>();
    match name {
        "ReduceSum" => sum(),
        "ReduceMean" => sum() / run.len() as f64,
        "ReduceMax" => run.iter().copied().fold(lowest(dtype), f64::max),
        "ReduceMin" => run.iter().copied().fold(highest(dtype), f64::min),
        "ReduceProd" => run.iter().product(),
        "ReduceL1" => run.iter().map(|x| x.abs()).sum(),
        "ReduceL2" => run.iter().map(|x| x * x).sum::<f64>().sqrt(),
        "ReduceSumSquare" => run.iter().map(|x| x * x).sum(),
        "ReduceLogSum" => sum().ln(),
        _ => {
            let largest = run.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if largest.is_finite() {
                largest + run.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
            } else {
                largest
            }
        }
    }
}

/// The steps of a reduction over `axes`.
fn lower(
    name: &str,
    axes: &[usize],
    l: &mut Lowering<'_>,
    inputs: &[Option<ValueId>],
    outputs: &[ValueId],
) -> Result<(), OpError> {
    let source = l.read(present(inputs, 0)?)?;
    let target = l.write(present(&[outputs.first().copied()], 0)?);
    let mut kept = source.shape.clone();
    axes.iter().for_each(|&a| kept[a] = 1);
    let target =
        target.reshaped(&kept).ok_or_else(|| OpError::Invalid(format!("shape {:?} is not {kept:?}", target.shape)))?;
    let function = |function| Elementwise { function, activation: Activation::None };
    let (kind, behind) = match name {
        "ReduceProd" => (ReduceKind::Product, None),
        "ReduceL1" => (ReduceKind::SumAbs, None),
        "ReduceSumSquare" => (ReduceKind::SumSquares, None),
        "ReduceL2" => (ReduceKind::SumSquares, Some(Function::Sqrt)),
        "ReduceLogSum" => (ReduceKind::Sum, Some(Function::Log)),
        "ReduceLogSumExp" => {
            // largest + ln Σ exp(x − largest); an infinite largest value would make NaN of itself.
            let [most, largest, sum] = ["most", "largest", "sum"].map(|name| l.temporary(name, &kept));
            let shifted = l.temporary("shifted", &source.shape);
            let powers = l.temporary("powers", &source.shape);
            let finite = Activation::Clip { lo: f32::MIN, hi: f32::MAX };
            l.step(Reduce { kind: ReduceKind::Max }, vec![source.clone()], vec![most.clone()]);
            let clip = Elementwise { function: Function::Identity, activation: finite };
            l.step(clip, vec![most], vec![largest.clone()]);
            let everywhere = stretched(&largest, &source.shape)?;
            l.step(function(Function::Sub), vec![source, everywhere], vec![shifted.clone()]);
            l.step(function(Function::Exp), vec![shifted], vec![powers.clone()]);
            l.step(Reduce { kind: ReduceKind::Sum }, vec![powers], vec![sum.clone()]);
            let logarithm = l.temporary("logarithm", &kept);
            l.step(function(Function::Log), vec![sum], vec![logarithm.clone()]);
            l.step(function(Function::Add), vec![logarithm, largest], vec![target]);
            return Ok(());
        }
        other => return Err(OpError::Unsupported(format!("{other} over an axis without elements"))),
    };
    match behind {
        None => l.step(Reduce { kind }, vec![source], vec![target]),
        Some(behind) => {
            let reduced = l.temporary("reduced", &kept);
            l.step(Reduce { kind }, vec![source], vec![reduced.clone()]);
            l.step(function(behind), vec![reduced], vec![target]);
        }
    }
    Ok(())
}

/// The ONNX reductions named above; axes are an input since opset 18 (ReduceSum: 13).
///
/// # Errors
/// When axes are computed at run time or outside.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let known = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"];
    let rest = ["ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"];
    let Some(&name) = known.iter().chain(&rest).find(|n| **n == context.op_type) else {
        return context.refuse(format!("{} is not a reduction that is known", context.op_type));
    };
    let since = if name == "ReduceSum" { 13 } else { 18 };
    let keepdims = context.attributes.flag("keepdims", true)?;
    let given = context.ints_attribute_or_input("axes", 1, since)?.filter(|a| !a.is_empty());
    let nothing = context.opset >= since && context.attributes.flag("noop_with_empty_axes", false)?;
    let shape = x.shape.clone();
    let dtype = x.dtype;
    let axes = match given {
        Some(axes) => resolve_axes(&axes, shape.len())?,
        None if nothing && ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"].contains(&name) => {
            return Ok(Box::new(Reshape { shape }));
        }
        None if nothing => Vec::new(),
        None => (0..shape.len()).collect(),
    };
    let kept: Vec<usize> = (0..shape.len()).filter(|a| !axes.contains(a)).collect();
    let result: Vec<usize> = match keepdims {
        true => (0..shape.len()).map(|a| if axes.contains(&a) { 1 } else { shape[a] }).collect(),
        false => kept.iter().map(|&a| shape[a]).collect(),
    };
    let order: Vec<usize> = kept.iter().chain(&axes).copied().collect();
    let (count, run) =
        (kept.iter().map(|&a| shape[a]).product::<usize>(), axes.iter().map(|&a| shape[a]).product::<usize>());
    let fact = Fact::new(dtype, &result);
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, _) = floats(inputs, 0)?;
        let (_, values) = floats(&[Some(&dense::take(x, &dense::view_of(x).transposed(&order))?)], 0)?;
        let reduced = (0..count).map(|i| reduce(name, dtype, &values[i * run..(i + 1) * run])).collect::<Vec<_>>();
        if dtype == DType::I64
            && reduced.iter().any(|v| v.abs() > 2f64.powi(53))
            && name != "ReduceMax"
            && name != "ReduceMin"
        {
            return Err(OpError::Unsupported("integers beyond 2^53".into()));
        }
        Ok(vec![tensor_of(&result, dtype, reduced)?])
    };
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        lower(name, &axes, l, inputs, outputs)
    };
    Ok(HostFunction::with_kernels(name, vec![fact], compute, lower))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn values_of_rows() {
        let x = Tensor::from_f32(&[2, 2], vec![1.0, 2.0, -3.0, 4.0]).expect("tensor");
        let eval = |name: &str, axis: i64| {
            let op =
                build_for_test(name, 13, &[AttributeProto::ints("axes", &[axis])], &[&Fact::of(&x)]).expect("builds");
            op.eval(&[Some(&x)]).expect("folds").expect("evaluates").remove(0).to_f32()
        };
        assert_eq!(eval("ReduceProd", 1), [2.0, -12.0]);
        assert_eq!(eval("ReduceL1", 0), [4.0, 6.0]);
        assert_eq!(eval("ReduceL2", 1)[1], 5.0);
        assert_eq!(eval("ReduceSumSquare", 1), [5.0, 25.0]);
        assert!((eval("ReduceLogSumExp", 1)[1] - 4.000_911).abs() < 1e-5);
    }

    #[test]
    fn nothing_to_reduce_gives_the_neutral_element() {
        let x = Fact::f32(&[2, 0]);
        let op = build_for_test("ReduceMax", 13, &[AttributeProto::ints("axes", &[1])], &[&x]).expect("builds");
        let empty = Tensor::from_f32(&[2, 0], vec![]).expect("tensor");
        let y = op.eval(&[Some(&empty)]).expect("folds").expect("evaluates");
        assert_eq!(y[0].to_f32(), [f32::NEG_INFINITY; 2]);
    }
}
