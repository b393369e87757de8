//! Normalisations over what the picture itself holds: LayerNormalization, RMSNormalization, GroupNormalization,
//! InstanceNormalization, LpNormalization, MeanVarianceNormalization and LRN. On host tensors with sums in f64; all but
//! LpNormalization and MeanVarianceNormalization also by kernels for means and elementwise functions.

use super::context::{
    NodeContext, present, reshaped_or_copied, resolve_axes, resolve_axis, stretched as stretched_view,
};
use super::dense;
use super::function::{HostFunction, around, floats, step_with_number, tensor_of, to_f64};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::kernels::reduce::{Reduce, ReduceKind};
use crate::infer::kernels::resample::{PLACES_MAX, Resample, Taps};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::{DType, Tensor};
use std::sync::Arc;

fn function(function: Function) -> Elementwise {
    Elementwise { function, activation: Activation::None }
}

/// One normalisation by kernels.
struct Normalised {
    x: View,
    /// Has the shape of x, or extent 1 along the axes over which the mean is taken.
    kept: Vec<usize>,
    epsilon: f64,
    /// Subtract the mean; else the mean square takes the place of the variance.
    centre: bool,
    /// Broadcast to the shape of x.
    scale: Option<View>,
    bias: Option<View>,
    target: View,
    /// Where mean and inverse deviation are wanted.
    mean: Option<View>,
    inverse: Option<View>,
}

impl Normalised {
    /// Appends target = (x − mean) / √(variance + epsilon) · scale + bias.
    fn steps(self, l: &mut Lowering<'_>) -> Result<(), OpError> {
        let shape = self.x.shape.clone();
        let centred = match self.centre {
            false => self.x,
            true => {
                let mean = self.mean.unwrap_or_else(|| l.temporary("mean", &self.kept));
                let centred = l.temporary("centred", &shape);
                l.step(Reduce { kind: ReduceKind::Mean }, vec![self.x.clone()], vec![mean.clone()]);
                let mean = stretched_view(&mean, &shape)?;
                l.step(function(Function::Sub), vec![self.x, mean], vec![centred.clone()]);
                centred
            }
        };
        let [variance, shifted, deviation] = ["variance", "shifted", "deviation"].map(|n| l.temporary(n, &self.kept));
        let inverse = self.inverse.unwrap_or_else(|| l.temporary("inverse", &self.kept));
        l.step(Reduce { kind: ReduceKind::MeanSquares }, vec![centred.clone()], vec![variance.clone()]);
        step_with_number(l, (Function::Add, self.epsilon), Activation::None, variance, shifted.clone())?;
        l.step(function(Function::Sqrt), vec![shifted], vec![deviation.clone()]);
        l.step(function(Function::Reciprocal), vec![deviation], vec![inverse.clone()]);
        let mut factors = vec![(Function::Mul, stretched_view(&inverse, &shape)?)];
        factors.extend(self.scale.map(|scale| (Function::Mul, scale)));
        factors.extend(self.bias.map(|bias| (Function::Add, bias)));
        let mut value = centred;
        let count = factors.len();
        for (i, (step, operand)) in factors.into_iter().enumerate() {
            let to = if i + 1 == count { self.target.clone() } else { l.temporary("scaled", &shape) };
            l.step(function(step), vec![value, operand], vec![to.clone()]);
            value = to;
        }
        Ok(())
    }
}

fn mean_and_variance(run: &[f64]) -> (f64, f64) {
    let mean = run.iter().sum::<f64>() / run.len() as f64;
    (mean, run.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / run.len() as f64)
}

/// `parameter`, broadcast to a shape.
fn stretched(parameter: &Tensor, shape: &[usize]) -> Result<Vec<f64>, OpError> {
    let view = super::context::stretched(&dense::view_of(parameter), shape)?;
    Ok(to_f64(&dense::take(parameter, &view)?))
}

/// ONNX LayerNormalization (outputs y, mean, inverse deviation) and RMSNormalization.
///
/// # Errors
/// When the axis is outside.
pub fn build_layer(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(-1), x.shape.len())?;
    let epsilon = f64::from(context.attributes.float("epsilon")?.unwrap_or(1e-5));
    context.attributes.without_effect(&["stash_type"]);
    let rms = context.op_type == "RMSNormalization";
    let mut reduced = x.shape.clone();
    reduced[axis..].fill(1);
    let mut outputs = vec![Fact::new(x.dtype, &x.shape)];
    if !rms {
        outputs.extend([Fact::new(DType::F32, &reduced), Fact::new(DType::F32, &reduced)]);
    }
    outputs.truncate(context.output_count.max(1));
    let name = if rms { "RMSNormalization" } else { "LayerNormalization" };
    let kept = reduced.clone();
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let x = l.read(present(inputs, 0)?)?;
        let scale = stretched_view(&l.read(present(inputs, 1)?)?, &x.shape)?;
        let bias = match inputs.get(2).copied().flatten() {
            Some(bias) => Some(stretched_view(&l.read(bias)?, &x.shape)?),
            None => None,
        };
        let mut written: Vec<Option<View>> = outputs.iter().map(|&o| Some(l.write(o))).collect();
        written.resize(3, None);
        let (Some(target), mean, inverse) = (written[0].take(), written[1].take(), written[2].take()) else {
            return Err(OpError::Invalid("has no output".into()));
        };
        let (kept, scale) = (kept.clone(), Some(scale));
        Normalised { x, kept, epsilon, centre: !rms, scale, bias, target, mean, inverse }.steps(l)
    };
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, mut values) = floats(inputs, 0)?;
        let scale = stretched(present(inputs, 1)?, &x.shape()[axis..])?;
        let bias = match inputs.get(2).copied().flatten() {
            Some(bias) => stretched(bias, &x.shape()[axis..])?,
            None => vec![0.0; scale.len()],
        };
        let run = scale.len().max(1);
        let (mut means, mut inverses) = (Vec::new(), Vec::new());
        for row in values.chunks_exact_mut(run) {
            let (mean, variance) = match rms {
                true => (0.0, row.iter().map(|x| x * x).sum::<f64>() / run as f64),
                false => mean_and_variance(row),
            };
            let inverse = 1.0 / (variance + epsilon).sqrt();
            for ((value, scale), bias) in row.iter_mut().zip(&scale).zip(&bias) {
                *value = (*value - mean) * inverse * scale + bias;
            }
            means.push(mean);
            inverses.push(inverse);
        }
        let y = tensor_of(x.shape(), x.dtype(), values)?;
        if rms {
            return Ok(vec![y]);
        }
        Ok(vec![y, tensor_of(&reduced, DType::F32, means)?, tensor_of(&reduced, DType::F32, inverses)?])
    };
    Ok(HostFunction::with_kernels(name, outputs, compute, lower))
}

/// ONNX GroupNormalization and InstanceNormalization: per image and group of channels.
///
/// # Errors
/// When the channels do not divide into the groups.
pub fn build_group(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let &[images, channels, ref spatial @ ..] = &x.shape[..] else {
        return Err(OpError::Invalid(format!("shape {:?} has no channels", x.shape)));
    };
    let pixels: usize = spatial.iter().product();
    let epsilon = f64::from(context.attributes.float("epsilon")?.unwrap_or(1e-5));
    context.attributes.without_effect(&["stash_type"]);
    let instance = context.op_type == "InstanceNormalization";
    let groups = match instance {
        true => channels,
        false => usize::try_from(context.attributes.int("num_groups")?.unwrap_or(0)).unwrap_or(0),
    };
    if groups == 0 || channels % groups != 0 {
        return Err(OpError::Invalid(format!("{channels} channels in {groups} groups")));
    }
    // Before opset 21 scale and bias of GroupNormalization are per group.
    let per_channel = instance || context.opset >= 21;
    let name = if instance { "InstanceNormalization" } else { "GroupNormalization" };
    let fact = Fact::new(x.dtype, &x.shape);
    let seen: Vec<usize> = [&[images, groups, channels / groups][..], spatial].concat();
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let (mut kept, mut parameter) = (seen.clone(), vec![1; seen.len()]);
        kept[2..].fill(1);
        (parameter[1], parameter[2]) = (groups, if per_channel { channels / groups } else { 1 });
        let x = l.read(present(inputs, 0)?)?;
        let x = reshaped_or_copied(l, &x, &seen)?;
        let mut operands = Vec::with_capacity(2);
        for i in [1, 2] {
            let view = l.read(present(inputs, i)?)?;
            if view.len() != parameter[1] * parameter[2] {
                return Err(OpError::Invalid(format!("input {i} has shape {:?}", view.shape)));
            }
            operands.push(stretched_view(&reshaped_or_copied(l, &view, &parameter)?, &seen)?);
        }
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let strange = || OpError::Unsupported(format!("groups of shape {seen:?} into strided memory"));
        let target = target.reshaped(&seen).ok_or_else(strange)?;
        let (bias, scale) = (operands.pop(), operands.pop());
        Normalised { x, kept, epsilon, centre: true, scale, bias, target, mean: None, inverse: None }.steps(l)
    };
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, mut values) = floats(inputs, 0)?;
        let (scale, bias) = (floats(inputs, 1)?.1, floats(inputs, 2)?.1);
        let expected = if per_channel { channels } else { groups };
        if scale.len() != expected || bias.len() != expected {
            return Err(OpError::Invalid(format!("{} scales and {} biases for {expected}", scale.len(), bias.len())));
        }
        let per_group = channels / groups;
        let run = per_group * pixels;
        for (k, group) in values.chunks_exact_mut(run.max(1)).enumerate().take(images * groups) {
            let (mean, variance) = mean_and_variance(group);
            let inverse = 1.0 / (variance + epsilon).sqrt();
            for (i, value) in group.iter_mut().enumerate() {
                let group = k % groups;
                let p = if per_channel { group * per_group + i / pixels } else { group };
                *value = (*value - mean) * inverse * scale[p] + bias[p];
            }
        }
        Ok(vec![tensor_of(x.shape(), x.dtype(), values)?])
    };
    Ok(HostFunction::with_kernels(name, vec![fact], compute, lower))
}

/// ONNX LpNormalization: x over its norm along an axis.
///
/// # Errors
/// When p is neither 1 nor 2.
pub fn build_lp(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(-1), x.shape.len())?;
    let p = context.attributes.int("p")?.unwrap_or(2);
    if p != 1 && p != 2 {
        return context.refuse(format!("p = {p}; 1 and 2 are supported"));
    }
    Ok(HostFunction::boxed("LpNormalization", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let (x, mut values) = floats(inputs, 0)?;
        let (outer, extent, inner) = around(x.shape(), axis);
        for o in 0..outer {
            for i in 0..inner {
                let at = |k: usize| (o * extent + k) * inner + i;
                let norm = match p {
                    1 => (0..extent).map(|k| values[at(k)].abs()).sum::<f64>(),
                    _ => (0..extent).map(|k| values[at(k)] * values[at(k)]).sum::<f64>().sqrt(),
                };
                for k in 0..extent {
                    values[at(k)] = if norm == 0.0 { 0.0 } else { values[at(k)] / norm };
                }
            }
        }
        Ok(vec![tensor_of(x.shape(), x.dtype(), values)?])
    }))
}

/// ONNX MeanVarianceNormalization.
///
/// # Errors
/// When an axis is outside.
pub fn build_mean_variance(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axes = resolve_axes(context.attributes.ints("axes")?.unwrap_or(&[0, 2, 3]), x.shape.len())?;
    let kept: Vec<usize> = (0..x.shape.len()).filter(|a| !axes.contains(a)).collect();
    let order: Vec<usize> = kept.iter().chain(&axes).copied().collect();
    Ok(HostFunction::boxed("MeanVarianceNormalization", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let x = present(inputs, 0)?;
        let seen = dense::take(x, &dense::view_of(x).transposed(&order))?;
        let mut values = to_f64(&seen);
        let run = axes.iter().map(|&a| x.shape()[a]).product::<usize>().max(1);
        for row in values.chunks_exact_mut(run) {
            let (mean, variance) = mean_and_variance(row);
            row.iter_mut().for_each(|v| *v = (*v - mean) / (variance.sqrt() + 1e-9));
        }
        let y = tensor_of(seen.shape(), x.dtype(), values)?;
        Ok(vec![dense::take(&y, &dense::view_of(&y).transposed(&super::transpose::inverse(&order)))?])
    }))
}

/// ONNX LRN: over neighbouring channels.
///
/// # Errors
/// When the size is missing.
pub fn build_lrn(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    if x.shape.len() < 2 {
        return Err(OpError::Invalid(format!("shape {:?} has no channels", x.shape)));
    }
    let float =
        |name: &str, default: f32| Ok::<f64, OpError>(f64::from(context.attributes.float(name)?.unwrap_or(default)));
    let (alpha, beta, bias) = (float("alpha", 1e-4)?, float("beta", 0.75)?, float("bias", 1.0)?);
    let size = context.attributes.int("size")?.and_then(|s| usize::try_from(s).ok()).filter(|&s| s > 0);
    let size = size.ok_or_else(|| OpError::Invalid("size is missing".into()))?;
    let fact = Fact::new(x.dtype, &x.shape);
    let (before, after) = ((size - 1) / 2, size / 2);
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let x = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let (shape, channels) = (x.shape.clone(), x.shape[1]);
        if channels >= PLACES_MAX || size > channels.saturating_mul(2) {
            return Err(OpError::Unsupported(format!(
                "size = {size} of {channels} channels; computed on the CPU only"
            )));
        }
        let weight = (alpha / size as f64) as f32;
        let neighbours = |c: usize| (c.saturating_sub(before)..=(c + after).min(channels - 1)).map(|c| (c, weight));
        let table: Vec<Taps> =
            (0..channels).map(|c| Taps { bias: bias as f32, taps: neighbours(c).collect() }).collect();
        let [squares, sums, divisor] = ["squares", "sums", "divisor"].map(|name| l.temporary(name, &shape));
        l.step(function(Function::Mul), vec![x.clone(), x.clone()], vec![squares.clone()]);
        l.step(Resample { axis: 1, table: Arc::new(table), max: false }, vec![squares], vec![sums.clone()]);
        step_with_number(l, (Function::Pow, beta), Activation::None, sums, divisor.clone())?;
        l.step(function(Function::Div), vec![x, divisor], vec![target]);
        Ok(())
    };
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        let (outer, channels, inner) = around(x.shape(), 1);
        let mut result = values.clone();
        for o in 0..outer {
            for c in 0..channels {
                for i in 0..inner {
                    let at = |c: usize| (o * channels + c) * inner + i;
                    let first = c.saturating_sub((size - 1) / 2);
                    let last = (c + size / 2).min(channels - 1);
                    let squares: f64 = (first..=last).map(|c| values[at(c)] * values[at(c)]).sum();
                    result[at(c)] = values[at(c)] / (bias + alpha / size as f64 * squares).powf(beta);
                }
            }
        }
        Ok(vec![tensor_of(x.shape(), x.dtype(), result)?])
    };
    Ok(HostFunction::with_kernels("LRN", vec![fact], compute, lower))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn rows_get_mean_0_and_variance_1() {
        let x = Tensor::from_f32(&[1, 2, 3], vec![1.0, 2.0, 3.0, -4.0, 0.0, 10.0]).expect("tensor");
        let ones = Tensor::from_f32(&[3], vec![1.0; 3]).expect("tensor");
        let two = Tensor::from_f32(&[2], vec![2.0, 1.0]).expect("tensor");
        let layer = build_for_test("LayerNormalization", 17, &[], &[&Fact::of(&x), &Fact::of(&ones)]).expect("builds");
        let y = layer.eval(&[Some(&x), Some(&ones)]).expect("folds").expect("evaluates")[0].to_f32();
        assert!((y[0] + 1.224_736).abs() < 1e-4 && y[1].abs() < 1e-6);
        let facts = [Fact::of(&x), Fact::of(&two), Fact::of(&two)];
        let instance =
            build_for_test("InstanceNormalization", 13, &[], &facts.iter().collect::<Vec<_>>()).expect("builds");
        let z = instance.eval(&[Some(&x), Some(&two), Some(&two)]).expect("folds").expect("evaluates")[0].to_f32();
        assert!((z[0] - (2.0 * y[0] + 2.0)).abs() < 1e-4 && (z[3] - (y[3] + 1.0)).abs() < 1e-4);
        let p = [AttributeProto::int("p", 1)];
        let lp = build_for_test("LpNormalization", 13, &p, &[&facts[0]]).expect("builds");
        assert_eq!(lp.eval(&[Some(&x)]).expect("folds").expect("evaluates")[0].to_f32()[5], 10.0 / 14.0);
    }
}
