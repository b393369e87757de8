//! Linear quantisation: x ≈ (q − zero_point)·scale. QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger,
//! ConvInteger, QLinearMatMul and QLinearConv. On host tensors; sums are exact.

use super::context::{NodeContext, present, resolve_axis};
use super::conv::Conv;
use super::conv_host::ConvNd;
use super::function::{HostFunction, floats, tensor_of, to_f64};
use super::gemm::MatMul;
use super::window;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor, TensorElements};

/// Least and largest value of a quantised type.
fn range(dtype: DType) -> Result<(f64, f64), OpError> {
    match dtype {
        DType::U8 => Ok((0.0, 255.0)),
        DType::I8 => Ok((-128.0, 127.0)),
        DType::I32 => Ok((f64::from(i32::MIN), f64::from(i32::MAX))),
        other => Err(OpError::Unsupported(format!("quantised values of type {other}; u8, i8 and i32 are supported"))),
    }
}

/// Which parameter belongs to an element of x: one for all, one per index of an axis, or one per block along it.
struct Parameters {
    /// So many elements side by side have the same one; at least 1.
    run: usize,
    /// By the number of the first of them.
    of: Box<dyn Fn(usize) -> usize + Send + Sync>,
}

impl Parameters {
    fn new(x: &[usize], scale: &[usize], axis: i64, block: usize) -> Result<Parameters, OpError> {
        let count: usize = scale.iter().product();
        if count == 1 && block == 0 {
            return Ok(Parameters { run: x.iter().product::<usize>().max(1), of: Box::new(|_| 0) });
        }
        let axis = resolve_axis(axis, x.len())?;
        let bad = || OpError::Invalid(format!("scale of shape {scale:?} for shape {x:?} along axis {axis}"));
        let (extent, inner) = (x[axis], x[axis + 1..].iter().product::<usize>());
        if block == 0 {
            let of = move |i| i / inner % extent;
            return if scale == [extent] { Ok(Parameters { run: inner.max(1), of: Box::new(of) }) } else { Err(bad()) };
        }
        let blocks = extent.div_ceil(block);
        let mut expected = x.to_vec();
        expected[axis] = blocks;
        if scale != expected {
            return Err(bad());
        }
        let of = move |i| {
            let (outer, at, rest) = (i / inner / extent, i / inner % extent, i % inner);
            (outer * blocks + at / block) * inner + rest
        };
        Ok(Parameters { run: 1, of: Box::new(of) })
    }

    /// The elements in runs, and the place of each run's parameter.
    fn runs<'a, T>(&'a self, elements: &'a [T]) -> impl Iterator<Item = (usize, &'a [T])> {
        elements.chunks(self.run).enumerate().map(|(i, run)| ((self.of)(i * self.run), run))
    }
}

fn axis_and_block(context: &NodeContext<'_>) -> Result<(i64, usize), OpError> {
    let block = context.attributes.int("block_size")?.unwrap_or(0);
    let block = usize::try_from(block).map_err(|_| OpError::Invalid(format!("block_size = {block}")))?;
    Ok((context.attributes.int("axis")?.unwrap_or(1), block))
}

fn output_type(context: &NodeContext<'_>) -> Result<Option<DType>, OpError> {
    match context.attributes.int("output_dtype")?.unwrap_or(0) {
        0 => Ok(None),
        onnx => crate::infer::import::onnx::tensors::dtype_of(i32::try_from(onnx).unwrap_or(0))
            .map(Some)
            .ok_or_else(|| OpError::Unsupported(format!("output_dtype = {onnx} is not known"))),
    }
}

/// ONNX QuantizeLinear.
///
/// # Errors
/// For types other than u8, i8 and i32.
pub fn build_quantize(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, scale) = (context.input(0)?, context.input(1)?);
    let (axis, block) = axis_and_block(context)?;
    // Rounding of float 8, which is not a type that is known; and the precision of the division, which is f32 here.
    context.attributes.without_effect(&["saturate", "precision"]);
    let dtype = match context.optional(2) {
        Some(zero) => zero.dtype,
        None => output_type(context)?.unwrap_or(DType::U8),
    };
    output_type(context)?;
    quantise(&x.shape, &scale.shape, axis, block, dtype)
}

/// QuantizeLinear to a type, of shapes of x and the scale.
fn quantise(x: &[usize], scale: &[usize], axis: i64, block: usize, dtype: DType) -> Result<Box<dyn Op>, OpError> {
    let (least, largest) = range(dtype)?;
    let parameters = Parameters::new(x, scale, axis, block)?;
    Ok(HostFunction::boxed("QuantizeLinear", vec![Fact::new(dtype, x)], move |inputs| {
        let (x, scale) = (present(inputs, 0)?, present(inputs, 1)?.to_f32());
        let zero = inputs.get(2).copied().flatten().map(to_f64);
        let mut values = Vec::with_capacity(x.len());
        for (p, run) in parameters.runs(&x.to_f32()) {
            let (scale, zero) = (scale[p], zero.as_ref().map_or(0.0, |z| z[p.min(z.len() - 1)]));
            values.extend(run.iter().map(|x| (f64::from((x / scale).round_ties_even()) + zero).clamp(least, largest)));
        }
        Ok(vec![tensor_of(x.shape(), dtype, values)?])
    }))
}

/// ONNX DequantizeLinear.
///
/// # Errors
/// When the scale does not fit.
pub fn build_dequantize(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, scale) = (context.input(0)?, context.input(1)?);
    let (axis, block) = axis_and_block(context)?;
    let dtype = output_type(context)?.unwrap_or(scale.dtype);
    dequantise(x, &scale.shape, axis, block, dtype)
}

/// DequantizeLinear to a type, with a scale of some shape.
fn dequantise(x: &Fact, scale: &[usize], axis: i64, block: usize, dtype: DType) -> Result<Box<dyn Op>, OpError> {
    range(x.dtype)?;
    let parameters = Parameters::new(&x.shape, scale, axis, block)?;
    Ok(HostFunction::boxed("DequantizeLinear", vec![Fact::new(dtype, &x.shape)], move |inputs| {
        let x = present(inputs, 0)?;
        let scale = floats(inputs, 1)?.1;
        let zero = inputs.get(2).copied().flatten().map(to_f64);
        let y = match x.elements() {
            TensorElements::U8(q) => numbers_of(&parameters, q, &scale, zero.as_deref(), dtype, x.shape()),
            TensorElements::I8(q) => numbers_of(&parameters, q, &scale, zero.as_deref(), dtype, x.shape()),
            _ => numbers_of(&parameters, &to_f64(x), &scale, zero.as_deref(), dtype, x.shape()),
        };
        Ok(vec![y?])
    }))
}

/// (q − zero)·scale; computed in f64, straight to f32 where that is wanted, as weights are most of a file.
fn numbers_of<T: Copy + Into<f64>>(
    parameters: &Parameters,
    q: &[T],
    scale: &[f64],
    zero: Option<&[f64]>,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, OpError> {
    fn all<T: Copy + Into<f64>, Y>(
        parameters: &Parameters,
        q: &[T],
        scale: &[f64],
        zero: Option<&[f64]>,
        to: impl Fn(f64) -> Y,
    ) -> Vec<Y> {
        let mut numbers = Vec::with_capacity(q.len());
        for (p, run) in parameters.runs(q) {
            let (scale, zero) = (scale[p], zero.map_or(0.0, |z| z[p.min(z.len() - 1)]));
            numbers.extend(run.iter().map(|&q| to((q.into() - zero) * scale)));
        }
        numbers
    }
    match dtype {
        DType::F32 => Tensor::from_f32(shape, all(parameters, q, scale, zero, |x| x as f32)).map_err(OpError::Invalid),
        _ => tensor_of(shape, dtype, all(parameters, q, scale, zero, |x| x)),
    }
}

/// ONNX DynamicQuantizeLinear: outputs y (u8), scale, zero point.
///
/// # Errors
/// When the input is missing.
pub fn build_dynamic(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let outputs = vec![Fact::new(DType::U8, &x.shape), Fact::f32(&[]), Fact::new(DType::U8, &[])];
    Ok(HostFunction::boxed("DynamicQuantizeLinear", outputs, |inputs| {
        let x = present(inputs, 0)?;
        let values = x.to_f32();
        let largest = values.iter().copied().fold(0f32, f32::max);
        let least = values.iter().copied().fold(0f32, f32::min);
        let scale = (largest - least) / 255.0;
        let zero = if scale == 0.0 { 0.0 } else { (-least / scale).round_ties_even().clamp(0.0, 255.0) };
        let one = |&x: &f32| match scale == 0.0 {
            true => 0.0,
            false => f64::from(((x / scale).round_ties_even() + zero).clamp(0.0, 255.0)),
        };
        Ok(vec![
            tensor_of(x.shape(), DType::U8, values.iter().map(one).collect())?,
            Tensor::scalar_f32(scale),
            tensor_of(&[], DType::U8, vec![f64::from(zero)])?,
        ])
    }))
}

/// Values less their zero point: one, or one per index of an axis.
fn centred(tensor: &Tensor, zero: Option<&Tensor>, axis: usize) -> Result<Vec<f64>, OpError> {
    let values = to_f64(tensor);
    let Some(zero) = zero else { return Ok(values) };
    let zeros = to_f64(zero);
    // A zero point per matrix of a stack has the rank of the stack.
    if let Ok(parameters) = Parameters::new(tensor.shape(), zero.shape(), axis as i64, 0) {
        let run = |(p, run): (usize, &[f64])| run.iter().map(|v| v - zeros[p]).collect::<Vec<_>>();
        return Ok(parameters.runs(&values).flat_map(run).collect());
    }
    let view = super::context::stretched(&super::dense::view_of(zero), tensor.shape())?;
    Ok(values.iter().zip(super::dense::walk(&view)).map(|(v, i)| v - zeros[i]).collect())
}

/// A product of stacks of matrices.
fn multiply(a: &[f64], a_shape: &[usize], b: &[f64], b_shape: &[usize]) -> Result<(Vec<f64>, Vec<usize>), OpError> {
    let bad = || OpError::Invalid(format!("shapes {a_shape:?} and {b_shape:?} do not multiply"));
    let (left, right) = match (a_shape, b_shape) {
        ([.., _, _], [.., _, _]) => (a_shape.to_vec(), b_shape.to_vec()),
        ([k], [.., _, _]) => (vec![1, *k], b_shape.to_vec()),
        ([.., _, _], [k]) => (a_shape.to_vec(), vec![*k, 1]),
        _ => return Err(bad()),
    };
    let (m, k) = (left[left.len() - 2], left[left.len() - 1]);
    let (k_b, n) = (right[right.len() - 2], right[right.len() - 1]);
    if k != k_b {
        return Err(bad());
    }
    let lead = super::context::broadcast_shapes(&left[..left.len() - 2], &right[..right.len() - 2])?;
    let stack = |shape: &[usize]| -> Result<Vec<usize>, OpError> {
        let view = crate::infer::plan::view::View::row_major(crate::infer::plan::view::BufferId(0), shape);
        let stretched = super::context::stretched(&view, &lead)?;
        Ok(super::dense::walk(&stretched).collect())
    };
    let (a_at, b_at) = (stack(&left[..left.len() - 2])?, stack(&right[..right.len() - 2])?);
    let mut y = Vec::with_capacity(a_at.len() * m * n);
    for (&ia, &ib) in a_at.iter().zip(&b_at) {
        for row in 0..m {
            for column in 0..n {
                y.push((0..k).map(|i| a[(ia * m + row) * k + i] * b[(ib * k + i) * n + column]).sum());
            }
        }
    }
    let mut shape = lead;
    if a_shape.len() > 1 {
        shape.push(m);
    }
    if b_shape.len() > 1 {
        shape.push(n);
    }
    Ok((y, shape))
}

fn product_shape(a: &Fact, b: &Fact) -> Result<Vec<usize>, OpError> {
    let count = |f: &Fact| f.shape.iter().product::<usize>();
    Ok(multiply(&vec![0.0; count(a)], &a.shape, &vec![0.0; count(b)], &b.shape)?.1)
}

/// ONNX MatMulInteger.
///
/// # Errors
/// When shapes do not fit.
pub fn build_matmul_integer(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = product_shape(context.input(0)?, context.input(1)?)?;
    Ok(HostFunction::boxed("MatMulInteger", vec![Fact::new(DType::I32, &shape)], |inputs| {
        let (a, b) = (present(inputs, 0)?, present(inputs, 1)?);
        let zero = |i: usize| inputs.get(i).copied().flatten();
        let left = centred(a, zero(2), a.rank().saturating_sub(2))?;
        let right = centred(b, zero(3), b.rank().saturating_sub(1))?;
        let (y, shape) = multiply(&left, a.shape(), &right, b.shape())?;
        Ok(vec![tensor_of(&shape, DType::I32, y)?])
    }))
}

/// ONNX QLinearMatMul: inputs a, its scale and zero point, b, its, and those of y.
///
/// # Errors
/// When shapes do not fit.
pub fn build_qlinear_matmul(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = product_shape(context.input(0)?, context.input(3)?)?;
    let dtype = context.input(7)?.dtype;
    let (least, largest) = range(dtype)?;
    let op = HostFunction::boxed("QLinearMatMul", vec![Fact::new(dtype, &shape)], move |inputs| {
        let (a, b) = (present(inputs, 0)?, present(inputs, 3)?);
        let (a_scale, b_scale) = (present(inputs, 1)?, present(inputs, 4)?);
        let (scale, zero) = (floats(inputs, 6)?.1, floats(inputs, 7)?.1);
        let ([a_scale], [b_scale], [scale], [zero]) =
            (&to_f64(a_scale)[..], &to_f64(b_scale)[..], &scale[..], &zero[..])
        else {
            return Err(OpError::Unsupported("scales per row or column; only one per tensor is supported".into()));
        };
        let left = centred(a, Some(present(inputs, 2)?), a.rank().saturating_sub(2))?;
        let right = centred(b, Some(present(inputs, 5)?), b.rank().saturating_sub(1))?;
        let (y, shape) = multiply(&left, a.shape(), &right, b.shape())?;
        let factor = a_scale * b_scale / scale;
        let y = y.into_iter().map(|v| ((v * factor).round_ties_even() + zero).clamp(least, largest)).collect();
        Ok(vec![tensor_of(&shape, dtype, y)?])
    });
    Ok(Box::new(QLinear { op, on_numbers: Some(Box::new(MatMul)), filter_axis: 1 }))
}

/// ONNX ConvInteger.
///
/// # Errors
/// When shapes do not fit.
pub fn build_conv_integer(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let conv = ConvNd::read(context, &context.input(0)?.shape, &context.input(1)?.shape)?;
    let shape = conv.shape();
    Ok(HostFunction::boxed("ConvInteger", vec![Fact::new(DType::I32, &shape)], move |inputs| {
        let zero = |i: usize| inputs.get(i).copied().flatten();
        let x = centred(present(inputs, 0)?, zero(2), 1)?;
        let weights = centred(present(inputs, 1)?, zero(3), 0)?;
        Ok(vec![tensor_of(&shape, DType::I32, conv.run(&x, &weights))?])
    }))
}

/// ONNX QLinearConv: inputs x, its scale and zero point, weights, theirs, those of y, and an i32 bias.
///
/// # Errors
/// When shapes do not fit.
pub fn build_qlinear_conv(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let conv = ConvNd::read(context, &context.input(0)?.shape, &context.input(3)?.shape)?;
    let shape = conv.shape();
    let dtype = context.input(7)?.dtype;
    let (least, largest) = range(dtype)?;
    let on_numbers: Option<Box<dyn Op>> = match (&context.input(0)?.shape[..], &context.input(3)?.shape[..]) {
        (&[_, _, h, w], &[_, _, kh, kw]) => {
            Some(Box::new(Conv::new(window::read(context, [h, w], Some([kh, kw]))?, conv.groups)))
        }
        _ => None,
    };
    let op = HostFunction::boxed("QLinearConv", vec![Fact::new(dtype, &shape)], move |inputs| {
        let x = centred(present(inputs, 0)?, Some(present(inputs, 2)?), 1)?;
        let weights = centred(present(inputs, 3)?, Some(present(inputs, 5)?), 0)?;
        let bias = inputs.get(8).copied().flatten().map(to_f64);
        let (x_scale, w_scale) = (floats(inputs, 1)?.1, floats(inputs, 4)?.1);
        let (y_scale, y_zero) = (floats(inputs, 6)?.1, floats(inputs, 7)?.1);
        let (&[x_scale], &[y_scale], &[y_zero]) = (&x_scale[..], &y_scale[..], &y_zero[..]) else {
            return Err(OpError::Invalid("scales of x and y must be one number".into()));
        };
        let filters = conv.counts[2];
        if w_scale.len() != 1 && w_scale.len() != filters {
            return Err(OpError::Invalid(format!("{} scales for {filters} filters", w_scale.len())));
        }
        let pixels = conv.output.iter().product::<usize>().max(1);
        let y = conv.run(&x, &weights).into_iter().enumerate().map(|(i, sum)| {
            let filter = i / pixels % filters;
            let sum = sum + bias.as_ref().map_or(0.0, |b| b[filter.min(b.len() - 1)]);
            let factor = x_scale * w_scale[filter.min(w_scale.len() - 1)] / y_scale;
            ((sum * factor).round_ties_even() + y_zero).clamp(least, largest)
        });
        Ok(vec![tensor_of(&shape, dtype, y.collect())?])
    });
    Ok(Box::new(QLinear { op, on_numbers, filter_axis: 0 }))
}

/// QLinearConv or QLinearMatMul, which are another operator on numbers between DequantizeLinear and QuantizeLinear.
#[derive(Clone, Debug)]
pub struct QLinear {
    /// On host tensors.
    op: Box<dyn Op>,
    /// Of the two operands, and a bias where there is one.
    on_numbers: Option<Box<dyn Op>>,
    /// Axis of the second operand along which it may have scales.
    filter_axis: usize,
}

/// What a [`QLinear`] comes to: constants, or nodes in the order in which they run.
#[derive(Debug)]
pub struct Meaning {
    /// DequantizeLinear of operand 0 or 1, with the inputs that it takes of the node's.
    pub operands: [(Box<dyn Op>, [usize; 3]); 2],
    pub on_numbers: Box<dyn Op>,
    /// The bias in numbers.
    pub bias: Option<Tensor>,
    /// QuantizeLinear, with the inputs after the first that it takes of the node's.
    pub quantise: (Box<dyn Op>, [usize; 2]),
}

impl QLinear {
    /// The parts, where scales and zero points, the second operand and the bias are constants, and there is one scale of
    /// the first operand and of the result.
    pub fn meaning(&self, inputs: &[Option<&Fact>], output: &Fact) -> Option<Meaning> {
        let fact = |i: usize| inputs.get(i).copied().flatten();
        let constant = |i: usize| fact(i)?.constant.as_ref();
        let one = |i: usize| constant(i).filter(|tensor| tensor.len() == 1).map(|tensor| to_f64(tensor)[0]);
        let x = fact(0).filter(|x| !x.late && !x.shape.contains(&0) && !x.shape.is_empty())?;
        let weights = fact(3).filter(|w| w.constant.is_some() && w.shape.len() > self.filter_axis)?;
        let x_scale = one(1).filter(|_| one(2).is_some() && one(6).is_some() && one(7).is_some())?;
        let (scales, zeros) = (constant(4)?, constant(5)?);
        let filters = weights.shape[self.filter_axis];
        // Scales along any other axis are not those of filters.
        let matrix = self.filter_axis == 0 || weights.shape.len() == 2;
        let fits = |t: &Tensor| t.len() == 1 || (matrix && t.shape() == [filters]);
        if !fits(scales) || !fits(zeros) || (zeros.len() != scales.len() && zeros.len() != 1) {
            return None;
        }
        let bias = match fact(8) {
            None => None,
            Some(_) => {
                let scales = to_f64(scales);
                let bias = to_f64(constant(8).filter(|b| b.len() == filters)?).into_iter().enumerate();
                let bias = bias.map(|(i, b)| (b * x_scale * scales[i.min(scales.len() - 1)]) as f32).collect();
                Some(Tensor::from_f32(&[filters], bias).ok()?)
            }
        };
        let on_numbers = self.on_numbers.clone()?;
        let operands = [Some(Fact::f32(&x.shape)), Some(Fact::f32(&weights.shape)), bias.as_ref().map(Fact::of)];
        let inferred = on_numbers.infer(&operands.each_ref().map(Option::as_ref)).ok()?;
        if inferred.first().is_none_or(|fact| fact.shape != output.shape) {
            return None;
        }
        let part =
            |x: &Fact, scale: usize, axis: usize| dequantise(x, &fact(scale)?.shape, axis as i64, 0, DType::F32).ok();
        Some(Meaning {
            operands: [(part(x, 1, 0)?, [0, 1, 2]), (part(weights, 4, self.filter_axis)?, [3, 4, 5])],
            on_numbers,
            bias,
            quantise: (quantise(&output.shape, &fact(6)?.shape, 0, 0, output.dtype).ok()?, [6, 7]),
        })
    }
}

impl Op for QLinear {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        self.op.infer(inputs)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        self.op.eval(inputs)
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        self.op.lower(l, inputs, outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn rounds_to_even_and_back() {
        let x = Tensor::from_f32(&[4], vec![0.5, 1.5, -1.0, 1000.0]).expect("tensor");
        let (scale, zero) = (Tensor::scalar_f32(1.0), tensor_of(&[], DType::U8, vec![2.0]).expect("tensor"));
        let facts = [Fact::of(&x), Fact::of(&scale), Fact::of(&zero)];
        let op = build_for_test("QuantizeLinear", 13, &[], &facts.iter().collect::<Vec<_>>()).expect("builds");
        let q = op.eval(&[Some(&x), Some(&scale), Some(&zero)]).expect("folds").expect("evaluates").remove(0);
        assert_eq!((q.dtype(), q.to_i64()), (DType::U8, vec![2, 4, 1, 255]));
        let facts = [Fact::of(&q), Fact::of(&scale), Fact::of(&zero)];
        let op = build_for_test("DequantizeLinear", 13, &[], &facts.iter().collect::<Vec<_>>()).expect("builds");
        let y = op.eval(&[Some(&q), Some(&scale), Some(&zero)]).expect("folds").expect("evaluates").remove(0);
        assert_eq!(y.to_f32(), [0.0, 2.0, -1.0, 253.0]);
    }

    #[test]
    fn integer_products_are_exact() {
        let a = tensor_of(&[1, 2], DType::U8, vec![255.0, 3.0]).expect("tensor");
        let b = tensor_of(&[2, 1], DType::U8, vec![255.0, 7.0]).expect("tensor");
        let op = build_for_test("MatMulInteger", 13, &[], &[&Fact::of(&a), &Fact::of(&b)]).expect("builds");
        let y = op.eval(&[Some(&a), Some(&b)]).expect("folds").expect("evaluates").remove(0);
        assert_eq!(y.to_i64(), [65046]);
    }
}
