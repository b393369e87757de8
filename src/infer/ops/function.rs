//! Operators that are a function of dense host tensors and nothing else: small ones after the network, and rare ones.

use super::context::{NodeContext, present};
use super::dense::{self, Numbers};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// Dense tensors in, dense tensors out.
pub type Compute = Arc<dyn Fn(&[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> + Send + Sync>;

/// Appends the steps of an operator that kernels can compute after all.
pub type Lower = Arc<dyn Fn(&mut Lowering<'_>, &[Option<ValueId>], &[ValueId]) -> Result<(), OpError> + Send + Sync>;

/// An operator that is mostly only evaluated. Its builder has worked out what the outputs are.
#[derive(Clone)]
pub struct HostFunction {
    name: &'static str,
    outputs: Vec<Fact>,
    compute: Compute,
    lower: Option<Lower>,
    holds: bool,
}

impl HostFunction {
    /// `outputs` as they follow from the inputs that the node has.
    pub fn boxed(
        name: &'static str,
        outputs: Vec<Fact>,
        compute: impl Fn(&[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> + Send + Sync + 'static,
    ) -> Box<dyn Op> {
        Box::new(HostFunction { name, outputs, compute: Arc::new(compute), lower: None, holds: false })
    }

    /// As [`HostFunction::boxed`], for one that kernels can compute on f32 values. Where `lower` answers
    /// [`OpError::Unsupported`], the CPU evaluates it.
    pub fn with_kernels(
        name: &'static str,
        outputs: Vec<Fact>,
        compute: impl Fn(&[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> + Send + Sync + 'static,
        lower: impl Fn(&mut Lowering<'_>, &[Option<ValueId>], &[ValueId]) -> Result<(), OpError> + Send + Sync + 'static,
    ) -> Box<dyn Op> {
        let (compute, lower) = (Arc::new(compute), Some(Arc::new(lower) as Lower));
        Box::new(HostFunction { name, outputs, compute, lower, holds: false })
    }

    /// As [`HostFunction::with_kernels`], where the kernels also take and give integers as numbers in f32 memory; see
    /// [`Op::holds`].
    pub fn with_holding_kernels(
        name: &'static str,
        outputs: Vec<Fact>,
        compute: impl Fn(&[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> + Send + Sync + 'static,
        lower: impl Fn(&mut Lowering<'_>, &[Option<ValueId>], &[ValueId]) -> Result<(), OpError> + Send + Sync + 'static,
    ) -> Box<dyn Op> {
        let (compute, lower) = (Arc::new(compute), Some(Arc::new(lower) as Lower));
        Box::new(HostFunction { name, outputs, compute, lower, holds: true })
    }
}

impl fmt::Debug for HostFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostFunction({})", self.name)
    }
}

impl Op for HostFunction {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(self.outputs.clone())
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        Some((self.compute)(inputs))
    }

    fn holds(&self, _inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> bool {
        self.holds
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        match &self.lower {
            Some(lower) => lower(l, inputs, outputs),
            None => Err(OpError::Unsupported("has no kernel; it can only be computed on the CPU".into())),
        }
    }
}

/// Required input `index` and its values as f64.
///
/// # Errors
/// When it is missing.
pub fn floats<'a>(inputs: &[Option<&'a Tensor>], index: usize) -> Result<(&'a Tensor, Vec<f64>), OpError> {
    let tensor = present(inputs, index)?;
    Ok((tensor, to_f64(tensor)))
}

/// All values as f64.
pub fn to_f64(tensor: &Tensor) -> Vec<f64> {
    match dense::numbers(tensor) {
        Numbers::Float(v) => v,
        Numbers::Int(v) => v.into_iter().map(|x| x as f64).collect(),
    }
}

/// A tensor of floats, or of integers that are exact in f64.
///
/// # Errors
/// When the count is not that of the shape.
pub fn tensor_of(shape: &[usize], dtype: DType, values: Vec<f64>) -> Result<Tensor, OpError> {
    dense::from_numbers(shape, dtype, &Numbers::Float(values))
}

/// Product of the extents before, at and behind an axis.
pub fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Element by element, same shape and type, from f64 to f64.
///
/// # Errors
/// When the input is missing.
pub fn map(
    context: &NodeContext<'_>,
    name: &'static str,
    function: impl Fn(f64) -> f64 + Send + Sync + 'static,
) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    Ok(HostFunction::boxed(name, vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        Ok(vec![tensor_of(x.shape(), x.dtype(), values.into_iter().map(&function).collect())?])
    }))
}

/// As [`map`], for one that kernels can compute: `steps` appends them, from the first view to the second.
fn map_with_kernels(
    context: &NodeContext<'_>,
    name: &'static str,
    function: impl Fn(f64) -> f64 + Send + Sync + 'static,
    steps: impl Fn(&mut Lowering<'_>, View, View) -> Result<(), OpError> + Send + Sync + 'static,
) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        Ok(vec![tensor_of(x.shape(), x.dtype(), values.into_iter().map(&function).collect())?])
    };
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        steps(l, source, target)
    };
    Ok(HostFunction::with_kernels(name, vec![Fact::new(x.dtype, &x.shape)], compute, lower))
}

/// Appends target = activation(function(source, number)).
pub(super) fn step_with_number(
    l: &mut Lowering<'_>,
    (function, number): (Function, f64),
    activation: Activation,
    source: View,
    target: View,
) -> Result<(), OpError> {
    let number = l.constant_buffer("number", &Tensor::scalar_f32(number as f32));
    let number = super::context::stretched(&number, &target.shape)?;
    l.step(Elementwise { function, activation }, vec![source, number], vec![target]);
    Ok(())
}

/// ONNX Swish with a factor other than 1: x·sigmoid(alpha·x).
///
/// # Errors
/// When the input is missing.
pub fn build_swish(context: &NodeContext<'_>, alpha: f64) -> Result<Box<dyn Op>, OpError> {
    let function = move |x: f64| x / (1.0 + (-alpha * x).exp());
    map_with_kernels(context, "Swish", function, move |l, source, target| {
        let gate = l.temporary("gate", &source.shape);
        step_with_number(l, (Function::Mul, alpha), Activation::Sigmoid, source.clone(), gate.clone())?;
        let multiply = Elementwise { function: Function::Mul, activation: Activation::None };
        l.step(multiply, vec![source, gate], vec![target]);
        Ok(())
    })
}

/// ONNX Selu, Celu, ThresholdedRelu and Shrink.
///
/// # Errors
/// When the input is missing.
pub fn build_map(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let float =
        |name: &str, default: f32| Ok::<f64, OpError>(f64::from(context.attributes.float(name)?.unwrap_or(default)));
    match context.op_type {
        "Selu" => {
            let (alpha, gamma) = (float("alpha", 1.673_263_2)?, float("gamma", 1.050_701)?);
            let function = move |x: f64| gamma * if x > 0.0 { x } else { alpha * x.exp_m1() };
            map_with_kernels(context, "Selu", function, move |l, source, target| {
                let inner = l.temporary("inner", &source.shape);
                let activation = Activation::Elu { alpha: alpha as f32 };
                let elu = Elementwise { function: Function::Identity, activation };
                l.step(elu, vec![source], vec![inner.clone()]);
                step_with_number(l, (Function::Mul, gamma), Activation::None, inner, target)
            })
        }
        "Celu" => {
            let alpha = float("alpha", 1.0)?;
            let function = move |x: f64| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0);
            map_with_kernels(context, "Celu", function, move |l, source, target| {
                if alpha <= 0.0 {
                    return Err(OpError::Unsupported(format!("alpha = {alpha}; computed on the CPU only")));
                }
                let inner = l.temporary("inner", &source.shape);
                let elu = Activation::Elu { alpha: 1.0 };
                step_with_number(l, (Function::Mul, 1.0 / alpha), elu, source, inner.clone())?;
                step_with_number(l, (Function::Mul, alpha), Activation::None, inner, target)
            })
        }
        "ThresholdedRelu" => {
            let alpha = float("alpha", 1.0)?;
            let function = move |x: f64| if x > alpha { x } else { 0.0 };
            map_with_kernels(context, "ThresholdedRelu", function, move |l, source, target| {
                step_with_number(l, (Function::Above, alpha), Activation::None, source, target)
            })
        }
        "Shrink" => {
            let (bias, lambda) = (float("bias", 0.0)?, float("lambd", 0.5)?);
            map(context, "Shrink", move |x| {
                if x < -lambda {
                    x + bias
                } else if x > lambda {
                    x - bias
                } else {
                    0.0
                }
            })
        }
        other => context.refuse(format!("{other} is not a function that is known")),
    }
}

/// ONNX IsNaN and IsInf.
///
/// # Errors
/// When the input is missing.
pub fn build_is(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = context.input(0)?.shape.clone();
    let outputs = vec![Fact::new(DType::Bool, &shape)];
    if context.op_type == "IsNaN" {
        return Ok(HostFunction::boxed("IsNaN", outputs, |inputs| {
            let (x, values) = floats(inputs, 0)?;
            let truths = values.iter().map(|v| f64::from(u8::from(v.is_nan()))).collect();
            Ok(vec![tensor_of(x.shape(), DType::Bool, truths)?])
        }));
    }
    let positive = context.attributes.flag("detect_positive", true)?;
    let negative = context.attributes.flag("detect_negative", true)?;
    Ok(HostFunction::boxed("IsInf", outputs, move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let is = |v: &f64| v.is_infinite() && if *v > 0.0 { positive } else { negative };
        let truths = values.iter().map(|v| f64::from(u8::from(is(v)))).collect();
        Ok(vec![tensor_of(x.shape(), DType::Bool, truths)?])
    }))
}

/// ONNX Mean of any number of inputs, broadcast.
///
/// # Errors
/// When an input is missing or shapes do not broadcast.
pub fn build_mean(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let first = context.input(0)?;
    let mut shape = first.shape.clone();
    let count = context.inputs.len();
    for i in 1..count {
        shape = super::context::broadcast_shapes(&shape, &context.input(i)?.shape)?;
    }
    let compute = move |inputs: &[Option<&Tensor>]| {
        let mut sum = present(inputs, 0)?.clone();
        for i in 1..count {
            let (shape, a, b) = dense::broadcast_pair(&sum, present(inputs, i)?)?;
            let added = to_f64(&a).iter().zip(to_f64(&b)).map(|(x, y)| x + y).collect();
            sum = tensor_of(&shape, a.dtype(), added)?;
        }
        let mean = to_f64(&sum).into_iter().map(|v| v / count as f64).collect();
        Ok(vec![tensor_of(sum.shape(), sum.dtype(), mean)?])
    };
    let fact = Fact::new(first.dtype, &shape);
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let mut sum = super::context::stretched(&l.read(present(inputs, 0)?)?, &shape)?;
        for i in 1..count {
            let next = super::context::stretched(&l.read(present(inputs, i)?)?, &shape)?;
            let partial = l.temporary("partial", &shape);
            let add = Elementwise { function: Function::Add, activation: Activation::None };
            l.step(add, vec![sum, next], vec![partial.clone()]);
            sum = partial;
        }
        step_with_number(l, (Function::Mul, 1.0 / count as f64), Activation::None, sum, target)
    };
    Ok(HostFunction::with_kernels("Mean", vec![fact], compute, lower))
}

/// ONNX Hardmax: 1 at the first maximum along the axis, else 0.
///
/// # Errors
/// When the axis is outside.
pub fn build_hardmax(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let old = context.opset < 13;
    let given = context.attributes.int("axis")?.unwrap_or(if old { 1 } else { -1 });
    let axis = super::context::resolve_axis(given, x.shape.len())?;
    let (mut outer, mut extent, mut inner) = around(&x.shape, axis);
    if old {
        (outer, extent, inner) = (outer, extent * inner, 1);
    }
    Ok(HostFunction::boxed("Hardmax", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let mut result = vec![0.0; values.len()];
        for o in 0..outer {
            for i in 0..inner {
                let at = |k: usize| (o * extent + k) * inner + i;
                let best = (0..extent).fold(0, |best, k| if values[at(k)] > values[at(best)] { k } else { best });
                if extent > 0 {
                    result[at(best)] = 1.0;
                }
            }
        }
        Ok(vec![tensor_of(x.shape(), x.dtype(), result)?])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn functions_of_one_element() {
        let x = Tensor::from_f32(&[4], vec![-2.0, -0.25, 0.25, 2.0]).expect("tensor");
        let eval = |name: &str| {
            let op = build_for_test(name, 13, &[], &[&Fact::of(&x)]).expect("builds");
            op.eval(&[Some(&x)]).expect("folds").expect("evaluates").remove(0).to_f32()
        };
        assert_eq!(eval("Shrink"), [-2.0, 0.0, 0.0, 2.0]);
        assert_eq!(eval("ThresholdedRelu"), [0.0, 0.0, 0.0, 2.0]);
        assert_eq!(eval("Sign"), [-1.0, -1.0, 1.0, 1.0]);
        assert!((eval("Softsign")[3] - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(eval("Hardmax"), [0.0, 0.0, 0.0, 1.0]);
        assert!((eval("Selu")[0] + 1.520_167).abs() < 1e-5);
    }
}
