//! Reading pictures at computed places, and boxes: GridSample, RoiAlign, NonMaxSuppression, CenterCropPad, and the modes of Pad that
//! repeat the picture. On host tensors; GridSample also by a kernel.

use super::context::{NodeContext, check_shape, present, resolve_axis};
use super::dense;
use super::function::{HostFunction, floats, tensor_of};
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::grid_sample::{GridSample, Outside};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::Tensor;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// Mirrors at both ends, as often as needed.
fn reflect(x: f64, least: f64, largest: f64) -> f64 {
    let range = largest - least;
    if range <= 0.0 {
        return least;
    }
    let (distance, inwards, from, to) = if x < least {
        (least - x, 1.0, least, largest)
    } else if x > largest {
        (x - largest, -1.0, largest, least)
    } else {
        return x;
    };
    let turns = (distance / range).floor();
    let rest = distance - turns * range;
    if turns % 2.0 == 0.0 { from + inwards * rest } else { to - inwards * rest }
}

/// ONNX GridSample of any number of spatial axes.
///
/// # Errors
/// For modes that are not of the standard, and shapes that do not fit.
pub fn build_grid_sample(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, grid) = (context.input(0)?, context.input(1)?);
    let rank = x.shape.len().saturating_sub(2);
    if rank == 0 || grid.shape.len() != rank + 2 || grid.shape[rank + 1] != rank || grid.shape[0] != x.shape[0] {
        return Err(OpError::Invalid(format!("grid of shape {:?} for shape {:?}", grid.shape, x.shape)));
    }
    // Neighbours along an axis, and the offset of the first.
    let reach = match context.attributes.string("mode")?.unwrap_or("linear") {
        "nearest" => 1,
        "linear" | "bilinear" => 2,
        "cubic" | "bicubic" => 4,
        other => return context.refuse(format!("mode = {other} is not known")),
    };
    let padding = match context.attributes.string("padding_mode")?.unwrap_or("zeros") {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return context.refuse(format!("padding_mode = {other} is not known")),
    };
    let align = context.attributes.flag("align_corners", false)?;
    let (images, channels, size) = (x.shape[0], x.shape[1], x.shape[2..].to_vec());
    let output = grid.shape[1..=rank].to_vec();
    let shape = [&[images, channels], &output[..]].concat();
    check_shape(&shape)?;
    let outside = match padding {
        Padding::Zeros => Outside::Zeros,
        Padding::Border => Outside::Border,
        Padding::Reflection => Outside::Reflection,
    };
    let kernel = GridSample { reach, outside, align_corners: align };
    // In f32 a pixel's place must keep digits behind the point.
    let large = size.iter().any(|&n| n > 1 << 14);
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        if large {
            return Err(OpError::Unsupported("samples more than 16384 pixels; computed on the CPU only".into()));
        }
        let reads = vec![l.read(present(inputs, 0)?)?, l.read(present(inputs, 1)?)?];
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        l.step(kernel, reads, vec![target]);
        Ok(())
    };
    let fact = Fact::new(x.dtype, &shape);
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        let grid = floats(inputs, 1)?.1;
        let (pixels, outputs): (usize, usize) = (size.iter().product(), output.iter().product());
        let mut y = vec![0.0; images * channels * outputs];
        // Per axis: (index or none, weight).
        let mut taps: Vec<Vec<(Option<usize>, f64)>> = vec![Vec::new(); rank];
        for image in 0..images {
            for o in 0..outputs {
                for (a, taps) in taps.iter_mut().enumerate() {
                    // The grid names the fastest axis first.
                    let at = grid[(image * outputs + o) * rank + rank - 1 - a];
                    *taps = axis_taps(at, size[a], reach, padding, align);
                }
                for channel in 0..channels {
                    let plane = &values[(image * channels + channel) * pixels..][..pixels];
                    y[(image * channels + channel) * outputs + o] = blend(plane, &size, &taps, 0, 1.0);
                }
            }
        }
        Ok(vec![tensor_of(&shape, x.dtype(), y)?])
    };
    Ok(HostFunction::with_kernels("GridSample", vec![fact], compute, lower))
}

fn axis_taps(at: f64, extent: usize, reach: usize, padding: Padding, align: bool) -> Vec<(Option<usize>, f64)> {
    let n = extent as f64;
    let (mut place, least, largest) = match align {
        true => ((at + 1.0) / 2.0 * (n - 1.0), 0.0, n - 1.0),
        false => (((at + 1.0) * n - 1.0) / 2.0, -0.5, n - 0.5),
    };
    if reach == 1 {
        place = place.round_ties_even();
    }
    if place < least || place > largest {
        match padding {
            Padding::Zeros => {}
            Padding::Border => place = place.clamp(0.0, n - 1.0),
            Padding::Reflection => place = reflect(place, least, largest),
        }
    }
    let index = |i: f64| match padding {
        Padding::Zeros => (i >= 0.0 && i < n).then_some(i as usize),
        Padding::Border => Some(i.clamp(0.0, n - 1.0) as usize),
        Padding::Reflection => Some((reflect(i, least, largest).max(0.0) as usize).min(extent.max(1) - 1)),
    };
    if place.is_nan() {
        return vec![(None, 0.0)];
    }
    let (low, part) = (place.floor(), place - place.floor());
    match reach {
        1 => vec![(index(place), 1.0)],
        2 => vec![(index(low), 1.0 - part), (index(low + 1.0), part)],
        _ => {
            let a = -0.75;
            let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
            let far = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
            let weights = [far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part)];
            weights.iter().enumerate().map(|(k, &w)| (index(low - 1.0 + k as f64), w)).collect()
        }
    }
}

/// The weighted sum over the taps of all axes from `axis` on.
fn blend(plane: &[f64], size: &[usize], taps: &[Vec<(Option<usize>, f64)>], start: usize, weight: f64) -> f64 {
    let Some((first, rest)) = taps.split_first() else { return weight * plane[start] };
    first
        .iter()
        .filter_map(|&(index, w)| Some(blend(plane, &size[1..], rest, start * size[0] + index?, weight * w)))
        .sum()
}

/// ONNX RoiAlign.
///
/// # Errors
/// For modes that are not of the standard.
pub fn build_roi_align(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, rois) = (context.input(0)?, context.input(1)?);
    let &[_, channels, height, width] = &x.shape[..] else {
        return Err(OpError::Invalid(format!("shape {:?} is no feature map", x.shape)));
    };
    let &[count, 4] = &rois.shape[..] else {
        return Err(OpError::Invalid(format!("regions of shape {:?}", rois.shape)));
    };
    let int = |name: &str, default: i64| {
        let value = context.attributes.int(name)?.unwrap_or(default);
        usize::try_from(value).map_err(|_| OpError::Invalid(format!("{name} = {value}")))
    };
    let (out_h, out_w, ratio) = (int("output_height", 1)?, int("output_width", 1)?, int("sampling_ratio", 0)?);
    let scale = f64::from(context.attributes.float("spatial_scale")?.unwrap_or(1.0));
    let max = match context.attributes.string("mode")?.unwrap_or("avg") {
        "avg" => false,
        "max" => true,
        other => return context.refuse(format!("mode = {other} is not known")),
    };
    let default = if context.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half = match context.attributes.string("coordinate_transformation_mode")?.unwrap_or(default) {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return context.refuse(format!("coordinate_transformation_mode = {other} is not known")),
    };
    let shape = [count, channels, out_h, out_w];
    check_shape(&shape)?;
    Ok(HostFunction::boxed("RoiAlign", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let rois = floats(inputs, 1)?.1;
        let images = present(inputs, 2)?.to_i64();
        let mut y = Vec::with_capacity(shape.iter().product());
        for roi in 0..count {
            let image = images.get(roi).and_then(|&i| usize::try_from(i).ok()).filter(|&i| i < x.shape()[0]);
            let image = image.ok_or_else(|| OpError::Invalid(format!("batch_indices {images:?}")))?;
            let shift = if half { 0.5 } else { 0.0 };
            let corner = |k: usize| rois[roi * 4 + k] * scale - shift;
            let (mut w, mut h) = (corner(2) - corner(0), corner(3) - corner(1));
            if !half {
                (w, h) = (w.max(1.0), h.max(1.0));
            }
            let (bin_h, bin_w) = (h / out_h as f64, w / out_w as f64);
            let samples = |bin: f64| if ratio > 0 { ratio } else { bin.ceil().clamp(1.0, 1e4) as usize };
            let (grid_h, grid_w) = (samples(bin_h), samples(bin_w));
            for channel in 0..channels {
                let plane = &values[(image * channels + channel) * height * width..][..height * width];
                for oy in 0..out_h {
                    for ox in 0..out_w {
                        let (mut sum, mut largest) = (0.0, f64::NEG_INFINITY);
                        for iy in 0..grid_h {
                            for ix in 0..grid_w {
                                let at = |start: f64, o: usize, i: usize, bin: f64, grid: usize| {
                                    start + o as f64 * bin + (i as f64 + 0.5) * bin / grid as f64
                                };
                                let parts = corners(
                                    plane,
                                    [height, width],
                                    at(corner(1), oy, iy, bin_h, grid_h),
                                    at(corner(0), ox, ix, bin_w, grid_w),
                                );
                                sum += parts.iter().sum::<f64>();
                                // The standard takes the largest of the weighted corners, not of the blends.
                                largest = parts.iter().copied().fold(largest, f64::max);
                            }
                        }
                        y.push(if max { largest } else { sum / (grid_h * grid_w) as f64 });
                    }
                }
            }
        }
        Ok(vec![tensor_of(&shape, x.dtype(), y)?])
    }))
}

/// The four neighbours of a place times their bilinear weights; zeros far outside.
fn corners(plane: &[f64], [height, width]: [usize; 2], y: f64, x: f64) -> [f64; 4] {
    if y < -1.0 || y > height as f64 || x < -1.0 || x > width as f64 || y.is_nan() || x.is_nan() {
        return [0.0; 4];
    }
    let split = |v: f64, n: usize| {
        let v = v.max(0.0);
        let low = v as usize;
        if low >= n - 1 { (n - 1, n - 1, 0.0) } else { (low, low + 1, v - low as f64) }
    };
    let ((y0, y1, fy), (x0, x1, fx)) = (split(y, height), split(x, width));
    [
        (1.0 - fy) * (1.0 - fx) * plane[y0 * width + x0],
        (1.0 - fy) * fx * plane[y0 * width + x1],
        fy * (1.0 - fx) * plane[y1 * width + x0],
        fy * fx * plane[y1 * width + x1],
    ]
}

/// ONNX NonMaxSuppression: rows (image, class, box) of what is kept.
///
/// # Errors
/// When inputs are missing.
pub fn build_nms(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    context.input(0)?;
    context.input(1)?;
    let centred = context.attributes.flag("center_point_box", false)?;
    Ok(HostFunction::boxed("NonMaxSuppression", vec![Fact::late()], move |inputs| {
        let (boxes, coordinates) = floats(inputs, 0)?;
        let (scores, points) = floats(inputs, 1)?;
        let (&[images, count, 4], &[images_too, classes, count_too]) = (boxes.shape(), scores.shape()) else {
            return Err(OpError::Invalid(format!("boxes {:?} and scores {:?}", boxes.shape(), scores.shape())));
        };
        if images != images_too || count != count_too {
            return Err(OpError::Invalid(format!("boxes {:?} and scores {:?}", boxes.shape(), scores.shape())));
        }
        let number =
            |i: usize| inputs.get(i).copied().flatten().and_then(|t| super::function::to_f64(t).first().copied());
        let most = number(2).unwrap_or(0.0).max(0.0) as usize;
        let overlap = number(3).unwrap_or(0.0);
        let least = number(4);
        let corners = |image: usize, k: usize| -> [f64; 4] {
            let c = &coordinates[(image * count + k) * 4..][..4];
            match centred {
                true => [c[0] - c[2] / 2.0, c[1] - c[3] / 2.0, c[0] + c[2] / 2.0, c[1] + c[3] / 2.0],
                false => [c[0].min(c[2]), c[1].min(c[3]), c[0].max(c[2]), c[1].max(c[3])],
            }
        };
        let area = |b: &[f64; 4]| (b[2] - b[0]) * (b[3] - b[1]);
        let iou = |a: &[f64; 4], b: &[f64; 4]| {
            let side = |k: usize| (a[k + 2].min(b[k + 2]) - a[k].max(b[k])).max(0.0);
            let shared = side(0) * side(1);
            let union = area(a) + area(b) - shared;
            if union > 0.0 { shared / union } else { 0.0 }
        };
        let mut rows = Vec::new();
        for image in 0..images {
            for class in 0..classes {
                let score = |k: usize| points[(image * classes + class) * count + k];
                let mut order: Vec<usize> = (0..count).filter(|&k| least.is_none_or(|t| score(k) > t)).collect();
                order.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap_or(std::cmp::Ordering::Equal));
                let mut kept: Vec<[f64; 4]> = Vec::new();
                for k in order {
                    if kept.len() >= most {
                        break;
                    }
                    let candidate = corners(image, k);
                    if kept.iter().all(|other| iou(other, &candidate) <= overlap) {
                        kept.push(candidate);
                        rows.extend([image as i64, class as i64, k as i64]);
                    }
                }
            }
        }
        Ok(vec![Tensor::from_i64(&[rows.len() / 3, 3], rows).map_err(OpError::Invalid)?])
    }))
}

/// A tensor whose element at output coordinates is the input's at mapped coordinates, or a fill value.
fn gather_by_axis(
    x: &Tensor,
    shape: &[usize],
    fill: f64,
    map: impl Fn(usize, usize) -> Option<usize>,
) -> Result<Tensor, OpError> {
    let both = dense::append(&[x, &tensor_of(&[1], x.dtype(), vec![fill])?])?;
    let maps: Vec<Vec<Option<usize>>> =
        shape.iter().enumerate().map(|(axis, &n)| (0..n).map(|i| map(axis, i)).collect()).collect();
    let count = shape.iter().product::<usize>();
    let position = |mut flat: usize| {
        let (mut stride, mut at) = (1, 0);
        for axis in (0..shape.len()).rev() {
            let Some(source) = maps[axis][flat % shape[axis]] else { return x.len() };
            at += source * stride;
            stride *= x.shape()[axis];
            flat /= shape[axis];
        }
        at
    };
    dense::pick(&both, (0..count).map(position), shape)
}

/// ONNX Pad in the modes reflect, edge and wrap. `pads` per axis.
pub fn pad_by_repeating(x: &Fact, pads: &[[isize; 2]], mode: &'static str) -> Result<Box<dyn Op>, OpError> {
    let grown =
        |(&n, [before, after]): (&usize, &[isize; 2])| n.checked_add_signed(*before)?.checked_add_signed(*after);
    let shape: Option<Vec<usize>> = x.shape.iter().zip(pads).map(grown).collect();
    let bad = || OpError::Invalid(format!("pads {pads:?} of shape {:?}", x.shape));
    let shape = shape.ok_or_else(bad)?;
    check_shape(&shape)?;
    if x.shape.contains(&0) && !shape.contains(&0) {
        return Err(bad());
    }
    let pads = pads.to_vec();
    Ok(HostFunction::boxed("Pad", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let x = present(inputs, 0)?;
        let map = |axis: usize, i: usize| {
            let n = x.shape()[axis] as isize;
            let at = i as isize - pads[axis][0];
            let mapped = match mode {
                "edge" => at.clamp(0, n - 1),
                "wrap" => at.rem_euclid(n),
                _ if n == 1 => 0,
                _ => {
                    let turn = at.rem_euclid(2 * (n - 1));
                    turn.min(2 * (n - 1) - turn)
                }
            };
            usize::try_from(mapped).ok()
        };
        Ok(vec![gather_by_axis(x, &shape, 0.0, map)?])
    }))
}

/// ONNX CenterCropPad.
///
/// # Errors
/// When the shape is computed at run time or does not fit the axes.
pub fn build_center_crop_pad(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let wanted = context.constant(1, "shape")?.to_i64();
    let axes: Vec<usize> = match context.attributes.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| resolve_axis(a, x.shape.len())).collect::<Result<_, _>>()?,
        None => (0..x.shape.len()).collect(),
    };
    if axes.len() != wanted.len() || wanted.iter().any(|&w| w < 0) {
        return Err(OpError::Invalid(format!("shape {wanted:?} for {} axes", axes.len())));
    }
    let mut shape = x.shape.clone();
    for (&axis, &extent) in axes.iter().zip(&wanted) {
        shape[axis] = usize::try_from(extent).unwrap_or(usize::MAX);
    }
    check_shape(&shape)?;
    Ok(HostFunction::boxed("CenterCropPad", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let x = present(inputs, 0)?;
        let map = |axis: usize, i: usize| {
            let (from, to) = (x.shape()[axis], shape[axis]);
            if to <= from { Some(i + (from - to) / 2) } else { i.checked_sub((to - from) / 2).filter(|&i| i < from) }
        };
        Ok(vec![gather_by_axis(x, &shape, 0.0, map)?])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn places_are_mirrored() {
        assert_eq!(reflect(-1.0, 0.0, 3.0), 1.0);
        assert_eq!(reflect(4.0, 0.0, 3.0), 2.0);
        assert_eq!(reflect(7.0, 0.0, 3.0), 1.0);
        assert_eq!(reflect(-4.0, 0.0, 3.0), 2.0);
    }

    #[test]
    fn the_identity_grid_gives_the_picture() {
        let x = Tensor::from_f32(&[1, 1, 1, 3], vec![1.0, 2.0, 4.0]).expect("tensor");
        let grid = Tensor::from_f32(&[1, 1, 3, 2], vec![-1.0, 0.0, 0.0, 0.0, 0.5, 0.0]).expect("tensor");
        let align = [AttributeProto::int("align_corners", 1)];
        let op = build_for_test("GridSample", 20, &align, &[&Fact::of(&x), &Fact::of(&grid)]).expect("builds");
        let y = op.eval(&[Some(&x), Some(&grid)]).expect("folds").expect("evaluates");
        assert_eq!(y[0].to_f32(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn overlapping_boxes_go() {
        let boxes = vec![0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 0.0, 10.0, 1.0, 11.0];
        let boxes = Tensor::from_f32(&[1, 3, 4], boxes).expect("tensor");
        let scores = Tensor::from_f32(&[1, 1, 3], vec![0.8, 0.9, 0.3]).expect("tensor");
        let (most, iou) = (Tensor::vec_i64(vec![5]), Tensor::scalar_f32(0.5));
        let op =
            build_for_test("NonMaxSuppression", 11, &[], &[&Fact::of(&boxes), &Fact::of(&scores)]).expect("builds");
        let inputs = [Some(&boxes), Some(&scores), Some(&most), Some(&iou)];
        let y = op.eval(&inputs).expect("folds").expect("evaluates");
        assert_eq!((y[0].shape(), y[0].to_i64()), (&[2, 3][..], vec![0, 0, 1, 0, 0, 2]));
    }

    #[test]
    fn pads_by_reflection() {
        let x = Tensor::from_f32(&[3], vec![1.0, 2.0, 3.0]).expect("tensor");
        let pad = |mode| {
            let op = pad_by_repeating(&Fact::of(&x), &[[2, 1]], mode).expect("builds");
            op.eval(&[Some(&x)]).expect("folds").expect("evaluates").remove(0).to_f32()
        };
        assert_eq!(pad("reflect"), [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
        assert_eq!(pad("edge"), [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(pad("wrap"), [2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
    }
}
