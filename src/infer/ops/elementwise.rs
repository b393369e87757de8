//! Arithmetic, element by element, with ONNX (numpy) broadcasting.

use super::context::{NodeContext, broadcast_shapes, input, present, stretched};
use super::dense::{self, Numbers};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels;
use crate::infer::kernels::elementwise::Function;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::{DType, Tensor};

/// y = activation(function(a, b)). Functions of one input read `[a]`; those of two `[a, b]`; Add, Min and Max also
/// any number of inputs (ONNX Sum, Min, Max), from left to right.
#[derive(Clone, Debug)]
pub struct Elementwise {
    pub function: Function,
    pub activation: Activation,
}

impl Elementwise {
    /// The function with no activation after it.
    pub fn new(function: Function) -> Elementwise {
        Elementwise { function, activation: Activation::None }
    }
}

/// How many inputs a function takes at least and at most.
fn arity(function: Function) -> (usize, usize) {
    match function {
        Function::Identity
        | Function::Exp
        | Function::Log
        | Function::Sqrt
        | Function::Reciprocal
        | Function::Neg
        | Function::Abs
        | Function::Floor
        | Function::Ceil
        | Function::Round
        | Function::Erf
        | Function::Sin
        | Function::Cos
        | Function::Sign
        | Function::Softsign => (1, 1),
        Function::Add | Function::Min | Function::Max => (1, usize::MAX),
        _ => (2, 2),
    }
}

/// All unary and binary arithmetic of ONNX that is known, and Sum, Min, Max of any number of inputs.
///
/// # Errors
/// When the number of inputs is wrong.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let function = match context.op_type {
        "Exp" => Function::Exp,
        "Log" => Function::Log,
        "Sqrt" => Function::Sqrt,
        "Reciprocal" => Function::Reciprocal,
        "Neg" => Function::Neg,
        "Abs" => Function::Abs,
        "Floor" => Function::Floor,
        "Ceil" => Function::Ceil,
        "Round" => Function::Round,
        "Erf" => Function::Erf,
        "Sin" => Function::Sin,
        "Cos" => Function::Cos,
        "Sign" => Function::Sign,
        "Softsign" => Function::Softsign,
        "Add" | "Sum" => Function::Add,
        "Sub" => Function::Sub,
        "Mul" => Function::Mul,
        "Div" => Function::Div,
        "Pow" => Function::Pow,
        "Mod" if context.attributes.flag("fmod", false)? => Function::Remainder,
        "Mod" => Function::Modulo,
        "Min" => Function::Min,
        "Max" => Function::Max,
        other => return context.refuse(format!("{other} is not an elementwise function that is known")),
    };
    let least = if matches!(context.op_type, "Add") { 2 } else { arity(function).0 };
    let most = if matches!(context.op_type, "Add") { 2 } else { arity(function).1 };
    let given = context.inputs.len();
    if given < least || given > most {
        return Err(OpError::Invalid(format!("has {given} inputs, the standard says {least}")));
    }
    for i in 0..given {
        context.input(i)?;
    }
    Ok(Box::new(Elementwise::new(function)))
}

fn of_floats(function: Function, a: f64, b: f64) -> f64 {
    match function {
        Function::Identity => a,
        Function::Exp => a.exp(),
        Function::Log => a.ln(),
        Function::Sqrt => a.sqrt(),
        Function::Reciprocal => 1.0 / a,
        Function::Neg => -a,
        Function::Abs => a.abs(),
        Function::Floor => a.floor(),
        Function::Ceil => a.ceil(),
        Function::Round => a.round_ties_even(),
        Function::Erf => f64::from(crate::infer::activation::erf(a as f32)),
        Function::Sin => a.sin(),
        Function::Cos => a.cos(),
        Function::Add => a + b,
        Function::Sub => a - b,
        Function::Mul => a * b,
        Function::Div => a / b,
        Function::Pow => a.powf(b),
        Function::Remainder => a % b,
        Function::Modulo => {
            let rest = a % b;
            if rest == 0.0 {
                0f64.copysign(b)
            } else if (rest < 0.0) == (b < 0.0) {
                rest
            } else {
                rest + b
            }
        }
        Function::Min => a.min(b),
        Function::Max => a.max(b),
        Function::Sign if a == 0.0 || a.is_nan() => a,
        Function::Sign => a.signum(),
        Function::Softsign => a / (1.0 + a.abs()),
        Function::Greater => f64::from(u8::from(a > b)),
        Function::GreaterOrEqual => f64::from(u8::from(a >= b)),
        Function::Less => f64::from(u8::from(a < b)),
        Function::LessOrEqual => f64::from(u8::from(a <= b)),
        Function::Equal => f64::from(u8::from(a == b)),
        Function::Above => {
            if a > b {
                a
            } else {
                0.0
            }
        }
    }
}

/// Integers: overflow wraps, division cuts towards zero. `None`: no integer result.
fn of_integers(function: Function, a: i64, b: i64) -> Option<i64> {
    Some(match function {
        Function::Identity | Function::Floor | Function::Ceil | Function::Round => a,
        Function::Neg => a.wrapping_neg(),
        Function::Abs => a.wrapping_abs(),
        Function::Sign => a.signum(),
        Function::Add => a.wrapping_add(b),
        Function::Sub => a.wrapping_sub(b),
        Function::Mul => a.wrapping_mul(b),
        Function::Div if b == 0 => return None,
        Function::Div => a.wrapping_div(b),
        Function::Pow => a.wrapping_pow(u32::try_from(b).ok()?),
        Function::Remainder | Function::Modulo if b == 0 => return None,
        Function::Remainder => a.wrapping_rem(b),
        Function::Modulo => {
            let rest = a.wrapping_rem(b);
            if rest == 0 || (rest < 0) == (b < 0) { rest } else { rest + b }
        }
        Function::Min => a.min(b),
        Function::Max => a.max(b),
        _ => return None,
    })
}

impl Elementwise {
    /// function(a, b) on the host, without the activation.
    fn combine(&self, a: &Tensor, b: Option<&Tensor>) -> Result<Tensor, OpError> {
        let function = self.function;
        let (shape, a, b) = match b {
            Some(b) => {
                let (shape, a, b) = dense::broadcast_pair(a, b)?;
                (shape, a, Some(b))
            }
            None => (a.shape().to_vec(), a.clone(), None),
        };
        let refused = || OpError::Invalid(format!("{} of integers has no integer value here", self.name()));
        let result = match (dense::numbers(&a), b.as_ref().map(dense::numbers)) {
            (Numbers::Float(a), None) => Numbers::Float(a.iter().map(|&x| of_floats(function, x, 0.0)).collect()),
            (Numbers::Float(a), Some(Numbers::Float(b))) => {
                Numbers::Float(a.iter().zip(&b).map(|(&x, &y)| of_floats(function, x, y)).collect())
            }
            (Numbers::Int(a), None) => {
                Numbers::Int(a.iter().map(|&x| of_integers(function, x, 0)).collect::<Option<_>>().ok_or_else(refused)?)
            }
            (Numbers::Int(a), Some(Numbers::Int(b))) => Numbers::Int(
                a.iter()
                    .zip(&b)
                    .map(|(&x, &y)| of_integers(function, x, y))
                    .collect::<Option<_>>()
                    .ok_or_else(refused)?,
            ),
            // Only Pow mixes kinds; the result has the type of the base.
            (Numbers::Float(a), Some(Numbers::Int(b))) => {
                Numbers::Float(a.iter().zip(&b).map(|(&x, &y)| of_floats(function, x, y as f64)).collect())
            }
            (Numbers::Int(a), Some(Numbers::Float(b))) => {
                Numbers::Float(a.iter().zip(&b).map(|(&x, &y)| of_floats(function, x as f64, y)).collect())
            }
        };
        dense::from_numbers(&shape, a.dtype(), &result)
    }
}

impl Op for Elementwise {
    fn name(&self) -> &'static str {
        match self.function {
            Function::Identity => "Identity",
            Function::Exp => "Exp",
            Function::Log => "Log",
            Function::Sqrt => "Sqrt",
            Function::Reciprocal => "Reciprocal",
            Function::Neg => "Neg",
            Function::Abs => "Abs",
            Function::Floor => "Floor",
            Function::Ceil => "Ceil",
            Function::Round => "Round",
            Function::Erf => "Erf",
            Function::Sin => "Sin",
            Function::Cos => "Cos",
            Function::Add => "Add",
            Function::Sub => "Sub",
            Function::Mul => "Mul",
            Function::Div => "Div",
            Function::Pow => "Pow",
            Function::Remainder | Function::Modulo => "Mod",
            Function::Min => "Min",
            Function::Max => "Max",
            Function::Sign => "Sign",
            Function::Softsign => "Softsign",
            Function::Greater => "Greater",
            Function::GreaterOrEqual => "GreaterOrEqual",
            Function::Less => "Less",
            Function::LessOrEqual => "LessOrEqual",
            Function::Equal => "Equal",
            Function::Above => "ThresholdedRelu",
        }
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let first = input(inputs, 0)?;
        let (least, most) = arity(self.function);
        if inputs.len() < least || inputs.len() > most {
            return Err(OpError::Invalid(format!("{} has {} inputs", self.name(), inputs.len())));
        }
        let mut shape = first.shape.clone();
        for i in 1..inputs.len() {
            let other = input(inputs, i)?;
            if other.dtype != first.dtype && self.function != Function::Pow {
                return Err(OpError::Invalid(format!("mixes element types {} and {}", first.dtype, other.dtype)));
            }
            shape = broadcast_shapes(&shape, &other.shape)?;
        }
        Ok(vec![Fact::new(first.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let first = present(inputs, 0)?;
            let mut result = match inputs.len() {
                1 if arity(self.function).1 > 1 => first.clone(),
                1 => self.combine(first, None)?,
                _ => self.combine(first, Some(present(inputs, 1)?))?,
            };
            for i in 2..inputs.len() {
                result = self.combine(&result, Some(present(inputs, i)?))?;
            }
            if self.activation != Activation::None
                && let Some(activated) =
                    (super::activation::Activate { activation: self.activation }).eval(&[Some(&result)])
            {
                return activated;
            }
            Ok(vec![result])
        };
        Some(evaluate())
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let output = present(&[outputs.first().copied()], 0)?;
        let shape = l.shape(output).to_vec();
        let mut operands: Vec<View> = Vec::with_capacity(inputs.len());
        for i in 0..inputs.len() {
            let id = present(inputs, i)?;
            if let Some(constant) = l.constant(id).filter(|t| t.dtype() != DType::F32) {
                // The exponent of Pow may be an integer.
                let tensor = Tensor::from_f32(constant.shape(), constant.to_f32()).map_err(OpError::Invalid)?;
                let view = l.constant_buffer("as_f32", &tensor);
                operands.push(stretched(&view, &shape)?);
                continue;
            }
            operands.push(stretched(&l.read(id)?, &shape)?);
        }
        let target = l.write(output);
        let kernel = |function, activation| kernels::elementwise::Elementwise { function, activation };
        if operands.len() <= 2 {
            let function =
                if operands.len() == 1 && arity(self.function).1 > 1 { Function::Identity } else { self.function };
            l.step(kernel(function, self.activation), operands, vec![target]);
            return Ok(());
        }
        let last = operands.pop();
        let mut rest = operands.into_iter();
        let mut sum = rest.next();
        for operand in rest {
            let partial = l.temporary("partial", &shape);
            l.step(
                kernel(self.function, Activation::None),
                sum.into_iter().chain([operand]).collect(),
                vec![partial.clone()],
            );
            sum = Some(partial);
        }
        l.step(kernel(self.function, self.activation), sum.into_iter().chain(last).collect(), vec![target]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn eval(function: Function, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
        let result = Elementwise::new(function).eval(&inputs).expect("folds");
        result.map(|mut r| r.remove(0))
    }

    #[test]
    fn integers_divide_towards_zero_and_refuse_zero() {
        let a = Tensor::vec_i64(vec![7, -7, 9]);
        let b = Tensor::vec_i64(vec![2]);
        assert_eq!(eval(Function::Div, &[&a, &b]), Ok(Tensor::vec_i64(vec![3, -3, 4])));
        assert!(eval(Function::Div, &[&a, &Tensor::vec_i64(vec![0])]).is_err());
        let big = Tensor::vec_i64(vec![(1 << 53) + 1]);
        assert_eq!(eval(Function::Add, &[&big, &b]), Ok(Tensor::vec_i64(vec![(1 << 53) + 3])));
    }

    #[test]
    fn remainders_have_the_right_sign() {
        let (a, b) = (Tensor::vec_i64(vec![-4, 7, 5]), Tensor::vec_i64(vec![2, -3, 8]));
        assert_eq!(eval(Function::Modulo, &[&a, &b]), Ok(Tensor::vec_i64(vec![0, -2, 5])));
        assert_eq!(eval(Function::Remainder, &[&a, &b]), Ok(Tensor::vec_i64(vec![0, 1, 5])));
        assert!(eval(Function::Modulo, &[&a, &Tensor::vec_i64(vec![0])]).is_err());
        let floats = |v: &[f32]| Tensor::from_f32(&[v.len()], v.to_vec()).expect("tensor");
        let (a, b) = (floats(&[-4.25, 7.5, 5.0, -1.0]), floats(&[2.0, -3.0, 8.0, f32::INFINITY]));
        let rest = |function| eval(function, &[&a, &b]).expect("folds").to_f32();
        assert_eq!(rest(Function::Modulo), [1.75, -1.5, 5.0, f32::INFINITY], "the sign of the divisor, as in Python");
        assert_eq!(rest(Function::Remainder), [-0.25, 1.5, 5.0, -1.0]);
        let fact = Fact::of(&a);
        for (fmod, function) in [(0, Function::Modulo), (1, Function::Remainder)] {
            let op = build_for_test("Mod", 13, &[AttributeProto::int("fmod", fmod)], &[&fact, &fact]).expect("builds");
            assert_eq!(op.downcast::<Elementwise>().map(|e| e.function), Some(function));
        }
    }

    #[test]
    fn floats_broadcast() {
        let a = Tensor::from_f32(&[2, 1], vec![1.0, 2.0]).expect("tensor");
        let b = Tensor::from_f32(&[3], vec![10.0, 20.0, 30.0]).expect("tensor");
        let y = eval(Function::Mul, &[&a, &b]).expect("multiplies");
        assert_eq!((y.shape(), y.as_f32()), (&[2, 3][..], Some(&[10.0, 20.0, 30.0, 20.0, 40.0, 60.0][..])));
        let halves = Tensor::from_f32(&[3], vec![0.5, 1.5, -2.5]).expect("tensor");
        assert_eq!(eval(Function::Round, &[&halves]).map(|t| t.to_f32()), Ok(vec![0.0, 2.0, -2.0]));
    }

    #[test]
    fn max_takes_any_number_and_sub_exactly_two() {
        let (a, b) = (Fact::f32(&[1, 4, 3, 3]), Fact::f32(&[4, 1, 1]));
        let op = build_for_test("Max", 13, &[], &[&a, &b, &b]).expect("builds");
        assert_eq!(op.infer(&[Some(&b), Some(&a), Some(&b)]).map(|f| f[0].shape.clone()), Ok(vec![1, 4, 3, 3]));
        let parts: Vec<Tensor> = [1, 5, 3].iter().map(|&v| Tensor::vec_i64(vec![v])).collect();
        assert_eq!(eval(Function::Max, &[&parts[0], &parts[1], &parts[2]]), Ok(Tensor::vec_i64(vec![5])));
        assert!(build_for_test("Sub", 13, &[], &[&a, &b, &b]).is_err());
        assert!(build_for_test("Exp", 13, &[], &[]).is_err());
    }
}
