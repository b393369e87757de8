//! Normalisations over what the picture itself holds: LayerNormalization, RMSNormalization, GroupNormalization,
//! InstanceNormalization, LpNormalization, MeanVarianceNormalization and LRN. On host tensors, sums in f64.

use super::context::{NodeContext, present, resolve_axes, resolve_axis};
use super::dense;
use super::function::{HostFunction, around, floats, tensor_of, to_f64};
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};
use crate::infer::tensor::{DType, Tensor};

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
    Ok(HostFunction::boxed(name, outputs, move |inputs| {
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
    }))
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
    Ok(HostFunction::boxed(name, vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
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
    }))
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
    Ok(HostFunction::boxed("LRN", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
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
    }))
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
