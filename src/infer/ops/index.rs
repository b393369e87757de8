//! Operators that pick, place and count elements by index: GatherElements, GatherND, ScatterElements, ScatterND, OneHot,
//! TopK, ArgMax, ArgMin, CumSum, Trilu, EyeLike, Compress, NonZero and Unique. On host tensors; ArgMax, ArgMin and
//! GatherElements by known indices also by kernels.

use super::context::{ELEMENTS_MAX, NodeContext, present, resolve_axis};
use super::dense;
use super::function::{HostFunction, around, floats, tensor_of, to_f64};
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::arg::Arg;
use crate::infer::kernels::gather_elements::GatherElements;
use crate::infer::op::{HELD_MAX, Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor, element_count};
use std::cmp::Ordering;

fn wrapped(index: i64, extent: usize) -> Result<usize, OpError> {
    resolve_axis(index, extent).map_err(|_| OpError::Invalid(format!("index {index} is outside an axis of {extent}")))
}

/// Coordinates of a flat row-major position.
fn coordinates(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        at[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    at
}

fn flat(at: &[usize], shape: &[usize]) -> usize {
    at.iter().zip(shape).fold(0, |sum, (&i, &n)| sum * n + i)
}

/// For every element of `indices`: the position in a tensor of `shape` with the coordinate of `axis` replaced by it.
fn element_positions(indices: &Tensor, shape: &[usize], axis: usize) -> Result<Vec<usize>, OpError> {
    if indices.rank() != shape.len()
        || indices.shape().iter().zip(shape).enumerate().any(|(a, (i, n))| a != axis && i > n)
    {
        return Err(OpError::Invalid(format!("indices of shape {:?} for shape {shape:?}", indices.shape())));
    }
    let position = |(k, &index): (usize, &i64)| {
        let mut at = coordinates(k, indices.shape());
        at[axis] = wrapped(index, shape[axis])?;
        Ok(flat(&at, shape))
    };
    indices.to_i64().iter().enumerate().map(position).collect()
}

/// ONNX GatherElements.
///
/// # Errors
/// When the axis is outside.
pub fn build_gather_elements(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, indices) = (context.input(0)?, context.input(1)?);
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(0), x.shape.len())?;
    let fact = Fact::new(x.dtype, &indices.shape);
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, indices) = (present(inputs, 0)?, present(inputs, 1)?);
        let positions = element_positions(indices, x.shape(), axis)?;
        Ok(vec![dense::pick(x, positions.into_iter(), indices.shape())?])
    };
    // Only indices that are known can be checked before they are used.
    let fits = x.shape[axis] <= HELD_MAX && indices.shape.len() == x.shape.len();
    let in_range = |t: &Tensor| t.to_i64().iter().all(|&i| wrapped(i, x.shape[axis]).is_ok());
    if !fits || !indices.constant.as_ref().is_some_and(in_range) {
        return Ok(HostFunction::boxed("GatherElements", vec![fact], compute));
    }
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let (source, indices) = (l.read(present(inputs, 0)?)?, l.read(present(inputs, 1)?)?);
        if indices.shape.iter().zip(&source.shape).enumerate().any(|(a, (i, s))| a != axis && i > s) {
            return Err(OpError::Invalid(format!("indices of shape {:?} for {:?}", indices.shape, source.shape)));
        }
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        l.step(GatherElements { axis }, vec![source, indices], vec![target]);
        Ok(())
    };
    Ok(HostFunction::with_holding_kernels("GatherElements", vec![fact], compute, lower))
}

/// Positions of the blocks that rows of `indices` name in a tensor of `shape`, with `batch` leading axes in common, and
/// how many elements a block has.
fn block_positions(indices: &Tensor, shape: &[usize], batch: usize) -> Result<(Vec<usize>, usize), OpError> {
    let bad = || OpError::Invalid(format!("indices of shape {:?} for shape {shape:?}", indices.shape()));
    let depth = *indices.shape().last().ok_or_else(bad)?;
    if batch >= indices.rank() || batch + depth > shape.len() || indices.shape()[..batch] != shape[..batch] {
        return Err(bad());
    }
    let block: usize = shape[batch + depth..].iter().product();
    let values = indices.to_i64();
    let rows = indices.shape()[..indices.rank() - 1].iter().product::<usize>();
    let rows_per_batch = rows / shape[..batch].iter().product::<usize>().max(1);
    let mut positions = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut position = if batch == 0 { 0 } else { row / rows_per_batch.max(1) };
        for k in 0..depth {
            let extent = shape[batch + k];
            position = position * extent + wrapped(values[row * depth + k], extent)?;
        }
        positions.push(position * block);
    }
    Ok((positions, block))
}

/// ONNX GatherND.
///
/// # Errors
/// When shapes do not fit.
pub fn build_gather_nd(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, indices) = (context.input(0)?, context.input(1)?);
    let batch = usize::try_from(context.attributes.int("batch_dims")?.unwrap_or(0));
    let batch = batch.map_err(|_| OpError::Invalid("batch_dims is negative".into()))?;
    let fits = indices.shape.last().filter(|&&depth| batch < indices.shape.len() && batch + depth <= x.shape.len());
    let &depth =
        fits.ok_or_else(|| OpError::Invalid(format!("indices of shape {:?} for shape {:?}", indices.shape, x.shape)))?;
    let mut shape = indices.shape[..indices.shape.len() - 1].to_vec();
    shape.extend_from_slice(&x.shape[batch + depth..]);
    Ok(HostFunction::boxed("GatherND", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let (x, indices) = (present(inputs, 0)?, present(inputs, 1)?);
        let (positions, block) = block_positions(indices, x.shape(), batch)?;
        let mut shape = indices.shape()[..indices.rank() - 1].to_vec();
        shape.extend_from_slice(&x.shape()[batch + depth..]);
        Ok(vec![dense::pick(x, positions.into_iter().flat_map(|p| p..p + block), &shape)?])
    }))
}

/// What Scatter does with what is there already.
fn reduction(context: &NodeContext<'_>) -> Result<fn(f64, f64) -> f64, OpError> {
    Ok(match context.attributes.string("reduction")?.unwrap_or("none") {
        "none" => |_, new| new,
        "add" => |old, new| old + new,
        "mul" => |old, new| old * new,
        "max" => f64::max,
        "min" => f64::min,
        other => return context.refuse(format!("reduction = {other} is not known")),
    })
}

fn exact(tensor: &Tensor) -> Result<(), OpError> {
    match tensor.dtype() == DType::I64 && tensor.to_i64().iter().any(|v| v.unsigned_abs() > 1 << 53) {
        true => Err(OpError::Unsupported("integers beyond 2^53".into())),
        false => Ok(()),
    }
}

fn scatter(
    x: &Tensor,
    updates: &Tensor,
    positions: impl Iterator<Item = usize>,
    merge: fn(f64, f64) -> f64,
) -> Result<Tensor, OpError> {
    if updates.dtype() != x.dtype() {
        return Err(OpError::Invalid(format!("updates are {}, data is {}", updates.dtype(), x.dtype())));
    }
    exact(x)?;
    exact(updates)?;
    let mut values = to_f64(x);
    for (position, new) in positions.zip(to_f64(updates)) {
        let place = values.get_mut(position).ok_or_else(|| OpError::Invalid("an index is outside".into()))?;
        *place = merge(*place, new);
    }
    tensor_of(x.shape(), x.dtype(), values)
}

/// ONNX ScatterElements (and Scatter).
///
/// # Errors
/// When the axis is outside or the reduction not known.
pub fn build_scatter_elements(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(0), x.shape.len())?;
    let merge = reduction(context)?;
    Ok(HostFunction::boxed("ScatterElements", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let (x, indices, updates) = (present(inputs, 0)?, present(inputs, 1)?, present(inputs, 2)?);
        if indices.shape() != updates.shape() {
            return Err(OpError::Invalid("indices and updates differ in shape".into()));
        }
        let positions = element_positions(indices, x.shape(), axis)?;
        Ok(vec![scatter(x, updates, positions.into_iter(), merge)?])
    }))
}

/// ONNX ScatterND.
///
/// # Errors
/// When the reduction is not known.
pub fn build_scatter_nd(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let merge = reduction(context)?;
    Ok(HostFunction::boxed("ScatterND", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let (x, indices, updates) = (present(inputs, 0)?, present(inputs, 1)?, present(inputs, 2)?);
        let (positions, block) = block_positions(indices, x.shape(), 0)?;
        if updates.len() != positions.len() * block {
            return Err(OpError::Invalid(format!("updates have shape {:?}", updates.shape())));
        }
        Ok(vec![scatter(x, updates, positions.into_iter().flat_map(|p| p..p + block), merge)?])
    }))
}

/// ONNX OneHot.
///
/// # Errors
/// When the depth is computed at run time.
pub fn build_one_hot(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (indices, values) = (context.input(0)?, context.input(2)?);
    let depth = context.constant(1, "depth")?.to_i64();
    let depth = depth.first().and_then(|&d| usize::try_from(d).ok()).filter(|&d| d <= ELEMENTS_MAX);
    let depth = depth.ok_or_else(|| OpError::Invalid("depth is not a number of classes".into()))?;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(-1), indices.shape.len() + 1)?;
    let mut shape = indices.shape.clone();
    shape.insert(axis, depth);
    let fact = Fact::new(values.dtype, &shape);
    Ok(HostFunction::boxed("OneHot", vec![fact], move |inputs| {
        let (indices, values) = (floats(inputs, 0)?.1, present(inputs, 2)?);
        let (outer, _, inner) = around(&shape, axis);
        let at = |o: usize, k: usize, i: usize| {
            let index = indices[o * inner + i];
            let index = if index < 0.0 { index + depth as f64 } else { index };
            usize::from(index == k as f64)
        };
        let positions = (0..outer)
            .flat_map(|o| (0..depth).flat_map(move |k| (0..inner).map(move |i| at(o, k, i))))
            .collect::<Vec<_>>();
        Ok(vec![dense::pick(values, positions.into_iter(), &shape)?])
    }))
}

/// Descending or ascending by value; NaN counts as largest; equal values in the order of their index.
fn by_value(values: &[f64], a: usize, b: usize, largest: bool) -> Ordering {
    let order = values[a].partial_cmp(&values[b]).unwrap_or_else(|| values[a].is_nan().cmp(&values[b].is_nan()));
    (if largest { order.reverse() } else { order }).then(a.cmp(&b))
}

/// ONNX TopK.
///
/// # Errors
/// When k is computed at run time or larger than the axis.
pub fn build_top_k(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(-1), x.shape.len())?;
    let largest = context.attributes.flag("largest", true)?;
    // Sorted is one of the orders that are allowed when it need not be.
    context.attributes.without_effect(&["sorted"]);
    let k = match context.opset {
        ..10 => context.attributes.int("k")?,
        _ => context.constant(1, "k")?.to_i64().first().copied(),
    };
    let k = k.and_then(|k| usize::try_from(k).ok()).filter(|&k| k <= x.shape[axis]);
    let k = k.ok_or_else(|| OpError::Invalid(format!("k is larger than axis {axis} of {:?}", x.shape)))?;
    let mut shape = x.shape.clone();
    shape[axis] = k;
    let outputs = vec![Fact::new(x.dtype, &shape), Fact::new(DType::I64, &shape)];
    Ok(HostFunction::boxed("TopK", outputs, move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        exact(x)?;
        let (outer, extent, inner) = around(x.shape(), axis);
        let count = element_count(&shape).unwrap_or(0);
        let (mut positions, mut indices) = (vec![0; count], vec![0i64; count]);
        for o in 0..outer {
            for i in 0..inner {
                let at = |n: usize| (o * extent + n) * inner + i;
                let mut order: Vec<usize> = (0..extent).map(at).collect();
                order.sort_by(|&a, &b| by_value(&values, a, b, largest));
                for (rank, &position) in order.iter().take(k).enumerate() {
                    let to = (o * k + rank) * inner + i;
                    positions[to] = position;
                    indices[to] = ((position - i) / inner - o * extent) as i64;
                }
            }
        }
        let indices = Tensor::from_i64(&shape, indices).map_err(OpError::Invalid)?;
        Ok(vec![dense::pick(x, positions.into_iter(), &shape)?, indices])
    }))
}

/// ONNX ArgMax and ArgMin.
///
/// # Errors
/// When the axis is outside.
pub fn build_arg(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(0), x.shape.len())?;
    let keep = context.attributes.flag("keepdims", true)?;
    let last = context.attributes.flag("select_last_index", false)?;
    let max = context.op_type == "ArgMax";
    let mut shape = x.shape.clone();
    if keep {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    if x.shape[axis] == 0 {
        return Err(OpError::Invalid(format!("axis {axis} of {:?} is empty", x.shape)));
    }
    let name = if max { "ArgMax" } else { "ArgMin" };
    let (mut kept, extent) = (x.shape.clone(), x.shape[axis]);
    kept[axis] = 1;
    let fact = Fact::new(DType::I64, &shape);
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        exact(x)?;
        let (outer, extent, inner) = around(x.shape(), axis);
        let mut result = Vec::with_capacity(outer * inner);
        for o in 0..outer {
            for i in 0..inner {
                let value = |k: usize| values[(o * extent + k) * inner + i];
                let mut best = 0;
                for k in 1..extent {
                    let (new, old) = if max { (value(k), value(best)) } else { (-value(k), -value(best)) };
                    if new > old || (last && new == old) || (new.is_nan() && !old.is_nan()) {
                        best = k;
                    }
                }
                result.push(best as i64);
            }
        }
        Ok(vec![Tensor::from_i64(&shape, result).map_err(OpError::Invalid)?])
    };
    if extent > HELD_MAX {
        return Ok(HostFunction::boxed(name, vec![fact], compute));
    }
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let target = target
            .reshaped(&kept)
            .ok_or_else(|| OpError::Invalid(format!("shape {:?} is not {kept:?}", target.shape)))?;
        l.step(Arg { axis, max, last }, vec![source], vec![target]);
        Ok(())
    };
    Ok(HostFunction::with_holding_kernels(name, vec![fact], compute, lower))
}

/// ONNX CumSum.
///
/// # Errors
/// When the axis is computed at run time or outside.
pub fn build_cum_sum(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axis = context.constant(1, "axis")?.to_i64().first().copied().unwrap_or(0);
    let axis = resolve_axis(axis, x.shape.len())?;
    let exclusive = context.attributes.flag("exclusive", false)?;
    let reverse = context.attributes.flag("reverse", false)?;
    Ok(HostFunction::boxed("CumSum", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        exact(x)?;
        let (outer, extent, inner) = around(x.shape(), axis);
        let mut result = vec![0.0; values.len()];
        for o in 0..outer {
            for i in 0..inner {
                let mut sum = 0.0;
                for k in 0..extent {
                    let k = if reverse { extent - 1 - k } else { k };
                    let at = (o * extent + k) * inner + i;
                    let before = sum;
                    sum += values[at];
                    result[at] = if exclusive { before } else { sum };
                }
            }
        }
        Ok(vec![tensor_of(x.shape(), x.dtype(), result)?])
    }))
}

/// ONNX Trilu: the upper or lower triangle of the last two axes.
///
/// # Errors
/// When the diagonal is computed at run time.
pub fn build_trilu(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    if x.shape.len() < 2 {
        return Err(OpError::Invalid(format!("shape {:?} is no matrix", x.shape)));
    }
    let upper = context.attributes.flag("upper", true)?;
    let k = context.optional_constant(1, "k")?.and_then(|t| t.to_i64().first().copied()).unwrap_or(0);
    Ok(HostFunction::boxed("Trilu", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let x = present(inputs, 0)?;
        let zero = tensor_of(&[1], x.dtype(), vec![0.0])?;
        let both = dense::append(&[x, &zero])?;
        let (rows, columns) = (x.shape()[x.rank() - 2], x.shape()[x.rank() - 1]);
        let position = |p: usize| {
            let (row, column) = ((p / columns % rows) as i64, (p % columns) as i64);
            let distance = (column - row).saturating_sub(k);
            if if upper { distance >= 0 } else { distance <= 0 } { p } else { x.len() }
        };
        Ok(vec![dense::pick(&both, (0..x.len()).map(position), x.shape())?])
    }))
}

/// ONNX EyeLike.
///
/// # Errors
/// When the input is no matrix or the type not known.
pub fn build_eye_like(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let &[rows, columns] = &x.shape[..] else {
        return Err(OpError::Invalid(format!("shape {:?} is no matrix", x.shape)));
    };
    let k = context.attributes.int("k")?.unwrap_or(0);
    let dtype = match context.attributes.int("dtype")? {
        None => x.dtype,
        Some(onnx) => crate::infer::import::onnx::tensors::dtype_of(i32::try_from(onnx).unwrap_or(0))
            .ok_or_else(|| OpError::Unsupported(format!("dtype = {onnx} is not known")))?,
    };
    let on = |p: usize| f64::from(u8::from((p % columns) as i64 - (p / columns) as i64 == k));
    let value = tensor_of(&[rows, columns], dtype, (0..rows * columns).map(on).collect())?;
    context.drop_input(0);
    Ok(Box::new(super::constant::Constant { value }))
}

/// ONNX Compress: the slices along an axis for which the condition holds.
///
/// # Errors
/// When the condition is computed at run time.
pub fn build_compress(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let condition = context.constant(1, "condition")?.to_i64();
    let kept: Vec<usize> = (0..condition.len()).filter(|&i| condition[i] != 0).collect();
    let axis = match context.attributes.int("axis")? {
        Some(axis) => Some(resolve_axis(axis, x.shape.len())?),
        None => None,
    };
    let source = match axis {
        Some(_) => x.shape.clone(),
        None => vec![x.shape.iter().product()],
    };
    let axis = axis.unwrap_or(0);
    if condition.len() > source[axis] {
        return Err(OpError::Invalid(format!("{} conditions for shape {:?}", condition.len(), x.shape)));
    }
    let mut shape = source.clone();
    shape[axis] = kept.len();
    Ok(HostFunction::boxed("Compress", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let x = present(inputs, 0)?;
        let (outer, extent, inner) = around(&source, axis);
        let kept = &kept;
        let positions = (0..outer).flat_map(|o| {
            kept.iter().flat_map(move |k| {
                let start = (o * extent + k) * inner;
                start..start + inner
            })
        });
        Ok(vec![dense::pick(x, positions, &shape)?])
    }))
}

/// ONNX NonZero: coordinates of what is not zero, one column each.
///
/// # Errors
/// When the input is missing.
pub fn build_non_zero(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    context.input(0)?;
    Ok(HostFunction::boxed("NonZero", vec![Fact::late()], |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let found: Vec<Vec<usize>> =
            (0..values.len()).filter(|&i| values[i] != 0.0).map(|i| coordinates(i, x.shape())).collect();
        let by_axis = (0..x.rank()).flat_map(|axis| found.iter().map(move |at| at[axis] as i64)).collect();
        Ok(vec![Tensor::from_i64(&[x.rank(), found.len()], by_axis).map_err(OpError::Invalid)?])
    }))
}

/// ONNX Unique: outputs the values, their first index, the index of each input's value, and how often each occurs.
///
/// # Errors
/// When the axis is outside.
pub fn build_unique(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let sorted = context.attributes.flag("sorted", true)?;
    let axis = match context.attributes.int("axis")? {
        Some(axis) => Some(resolve_axis(axis, x.shape.len())?),
        None => None,
    };
    Ok(HostFunction::boxed("Unique", vec![Fact::late(); 4], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let shape = if axis.is_some() { x.shape().to_vec() } else { vec![x.len()] };
        let axis = axis.unwrap_or(0);
        let (outer, extent, inner) = around(&shape, axis);
        let slice = |k: usize| -> Vec<f64> {
            (0..outer).flat_map(|o| (0..inner).map(move |i| (o * extent + k) * inner + i)).map(|p| values[p]).collect()
        };
        let slices: Vec<Vec<f64>> = (0..extent).map(slice).collect();
        let mut first: Vec<usize> = Vec::new();
        for k in 0..extent {
            if !first.iter().any(|&f| slices[f] == slices[k]) {
                first.push(k);
            }
        }
        if sorted {
            first.sort_by(|&a, &b| slices[a].partial_cmp(&slices[b]).unwrap_or(Ordering::Equal));
        }
        let group = |k: usize| first.iter().position(|&f| slices[f] == slices[k]).unwrap_or(0) as i64;
        let inverse: Vec<i64> = (0..extent).map(group).collect();
        let counts = (0..first.len() as i64).map(|g| inverse.iter().filter(|&&i| i == g).count() as i64).collect();
        let mut unique = shape.clone();
        unique[axis] = first.len();
        let chosen = &first;
        let positions = (0..outer).flat_map(|o| {
            chosen.iter().flat_map(move |k| {
                let start = (o * extent + k) * inner;
                start..start + inner
            })
        });
        Ok(vec![
            dense::pick(x, positions, &unique)?,
            Tensor::vec_i64(first.iter().map(|&f| f as i64).collect()),
            Tensor::vec_i64(inverse),
            Tensor::vec_i64(counts),
        ])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn eval(name: &str, attributes: &[AttributeProto], inputs: &[&Tensor]) -> Vec<Tensor> {
        let facts: Vec<Fact> = inputs.iter().map(|t| Fact::of(t)).collect();
        let op = build_for_test(name, 13, attributes, &facts.iter().collect::<Vec<_>>()).expect("builds");
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
        op.eval(&inputs).expect("folds").expect("evaluates")
    }

    #[test]
    fn top_k_keeps_the_order_of_equals() {
        let x = Tensor::from_f32(&[2, 3], vec![1.0, 3.0, 3.0, 9.0, 7.0, 8.0]).expect("tensor");
        let y = eval("TopK", &[], &[&x, &Tensor::vec_i64(vec![2])]);
        assert_eq!(y[0].to_f32(), [3.0, 3.0, 9.0, 8.0]);
        assert_eq!(y[1].to_i64(), [1, 2, 0, 2]);
        let y = eval("TopK", &[AttributeProto::int("axis", 0)], &[&x, &Tensor::vec_i64(vec![1])]);
        assert_eq!((y[0].to_f32(), y[1].to_i64()), (vec![9.0, 7.0, 8.0], vec![1, 1, 1]));
    }

    #[test]
    fn gathers_and_scatters_are_inverse() {
        let x = Tensor::from_f32(&[2, 2], vec![1.0, 2.0, 3.0, 4.0]).expect("tensor");
        let swap = Tensor::from_i64(&[2, 2], vec![1, 0, -1, 0]).expect("tensor");
        let y = &eval("GatherElements", &[AttributeProto::int("axis", 1)], &[&x, &swap])[0];
        assert_eq!(y.to_f32(), [2.0, 1.0, 4.0, 3.0]);
        let back = &eval("ScatterElements", &[AttributeProto::int("axis", 1)], &[&x, &swap, y])[0];
        assert_eq!(back.to_f32(), x.to_f32());
        let rows = Tensor::from_i64(&[1, 1], vec![1]).expect("tensor");
        assert_eq!(eval("GatherND", &[], &[&x, &rows])[0].to_f32(), [3.0, 4.0]);
        let new = Tensor::from_f32(&[1, 2], vec![7.0, 8.0]).expect("tensor");
        assert_eq!(eval("ScatterND", &[], &[&x, &rows, &new])[0].to_f32(), [1.0, 2.0, 7.0, 8.0]);
    }

    #[test]
    fn counts_and_triangles() {
        let x = Tensor::from_i64(&[2, 3], vec![5, 0, 7, 0, 5, 0]).expect("tensor");
        assert_eq!(eval("NonZero", &[], &[&x])[0].to_i64(), [0, 0, 1, 0, 2, 1]);
        let unique = eval("Unique", &[], &[&x]);
        assert_eq!(unique[0].to_i64(), [0, 5, 7]);
        assert_eq!(unique[3].to_i64(), [3, 2, 1]);
        assert_eq!(eval("Trilu", &[], &[&x])[0].to_i64(), [5, 0, 7, 0, 5, 0]);
        assert_eq!(eval("CumSum", &[], &[&x, &Tensor::vec_i64(vec![1])])[0].to_i64(), [5, 5, 12, 0, 5, 5]);
        assert_eq!(eval("ArgMax", &[AttributeProto::int("axis", 1)], &[&x])[0].to_i64(), [2, 1]);
    }
}
