//! ONNX Resize in full: any axes, cubic, antialias, exclude_outside, crop-and-resize, aspect policies. Axis by axis: every
//! output index is a weighted sum of input indices.

use super::context::{NodeContext, check_shape, present, resolve_axis};
use super::function::{HostFunction, around, floats, tensor_of};
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::resample::{self, PLACES_MAX, Resample};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::Tensor;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Nearest(NearestMode),
    Linear,
    Cubic(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum NearestMode {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Transform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
    /// Start and end of the region, as parts of the axis.
    Crop(f64, f64),
}

/// Weights of the input indices from `first` on; `None` where the extrapolation value stands.
type Taps = Option<(isize, Vec<f64>)>;

/// One axis that changes.
#[derive(Clone, Debug)]
struct Axis {
    axis: usize,
    from: usize,
    to: usize,
    scale: f64,
    transform: Transform,
}

fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// Weights for a place `ratio` behind the left neighbour, in (0, 1], and the offset of the first.
fn weights(mode: Mode, antialias: bool, ratio: f64, scale: f64) -> (isize, Vec<f64>) {
    let scale = if antialias { scale.min(1.0) } else { 1.0 };
    let support = |reach: f64, kernel: &dyn Fn(f64) -> f64| {
        let start = (-reach / scale).floor() as isize + 1;
        let values: Vec<f64> = (start..2 - start).map(|i| kernel(scale * (i as f64 - ratio))).collect();
        let sum: f64 = values.iter().sum();
        (start, values.into_iter().map(|v| if antialias { v / sum } else { v }).collect())
    };
    match mode {
        Mode::Linear => support(1.0, &|x: f64| (1.0 - x.abs()).max(0.0)),
        Mode::Cubic(a) => support(2.0, &|x| cubic(x, a)),
        Mode::Nearest(nearest) => {
            let left = ratio < 1.0
                && match nearest {
                    NearestMode::PreferFloor => ratio <= 0.5,
                    NearestMode::PreferCeil => ratio < 0.5,
                    NearestMode::Floor => true,
                    NearestMode::Ceil => false,
                };
            (0, if left { vec![1.0, 0.0] } else { vec![0.0, 1.0] })
        }
    }
}

impl Axis {
    fn place(&self, x: usize) -> f64 {
        let (x, from, to) = (x as f64, self.from as f64, self.to as f64);
        match self.transform {
            Transform::HalfPixel => (x + 0.5) / self.scale - 0.5,
            Transform::HalfPixelSymmetric => {
                let adjustment = to / (self.scale * from);
                from / 2.0 * (1.0 - adjustment) + (x + 0.5) / self.scale - 0.5
            }
            Transform::PytorchHalfPixel if self.to == 1 => -0.5,
            Transform::PytorchHalfPixel => (x + 0.5) / self.scale - 0.5,
            Transform::AlignCorners if self.to == 1 => 0.0,
            Transform::AlignCorners => x * (from - 1.0) / (to - 1.0),
            Transform::Asymmetric => x / self.scale,
            Transform::TfHalfPixelForNn => (x + 0.5) / self.scale,
            Transform::Crop(start, end) if self.to == 1 => (start + end) * (from - 1.0) / 2.0,
            Transform::Crop(start, end) => start * (from - 1.0) + x * (end - start) * (from - 1.0) / (to - 1.0),
        }
    }

    fn taps(&self, mode: Mode, antialias: bool, exclude_outside: bool) -> Vec<Taps> {
        (0..self.to)
            .map(|x| {
                let place = self.place(x);
                if matches!(self.transform, Transform::Crop(..)) && !(0.0..=self.from as f64 - 1.0).contains(&place) {
                    return None;
                }
                let left = place.ceil() - 1.0;
                let (start, mut values) = weights(mode, antialias, place - left, self.scale);
                let first = left as isize + start;
                if exclude_outside {
                    for (i, value) in values.iter_mut().enumerate() {
                        if !(0..self.from as isize).contains(&(first + i as isize)) {
                            *value = 0.0;
                        }
                    }
                    let sum: f64 = values.iter().sum();
                    values.iter_mut().for_each(|v| *v /= sum);
                }
                Some((first, values))
            })
            .collect()
    }
}

impl Axis {
    /// The taps as the kernel takes them. What stands for a place outside passes through the axes that follow: their
    /// weights have the sum 1, or are replaced by it in turn.
    fn table(&self, mode: Mode, antialias: bool, exclude_outside: bool, outside: f64) -> Vec<resample::Taps> {
        let last = self.from.max(1) as isize - 1;
        self.taps(mode, antialias, exclude_outside)
            .into_iter()
            .map(|taps| match taps {
                None => resample::Taps { bias: outside as f32, taps: Vec::new() },
                Some((first, weights)) => {
                    let place = |i: usize| (first + i as isize).clamp(0, last) as usize;
                    let taps = weights.iter().enumerate().filter(|(_, w)| **w != 0.0);
                    resample::Taps { bias: 0.0, taps: taps.map(|(i, &w)| (place(i), w as f32)).collect() }
                }
            })
            .collect()
    }
}

/// ONNX Resize, opset 11 and later, in every form; before that, and Upsample, with any axes.
///
/// # Errors
/// When scales or sizes are computed at run time, or an attribute is not of the standard.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let (dtype, shape) = (x.dtype, x.shape.clone());
    let rank = shape.len();
    let simple = context.op_type == "Upsample" || context.opset < 11;
    let attributes = &context.attributes;
    let coefficient = f64::from(attributes.float("cubic_coeff_a")?.unwrap_or(-0.75));
    let nearest = match attributes.string("nearest_mode")?.unwrap_or("round_prefer_floor") {
        _ if simple => NearestMode::Floor,
        "round_prefer_floor" => NearestMode::PreferFloor,
        "round_prefer_ceil" => NearestMode::PreferCeil,
        "floor" => NearestMode::Floor,
        "ceil" => NearestMode::Ceil,
        other => return context.refuse(format!("nearest_mode = {other} is not known")),
    };
    let mode = match attributes.string("mode")?.unwrap_or("nearest") {
        "nearest" => Mode::Nearest(nearest),
        "linear" | "bilinear" => Mode::Linear,
        "cubic" => Mode::Cubic(coefficient),
        other => return context.refuse(format!("mode = {other} is not known")),
    };
    let antialias = attributes.flag("antialias", false)?;
    let exclude_outside = attributes.flag("exclude_outside", false)?;
    let extrapolation = f64::from(attributes.float("extrapolation_value")?.unwrap_or(0.0));
    let default = if simple { "asymmetric" } else { "half_pixel" };
    let transform = attributes.string("coordinate_transformation_mode")?.unwrap_or(default);
    let policy = attributes.string("keep_aspect_ratio_policy")?.unwrap_or("stretch");
    let axes: Vec<usize> = match attributes.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let attribute_scales =
        if context.op_type == "Upsample" { attributes.floats("scales")?.map(<[f32]>::to_vec) } else { None };
    let floats_of = |t: Option<&Tensor>| t.filter(|t| !t.is_empty()).map(Tensor::to_f32);
    let (scales, sizes, region) = if simple {
        let scales = match attribute_scales {
            Some(scales) => scales,
            None => context.constant(1, "scales")?.to_f32(),
        };
        (Some(scales), None, None)
    } else {
        let region = match transform {
            "tf_crop_and_resize" => floats_of(context.optional_constant(1, "roi")?),
            _ => {
                context.drop_input(1);
                None
            }
        };
        let scales = floats_of(context.optional_constant(2, "scales")?);
        let sizes = context.optional_constant(3, "sizes")?.filter(|t| !t.is_empty()).map(Tensor::to_i64);
        (scales, sizes, region)
    };
    let mut resized: Vec<(f64, usize)> = match (scales, sizes) {
        (Some(scales), None) if scales.len() == axes.len() => axes
            .iter()
            .zip(&scales)
            .map(|(&a, &s)| (f64::from(s), (f64::from(s) * shape[a] as f64).floor().max(0.0) as usize))
            .collect(),
        (None, Some(sizes)) if sizes.len() == axes.len() && sizes.iter().all(|&s| s > 0) => {
            axes.iter().zip(&sizes).map(|(&a, &s)| (s as f64 / shape[a] as f64, s as usize)).collect()
        }
        (scales, sizes) => {
            return Err(OpError::Invalid(format!("scales {scales:?} and sizes {sizes:?} for {} axes", axes.len())));
        }
    };
    if policy != "stretch" {
        let ratios = resized.iter().map(|r| r.0);
        let scale = match policy {
            "not_larger" => ratios.fold(f64::INFINITY, f64::min),
            "not_smaller" => ratios.fold(0.0, f64::max),
            other => return context.refuse(format!("keep_aspect_ratio_policy = {other} is not known")),
        };
        for (slot, &a) in resized.iter_mut().zip(&axes) {
            *slot = (scale, (scale * shape[a] as f64 + 0.5).floor() as usize);
        }
    }
    let mut output = shape.clone();
    let mut changing = Vec::new();
    for (i, (&axis, &(scale, to))) in axes.iter().zip(&resized).enumerate() {
        if scale <= 0.0 || !scale.is_finite() {
            return Err(OpError::Invalid(format!("scale {scale}")));
        }
        output[axis] = to;
        let transform = match transform {
            "half_pixel" => Transform::HalfPixel,
            "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
            "pytorch_half_pixel" => Transform::PytorchHalfPixel,
            "align_corners" => Transform::AlignCorners,
            "asymmetric" => Transform::Asymmetric,
            "tf_half_pixel_for_nn" => Transform::TfHalfPixelForNn,
            "tf_crop_and_resize" => match &region {
                Some(r) if r.len() == 2 * axes.len() => Transform::Crop(f64::from(r[i]), f64::from(r[i + axes.len()])),
                _ => return Err(OpError::Invalid(format!("roi = {region:?} for {} axes", axes.len()))),
            },
            other => return context.refuse(format!("coordinate_transformation_mode = {other} is not known")),
        };
        let unchanged = to == shape[axis] && scale == 1.0 && !matches!(transform, Transform::Crop(..));
        if !unchanged {
            changing.push(Axis { axis, from: shape[axis], to, scale, transform });
        }
    }
    check_shape(&output)?;
    let steps = changing.clone();
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let mut source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        if steps.iter().any(|change| change.from >= PLACES_MAX) {
            return Err(OpError::Unsupported(format!("resizes shape {:?}; computed on the CPU only", source.shape)));
        }
        for (i, change) in steps.iter().enumerate() {
            let mut shape = source.shape.clone();
            shape[change.axis] = change.to;
            let last = i + 1 == steps.len();
            let to = if last { target.clone() } else { l.temporary("resized", &shape) };
            let table = change.table(mode, antialias, exclude_outside, extrapolation);
            l.step(Resample { axis: change.axis, table: Arc::new(table), max: false }, vec![source], vec![to.clone()]);
            source = to;
        }
        if steps.is_empty() {
            l.copy(&source, &target);
        }
        Ok(())
    };
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, mut values) = floats(inputs, 0)?;
        let mut shape = x.shape().to_vec();
        let mut outside = Vec::new();
        for change in &changing {
            let (outer, from, inner) = around(&shape, change.axis);
            let taps = change.taps(mode, antialias, exclude_outside);
            let mut next = vec![0.0; outer * change.to * inner];
            for o in 0..outer {
                for (k, tap) in taps.iter().enumerate() {
                    let Some((first, weights)) = tap else { continue };
                    for (w, weight) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                        let source = (first + w as isize).clamp(0, from.max(1) as isize - 1) as usize;
                        for i in 0..inner {
                            next[(o * change.to + k) * inner + i] += weight * values[(o * from + source) * inner + i];
                        }
                    }
                }
            }
            outside.extend(taps.iter().enumerate().filter(|(_, t)| t.is_none()).map(|(k, _)| (change.axis, k)));
            values = next;
            shape[change.axis] = change.to;
        }
        for (axis, k) in outside {
            let (outer, extent, inner) = around(&shape, axis);
            for o in 0..outer {
                values[(o * extent + k) * inner..][..inner].fill(extrapolation);
            }
        }
        Ok(vec![tensor_of(&shape, x.dtype(), values)?])
    };
    Ok(HostFunction::with_kernels("Resize", vec![Fact::new(dtype, &output)], compute, lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one() {
        for mode in [Mode::Linear, Mode::Cubic(-0.75), Mode::Cubic(-0.5), Mode::Nearest(NearestMode::PreferFloor)] {
            for antialias in [false, true] {
                for ratio in [0.01, 0.25, 0.5, 0.99, 1.0] {
                    let (_, w) = weights(mode, antialias, ratio, 0.4);
                    assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{mode:?} {ratio}");
                }
            }
        }
        assert_eq!(weights(Mode::Linear, false, 0.25, 2.0), (0, vec![0.75, 0.25]));
        assert_eq!(weights(Mode::Linear, true, 1.0, 0.5).0, -1);
    }

    #[test]
    fn corners_stay_with_align_corners() {
        let axis = Axis { axis: 0, from: 3, to: 5, scale: 5.0 / 3.0, transform: Transform::AlignCorners };
        assert_eq!(axis.place(0), 0.0);
        assert_eq!(axis.place(4), 2.0);
        let crop = Axis { transform: Transform::Crop(0.5, 1.5), ..axis };
        assert!(crop.taps(Mode::Linear, false, false)[4].is_none());
    }
}
