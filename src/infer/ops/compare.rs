//! Comparisons, logic and Where. Truths are 0 and 1 where kernels compute them.

use super::context::{NodeContext, broadcast_shapes, input, present, stretched};
use super::dense::{self, Numbers};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::kernels::select::Select;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::{DType, Tensor};

/// What is asked of each pair of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    And,
    Or,
    Xor,
    /// Of one input.
    Not,
}

/// A comparison or a logical operator.
#[derive(Clone, Debug)]
pub struct Compare {
    pub relation: Relation,
}

/// ONNX Equal, Greater, GreaterOrEqual, Less, LessOrEqual, And, Or, Xor and Not.
///
/// # Errors
/// When an input is missing.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let relation = match context.op_type {
        "Equal" => Relation::Equal,
        "Greater" => Relation::Greater,
        "GreaterOrEqual" => Relation::GreaterOrEqual,
        "Less" => Relation::Less,
        "LessOrEqual" => Relation::LessOrEqual,
        "And" => Relation::And,
        "Or" => Relation::Or,
        "Xor" => Relation::Xor,
        "Not" => Relation::Not,
        other => return context.refuse(format!("{other} is not a comparison that is known")),
    };
    context.input(0)?;
    Ok(Box::new(Compare { relation }))
}

impl Compare {
    fn holds<T: PartialOrd>(&self, a: T, b: T, zero: T) -> bool {
        match self.relation {
            Relation::Equal => a == b,
            Relation::Greater => a > b,
            Relation::GreaterOrEqual => a >= b,
            Relation::Less => a < b,
            Relation::LessOrEqual => a <= b,
            Relation::And => a != zero && b != zero,
            Relation::Or => a != zero || b != zero,
            Relation::Xor => (a != zero) != (b != zero),
            Relation::Not => a == zero,
        }
    }
}

impl Op for Compare {
    fn name(&self) -> &'static str {
        match self.relation {
            Relation::Equal => "Equal",
            Relation::Greater => "Greater",
            Relation::GreaterOrEqual => "GreaterOrEqual",
            Relation::Less => "Less",
            Relation::LessOrEqual => "LessOrEqual",
            Relation::And => "And",
            Relation::Or => "Or",
            Relation::Xor => "Xor",
            Relation::Not => "Not",
        }
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let a = input(inputs, 0)?;
        let shape = match self.relation {
            Relation::Not => a.shape.clone(),
            _ => broadcast_shapes(&a.shape, &input(inputs, 1)?.shape)?,
        };
        Ok(vec![Fact::new(DType::Bool, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let a = present(inputs, 0)?;
            let b = if self.relation == Relation::Not { a } else { present(inputs, 1)? };
            let (shape, a, b) = dense::broadcast_pair(a, b)?;
            let truths = match (dense::numbers(&a), dense::numbers(&b)) {
                (Numbers::Int(a), Numbers::Int(b)) => {
                    a.iter().zip(&b).map(|(&x, &y)| i64::from(self.holds(x, y, 0))).collect()
                }
                (Numbers::Float(a), Numbers::Float(b)) => {
                    a.iter().zip(&b).map(|(&x, &y)| i64::from(self.holds(x, y, 0.0))).collect()
                }
                _ => return Err(OpError::Invalid(format!("compares {} with {}", a.dtype(), b.dtype()))),
            };
            Ok(vec![dense::from_numbers(&shape, DType::Bool, &Numbers::Int(truths))?])
        };
        Some(evaluate())
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn holds(&self, _inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let output = present(&[outputs.first().copied()], 0)?;
        let shape = l.shape(output).to_vec();
        let a = stretched(&l.read(present(inputs, 0)?)?, &shape)?;
        let b = match self.relation {
            Relation::Not => None,
            _ => Some(stretched(&l.read(present(inputs, 1)?)?, &shape)?),
        };
        let target = l.write(output);
        let function = match self.relation {
            Relation::Equal => Function::Equal,
            Relation::Greater => Function::Greater,
            Relation::GreaterOrEqual => Function::GreaterOrEqual,
            Relation::Less => Function::Less,
            Relation::LessOrEqual => Function::LessOrEqual,
            // Truths are 0 and 1.
            Relation::And => Function::Min,
            Relation::Or => Function::Max,
            Relation::Xor => {
                let equal = l.temporary("equal", &shape);
                let step = Elementwise { function: Function::Equal, activation: Activation::None };
                l.step(step, std::iter::once(a).chain(b).collect(), vec![equal.clone()]);
                return is_zero(l, equal, target);
            }
            Relation::Not => return is_zero(l, a, target),
        };
        let step = Elementwise { function, activation: Activation::None };
        l.step(step, std::iter::once(a).chain(b).collect(), vec![target]);
        Ok(())
    }
}

/// target = source == 0
pub(super) fn is_zero(l: &mut Lowering<'_>, source: View, target: View) -> Result<(), OpError> {
    let zero = stretched(&l.constant_buffer("zero", &Tensor::scalar_f32(0.0)), &target.shape)?;
    let step = Elementwise { function: Function::Equal, activation: Activation::None };
    l.step(step, vec![source, zero], vec![target]);
    Ok(())
}

/// ONNX Where: inputs condition, x, y.
#[derive(Clone, Debug)]
pub struct Where;

/// ONNX Where.
///
/// # Errors
/// When an input is missing.
pub fn build_where(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    for i in 0..3 {
        context.input(i)?;
    }
    Ok(Box::new(Where))
}

impl Op for Where {
    fn name(&self) -> &'static str {
        "Where"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let (condition, x, y) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2)?);
        let shape = broadcast_shapes(&broadcast_shapes(&condition.shape, &x.shape)?, &y.shape)?;
        Ok(vec![Fact::new(x.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let (condition, x, y) = (present(inputs, 0)?, present(inputs, 1)?, present(inputs, 2)?);
            let (_, x, y) = dense::broadcast_pair(x, y)?;
            let (_, x, condition) = dense::broadcast_pair(&x, condition)?;
            let (shape, x, y) = dense::broadcast_pair(&x, &y)?;
            let both = dense::append(&[&x, &y])?;
            let chosen = condition.to_i64().into_iter().enumerate();
            let positions = chosen.map(|(i, c)| if c != 0 { i } else { x.len() + i });
            Ok(vec![dense::pick(&both, positions, &shape)?])
        };
        Some(evaluate())
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn holds(&self, _inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let output = present(&[outputs.first().copied()], 0)?;
        let shape = l.shape(output).to_vec();
        let mut reads = Vec::with_capacity(3);
        for i in 0..3 {
            reads.push(stretched(&l.read(present(inputs, i)?)?, &shape)?);
        }
        let target = l.write(output);
        l.step(Select, reads, vec![target]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(op: &dyn Op, inputs: &[&Tensor]) -> Result<Vec<i64>, OpError> {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
        op.eval(&inputs).expect("folds").map(|r| r[0].to_i64())
    }

    #[test]
    fn compares_and_selects() {
        let (a, b) = (Tensor::vec_i64(vec![1, -1, 3]), Tensor::vec_i64(vec![-1]));
        assert_eq!(eval(&Compare { relation: Relation::Equal }, &[&a, &b]), Ok(vec![0, 1, 0]));
        assert_eq!(eval(&Compare { relation: Relation::Greater }, &[&a, &b]), Ok(vec![1, 0, 1]));
        let condition = dense::from_numbers(&[3], DType::Bool, &Numbers::Int(vec![0, 1, 0])).expect("booleans");
        assert_eq!(eval(&Compare { relation: Relation::Not }, &[&condition]), Ok(vec![1, 0, 1]));
        assert_eq!(eval(&Where, &[&condition, &b, &a]), Ok(vec![1, -1, 3]));
        assert_eq!(eval(&Where, &[&condition, &Tensor::vec_i64(vec![7]), &a]), Ok(vec![1, 7, 3]));
    }
}
