//! Resize and Upsample of feature maps.

use super::context::{ELEMENTS_MAX, NodeContext, input, present, resolve_axis};
use super::window::feature_map_shape;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels;
use crate::infer::kernels::resize::{Coordinates, Interpolation, Rounding};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::Tensor;

/// ONNX Resize and Upsample with sizes resolved. Only height and width change.
#[derive(Clone, Debug)]
pub struct Resize {
    pub interpolation: Interpolation,
    pub coordinates: Coordinates,
    /// Output over input of height and width, as the file gives it.
    pub scale: [f32; 2],
    /// Height and width of the output.
    pub size_px: [usize; 2],
}

impl Resize {
    /// Every pixel repeated `factor` times in both directions; for an input of `size_px` (height, width).
    pub fn repeat(factor: usize, size_px: [usize; 2]) -> Resize {
        Resize {
            interpolation: Interpolation::Nearest(Rounding::Floor),
            coordinates: Coordinates::Asymmetric,
            scale: [factor as f32; 2],
            size_px: size_px.map(|s| s.saturating_mul(factor)),
        }
    }
}

/// Scales and output sizes of all axes from the scales of some.
fn from_scales(shape: &[usize], axes: &[usize], scales: &[f32]) -> Result<Vec<(f32, usize)>, OpError> {
    let mut all: Vec<(f32, usize)> = shape.iter().map(|&n| (1.0, n)).collect();
    if axes.len() != scales.len() {
        return Err(OpError::Invalid(format!("scales = {scales:?} for {} axes", axes.len())));
    }
    for (&axis, &scale) in axes.iter().zip(scales) {
        let size = (f64::from(scale) * shape[axis] as f64).floor();
        if !(scale > 0.0 && size <= ELEMENTS_MAX as f64) {
            return Err(OpError::Invalid(format!("scales = {scales:?}")));
        }
        all[axis] = (scale, size as usize);
    }
    Ok(all)
}

/// The scales of height and width, if nothing else changes.
fn spatial(shape: &[usize], all: &[(f32, usize)]) -> Result<([f32; 2], [usize; 2]), OpError> {
    feature_map_shape(shape)?;
    match all {
        [(_, n), (_, c), (y, h), (x, w)] if *n == shape[0] && *c == shape[1] => Ok(([*y, *x], [*h, *w])),
        _ => {
            Err(OpError::Unsupported(format!("resizes shape {shape:?} along batch or channels; only height and width")))
        }
    }
}

/// ONNX Resize, opset 10 and later. What the kernel does not do is computed on host tensors.
///
/// # Errors
/// `RunTime` where sizes are not constant; `Invalid` for what is not of the standard.
pub fn build_resize(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    match build_for_kernel(context) {
        Err(OpError::Unsupported(_)) => super::resize_host::build(context),
        built => built,
    }
}

/// Nearest and linear along height and width.
///
/// # Errors
/// For cubic interpolation, antialiasing, cropping, other axes.
fn build_for_kernel(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = context.input(0)?.shape.clone();
    if context.opset < 11 {
        return build_simple(context, &shape, 1);
    }
    // Only used by modes that are refused below.
    context.attributes.without_effect(&["cubic_coeff_a", "extrapolation_value"]);
    let attributes = &context.attributes;
    if attributes.flag("antialias", false)? {
        return context.refuse("antialias = 1 is not supported; export without it".into());
    }
    if attributes.flag("exclude_outside", false)? {
        return context.refuse("exclude_outside = 1 is not supported; export without it".into());
    }
    let policy = attributes.string("keep_aspect_ratio_policy")?.unwrap_or("stretch");
    if policy != "stretch" {
        return context.refuse(format!("keep_aspect_ratio_policy = {policy}; only stretch is supported"));
    }
    let rounding = match attributes.string("nearest_mode")?.unwrap_or("round_prefer_floor") {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return context.refuse(format!("nearest_mode = {other} is not known")),
    };
    let interpolation = match attributes.string("mode")?.unwrap_or("nearest") {
        "nearest" => Interpolation::Nearest(rounding),
        "linear" => Interpolation::Linear,
        other => return context.refuse(format!("mode = {other}; nearest and linear are supported")),
    };
    let transformation = attributes.string("coordinate_transformation_mode")?.unwrap_or("half_pixel");
    let axes = match attributes.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| resolve_axis(a, shape.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.len()).collect(),
    };
    // The region of interest belongs to a mode that is refused.
    context.drop_input(1);
    let given = |t: Option<&'_ Tensor>| t.filter(|t| !t.is_empty()).cloned();
    let scales = given(context.optional_constant(2, "scales")?);
    let sizes = given(context.optional_constant(3, "sizes")?);
    let all = match (scales, sizes) {
        (Some(scales), None) => from_scales(&shape, &axes, &scales.to_f32())?,
        (None, Some(sizes)) => {
            let sizes = sizes.to_i64();
            let mut all: Vec<(f32, usize)> = shape.iter().map(|&n| (1.0, n)).collect();
            if sizes.len() != axes.len() || sizes.iter().any(|&s| s < 1 || s > ELEMENTS_MAX as i64) {
                return Err(OpError::Invalid(format!("sizes = {sizes:?} for {} axes", axes.len())));
            }
            for (&axis, &size) in axes.iter().zip(&sizes) {
                all[axis] = ((size as f64 / shape[axis] as f64) as f32, size as usize);
            }
            all
        }
        _ => return Err(OpError::Invalid("exactly one of scales and sizes must be given".into())),
    };
    let (scale, size_px) = spatial(&shape, &all)?;
    let coordinates = match transformation {
        "asymmetric" => Coordinates::Asymmetric,
        "half_pixel" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        // The same as half_pixel where the scaled size is whole.
        "half_pixel_symmetric" if (0..2).all(|i| scale[i] * shape[2 + i] as f32 == size_px[i] as f32) => {
            Coordinates::HalfPixel
        }
        other => {
            return context.refuse(format!(
                "coordinate_transformation_mode = {other}; asymmetric, half_pixel, pytorch_half_pixel and align_corners are supported"
            ));
        }
    };
    Ok(Box::new(Resize { interpolation, coordinates, scale, size_px }))
}

/// ONNX Upsample, opset 7 (scales as an attribute) and 9 (as an input).
///
/// # Errors
/// As [`build_resize`].
pub fn build_upsample(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    match build_upsample_for_kernel(context) {
        Err(OpError::Unsupported(_)) => super::resize_host::build(context),
        built => built,
    }
}

fn build_upsample_for_kernel(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = context.input(0)?.shape.clone();
    if context.opset < 9 {
        let scales = context.attributes.floats("scales")?.map(<[f32]>::to_vec);
        let scales = scales.ok_or_else(|| OpError::Invalid("scales is missing".into()))?;
        return simple(context, &shape, &scales);
    }
    build_simple(context, &shape, 1)
}

fn build_simple(context: &mut NodeContext<'_>, shape: &[usize], index: usize) -> Result<Box<dyn Op>, OpError> {
    let scales = context.constant(index, "scales")?.to_f32();
    simple(context, shape, &scales)
}

/// Before opset 11: coordinates are x / scale; nearest rounds down when enlarging, up when shrinking (ONNX Runtime).
fn simple(context: &NodeContext<'_>, shape: &[usize], scales: &[f32]) -> Result<Box<dyn Op>, OpError> {
    let axes: Vec<usize> = (0..shape.len()).collect();
    let (scale, size_px) = spatial(shape, &from_scales(shape, &axes, scales)?)?;
    let interpolation = match context.attributes.string("mode")?.unwrap_or("nearest") {
        "nearest" if scale.iter().all(|&s| s >= 1.0) => Interpolation::Nearest(Rounding::Floor),
        "nearest" if scale.iter().all(|&s| s <= 1.0) => Interpolation::Nearest(Rounding::Ceil),
        "nearest" => return context.refuse(format!("scales = {scales:?} enlarge one axis and shrink the other")),
        "linear" => Interpolation::Linear,
        other => return context.refuse(format!("mode = {other}; nearest and linear are supported")),
    };
    Ok(Box::new(Resize { interpolation, coordinates: Coordinates::Asymmetric, scale, size_px }))
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "Resize"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let [n, c, _, _] = feature_map_shape(&x.shape)?;
        Ok(vec![Fact::new(x.dtype, &[n, c, self.size_px[0], self.size_px[1]])])
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read_feature_map(present(inputs, 0)?)?;
        let target = l.write_feature_map(present(&[outputs.first().copied()], 0)?);
        let kernel = kernels::resize::Resize {
            interpolation: self.interpolation,
            coordinates: self.coordinates,
            scale: self.scale,
        };
        l.step(kernel, vec![source], vec![target]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn floats(v: &[f32]) -> Fact {
        Fact::of(&Tensor::from_f32(&[v.len()], v.to_vec()).expect("tensor"))
    }

    fn resize(attributes: &[(&str, &str)], scales: &[f32], sizes: &[i64]) -> Result<Resize, OpError> {
        let list: Vec<_> = attributes.iter().map(|(k, v)| AttributeProto::string(k, v)).collect();
        let x = Fact::f32(&[1, 3, 5, 7]);
        let sizes = Fact::of(&Tensor::vec_i64(sizes.to_vec()));
        let op = build_for_test("Resize", 13, &list, &[&x, &floats(&[]), &floats(scales), &sizes])?;
        op.infer(&[Some(&x)])?;
        op.downcast::<Resize>().cloned().ok_or_else(|| OpError::Invalid("not a Resize".into()))
    }

    #[test]
    fn scales_or_sizes() {
        let r = resize(&[("mode", "linear")], &[1.0, 1.0, 2.0, 0.5], &[]).expect("builds");
        assert_eq!((r.size_px, r.scale, r.coordinates), ([10, 3], [2.0, 0.5], Coordinates::HalfPixel));
        let r = resize(&[("nearest_mode", "floor")], &[], &[1, 3, 10, 14]).expect("builds");
        assert_eq!((r.size_px, r.interpolation), ([10, 14], Interpolation::Nearest(Rounding::Floor)));
        assert!(resize(&[], &[], &[]).is_err() && resize(&[], &[1.0; 4], &[1, 3, 5, 7]).is_err());
        assert!(resize(&[], &[1.0, 2.0, 1.0, 1.0], &[]).is_err(), "channels: no kernel");
        assert!(resize(&[], &[1.0, 1.0, f32::NAN, 1e30], &[]).is_err());
    }

    #[test]
    fn what_is_not_of_the_standard_is_named() {
        for (name, value) in [
            ("mode", "lanczos"),
            ("coordinate_transformation_mode", "quarter_pixel"),
            ("keep_aspect_ratio_policy", "maybe"),
        ] {
            let e = resize(&[(name, value)], &[1.0, 1.0, 2.0, 2.0], &[]).expect_err(name);
            assert!(e.to_string().contains(value), "{e}");
        }
    }

    #[test]
    fn upsample_has_its_scales_in_two_places() {
        let x = Fact::f32(&[1, 2, 3, 4]);
        let old = [AttributeProto::floats("scales", &[1.0, 1.0, 2.0, 2.0])];
        let seven = build_for_test("Upsample", 7, &old, &[&x]).expect("builds");
        let nine = build_for_test("Upsample", 9, &[], &[&x, &floats(&[1.0, 1.0, 2.0, 2.0])]).expect("builds");
        for op in [seven, nine] {
            assert_eq!(op.infer(&[Some(&x)]).map(|f| f[0].shape.clone()), Ok(vec![1, 2, 6, 8]));
            assert_eq!(op.downcast::<Resize>().map(|r| r.coordinates), Some(Coordinates::Asymmetric));
        }
    }
}
