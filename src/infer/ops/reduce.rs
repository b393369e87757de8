//! Sums, means, maxima and minima over axes; the global pools are among them.

use super::context::{NodeContext, input, present, resolve_axes};
use super::dense::{self, Numbers};
use super::reshape::Reshape;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels;
use crate::infer::kernels::reduce::ReduceKind;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::Tensor;

/// ONNX ReduceSum, ReduceMean, ReduceMax, ReduceMin with axes resolved.
#[derive(Clone, Debug)]
pub struct Reduce {
    pub kind: ReduceKind,
    /// Sorted.
    pub axes: Vec<usize>,
    pub keepdims: bool,
}

impl Reduce {
    /// Global average pooling of `[N, C, H, W]`.
    pub fn global_average() -> Reduce {
        Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keepdims: true }
    }

    fn kept(&self, shape: &[usize]) -> Vec<usize> {
        shape.iter().enumerate().map(|(a, &n)| if self.axes.contains(&a) { 1 } else { n }).collect()
    }
}

/// ONNX ReduceSum, ReduceMean, ReduceMax and ReduceMin; axes are an input since opset 13 (Sum) and 18 (the others).
///
/// # Errors
/// When axes are computed at run time or outside.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = context.input(0)?.shape.clone();
    if shape.contains(&0) {
        return super::reduce_host::build(context);
    }
    let (kind, since) = match context.op_type {
        "ReduceSum" => (ReduceKind::Sum, 13),
        "ReduceMean" => (ReduceKind::Mean, 18),
        "ReduceMax" => (ReduceKind::Max, 18),
        "ReduceMin" => (ReduceKind::Min, 18),
        other => return context.refuse(format!("{other} is not a reduction that is known")),
    };
    let keepdims = context.attributes.flag("keepdims", true)?;
    let given = context.ints_attribute_or_input("axes", 1, since)?.filter(|a| !a.is_empty());
    let nothing = context.opset >= since && context.attributes.flag("noop_with_empty_axes", false)?;
    let axes = match given {
        Some(axes) => resolve_axes(&axes, shape.len())?,
        None if nothing => return Ok(Box::new(Reshape { shape })),
        None => (0..shape.len()).collect(),
    };
    Ok(Box::new(Reduce { kind, axes, keepdims }))
}

/// ONNX GlobalAveragePool and GlobalMaxPool.
///
/// # Errors
/// When the input has no spatial axes.
pub fn build_global(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let rank = context.input(0)?.shape.len();
    if rank < 3 {
        return Err(OpError::Invalid(format!("input of rank {rank} has no spatial axes")));
    }
    let kind = if context.op_type == "GlobalMaxPool" { ReduceKind::Max } else { ReduceKind::Mean };
    Ok(Box::new(Reduce { kind, axes: (2..rank).collect(), keepdims: true }))
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "ReduceSum",
            ReduceKind::Mean => "ReduceMean",
            ReduceKind::Max => "ReduceMax",
            ReduceKind::Min => "ReduceMin",
            ReduceKind::Product => "ReduceProd",
            ReduceKind::SumSquares => "ReduceSumSquare",
            ReduceKind::MeanSquares => "mean of squares",
            ReduceKind::SumAbs => "ReduceL1",
        }
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        if self.axes.iter().any(|&a| a >= x.shape.len() || x.shape[a] == 0) {
            return Err(OpError::Invalid(format!("axes {:?} of shape {:?}", self.axes, x.shape)));
        }
        let shape = if self.keepdims {
            self.kept(&x.shape)
        } else {
            x.shape.iter().enumerate().filter(|(a, _)| !self.axes.contains(a)).map(|(_, &n)| n).collect()
        };
        Ok(vec![Fact::new(x.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let shape = &self.infer(&[Some(&Fact::new(x.dtype(), x.shape()))])?[0].shape;
            // The reduced axes last, so that each result has one run of elements.
            let mut order: Vec<usize> = (0..x.rank()).filter(|a| !self.axes.contains(a)).collect();
            order.extend(&self.axes);
            let seen = dense::take(x, &dense::view_of(x).transposed(&order))?;
            let run = self.axes.iter().map(|&a| x.shape()[a]).product::<usize>().max(1);
            let result = match dense::numbers(&seen) {
                Numbers::Float(v) => Numbers::Float(
                    v.chunks_exact(run)
                        .map(|c| match self.kind {
                            ReduceKind::Sum => c.iter().sum(),
                            ReduceKind::Mean => c.iter().sum::<f64>() / run as f64,
                            ReduceKind::Max => c.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                            ReduceKind::Min => c.iter().copied().fold(f64::INFINITY, f64::min),
                            ReduceKind::Product => c.iter().product(),
                            ReduceKind::SumSquares => c.iter().map(|x| x * x).sum(),
                            ReduceKind::MeanSquares => c.iter().map(|x| x * x).sum::<f64>() / run as f64,
                            ReduceKind::SumAbs => c.iter().map(|x| x.abs()).sum(),
                        })
                        .collect(),
                ),
                Numbers::Int(v) => Numbers::Int(
                    v.chunks_exact(run)
                        .map(|c| {
                            let sum = || c.iter().fold(0i64, |s, &x| s.wrapping_add(x));
                            let squares = || c.iter().fold(0i64, |s, &x| s.wrapping_add(x.wrapping_mul(x)));
                            match self.kind {
                                ReduceKind::Sum => sum(),
                                ReduceKind::Mean => sum() / run as i64,
                                ReduceKind::Max => c.iter().copied().max().unwrap_or(0),
                                ReduceKind::Min => c.iter().copied().min().unwrap_or(0),
                                ReduceKind::Product => c.iter().fold(1i64, |p, &x| p.wrapping_mul(x)),
                                ReduceKind::SumSquares => squares(),
                                ReduceKind::MeanSquares => squares() / run as i64,
                                ReduceKind::SumAbs => c.iter().fold(0i64, |s, &x| s.wrapping_add(x.wrapping_abs())),
                            }
                        })
                        .collect(),
                ),
            };
            Ok(vec![dense::from_numbers(shape, x.dtype(), &result)?])
        };
        Some(evaluate())
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        // The kernel wants equal ranks: put the reduced axes back with extent 1.
        let kept = self.kept(&source.shape);
        let seen = target
            .reshaped(&kept)
            .ok_or_else(|| OpError::Invalid(format!("shape {:?} is not {kept:?}", target.shape)))?;
        l.step(kernels::reduce::Reduce { kind: self.kind }, vec![source], vec![seen]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn reduces_over_any_axes() {
        let x = Tensor::from_f32(&[2, 2, 2], (0..8).map(|v| v as f32).collect()).expect("tensor");
        let fact = Fact::of(&x);
        let eval = |op_type: &str, axes: &[i64], keep: i64| {
            let attributes = [AttributeProto::ints("axes", axes), AttributeProto::int("keepdims", keep)];
            let op = build_for_test(op_type, 11, &attributes, &[&fact]).expect("builds");
            let y = op.eval(&[Some(&x)]).expect("folds").expect("evaluates").remove(0);
            (y.shape().to_vec(), y.to_f32())
        };
        assert_eq!(eval("ReduceSum", &[0], 0), (vec![2, 2], vec![4.0, 6.0, 8.0, 10.0]));
        assert_eq!(eval("ReduceMean", &[-1, 0], 1), (vec![1, 2, 1], vec![2.5, 4.5]));
        assert_eq!(eval("ReduceMax", &[], 0), (vec![], vec![7.0]));
        assert_eq!(eval("ReduceMin", &[1], 1), (vec![2, 1, 2], vec![0.0, 1.0, 4.0, 5.0]));
    }

    #[test]
    fn axes_may_be_an_input_or_missing() {
        let x = Fact::f32(&[1, 8, 5, 7]);
        let axes = Fact::of(&Tensor::vec_i64(vec![2, 3]));
        let op = build_for_test("ReduceMean", 18, &[], &[&x, &axes]).expect("builds");
        assert_eq!(op.infer(&[Some(&x)]).map(|f| f[0].shape.clone()), Ok(vec![1, 8, 1, 1]));
        let noop = [AttributeProto::int("noop_with_empty_axes", 1)];
        assert!(build_for_test("ReduceSum", 13, &noop, &[&x]).is_ok_and(|op| op.is_view()));
        let op = build_for_test("GlobalAveragePool", 7, &[], &[&x]).expect("builds");
        assert_eq!(op.infer(&[Some(&x)]).map(|f| f[0].shape.clone()), Ok(vec![1, 8, 1, 1]));
    }
}
