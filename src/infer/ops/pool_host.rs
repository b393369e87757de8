//! Pools that are not 2-D in f32 or give indices, LpPool and MaxUnpool: on host tensors, with sums in f64, and by general
//! kernels.

use super::context::{NodeContext, check_shape, present};
use super::function::{HostFunction, floats, step_with_number, tensor_of};
use super::window_nd::{WindowNd, each, inside, spatial};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::kernels::resample::{PLACES_MAX, Resample, Taps};
use crate::infer::kernels::window_max::{Found, WindowMax};
use crate::infer::op::{HELD_MAX, Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor};
use std::sync::Arc;

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
    let found = [Found::Value, Found::Index { column_major }];
    let maxima = found.map(|found| WindowMax {
        found,
        kernel: window.kernel.clone(),
        stride: window.stride.clone(),
        dilation: window.dilation.clone(),
        before: window.before.clone(),
    });
    let lower = move |l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]| {
        if !with_indices {
            return separable.lower(l, inputs, outputs);
        }
        let source = l.read(present(inputs, 0)?)?;
        for (kernel, &output) in maxima.iter().zip(outputs) {
            let target = l.write(output);
            l.step(kernel.clone(), vec![source.clone()], vec![target]);
        }
        Ok(())
    };
    // f32 memory holds the indices if none can be too large, and a window of padding has none.
    let sees = |a: usize| (0..output[a]).all(|out| !window.taps(a, size[a], out).is_empty());
    let holds = x.shape.iter().product::<usize>() <= HELD_MAX && (0..size.len()).all(sees);
    let compute = move |inputs: &[Option<&Tensor>]| {
        let (x, values) = floats(inputs, 0)?;
        let pixels: usize = size.iter().product();
        let (mut y, mut indices) = (Vec::with_capacity(shape.iter().product()), Vec::new());
        for plane in 0..n * c {
            for at in each(&output) {
                let (mut best, mut best_at, mut seen) = (f64::NEG_INFINITY, 0, false);
                let (mut sum, mut count) = (0.0, 0usize);
                for tap in each(&window.kernel) {
                    let source = window.source(&at, &tap);
                    // What ceil mode adds behind the padding does not count.
                    let padded = (0..size.len()).all(|a| source[a] < (size[a] + window.after[a]) as isize);
                    count += usize::from(padded && include_pad);
                    let Some(pixel) = inside(&source, &size) else { continue };
                    count += usize::from(!include_pad);
                    let value = values[plane * pixels + pixel];
                    sum += if name == "LpPool" { value.abs().powf(p) } else { value };
                    if !seen || value > best || (value.is_nan() && !best.is_nan()) {
                        (best, seen) = (value, true);
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
    Ok(match with_indices {
        false => HostFunction::with_kernels(name, outputs, compute, lower),
        true if holds => HostFunction::with_holding_kernels(name, outputs, compute, lower),
        true => HostFunction::boxed(name, outputs, compute),
    })
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
        let taps = window.taps(a, from, out);
        let padded = |tap: usize| out * window.stride[a] + tap * window.dilation[a];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::attributes::Attributes;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn memory_holds_the_indices_of_small_inputs() {
        let attributes = [AttributeProto::ints("kernel_shape", &[2, 2])];
        let holds = |shape: &[usize], output_count: usize, pads: &[i64]| {
            let x = Fact::f32(shape);
            let attributes = [&attributes[..], &[AttributeProto::ints("pads", pads)]].concat();
            let attributes = Attributes::new(&attributes);
            let mut context = NodeContext::new("MaxPool", 12, attributes, vec![Some(&x)], output_count);
            let op = build_pool(&mut context).expect("builds");
            let outputs = op.infer(&[Some(&x)]).expect("infers");
            assert_eq!(outputs.len(), output_count);
            op.holds(&[Some(&x)], &outputs.iter().collect::<Vec<_>>())
        };
        assert!(holds(&[1, 2, 32, 32], 2, &[0; 4]));
        assert!(!holds(&[1, 2, 32, 33], 2, &[0; 4]), "an index may be 2111");
        assert!(!holds(&[1, 2, 32, 32], 1, &[0; 4]), "no integers");
        assert!(!holds(&[1, 2, 32, 32], 2, &[2, 0, 0, 0]), "the first windows see padding only");
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
