//! Activation functions as operators.

use super::context::{NodeContext, broadcast_shapes, input, present, stretched};
use super::dense::{self, Numbers};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels;
use crate::infer::kernels::elementwise::Function;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor};

/// y = activation(x), element by element.
#[derive(Clone, Debug)]
pub struct Activate {
    pub activation: Activation,
}

/// ONNX Relu, Sigmoid, Tanh, LeakyRelu, Clip, HardSigmoid, HardSwish, Elu, Softplus, Gelu, Mish and Swish.
///
/// # Errors
/// When bounds are computed at run time or an attribute has a value outside the standard.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let op_type = context.op_type;
    let float = |name: &str, default: f32| Ok::<f32, OpError>(context.attributes.float(name)?.unwrap_or(default));
    let activation = match op_type {
        "Relu" => Activation::Relu,
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "LeakyRelu" => Activation::LeakyRelu { alpha: float("alpha", 0.01)? },
        "HardSigmoid" => Activation::HardSigmoid { alpha: float("alpha", 0.2)?, beta: float("beta", 0.5)? },
        "HardSwish" => Activation::HardSwish,
        "Elu" => Activation::Elu { alpha: float("alpha", 1.0)? },
        "Softplus" => Activation::Softplus,
        "Mish" => Activation::Mish,
        "Swish" => match float("alpha", 1.0)? {
            1.0 => Activation::Silu,
            alpha => return super::function::build_swish(context, f64::from(alpha)),
        },
        "Gelu" => match context.attributes.string("approximate")?.unwrap_or("none") {
            "none" => Activation::Gelu,
            "tanh" => Activation::GeluTanh,
            other => return context.refuse(format!("approximate = {other}; none and tanh are supported")),
        },
        "Clip" if context.opset < 11 => {
            Activation::Clip { lo: float("min", f32::NEG_INFINITY)?, hi: float("max", f32::INFINITY)? }
        }
        "Clip" => Activation::Clip {
            lo: bound(context, 1, "min", f32::NEG_INFINITY)?,
            hi: bound(context, 2, "max", f32::INFINITY)?,
        },
        other => return context.refuse(format!("{other} is not an activation that is known")),
    };
    Ok(Box::new(Activate { activation }))
}

fn bound(context: &mut NodeContext<'_>, index: usize, what: &str, default: f32) -> Result<f32, OpError> {
    let Some(tensor) = context.optional_constant(index, what)? else { return Ok(default) };
    match tensor.to_f32()[..] {
        [value] => Ok(value),
        // Exporters write an empty tensor for "no bound".
        [] => Ok(default),
        _ => Err(OpError::Invalid(format!("{what} has shape {:?}, not one value", tensor.shape()))),
    }
}

impl Op for Activate {
    fn name(&self) -> &'static str {
        match self.activation {
            Activation::None => "Identity",
            Activation::Relu => "Relu",
            Activation::Clip { .. } => "Clip",
            Activation::LeakyRelu { .. } => "LeakyRelu",
            Activation::Sigmoid => "Sigmoid",
            Activation::Silu => "Silu",
            Activation::HardSigmoid { .. } => "HardSigmoid",
            Activation::HardSwish => "HardSwish",
            Activation::Mish => "Mish",
            Activation::Tanh => "Tanh",
            Activation::Elu { .. } => "Elu",
            Activation::Softplus => "Softplus",
            Activation::Gelu | Activation::GeluTanh => "Gelu",
        }
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        Ok(vec![Fact::new(x.dtype, &x.shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let y = match (dense::numbers(x), self.activation) {
                (Numbers::Float(v), a) => Numbers::Float(v.iter().map(|&x| f64::from(a.apply(x as f32))).collect()),
                (Numbers::Int(v), Activation::None) => Numbers::Int(v),
                (Numbers::Int(v), Activation::Relu) => Numbers::Int(v.iter().map(|&x| x.max(0)).collect()),
                // Bounds of integers beyond 2^24 lost their last digits; `as` keeps infinities at the ends of the range.
                (Numbers::Int(v), Activation::Clip { lo, hi }) => {
                    Numbers::Int(v.iter().map(|&x| x.max(lo as i64).min(hi as i64)).collect())
                }
                (Numbers::Int(_), a) => {
                    return Err(OpError::Unsupported(format!("{} of {} values", a.label(), x.dtype())));
                }
            };
            Ok(vec![dense::from_numbers(x.shape(), x.dtype(), &y)?])
        };
        Some(evaluate())
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let kernel = kernels::elementwise::Elementwise { function: Function::Identity, activation: self.activation };
        l.step(kernel, vec![source], vec![target]);
        Ok(())
    }
}

/// ONNX PRelu with slopes that differ: y = x ≥ 0 ? x : slope·x. Inputs: x, slope (constant, broadcasts to x).
#[derive(Clone, Debug)]
pub struct PRelu;

/// ONNX PRelu; with one slope for all it is a LeakyRelu.
///
/// # Errors
/// When the slope is computed at run time.
pub fn build_prelu(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let slope = context.input(1)?;
    let Some(values) = slope.constant.as_ref().map(Tensor::to_f32) else {
        return Err(OpError::RunTime("slope is computed at run time".into()));
    };
    if let Some((&first, rest)) = values.split_first()
        && rest.iter().all(|&s| s == first)
    {
        context.drop_input(1);
        return Ok(Box::new(Activate { activation: Activation::LeakyRelu { alpha: first } }));
    }
    Ok(Box::new(PRelu))
}

impl Op for PRelu {
    fn name(&self) -> &'static str {
        "PRelu"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let (x, slope) = (input(inputs, 0)?, input(inputs, 1)?);
        if x.dtype != DType::F32 || broadcast_shapes(&x.shape, &slope.shape)? != x.shape {
            return Err(OpError::Invalid(format!(
                "slope of shape {:?} does not broadcast to x of shape {:?}",
                slope.shape, x.shape
            )));
        }
        Ok(vec![Fact::f32(&x.shape)])
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let slope_id = present(inputs, 1)?;
        let at_most_one = l.constant_f32(slope_id, "slope")?.iter().all(|&s| s <= 1.0);
        let x = l.read(present(inputs, 0)?)?;
        let slope = stretched(&l.read(slope_id)?, &x.shape)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let kernel = |function, activation| kernels::elementwise::Elementwise { function, activation };
        let scaled = l.temporary("scaled", &x.shape);
        if at_most_one {
            // With slopes up to 1 it is max(x, slope·x).
            l.step(kernel(Function::Mul, Activation::None), vec![x.clone(), slope], vec![scaled.clone()]);
            l.step(kernel(Function::Max, Activation::None), vec![x, scaled], vec![target]);
            return Ok(());
        }
        let (negative, positive) = (l.temporary("negative", &x.shape), l.temporary("positive", &x.shape));
        let below = Activation::Clip { lo: f32::NEG_INFINITY, hi: 0.0 };
        l.step(kernel(Function::Identity, below), vec![x.clone()], vec![negative.clone()]);
        l.step(kernel(Function::Mul, Activation::None), vec![negative, slope], vec![scaled.clone()]);
        l.step(kernel(Function::Identity, Activation::Relu), vec![x], vec![positive.clone()]);
        l.step(kernel(Function::Add, Activation::None), vec![positive, scaled], vec![target]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn activation(op: &(dyn Op + 'static)) -> Option<Activation> {
        op.downcast::<Activate>().map(|a| a.activation)
    }

    #[test]
    fn clip_reads_attributes_in_opset_6_and_inputs_in_11() {
        let x = Fact::f32(&[2]);
        let old = [AttributeProto::float("min", 0.0), AttributeProto::float("max", 6.0)];
        let op = build_for_test("Clip", 6, &old, &[&x]).expect("builds");
        assert_eq!(activation(&*op), Some(Activation::Clip { lo: 0.0, hi: 6.0 }));
        let (lo, empty) = (Fact::of(&Tensor::scalar_f32(-1.0)), Tensor::from_f32(&[0], vec![]).expect("empty"));
        let op = build_for_test("Clip", 13, &[], &[&x, &lo, &Fact::of(&empty)]).expect("builds");
        assert_eq!(activation(&*op), Some(Activation::Clip { lo: -1.0, hi: f32::INFINITY }));
        assert!(build_for_test("Clip", 13, &old, &[&x]).is_err(), "attributes of another opset");
        assert!(build_for_test("Clip", 13, &[], &[&x, &Fact::f32(&[])]).is_err(), "computed bound");
    }

    #[test]
    fn integers_fold_as_integers() {
        let op = Activate { activation: Activation::Clip { lo: 0.0, hi: f32::INFINITY } };
        let y = op.eval(&[Some(&Tensor::vec_i64(vec![-3, i64::MAX]))]).expect("folds").expect("evaluates");
        assert_eq!(y[0].as_i64(), Some(&[0, i64::MAX][..]));
    }

    #[test]
    fn prelu_with_one_slope_is_leaky() {
        let slopes = |v: Vec<f32>| Fact::of(&Tensor::from_f32(&[v.len(), 1, 1], v).expect("tensor"));
        let x = Fact::f32(&[1, 2, 3, 3]);
        let op = build_for_test("PRelu", 9, &[], &[&x, &slopes(vec![0.25, 0.25])]).expect("builds");
        assert_eq!(activation(&*op), Some(Activation::LeakyRelu { alpha: 0.25 }));
        let different = slopes(vec![0.25, 0.5]);
        let op = build_for_test("PRelu", 9, &[], &[&x, &different]).expect("builds");
        assert_eq!(op.infer(&[Some(&x), Some(&different)]), Ok(vec![x]));
    }
}
