//! Sliding windows of any dimensionality, on host tensors and by general kernels: convolutions and pools that are not 2-D or that have no
//! kernel, ConvTranspose, LpPool, MaxPool with indices, MaxUnpool, Col2Im and DeformConv. Sums in f64.

use super::context::{NodeContext, WINDOW_MAX, check_shape, present};
use super::function::{HostFunction, floats, step_with_number, tensor_of, to_f64};
use super::subpixel::SubPixels;
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::conv_nd;
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::kernels::resample::{PLACES_MAX, Resample, Taps};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor};
use std::sync::Arc;

/// A window over any number of spatial axes.
#[derive(Clone, Debug)]
pub struct WindowNd {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub before: Vec<usize>,
    pub after: Vec<usize>,
}

fn list(context: &NodeContext<'_>, name: &str, count: usize, default: usize) -> Result<Vec<usize>, OpError> {
    let Some(given) = context.attributes.ints(name)? else { return Ok(vec![default; count]) };
    let bad = || OpError::Invalid(format!("{name} = {given:?} for {count} numbers"));
    if given.len() != count || given.iter().any(|g| !(default as i64..=WINDOW_MAX).contains(g)) {
        return Err(bad());
    }
    given.iter().map(|&g| usize::try_from(g).map_err(|_| bad())).collect()
}

impl WindowNd {
    /// Reads the attributes for an input whose spatial axes are `size`.
    ///
    /// # Errors
    /// When attributes are missing or contradict each other.
    pub fn read(context: &NodeContext<'_>, size: &[usize], weights: Option<&[usize]>) -> Result<WindowNd, OpError> {
        let n = size.len();
        let kernel = match weights {
            Some(k) => {
                let given = context.attributes.ints("kernel_shape")?.map(<[i64]>::to_vec);
                if given.is_some_and(|g| !g.iter().map(|&v| v as usize).eq(k.iter().copied())) {
                    return Err(OpError::Invalid(format!("kernel_shape differs from weights {k:?}")));
                }
                k.to_vec()
            }
            None => list(context, "kernel_shape", n, 1)?,
        };
        let (stride, dilation) = (list(context, "strides", n, 1)?, list(context, "dilations", n, 1)?);
        let pads = list(context, "pads", 2 * n, 0)?;
        let mut window = WindowNd { kernel, stride, dilation, before: pads[..n].to_vec(), after: pads[n..].to_vec() };
        match context.attributes.string("auto_pad")?.unwrap_or("NOTSET") {
            "NOTSET" | "VALID" => {}
            mode @ ("SAME_UPPER" | "SAME_LOWER") => {
                for (a, &extent) in size.iter().enumerate().take(n) {
                    let outputs = extent.div_ceil(window.stride[a]).max(1);
                    let total = ((outputs - 1) * window.stride[a] + window.reach(a)).saturating_sub(extent);
                    let (small, large) = (total / 2, total - total / 2);
                    (window.before[a], window.after[a]) =
                        if mode == "SAME_UPPER" { (small, large) } else { (large, small) };
                }
            }
            other => return context.refuse(format!("auto_pad = {other} is not known")),
        }
        Ok(window)
    }

    fn reach(&self, a: usize) -> usize {
        (self.kernel[a].max(1) - 1) * self.dilation[a] + 1
    }

    fn output(&self, size: &[usize], ceil: bool) -> Result<Vec<usize>, OpError> {
        (0..size.len())
            .map(|a| {
                let padded = size[a] + self.before[a] + self.after[a];
                let room = padded.checked_sub(self.reach(a)).ok_or_else(|| {
                    OpError::Invalid(format!("a window reaching {} does not fit {padded}", self.reach(a)))
                })?;
                let mut count = if ceil { room.div_ceil(self.stride[a]) } else { room / self.stride[a] } + 1;
                if ceil && (count - 1) * self.stride[a] >= size[a] + self.before[a] {
                    count -= 1;
                }
                Ok(count)
            })
            .collect()
    }

    /// Where tap `tap` of output `at` lies: coordinates in the unpadded input, possibly outside.
    fn source(&self, at: &[usize], tap: &[usize]) -> Vec<isize> {
        (0..at.len())
            .map(|a| (at[a] * self.stride[a] + tap[a] * self.dilation[a]) as isize - self.before[a] as isize)
            .collect()
    }
}

/// All coordinates below a shape, row-major.
fn each(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    let count: usize = shape.iter().product();
    (0..count).map(move |mut flat| {
        let mut at = vec![0; shape.len()];
        for a in (0..shape.len()).rev() {
            at[a] = flat % shape[a];
            flat /= shape[a];
        }
        at
    })
}

fn inside(at: &[isize], size: &[usize]) -> Option<usize> {
    at.iter()
        .zip(size)
        .try_fold(0usize, |flat, (&i, &n)| usize::try_from(i).ok().filter(|&i| i < n).map(|i| flat * n + i))
}

fn spatial(shape: &[usize]) -> Result<(usize, usize, Vec<usize>), OpError> {
    match shape {
        [n, c, rest @ ..] if !rest.is_empty() => Ok((*n, *c, rest.to_vec())),
        _ => Err(OpError::Invalid(format!("shape {shape:?} has no spatial axes"))),
    }
}

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
pub(super) fn lower_in_memory(
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

/// ONNX MaxPool (with Indices), AveragePool and LpPool of any dimensionality.
///
/// # Errors
/// When an attribute has a value outside the standard.
pub fn build_pool(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let (n, c, size) = spatial(&x.shape)?;
    let window = WindowNd::read(context, &size, None)?;
    let ceil = context.attributes.flag("ceil_mode", false)?;
    let output = window.output(&size, ceil)?;
    let (mut include_pad, mut column_major, mut p) = (false, false, 2.0);
    let name = match context.op_type {
        "MaxPool" => {
            column_major = context.attributes.flag("storage_order", false)?;
            "MaxPool"
        }
        "LpPool" => {
            p = context.attributes.int("p")?.unwrap_or(2) as f64;
            "LpPool"
        }
        _ => {
            include_pad = context.attributes.flag("count_include_pad", false)?;
            "AveragePool"
        }
    };
    let shape = [&[n, c], &output[..]].concat();
    let mut outputs = vec![Fact::new(x.dtype, &shape)];
    if name == "MaxPool" && context.output_count > 1 {
        outputs.push(Fact::new(DType::I64, &shape));
    }
    let with_indices = outputs.len() > 1;
    let separable = SeparablePool { name, window: window.clone(), include_pad, p };
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| match with_indices {
        true => Err(OpError::Unsupported("gives indices; computed on the CPU only".into())),
        false => separable.lower(l, inputs, outputs),
    };
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        let pixels: usize = size.iter().product();
        let (mut y, mut indices) = (Vec::with_capacity(shape.iter().product()), Vec::new());
        for plane in 0..n * c {
            for at in each(&output) {
                let (mut best, mut best_at, mut sum, mut count) = (f64::NEG_INFINITY, 0, 0.0, 0usize);
                for tap in each(&window.kernel) {
                    let source = window.source(&at, &tap);
                    // What ceil mode adds behind the padding does not count.
                    let padded = (0..size.len()).all(|a| source[a] < (size[a] + window.after[a]) as isize);
                    count += usize::from(padded && include_pad);
                    let Some(pixel) = inside(&source, &size) else { continue };
                    count += usize::from(!include_pad);
                    let value = values[plane * pixels + pixel];
                    sum += if name == "LpPool" { value.abs().powf(p) } else { value };
                    if value > best || value.is_nan() {
                        best = value;
                        let within = match column_major {
                            false => pixel,
                            true => source.iter().zip(&size).rev().fold(0, |flat, (&i, &n)| flat * n + i as usize),
                        };
                        best_at = plane * pixels + within;
                    }
                }
                y.push(match name {
                    "MaxPool" => best,
                    "LpPool" => sum.powf(1.0 / p),
                    _ => sum / count.max(1) as f64,
                });
                indices.push(best_at as i64);
            }
        }
        let indices = Tensor::from_i64(&shape, indices).map_err(OpError::Invalid)?;
        Ok(vec![tensor_of(&shape, x.dtype(), y)?, indices])
    };
    Ok(HostFunction::with_kernels(name, outputs, compute, lower))
}

/// A pool as one pass along each spatial axis: maxima, sums and counts of windows separate.
struct SeparablePool {
    name: &'static str,
    window: WindowNd,
    include_pad: bool,
    p: f64,
}

impl SeparablePool {
    /// What output `out` sees along axis `a` of `from` elements.
    fn taps(&self, a: usize, from: usize, out: usize) -> Taps {
        let window = &self.window;
        let padded = |tap: usize| out * window.stride[a] + tap * window.dilation[a];
        let seen =
            (0..window.kernel[a]).filter_map(|tap| padded(tap).checked_sub(window.before[a]).filter(|&i| i < from));
        let taps: Vec<usize> = seen.collect();
        let count = match self.include_pad {
            true => (0..window.kernel[a]).filter(|&t| padded(t) < window.before[a] + from + window.after[a]).count(),
            false => taps.len(),
        };
        let weight = if self.name == "AveragePool" { 1.0 / count.max(1) as f32 } else { 1.0 };
        Taps { bias: 0.0, taps: taps.into_iter().map(|i| (i, weight)).collect() }
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let mut source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let power = self.name == "LpPool";
        if source.shape.iter().any(|&n| n >= PLACES_MAX) || (power && self.p < 1.0) {
            return Err(OpError::Unsupported(format!("p = {}; computed on the CPU only", self.p)));
        }
        let function = |function| Elementwise { function, activation: Activation::None };
        if power {
            let terms = l.temporary("terms", &source.shape);
            if self.p == 2.0 {
                l.step(function(Function::Mul), vec![source.clone(), source], vec![terms.clone()]);
            } else {
                l.step(function(Function::Abs), vec![source], vec![terms.clone()]);
            }
            source = terms;
            if self.p != 1.0 && self.p != 2.0 {
                let powers = l.temporary("powers", &source.shape);
                step_with_number(l, (Function::Pow, self.p), Activation::None, source, powers.clone())?;
                source = powers;
            }
        }
        let root = power && self.p != 1.0;
        let axes = self.window.kernel.len();
        for a in 0..axes {
            let (axis, from) = (a + 2, source.shape[a + 2]);
            let mut shape = source.shape.clone();
            shape[axis] = target.shape[axis];
            let table: Vec<Taps> = (0..shape[axis]).map(|out| self.taps(a, from, out)).collect();
            let to = if a + 1 == axes && !root { target.clone() } else { l.temporary("pooled", &shape) };
            let kernel = Resample { axis, table: Arc::new(table), max: self.name == "MaxPool" };
            l.step(kernel, vec![source], vec![to.clone()]);
            source = to;
        }
        match root {
            true if self.p == 2.0 => l.step(function(Function::Sqrt), vec![source], vec![target]),
            true => step_with_number(l, (Function::Pow, 1.0 / self.p), Activation::None, source, target)?,
            false => {}
        }
        Ok(())
    }
}

/// ONNX MaxUnpool.
///
/// # Errors
/// When the output's shape is computed at run time.
pub fn build_max_unpool(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let (n, c, size) = spatial(&x.shape)?;
    let window = WindowNd::read(context, &size, None)?;
    let natural: Vec<usize> = (0..size.len())
        .map(|a| {
            ((size[a] - 1) * window.stride[a] + window.kernel[a]).saturating_sub(window.before[a] + window.after[a])
        })
        .collect();
    let natural = [&[n, c], &natural[..]].concat();
    let shape: Vec<usize> = match context.optional_constant(2, "output_shape")? {
        Some(given) => given.to_i64().iter().map(|&d| d as usize).collect(),
        None => natural.clone(),
    };
    if shape.len() != natural.len() || shape.iter().zip(&natural).any(|(s, n)| s < n) {
        return Err(OpError::Invalid(format!("output_shape = {shape:?}, {natural:?} is needed")));
    }
    check_shape(&shape)?;
    Ok(HostFunction::boxed("MaxUnpool", vec![Fact::new(x.dtype, &shape)], move |inputs| {
        let (x, values) = floats(inputs, 0)?;
        let indices = present(inputs, 1)?.to_i64();
        // Indices count in the natural output; a larger one is filled from its corner.
        let mut y = vec![0.0; shape.iter().product()];
        for (value, index) in values.iter().zip(indices) {
            let mut rest = usize::try_from(index).map_err(|_| OpError::Invalid(format!("index {index}")))?;
            let mut at = vec![0; natural.len()];
            for a in (0..natural.len()).rev() {
                at[a] = rest % natural[a].max(1);
                rest /= natural[a].max(1);
            }
            let to = at.iter().zip(&shape).fold(0, |flat, (&i, &n)| flat * n + i);
            *y.get_mut(to).ok_or_else(|| OpError::Invalid(format!("index {index}")))? = *value;
        }
        Ok(vec![tensor_of(&shape, x.dtype(), y)?])
    }))
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

    #[test]
    fn pools_of_any_dimensionality() {
        let x = Tensor::from_f32(&[1, 1, 5], vec![1.0, 5.0, 3.0, -4.0, 2.0]).expect("tensor");
        let attributes = [AttributeProto::ints("kernel_shape", &[2]), AttributeProto::ints("strides", &[2])];
        let eval = |name: &str| {
            let op = build_for_test(name, 13, &attributes, &[&Fact::of(&x)]).expect("builds");
            op.eval(&[Some(&x)]).expect("folds").expect("evaluates")
        };
        assert_eq!(eval("MaxPool")[0].to_f32(), [5.0, 3.0]);
        assert_eq!(eval("MaxPool")[1].to_i64(), [1, 2]);
        assert_eq!(eval("AveragePool")[0].to_f32(), [3.0, -0.5]);
        assert_eq!(eval("LpPool")[0].to_f32()[1], 5.0);
    }
}
