//! Matrix products. With constant weights they are 1×1 convolutions over rows seen as pixels, which have the fast path;
//! otherwise the general kernel multiplies two run-time values.

use super::context::{NodeContext, broadcast_shapes, input, present, reshaped_or_copied, stretched};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernel::Kernel;
use crate::infer::kernels;
use crate::infer::kernels::conv::{Residual, Window};
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::{DType, Tensor};
use std::sync::Arc;

/// ONNX MatMul with numpy's rules: leading axes broadcast, rank-1 operands are a row (left) or a column (right).
#[derive(Clone, Debug)]
pub struct MatMul;

/// ONNX Gemm: y = alpha·op(a)·op(b) + beta·c, where op transposes on demand. Inputs a, b of rank 2, c (optional)
/// broadcast to y.
#[derive(Clone, Debug)]
pub struct Gemm {
    pub alpha: f32,
    pub beta: f32,
    pub transpose_a: bool,
    pub transpose_b: bool,
}

/// ONNX MatMul.
///
/// # Errors
/// When an input is missing.
pub fn build_matmul(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    context.input(0)?;
    context.input(1)?;
    Ok(Box::new(MatMul))
}

/// ONNX Gemm, opset 7 and later.
///
/// # Errors
/// When an input is missing.
pub fn build_gemm(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    context.input(0)?;
    context.input(1)?;
    let attributes = &context.attributes;
    Ok(Box::new(Gemm {
        alpha: attributes.float("alpha")?.unwrap_or(1.0),
        beta: attributes.float("beta")?.unwrap_or(1.0),
        transpose_a: attributes.flag("transA", false)?,
        transpose_b: attributes.flag("transB", false)?,
    }))
}

fn check_f32(fact: &Fact) -> Result<(), OpError> {
    match fact.dtype {
        DType::F32 => Ok(()),
        other => Err(OpError::Unsupported(format!("multiplies {other} matrices; only f32 is supported"))),
    }
}

/// Rank-1 operands as matrices: the shapes of a and b, and which axes of the result must go again.
fn as_matrices(a: &[usize], b: &[usize]) -> Result<(Vec<usize>, Vec<usize>), OpError> {
    if a.is_empty() || b.is_empty() {
        return Err(OpError::Invalid("a scalar is not a matrix".into()));
    }
    let a = if a.len() == 1 { vec![1, a[0]] } else { a.to_vec() };
    let b = if b.len() == 1 { vec![b[0], 1] } else { b.to_vec() };
    if a[a.len() - 1] != b[b.len() - 2] {
        return Err(OpError::Invalid(format!("shapes {a:?} and {b:?} do not multiply")));
    }
    Ok((a, b))
}

/// The product's shape with both operands as matrices.
fn product_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, OpError> {
    let mut shape = broadcast_shapes(&a[..a.len() - 2], &b[..b.len() - 2])?;
    shape.extend([a[a.len() - 2], b[b.len() - 1]]);
    Ok(shape)
}

/// A matrix `[rows, channels]` as a feature map `[1, channels, 1, rows]`.
fn as_pixels(matrix: &View) -> View {
    let [rows, channels] = [matrix.shape[0], matrix.shape[1]];
    let across = matrix.strides[0].max(1);
    View {
        buffer: matrix.buffer,
        offset: matrix.offset,
        shape: vec![1, channels, 1, rows],
        strides: vec![rows * across, matrix.strides[1], rows * across, matrix.strides[0]],
    }
}

/// The window of a convolution that is a matrix product.
pub const POINT: Window = Window { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };

/// Appends a 1×1 convolution from a matrix `[M, K]` to one `[M, N]`.
pub(super) fn over_rows(l: &mut Lowering<'_>, kernel: impl Kernel + 'static, a: &View, dst: &View) {
    let mut source = as_pixels(a);
    if !l.fits(&source) {
        let own = l.temporary_like("rows", &source.shape, &source);
        l.copy(&source, &own);
        source = own;
    }
    let target = as_pixels(dst);
    let written = if l.fits(&target) { target.clone() } else { l.temporary_like("product", &target.shape, &target) };
    l.step(kernel, vec![source], vec![written.clone()]);
    if written != target {
        l.copy(&written, &target);
    }
}

/// dst = a·weightsᵀ + bias as a 1×1 convolution. a `[M, K]`, weights `[N][K]`, dst `[M, N]`.
fn linear(l: &mut Lowering<'_>, a: &View, weights: Arc<Vec<f32>>, bias: Vec<f32>, dst: &View) {
    let kernel = kernels::conv::Conv {
        window: POINT,
        weights,
        bias: Arc::new(bias),
        activation: Activation::None,
        residual: Residual::None,
    };
    over_rows(l, kernel, a, dst);
}

/// `[K][N]` to `[N][K]`, times `factor`.
fn transposed(values: &[f32], k: usize, n: usize, factor: f32) -> Vec<f32> {
    (0..n).flat_map(|j| (0..k).map(move |i| factor * values[i * n + j])).collect()
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let (a, b) = (input(inputs, 0)?, input(inputs, 1)?);
        check_f32(a)?;
        check_f32(b)?;
        let (left, right) = as_matrices(&a.shape, &b.shape)?;
        let mut shape = product_shape(&left, &right)?;
        if b.shape.len() == 1 {
            shape.pop();
        }
        if a.shape.len() == 1 {
            shape.remove(shape.len() - if b.shape.len() == 1 { 1 } else { 2 });
        }
        Ok(vec![Fact::f32(&shape)])
    }

    fn macs(&self, inputs: &[Option<&Fact>], outputs: &[&Fact]) -> u64 {
        let (Ok(a), Some(output)) = (input(inputs, 0), outputs.first()) else { return 0 };
        output.shape.iter().product::<usize>() as u64 * a.shape.last().copied().unwrap_or(0) as u64
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let (a_id, b_id) = (present(inputs, 0)?, present(inputs, 1)?);
        let (a_shape, b_shape) = as_matrices(l.shape(a_id), l.shape(b_id))?;
        let shape = product_shape(&a_shape, &b_shape)?;
        let a = reshaped_or_copied_id(l, a_id, &a_shape)?;
        let output = l.write(present(&[outputs.first().copied()], 0)?);
        let strange = || OpError::Unsupported(format!("a product of shape {shape:?} into strided memory"));
        let dst = output.reshaped(&shape).ok_or_else(strange)?;
        let (k, n) = (b_shape[b_shape.len() - 2], b_shape[b_shape.len() - 1]);
        if l.constant(b_id).is_some_and(|w| w.len() == k * n) {
            let weights = Arc::new(transposed(&l.shared_constant_f32(b_id, "weights")?, k, n, 1.0));
            let rows = shape[..shape.len() - 1].iter().product();
            let a = reshaped_or_copied(l, &a, &[rows, k])?;
            match dst.reshaped(&[rows, n]) {
                Some(matrix) => linear(l, &a, weights, vec![0.0; n], &matrix),
                None => {
                    let own = l.temporary("product", &[rows, n]);
                    linear(l, &a, weights, vec![0.0; n], &own);
                    let seen = own.reshaped(&shape).ok_or_else(strange)?;
                    l.copy(&seen, &dst);
                }
            }
            return Ok(());
        }
        let b = reshaped_or_copied_id(l, b_id, &b_shape)?;
        let lead = &shape[..shape.len() - 2];
        let whole = |view: &View| {
            let mut wanted = lead.to_vec();
            wanted.extend_from_slice(&view.shape[view.rank() - 2..]);
            // Broadcasting must not touch the matrices themselves: their extents are as wanted.
            stretched_lead(view, &wanted)
        };
        let reads = vec![whole(&a)?, whole(&b)?];
        l.step(kernels::matmul::MatMul, reads, vec![dst]);
        Ok(())
    }
}

/// A view broadcast along its leading axes only.
fn stretched_lead(view: &View, shape: &[usize]) -> Result<View, OpError> {
    let mut out = stretched(view, shape)?;
    let rank = out.rank();
    // A matrix axis of extent 1 got stride 0, which is as good as any.
    for axis in 1..=2 {
        out.strides[rank - axis] = view.strides[view.rank() - axis];
    }
    Ok(out)
}

fn reshaped_or_copied_id(l: &mut Lowering<'_>, id: ValueId, shape: &[usize]) -> Result<View, OpError> {
    let view = l.read(id)?;
    reshaped_or_copied(l, &view, shape)
}

impl Gemm {
    /// M, K and N.
    ///
    /// # Errors
    /// When the shapes do not multiply.
    pub fn sizes(&self, a: &[usize], b: &[usize]) -> Result<[usize; 3], OpError> {
        let (&[a0, a1], &[b0, b1]) = (a, b) else {
            return Err(OpError::Invalid(format!("multiplies shapes {a:?} and {b:?}; both must have rank 2")));
        };
        let (m, k) = if self.transpose_a { (a1, a0) } else { (a0, a1) };
        let (k_b, n) = if self.transpose_b { (b1, b0) } else { (b0, b1) };
        if k != k_b {
            return Err(OpError::Invalid(format!("shapes {a:?} and {b:?} do not multiply")));
        }
        Ok([m, k, n])
    }

    /// beta·c as one value per column, where c is constant and the same in every row.
    pub fn bias(&self, c: &Tensor, n: usize) -> Option<Vec<f32>> {
        let columns = match c.shape() {
            [] | [1] | [1, 1] => vec![*c.to_f32().first()?; n],
            [columns] | [1, columns] if *columns == n => c.to_f32(),
            _ => return None,
        };
        Some(columns.into_iter().map(|x| self.beta * x).collect())
    }
}

impl Op for Gemm {
    fn name(&self) -> &'static str {
        "Gemm"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let (a, b) = (input(inputs, 0)?, input(inputs, 1)?);
        check_f32(a)?;
        check_f32(b)?;
        let [m, _, n] = self.sizes(&a.shape, &b.shape)?;
        if let Some(c) = inputs.get(2).copied().flatten() {
            check_f32(c)?;
            if broadcast_shapes(&c.shape, &[m, n])? != [m, n] {
                return Err(OpError::Invalid(format!("c of shape {:?} does not broadcast to [{m}, {n}]", c.shape)));
            }
        }
        Ok(vec![Fact::f32(&[m, n])])
    }

    fn macs(&self, inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> u64 {
        let (Ok(a), Ok(b)) = (input(inputs, 0), input(inputs, 1)) else { return 0 };
        self.sizes(&a.shape, &b.shape).map_or(0, |[m, k, n]| m as u64 * k as u64 * n as u64)
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let (a_id, b_id) = (present(inputs, 0)?, present(inputs, 1)?);
        let [_, k, n] = self.sizes(l.shape(a_id), l.shape(b_id))?;
        let mut a = l.read(a_id)?;
        if self.transpose_a {
            a = a.transposed(&[1, 0]);
        }
        let dst = l.write(present(&[outputs.first().copied()], 0)?);
        let c_id = inputs.get(2).copied().flatten();
        let bias = match c_id {
            None => Some(vec![0.0; n]),
            Some(c) => l.constant(c).and_then(|c| self.bias(c, n)),
        };
        let add_c = bias.is_none();
        let product = if add_c { l.temporary("product", &dst.shape) } else { dst.clone() };
        let mut factor = self.alpha;
        if l.constant(b_id).is_some() {
            let b = l.shared_constant_f32(b_id, "weights")?;
            let weights = match self.transpose_b {
                // As the file has them: not copied.
                true if factor == 1.0 => b,
                true => Arc::new(b.iter().map(|x| factor * x).collect()),
                false => Arc::new(transposed(&b, k, n, factor)),
            };
            factor = 1.0;
            linear(l, &a, weights, bias.unwrap_or_else(|| vec![0.0; n]), &product);
        } else {
            let mut b = l.read(b_id)?;
            if self.transpose_b {
                b = b.transposed(&[1, 0]);
            }
            if !add_c && (factor != 1.0 || c_id.is_some()) {
                let own = l.temporary("product", &dst.shape);
                l.step(kernels::matmul::MatMul, vec![a, b], vec![own.clone()]);
                let own = scaled(l, own, factor)?;
                let bias = Tensor::from_f32(&[n], bias.unwrap_or_default()).map_err(OpError::Invalid)?;
                let bias = stretched(&l.constant_buffer("bias", &bias), &dst.shape)?;
                l.step(ADD, vec![own, bias], vec![dst]);
                return Ok(());
            }
            l.step(kernels::matmul::MatMul, vec![a, b], vec![product.clone()]);
        }
        if let Some(c) = c_id.filter(|_| add_c) {
            let product = scaled(l, product, factor)?;
            let c = stretched(&l.read(c)?, &dst.shape)?;
            let c = scaled(l, c, self.beta)?;
            l.step(ADD, vec![product, c], vec![dst]);
        }
        Ok(())
    }
}

const ADD: Elementwise = Elementwise { function: Function::Add, activation: Activation::None };

/// A view times a number, in a buffer of its own unless the number is 1.
fn scaled(l: &mut Lowering<'_>, view: View, factor: f32) -> Result<View, OpError> {
    if factor == 1.0 {
        return Ok(view);
    }
    let constant = stretched(&l.constant_buffer("factor", &Tensor::scalar_f32(factor)), &view.shape)?;
    let own = l.temporary("scaled", &view.shape);
    let multiply = Elementwise { function: Function::Mul, activation: Activation::None };
    l.step(multiply, vec![view, constant], vec![own.clone()]);
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn matmul_follows_numpy() {
        for (a, b, y) in [
            (&[2, 3][..], &[3, 4][..], &[2, 4][..]),
            (&[3], &[3, 4], &[4]),
            (&[2, 3], &[3], &[2]),
            (&[3], &[3], &[]),
            (&[5, 1, 2, 3], &[7, 3, 4], &[5, 7, 2, 4]),
        ] {
            let facts = [Fact::f32(a), Fact::f32(b)];
            assert_eq!(MatMul.infer(&[Some(&facts[0]), Some(&facts[1])]), Ok(vec![Fact::f32(y)]), "{a:?} {b:?}");
        }
        let (a, b) = (Fact::f32(&[2, 3]), Fact::f32(&[4, 3]));
        assert!(MatMul.infer(&[Some(&a), Some(&b)]).is_err());
    }

    #[test]
    fn gemm_transposes_and_counts() {
        let (a, b, c) = (Fact::f32(&[3, 2]), Fact::f32(&[5, 3]), Fact::f32(&[5]));
        let flags = [AttributeProto::int("transA", 1), AttributeProto::int("transB", 1)];
        let op = build_for_test("Gemm", 13, &flags, &[&a, &b, &c]).expect("builds");
        assert_eq!(op.infer(&[Some(&a), Some(&b), Some(&c)]), Ok(vec![Fact::f32(&[2, 5])]));
        assert_eq!(op.macs(&[Some(&a), Some(&b), Some(&c)], &[]), 30);
        assert!(op.infer(&[Some(&a), Some(&b), Some(&Fact::f32(&[2]))]).is_err());
    }

    #[test]
    fn weights_and_bias_are_arranged_for_the_convolution() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, 2.0), [2.0, 8.0, 4.0, 10.0, 6.0, 12.0]);
        let gemm = Gemm { alpha: 1.0, beta: 0.5, transpose_a: false, transpose_b: false };
        let c = |shape: &[usize], v: Vec<f32>| Tensor::from_f32(shape, v).expect("tensor");
        assert_eq!(gemm.bias(&c(&[1, 2], vec![2.0, 4.0]), 2), Some(vec![1.0, 2.0]));
        assert_eq!(gemm.bias(&c(&[], vec![2.0]), 3), Some(vec![1.0; 3]));
        assert_eq!(gemm.bias(&c(&[2, 1], vec![2.0, 4.0]), 2), None);
    }
}
