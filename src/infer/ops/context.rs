//! What a builder sees of a node, and the checks that operators share.

use crate::infer::graph::Fact;
use crate::infer::import::onnx::attributes::Attributes;
use crate::infer::op::OpError;
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::{Tensor, element_count};

/// No value may have more elements than this.
pub const ELEMENTS_MAX: usize = 1 << 29;

/// More axes than this are refused.
pub const RANK_MAX: usize = 8;

/// No window extent, stride, pad or dilation may be larger.
pub const WINDOW_MAX: i64 = 1 << 20;

/// One node of a file while its operator is built.
#[derive(Debug)]
pub struct NodeContext<'a> {
    pub op_type: &'a str,
    /// Version of the operator set that the file imports.
    pub opset: i64,
    pub attributes: Attributes<'a>,
    pub inputs: Vec<Option<&'a Fact>>,
    pub output_count: usize,
    /// Inputs that became part of the operator; the node does not keep them.
    resolved: Vec<usize>,
}

impl<'a> NodeContext<'a> {
    pub fn new(
        op_type: &'a str,
        opset: i64,
        attributes: Attributes<'a>,
        inputs: Vec<Option<&'a Fact>>,
        output_count: usize,
    ) -> NodeContext<'a> {
        NodeContext { op_type, opset, attributes, inputs, output_count, resolved: Vec::new() }
    }

    /// A required input.
    ///
    /// # Errors
    /// When it is missing.
    pub fn input(&self, index: usize) -> Result<&'a Fact, OpError> {
        self.optional(index).ok_or_else(|| OpError::Invalid(format!("input {index} is missing")))
    }

    pub fn optional(&self, index: usize) -> Option<&'a Fact> {
        self.inputs.get(index).copied().flatten()
    }

    /// A required input whose value becomes part of the operator; the node forgets the input.
    ///
    /// # Errors
    /// When it is missing, or computed at run time. `what` names it in the message.
    pub fn constant(&mut self, index: usize, what: &str) -> Result<&'a Tensor, OpError> {
        self.input(index)?;
        match self.optional_constant(index, what)? {
            Some(tensor) => Ok(tensor),
            None => Err(OpError::Invalid(format!("input {index} is missing"))),
        }
    }

    /// As [`NodeContext::constant`], but the input may be missing.
    ///
    /// # Errors
    /// When it is computed at run time.
    pub fn optional_constant(&mut self, index: usize, what: &str) -> Result<Option<&'a Tensor>, OpError> {
        let Some(fact) = self.optional(index) else { return Ok(None) };
        let tensor = fact.constant.as_ref().ok_or_else(|| {
            OpError::RunTime(format!(
                "{what} (input {index}) is computed at run time; export the network with static shapes"
            ))
        })?;
        self.resolved.push(index);
        Ok(Some(tensor))
    }

    /// Makes the node forget an input that has no effect.
    pub fn drop_input(&mut self, index: usize) {
        self.resolved.push(index);
    }

    /// The inputs that the node keeps, without missing ones at the end.
    pub fn kept<T: Copy>(&self, inputs: &[Option<T>]) -> Vec<Option<T>> {
        let keep = |(i, input): (usize, &Option<T>)| input.filter(|_| !self.resolved.contains(&i));
        let mut kept: Vec<Option<T>> = inputs.iter().enumerate().map(keep).collect();
        while kept.last().is_some_and(Option::is_none) {
            kept.pop();
        }
        kept
    }

    /// Refuses attributes that nobody asked for.
    ///
    /// # Errors
    /// When there are any.
    pub fn refuse_unread(&self) -> Result<(), OpError> {
        match self.attributes.unread().as_slice() {
            [] => Ok(()),
            unread => Err(OpError::Unsupported(format!(
                "attribute(s) {} are not known for operator set {}",
                unread.join(", "),
                self.opset
            ))),
        }
    }

    /// Axes that are an attribute in old opsets and an input since `since`. `None` where neither is given.
    ///
    /// # Errors
    /// As [`NodeContext::optional_constant`].
    pub fn ints_attribute_or_input(
        &mut self,
        name: &str,
        index: usize,
        since: i64,
    ) -> Result<Option<Vec<i64>>, OpError> {
        if self.opset < since {
            Ok(self.attributes.ints(name)?.map(<[i64]>::to_vec))
        } else {
            Ok(self.optional_constant(index, name)?.map(Tensor::to_i64))
        }
    }

    /// A refusal that names an attribute and its value.
    pub fn refuse<T>(&self, what: String) -> Result<T, OpError> {
        Err(OpError::Unsupported(what))
    }
}

/// Refuses shapes that are absurd.
///
/// # Errors
/// When there are too many axes or elements.
pub fn check_shape(shape: &[usize]) -> Result<(), OpError> {
    if shape.len() > RANK_MAX {
        return Err(OpError::Unsupported(format!("its output has {} axes; {RANK_MAX} are supported", shape.len())));
    }
    let dims_fit = shape.iter().all(|&d| d <= ELEMENTS_MAX);
    if !dims_fit || element_count(shape).is_none_or(|n| n > ELEMENTS_MAX) {
        return Err(OpError::Unsupported(format!(
            "its output has shape {shape:?}; {ELEMENTS_MAX} elements are supported"
        )));
    }
    Ok(())
}

/// Required input `index` of [`crate::infer::op::Op::infer`].
///
/// # Errors
/// When it is missing.
pub fn input<'a>(inputs: &[Option<&'a Fact>], index: usize) -> Result<&'a Fact, OpError> {
    inputs.get(index).copied().flatten().ok_or_else(|| OpError::Invalid(format!("input {index} is missing")))
}

/// Required input `index` of [`crate::infer::op::Op::eval`] or `lower`.
///
/// # Errors
/// When it is missing.
pub fn present<T: Copy>(inputs: &[Option<T>], index: usize) -> Result<T, OpError> {
    inputs.get(index).copied().flatten().ok_or_else(|| OpError::Invalid(format!("input {index} is missing")))
}

/// A possibly negative axis as an index below `rank`.
///
/// # Errors
/// When it is outside −rank..rank.
pub fn resolve_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let resolved = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(resolved) {
        Ok(a) if a < rank => Ok(a),
        _ => Err(OpError::Invalid(format!("axis {axis} is outside a rank of {rank}"))),
    }
}

/// Axes resolved, sorted, without repetition.
///
/// # Errors
/// As [`resolve_axis`]; and when one is named twice.
pub fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut resolved = axes.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    resolved.sort_unstable();
    if resolved.windows(2).any(|w| w[0] == w[1]) {
        return Err(OpError::Invalid(format!("axes {axes:?} name an axis twice")));
    }
    Ok(resolved)
}

/// The shape that both broadcast to by the rules of ONNX (numpy).
///
/// # Errors
/// When they do not fit.
pub fn broadcast_shapes(a: &[usize], b: &[usize]) -> Result<Vec<usize>, OpError> {
    let rank = a.len().max(b.len());
    let extent = |s: &[usize], axis: usize| (axis + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|axis| match (extent(a, axis), extent(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(OpError::Invalid(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// A view stretched to a shape that is known to be its broadcast.
///
/// # Errors
/// When it is not.
pub fn stretched(view: &View, shape: &[usize]) -> Result<View, OpError> {
    view.broadcast_to(shape)
        .ok_or_else(|| OpError::Invalid(format!("shape {:?} does not broadcast to {shape:?}", view.shape)))
}

/// A view under another shape; copied to a dense buffer first where strides cannot express it.
///
/// # Errors
/// When the element counts differ.
pub fn reshaped_or_copied(l: &mut Lowering<'_>, view: &View, shape: &[usize]) -> Result<View, OpError> {
    if let Some(reshaped) = view.reshaped(shape) {
        return Ok(reshaped);
    }
    let differ = || OpError::Invalid(format!("shape {:?} does not reshape to {shape:?}", view.shape));
    let flat = l.temporary_like("reshaped", &[view.len()], view);
    let seen = flat.reshaped(&view.shape).ok_or_else(differ)?;
    l.copy(view, &seen);
    flat.reshaped(shape).ok_or_else(differ)
}

/// Builds an operator as the importer does; for tests.
#[cfg(test)]
pub fn build_for_test(
    op_type: &str,
    opset: i64,
    attributes: &[crate::infer::import::onnx::proto::AttributeProto],
    inputs: &[&Fact],
) -> Result<Box<dyn crate::infer::op::Op>, OpError> {
    let Some(build) = super::builder(op_type) else {
        return Err(OpError::Unsupported(format!("{op_type} is not in the registry")));
    };
    let inputs = inputs.iter().map(|f| Some(*f)).collect();
    let mut context = NodeContext::new(op_type, opset, Attributes::new(attributes), inputs, 1);
    let op = build(&mut context)?;
    match context.attributes.unread().as_slice() {
        [] => Ok(op),
        unread => Err(OpError::Unsupported(format!("unread {unread:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_and_broadcasts() {
        assert_eq!(resolve_axis(-1, 4), Ok(3));
        assert!(resolve_axis(4, 4).is_err() && resolve_axis(-5, 4).is_err() && resolve_axis(0, 0).is_err());
        assert_eq!(resolve_axes(&[-1, 1], 4), Ok(vec![1, 3]));
        assert!(resolve_axes(&[3, -1], 4).is_err());
        assert_eq!(broadcast_shapes(&[8, 1, 1], &[1, 8, 4, 5]), Ok(vec![1, 8, 4, 5]));
        assert_eq!(broadcast_shapes(&[], &[3]), Ok(vec![3]));
        assert!(broadcast_shapes(&[3], &[4]).is_err());
    }
}
