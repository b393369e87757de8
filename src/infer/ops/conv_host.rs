//! Convolutions on host tensors and by the general kernel: those that are not 2-D or whose weights are computed at run
//! time, ConvTranspose, Col2Im and DeformConv. Sums in f64.

use super::context::{NodeContext, check_shape, present};
use super::function::{HostFunction, floats, tensor_of, to_f64};
use super::subpixel::SubPixels;
use super::window_nd::{WindowNd, each, inside, list, spatial};
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::conv_nd;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor};

/// The numbers of a convolution: `x [N, C, ...]`, `weights [M, C/groups, ...]`.
pub struct ConvNd {
    pub window: WindowNd,
    pub groups: usize,
    pub size: Vec<usize>,
    pub output: Vec<usize>,
    /// N, C, M.
    pub counts: [usize; 3],
}

impl ConvNd {
    /// Reads a Conv (or ConvInteger, QLinearConv) with weights of `weights`.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn read(context: &NodeContext<'_>, x: &[usize], weights: &[usize]) -> Result<ConvNd, OpError> {
        let (n, c, size) = spatial(x)?;
        let (m, c_group, kernel) = spatial(weights)?;
        let groups = context.attributes.int("group")?.unwrap_or(1);
        let groups = usize::try_from(groups).ok().filter(|&g| g > 0 && c == c_group * g && m % g == 0);
        let groups = groups.ok_or_else(|| OpError::Invalid(format!("weights {weights:?} do not fit input {x:?}")))?;
        if kernel.len() != size.len() {
            return Err(OpError::Invalid(format!("weights {weights:?} do not fit input {x:?}")));
        }
        let window = WindowNd::read(context, &size, Some(&kernel))?;
        let output = window.output(&size, false)?;
        Ok(ConvNd { window, groups, size, output, counts: [n, c, m] })
    }

    pub fn shape(&self) -> Vec<usize> {
        [&[self.counts[0], self.counts[2]], &self.output[..]].concat()
    }

    /// The convolution, without bias.
    pub fn run(&self, x: &[f64], weights: &[f64]) -> Vec<f64> {
        let [n, c, m] = self.counts;
        let (pixels, taps) = (self.size.iter().product::<usize>(), self.window.kernel.iter().product::<usize>());
        let (c_group, m_group) = (c / self.groups, m / self.groups);
        let outputs: usize = self.output.iter().product();
        let mut y = vec![0.0; n * m * outputs];
        for (o, at) in each(&self.output).enumerate() {
            for (t, tap) in each(&self.window.kernel).enumerate() {
                let Some(source) = inside(&self.window.source(&at, &tap), &self.size) else { continue };
                for image in 0..n {
                    for filter in 0..m {
                        let first = filter / m_group * c_group;
                        let sum: f64 = (0..c_group)
                            .map(|k| {
                                x[(image * c + first + k) * pixels + source]
                                    * weights[(filter * c_group + k) * taps + t]
                            })
                            .sum();
                        y[(image * m + filter) * outputs + o] += sum;
                    }
                }
            }
        }
        y
    }
}

/// ONNX Conv of any dimensionality.
///
/// # Errors
/// When shapes do not fit.
pub fn build_conv(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let conv = ConvNd::read(context, &x.shape, &weights.shape)?;
    let shape = conv.shape();
    check_shape(&shape)?;
    let kernel = conv_nd::ConvNd {
        groups: conv.groups,
        stride: conv.window.stride.clone(),
        dilation: conv.window.dilation.clone(),
        before: conv.window.before.clone(),
        transposed: false,
    };
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        lower_in_memory(l, kernel.clone(), inputs, outputs)
    };
    let fact = Fact::new(x.dtype, &shape);
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        let mut y = conv.run(&values, &floats(inputs, 1)?.1);
        if let Some(bias) = inputs.get(2).copied().flatten() {
            add_bias(&mut y, &to_f64(bias), conv.output.iter().product());
        }
        Ok(vec![tensor_of(&shape, x.dtype(), y)?])
    };
    Ok(HostFunction::with_kernels("Conv", vec![fact], compute, lower))
}

/// One step that reads x, weights and perhaps a bias wherever they lie.
fn lower_in_memory(
    l: &mut Lowering<'_>,
    kernel: conv_nd::ConvNd,
    inputs: &[Option<ValueId>],
    outputs: &[ValueId],
) -> Result<(), OpError> {
    let mut reads = vec![l.read(present(inputs, 0)?)?, l.read(present(inputs, 1)?)?];
    if let Some(bias) = inputs.get(2).copied().flatten() {
        reads.push(l.read(bias)?);
    }
    let target = l.write(present(&[outputs.first().copied()], 0)?);
    if reads.get(2).is_some_and(|bias| bias.shape != [target.shape[1]]) {
        return Err(OpError::Invalid(format!("bias of shape {:?} for {} filters", reads[2].shape, target.shape[1])));
    }
    l.step(kernel, reads, vec![target]);
    Ok(())
}

fn add_bias(y: &mut [f64], bias: &[f64], pixels: usize) {
    for (k, plane) in y.chunks_exact_mut(pixels.max(1)).enumerate() {
        plane.iter_mut().for_each(|v| *v += bias[k % bias.len()]);
    }
}

/// ONNX ConvTranspose.
///
/// # Errors
/// When shapes do not fit.
pub fn build_conv_transpose(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let (n, c, size) = spatial(&x.shape)?;
    let (c_weights, m_group, kernel) = spatial(&weights.shape)?;
    let rank = size.len();
    let bad = || OpError::Invalid(format!("weights {:?} do not fit input {:?}", weights.shape, x.shape));
    let groups = usize::try_from(context.attributes.int("group")?.unwrap_or(1)).map_err(|_| bad())?;
    if groups == 0 || c != c_weights || c % groups != 0 || kernel.len() != rank {
        return Err(bad());
    }
    if context
        .attributes
        .ints("kernel_shape")?
        .is_some_and(|k| !k.iter().map(|&v| v as usize).eq(kernel.iter().copied()))
    {
        return Err(OpError::Invalid(format!("kernel_shape differs from weights {:?}", weights.shape)));
    }
    let stride = list(context, "strides", rank, 1)?;
    let dilation = list(context, "dilations", rank, 1)?;
    let extra = list(context, "output_padding", rank, 0)?;
    let pads = list(context, "pads", 2 * rank, 0)?;
    let (mut before, mut after) = (pads[..rank].to_vec(), pads[rank..].to_vec());
    let auto = context.attributes.string("auto_pad")?.unwrap_or("NOTSET");
    if !["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"].contains(&auto) {
        return context.refuse(format!("auto_pad = {auto} is not known"));
    }
    let wanted: Option<Vec<usize>> = context
        .attributes
        .ints("output_shape")?
        .map(|s| s.iter().rev().take(rank).rev().map(|&v| v as usize).collect());
    if wanted.as_ref().is_some_and(|w| w.len() != rank) {
        return Err(OpError::Invalid(format!("output_shape = {wanted:?}")));
    }
    let mut output = Vec::with_capacity(rank);
    for a in 0..rank {
        let full = size[a].max(1).saturating_sub(1) * stride[a] + extra[a] + (kernel[a].max(1) - 1) * dilation[a] + 1;
        let same = auto.starts_with("SAME").then(|| size[a] * stride[a]);
        if let Some(target) = wanted.as_ref().map(|w| w[a]).or(same) {
            let total = full.saturating_sub(target);
            let (small, large) = (total / 2, total - total / 2);
            (before[a], after[a]) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
            output.push(target);
        } else {
            output.push(full.checked_sub(before[a] + after[a]).ok_or_else(bad)?);
        }
    }
    let m = m_group * groups;
    let shape = [&[n, m], &output[..]].concat();
    check_shape(&shape)?;
    // What the fast kernels can do: two spatial axes, one group, no dilation.
    let sub_pixels = match (&kernel[..], &stride[..], &before[..]) {
        (&[kh, kw], &[sh, sw], &[top, left]) if groups == 1 && dilation == [1, 1] && x.dtype == DType::F32 => {
            Some(SubPixels { kernel: [kh, kw], stride: [sh, sw], cut: [top, left] })
        }
        _ => None,
    };
    let in_memory = conv_nd::ConvNd {
        groups,
        stride: stride.clone(),
        dilation: dilation.clone(),
        before: before.clone(),
        transposed: true,
    };
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        let known = |i: usize| inputs.get(i).copied().flatten().is_none_or(|id| l.constant(id).is_some());
        match &sub_pixels {
            Some(sub_pixels) if known(1) && known(2) => sub_pixels.lower(l, inputs, outputs),
            _ => lower_in_memory(l, in_memory.clone(), inputs, outputs),
        }
    };
    let fact = Fact::new(x.dtype, &shape);
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        let weights = floats(inputs, 1)?.1;
        let (pixels, taps) = (size.iter().product::<usize>(), kernel.iter().product::<usize>());
        let outputs: usize = output.iter().product();
        let c_group = c / groups;
        let mut y = vec![0.0; n * m * outputs];
        for (p, at) in each(&size).enumerate() {
            for (t, tap) in each(&kernel).enumerate() {
                let to: Vec<isize> = (0..rank)
                    .map(|a| (at[a] * stride[a] + tap[a] * dilation[a]) as isize - before[a] as isize)
                    .collect();
                let Some(to) = inside(&to, &output) else { continue };
                for image in 0..n {
                    for channel in 0..c {
                        let value = values[(image * c + channel) * pixels + p];
                        let group = channel / c_group;
                        for k in 0..m_group {
                            y[(image * m + group * m_group + k) * outputs + to] +=
                                value * weights[(channel * m_group + k) * taps + t];
                        }
                    }
                }
            }
        }
        if let Some(bias) = inputs.get(2).copied().flatten() {
            add_bias(&mut y, &to_f64(bias), outputs);
        }
        Ok(vec![tensor_of(&shape, x.dtype(), y)?])
    };
    Ok(HostFunction::with_kernels("ConvTranspose", vec![fact], compute, lower))
}

/// ONNX Col2Im.
///
/// # Errors
/// When shapes are computed at run time or do not fit.
pub fn build_col2im(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let dims = |t: &Tensor| t.to_i64().iter().map(|&d| d.max(0) as usize).collect::<Vec<_>>();
    let size = dims(context.constant(1, "image_shape")?);
    let kernel = dims(context.constant(2, "block_shape")?);
    let rank = size.len();
    let (stride, dilation) = (list(context, "strides", rank, 1)?, list(context, "dilations", rank, 1)?);
    let pads = list(context, "pads", 2 * rank, 0)?;
    let taps: usize = kernel.iter().product();
    let &[n, rows, columns] = &x.shape[..] else {
        return Err(OpError::Invalid(format!("shape {:?} has not three axes", x.shape)));
    };
    let window = WindowNd { kernel, stride, dilation, before: pads[..rank].to_vec(), after: pads[rank..].to_vec() };
    let blocks = window.output(&size, false)?;
    if taps == 0 || rows % taps != 0 || blocks.iter().product::<usize>() != columns {
        return Err(OpError::Invalid(format!("shape {:?} for an image of {size:?}", x.shape)));
    }
    let shape = [&[n, rows / taps], &size[..]].concat();
    check_shape(&shape)?;
    Ok(HostFunction::boxed("Col2Im", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let pixels: usize = size.iter().product();
        let mut y = vec![0.0; shape.iter().product()];
        for plane in 0..n * (rows / taps) {
            for (t, tap) in each(&window.kernel).enumerate() {
                for (b, block) in each(&blocks).enumerate() {
                    if let Some(to) = inside(&window.source(&block, &tap), &size) {
                        y[plane * pixels + to] += values[(plane * taps + t) * columns + b];
                    }
                }
            }
        }
        Ok(vec![tensor_of(&shape, x.dtype(), y)?])
    }))
}

/// ONNX DeformConv, 2-D.
///
/// # Errors
/// When shapes do not fit.
pub fn build_deform_conv(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let conv = ConvNd::read(context, &x.shape, &weights.shape)?;
    let [n, c, m] = conv.counts;
    let offset_groups = usize::try_from(context.attributes.int("offset_group")?.unwrap_or(1)).unwrap_or(0);
    if conv.size.len() != 2 || offset_groups == 0 || c % offset_groups != 0 {
        return context.refuse(format!("input of shape {:?} in {offset_groups} offset groups; only 2-D", x.shape));
    }
    let shape = conv.shape();
    let taps: usize = conv.window.kernel.iter().product();
    let outputs: usize = conv.output.iter().product();
    if context.input(2)?.shape.iter().product::<usize>() != n * offset_groups * taps * 2 * outputs {
        return Err(OpError::Invalid(format!("offsets of shape {:?}", context.input(2)?.shape)));
    }
    Ok(HostFunction::boxed("DeformConv", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let (weights, offsets) = (floats(inputs, 1)?.1, floats(inputs, 2)?.1);
        let mask = inputs.get(4).copied().flatten().map(to_f64);
        let [h, w] = [conv.size[0], conv.size[1]];
        let sample = |plane: usize, y: f64, x: f64| -> f64 {
            let (y0, x0) = (y.floor(), x.floor());
            let pixel = |yy: f64, xx: f64| match yy >= 0.0 && xx >= 0.0 && yy < h as f64 && xx < w as f64 {
                true => values[(plane * h + yy as usize) * w + xx as usize],
                false => 0.0,
            };
            let (fy, fx) = (y - y0, x - x0);
            (pixel(y0, x0) * (1.0 - fx) + pixel(y0, x0 + 1.0) * fx) * (1.0 - fy)
                + (pixel(y0 + 1.0, x0) * (1.0 - fx) + pixel(y0 + 1.0, x0 + 1.0) * fx) * fy
        };
        let (c_group, m_group) = (c / conv.groups, m / conv.groups);
        let mut y = vec![0.0; shape.iter().product()];
        for image in 0..n {
            for (o, at) in each(&conv.output).enumerate() {
                for (t, tap) in each(&conv.window.kernel).enumerate() {
                    let base = conv.window.source(&at, &tap);
                    for channel in 0..c {
                        let group = image * offset_groups + channel / (c / offset_groups);
                        let shift = |k: usize| offsets[((group * taps + t) * 2 + k) * outputs + o];
                        let mut value =
                            sample(image * c + channel, base[0] as f64 + shift(0), base[1] as f64 + shift(1));
                        if let Some(mask) = &mask {
                            value *= mask[(group * taps + t) * outputs + o];
                        }
                        for k in 0..m_group {
                            let filter = channel / c_group * m_group + k;
                            y[(image * m + filter) * outputs + o] +=
                                value * weights[(filter * c_group + channel % c_group) * taps + t];
                        }
                    }
                }
            }
        }
        if let Some(bias) = inputs.get(3).copied().flatten() {
            add_bias(&mut y, &to_f64(bias), outputs);
        }
        Ok(vec![tensor_of(&shape, x.dtype(), y)?])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn one_dimensional_convolution_and_its_transpose() {
        let x = Tensor::from_f32(&[1, 1, 4], vec![1.0, 2.0, 3.0, 4.0]).expect("tensor");
        let w = Tensor::from_f32(&[1, 1, 2], vec![1.0, 10.0]).expect("tensor");
        let facts = [Fact::of(&x), Fact::of(&w)];
        let eval = |name: &str, attributes: &[AttributeProto]| {
            let op = build_for_test(name, 13, attributes, &[&facts[0], &facts[1]]).expect("builds");
            op.eval(&[Some(&x), Some(&w)]).expect("folds").expect("evaluates").remove(0).to_f32()
        };
        assert_eq!(eval("Conv", &[]), [21.0, 32.0, 43.0]);
        assert_eq!(eval("ConvTranspose", &[]), [1.0, 12.0, 23.0, 34.0, 40.0]);
        assert_eq!(eval("ConvTranspose", &[AttributeProto::ints("strides", &[2])])[..4], [1.0, 10.0, 2.0, 20.0]);
    }
}
