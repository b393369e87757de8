//! The operators on bytes that [`crate::infer::plan::passes::integers`] makes of quantised arithmetic. Files do not have
//! them. Their u8 and i8 values lie in the plan's memory.

use super::context::{input, present, reshaped_or_copied, stretched};
use super::{gemm, window};
use crate::infer::bytes::{ByteScale, Table};
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernel::{ByteKernel, OnBytes};
use crate::infer::kernels::bytes::arithmetic::ByteArithmetic;
use crate::infer::kernels::bytes::average::ByteAverage;
use crate::infer::kernels::bytes::constant::ByteConstant;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::bytes::convert;
use crate::infer::kernels::bytes::copy::ByteCopy;
use crate::infer::kernels::bytes::max_pool::ByteMaxPool;
use crate::infer::kernels::bytes::nearest::ByteNearest;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::DType;
use std::sync::Arc;

/// QuantizeLinear with one scale. Input: f32.
#[derive(Clone, Debug)]
pub struct Quantise {
    pub to: ByteScale,
}

/// DequantizeLinear with one scale, or a function of what it gives. Output: f32.
#[derive(Clone, Debug)]
pub struct Dequantise {
    pub from: ByteScale,
    /// The function's number of each byte.
    pub function: Option<Arc<[f32; 256]>>,
}

/// A function of each byte.
#[derive(Clone, Debug)]
pub struct LookUp {
    pub table: Table,
}

/// A convolution, or a matrix product as a 1×1 convolution. Its weights are part of the kernel.
#[derive(Clone, Debug)]
pub struct ConvOnBytes {
    pub kernel: ByteConv,
    /// Of the output.
    pub shape: Vec<usize>,
    /// The last axis of input and output has the channels, the others count rows. Else they are feature maps.
    pub of_rows: bool,
}

/// A sum, difference or product of two inputs: both of bytes, or with [`ByteConstant`] the second an f32 constant.
#[derive(Clone, Debug)]
pub struct Arithmetic<K> {
    pub kernel: K,
}

/// Kernels of [`Arithmetic`].
pub trait ArithmeticKernel: ByteKernel + Copy + 'static {
    /// How the result's bytes stand for numbers.
    fn to(&self) -> ByteScale;
}

impl ArithmeticKernel for ByteArithmetic {
    fn to(&self) -> ByteScale {
        self.to
    }
}

impl ArithmeticKernel for ByteConstant {
    fn to(&self) -> ByteScale {
        self.to
    }
}

/// Mean over a window.
#[derive(Clone, Debug)]
pub struct Average {
    pub kernel: ByteAverage,
    pub ceil_mode: bool,
}

/// Maximum over a window.
#[derive(Clone, Debug)]
pub struct MaxPool {
    pub kernel: ByteMaxPool,
    pub ceil_mode: bool,
}

/// Resize to the nearest pixel.
#[derive(Clone, Debug)]
pub struct Nearest {
    pub kernel: ByteNearest,
    pub size_px: [usize; 2],
}

type Inputs<'a> = &'a [Option<ValueId>];

fn output(outputs: &[ValueId]) -> Result<ValueId, OpError> {
    present(&[outputs.first().copied()], 0)
}

/// A kernel that walks its one input and its output in any layout.
fn pointwise(
    l: &mut Lowering<'_>,
    kernel: impl ByteKernel + 'static,
    inputs: Inputs<'_>,
    outputs: &[ValueId],
) -> Result<(), OpError> {
    let source = l.read(present(inputs, 0)?)?;
    let target = l.write(output(outputs)?);
    l.step(OnBytes(kernel), vec![source], vec![target]);
    Ok(())
}

/// A kernel from one feature map to another.
fn mapped(
    l: &mut Lowering<'_>,
    kernel: impl ByteKernel + 'static,
    inputs: Inputs<'_>,
    outputs: &[ValueId],
) -> Result<(), OpError> {
    // What cannot be laid out is no reason for the host, which has no bytes.
    let source = l.read_feature_map(present(inputs, 0)?).map_err(|e| OpError::Invalid(e.to_string()))?;
    let target = l.write_feature_map(output(outputs)?);
    l.step(OnBytes(kernel), vec![source], vec![target]);
    Ok(())
}

impl Op for Quantise {
    fn name(&self) -> &'static str {
        "Quantise"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(self.to.dtype(), &input(inputs, 0)?.shape)])
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        pointwise(l, convert::Quantise { to: self.to }, inputs, outputs)
    }
}

impl Op for Dequantise {
    fn name(&self) -> &'static str {
        "Dequantise"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(DType::F32, &input(inputs, 0)?.shape)])
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        let Dequantise { from, function } = self.clone();
        pointwise(l, convert::Dequantise { from, function }, inputs, outputs)
    }
}

impl Op for LookUp {
    fn name(&self) -> &'static str {
        "LookUp"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(self.table.to.dtype(), &input(inputs, 0)?.shape)])
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        pointwise(l, ByteCopy { table: Some(self.table.clone()) }, inputs, outputs)
    }
}

impl Op for ConvOnBytes {
    fn name(&self) -> &'static str {
        if self.of_rows { "MatMulOnBytes" } else { "ConvOnBytes" }
    }

    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(self.result().dtype(), &self.shape)])
    }

    fn macs(&self, _inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> u64 {
        let filters = self.kernel.weight_scales.len().max(1);
        self.shape.iter().product::<usize>() as u64 * (self.kernel.weights.len() / filters) as u64
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        if !self.of_rows {
            return mapped(l, self.kernel.clone(), inputs, outputs);
        }
        let (source, target) = (l.read(present(inputs, 0)?)?, l.write(output(outputs)?));
        let matrix = |view: &View| {
            let channels = view.shape.last().copied().unwrap_or(1);
            [view.len() / channels.max(1), channels]
        };
        let source = reshaped_or_copied(l, &source, &matrix(&source))?;
        let kernel = OnBytes(self.kernel.clone());
        if let Some(rows) = target.reshaped(&matrix(&target)) {
            gemm::over_rows(l, kernel, &source, &rows);
            return Ok(());
        }
        let own = l.temporary_like("product", &matrix(&target), &target);
        gemm::over_rows(l, kernel, &source, &own);
        let differ = || OpError::Invalid(format!("shape {:?} does not reshape to {:?}", own.shape, target.shape));
        let seen = own.reshaped(&target.shape).ok_or_else(differ)?;
        l.copy(&seen, &target);
        Ok(())
    }
}

impl ConvOnBytes {
    /// How the output's bytes stand for numbers.
    pub fn result(&self) -> ByteScale {
        self.kernel.table.as_ref().map_or(self.kernel.to, |table| table.to)
    }

    /// A convolution whose activation is a function on bytes after it.
    pub fn followed_by(&self, table: &Table) -> ConvOnBytes {
        let table = self.kernel.table.as_ref().map_or_else(|| table.clone(), |first| table.after(first));
        ConvOnBytes { kernel: ByteConv { table: Some(table), ..self.kernel.clone() }, ..self.clone() }
    }
}

impl<K: ArithmeticKernel> Op for Arithmetic<K> {
    fn name(&self) -> &'static str {
        "ArithmeticOnBytes"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let shape = super::context::broadcast_shapes(&input(inputs, 0)?.shape, &input(inputs, 1)?.shape)?;
        Ok(vec![Fact::new(self.kernel.to().dtype(), &shape)])
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        let target_id = output(outputs)?;
        let shape = l.shape(target_id).to_vec();
        let mut operands = Vec::with_capacity(2);
        for i in 0..2 {
            operands.push(stretched(&l.read(present(inputs, i)?)?, &shape)?);
        }
        let target = l.write(target_id);
        l.step(OnBytes(self.kernel), operands, vec![target]);
        Ok(())
    }
}

impl Op for Average {
    fn name(&self) -> &'static str {
        "AveragePoolOnBytes"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let [n, c, h, w] = window::feature_map_shape(&input(inputs, 0)?.shape)?;
        let [oh, ow] = window::output_size(&self.kernel.window, [h, w], self.ceil_mode)?;
        Ok(vec![Fact::new(self.kernel.to.dtype(), &[n, c, oh, ow])])
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        mapped(l, self.kernel.clone(), inputs, outputs)
    }
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "MaxPoolOnBytes"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let [n, c, h, w] = window::feature_map_shape(&x.shape)?;
        let [oh, ow] = window::output_size(&self.kernel.window, [h, w], self.ceil_mode)?;
        Ok(vec![Fact::new(x.dtype, &[n, c, oh, ow])])
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        mapped(l, self.kernel, inputs, outputs)
    }
}

impl Op for Nearest {
    fn name(&self) -> &'static str {
        "ResizeOnBytes"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let [n, c, ..] = window::feature_map_shape(&x.shape)?;
        Ok(vec![Fact::new(x.dtype, &[n, c, self.size_px[0], self.size_px[1]])])
    }

    fn is_on_bytes(&self) -> bool {
        true
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: Inputs<'_>, outputs: &[ValueId]) -> Result<(), OpError> {
        mapped(l, self.kernel, inputs, outputs)
    }
}
