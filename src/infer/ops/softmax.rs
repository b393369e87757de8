//! Softmax and its logarithm.

use super::context::{NodeContext, input, present, reshaped_or_copied, resolve_axis};
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;

/// ONNX Softmax and LogSoftmax.
#[derive(Clone, Debug)]
pub struct Softmax {
    pub axis: usize,
    pub log: bool,
    /// Opset 12 and before: all axes from `axis` on count as one.
    pub flattens: bool,
}

/// ONNX Softmax and LogSoftmax.
///
/// # Errors
/// When the axis is outside.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = &context.input(0)?.shape;
    let old = context.opset < 13;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(if old { 1 } else { -1 }), shape.len())?;
    let log = context.op_type == "LogSoftmax";
    // With no more than one axis longer than 1 both meanings are the same.
    let mut long = (axis..shape.len()).filter(|&a| shape[a] > 1);
    Ok(Box::new(match (old, long.next(), long.next()) {
        (true, Some(_), Some(_)) => Softmax { axis, log, flattens: true },
        (true, Some(only), None) => Softmax { axis: only, log, flattens: false },
        _ => Softmax { axis, log, flattens: false },
    }))
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "LogSoftmax" } else { "Softmax" }
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        if self.axis >= x.shape.len() {
            return Err(OpError::Invalid(format!("axis {} of shape {:?}", self.axis, x.shape)));
        }
        Ok(vec![Fact::new(x.dtype, &x.shape)])
    }

    fn keeps_layout(&self) -> bool {
        !self.flattens
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let log = self.log;
        if !self.flattens {
            l.step(kernels::softmax::Softmax { axis: self.axis, log }, vec![source], vec![target]);
            return Ok(());
        }
        let (rows, columns) = source.shape.split_at(self.axis);
        let shape = [rows.iter().product(), columns.iter().product()];
        let source = reshaped_or_copied(l, &source, &shape)?;
        let kernel = kernels::softmax::Softmax { axis: 1, log };
        match target.reshaped(&shape) {
            Some(flat) => l.step(kernel, vec![source], vec![flat]),
            None => {
                let flat = l.temporary("softmax", &[target.len()]);
                let seen =
                    |shape: &[usize]| flat.reshaped(shape).ok_or_else(|| OpError::Invalid(format!("shape {shape:?}")));
                l.step(kernel, vec![source], vec![seen(&shape)?]);
                l.copy(&seen(&target.shape)?, &target);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn built(opset: i64, axis: Option<i64>, shape: &[usize]) -> Option<(usize, bool)> {
        let attributes: Vec<_> = axis.map(|a| AttributeProto::int("axis", a)).into_iter().collect();
        let op = build_for_test("Softmax", opset, &attributes, &[&Fact::f32(shape)]).ok()?;
        op.downcast::<Softmax>().map(|s| (s.axis, s.flattens))
    }

    #[test]
    fn old_opsets_flatten_only_where_it_matters() {
        assert_eq!(built(13, None, &[1, 4, 3, 3]), Some((3, false)));
        assert_eq!(built(11, None, &[1, 4, 3, 3]), Some((1, true)));
        assert_eq!(built(11, None, &[1, 10]), Some((1, false)));
        assert_eq!(built(11, Some(1), &[1, 1, 7, 1]), Some((2, false)));
        assert_eq!(built(11, Some(-1), &[1, 4, 3, 3]), Some((3, false)));
        assert_eq!(built(13, Some(4), &[1, 4, 3, 3]), None);
    }
}
