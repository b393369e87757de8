//! ConvTranspose on feature maps, as one ordinary convolution per sub-pixel: outputs whose place agrees modulo the stride
//! see the same taps, so they are a convolution of the input with every stride-th tap, written to every stride-th pixel.

use super::context::present;
use crate::infer::activation::Activation;
use crate::infer::graph::ValueId;
use crate::infer::kernels::conv::{Conv, Residual, Window};
use crate::infer::op::OpError;
use crate::infer::plan::lower::Lowering;
use std::sync::Arc;

/// A 2-D transposed convolution of one group without dilation.
#[derive(Clone, Copy, Debug)]
pub struct SubPixels {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Rows and columns of the full result that are cut off at top and left.
    pub cut: [usize; 2],
}

/// The outputs of one axis that share their taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Phase {
    first: usize,
    count: usize,
    /// First tap; the others follow at the stride.
    tap: usize,
    taps: usize,
    /// Inputs that are skipped, or zeros that stand before them.
    skip: usize,
    before: usize,
    after: usize,
}

fn phases(kernel: usize, stride: usize, cut: usize, from: usize, to: usize) -> Result<Vec<Phase>, OpError> {
    (0..stride.min(to))
        .map(|first| {
            let tap = (first + cut) % stride;
            if tap >= kernel {
                return Err(OpError::Unsupported(format!("a stride of {stride} leaves gaps behind {kernel} taps")));
            }
            let (taps, count) = ((kernel - tap).div_ceil(stride), (to - first).div_ceil(stride));
            let last_input = (first + cut - tap) / stride;
            let (skip, before) = match (last_input + 1).checked_sub(taps) {
                Some(skip) => (skip, 0),
                None => (0, taps - 1 - last_input),
            };
            if skip >= from {
                return Err(OpError::Unsupported("outputs beyond all inputs".into()));
            }
            let after = (last_input + count).saturating_sub(from);
            Ok(Phase { first, count, tap, taps, skip, before, after })
        })
        .collect()
}

impl SubPixels {
    /// Appends the convolutions. Inputs x, weights `[C, M, kH, kW]`, bias (optional); both constant.
    ///
    /// # Errors
    /// `Unsupported` where the weights are not constant or an output sees no tap.
    pub fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let (x, weights_id) = (present(inputs, 0)?, present(inputs, 1)?);
        let output = present(&[outputs.first().copied()], 0)?;
        let weights = l.constant_f32(weights_id, "weights")?;
        let (channels, filters) = (l.shape(weights_id)[0], l.shape(weights_id)[1]);
        let bias = match inputs.get(2).copied().flatten() {
            Some(bias) => l.constant_f32(bias, "bias")?,
            None => vec![0.0; filters],
        };
        let bias = Arc::new(bias);
        let (from, to) = (l.shape(x).to_vec(), l.shape(output).to_vec());
        let rows = phases(self.kernel[0], self.stride[0], self.cut[0], from[2], to[2])?;
        let columns = phases(self.kernel[1], self.stride[1], self.cut[1], from[3], to[3])?;
        let source = l.read_feature_map(x)?;
        let target = l.write_feature_map(output);
        for row in &rows {
            for column in &columns {
                let mut part = Vec::with_capacity(filters * channels * row.taps * column.taps);
                for m in 0..filters {
                    for c in 0..channels {
                        for u in (0..row.taps).rev() {
                            for v in (0..column.taps).rev() {
                                let (ky, kx) = (row.tap + u * self.stride[0], column.tap + v * self.stride[1]);
                                part.push(weights[((c * filters + m) * self.kernel[0] + ky) * self.kernel[1] + kx]);
                            }
                        }
                    }
                }
                let seen =
                    source.sliced(2, row.skip, from[2] - row.skip, 1).sliced(3, column.skip, from[3] - column.skip, 1);
                let written = target.sliced(2, row.first, row.count, self.stride[0]).sliced(
                    3,
                    column.first,
                    column.count,
                    self.stride[1],
                );
                if !l.fits(&seen) || !l.fits(&written) {
                    return Err(OpError::Unsupported(format!("sub-pixels of shape {:?}", written.shape)));
                }
                let window = Window {
                    kernel: [row.taps, column.taps],
                    stride: [1, 1],
                    pads: [row.before, column.before, row.after, column.after],
                    dilation: [1, 1],
                };
                let kernel = Conv {
                    window,
                    weights: Arc::new(part),
                    bias: Arc::clone(&bias),
                    activation: Activation::None,
                    residual: Residual::None,
                };
                l.step(kernel, vec![seen], vec![written]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every (output, input, tap) of the definition occurs in exactly one phase.
    #[test]
    fn phases_cover_the_definition() {
        for (kernel, stride, cut, from, to) in
            [(2, 2, 0, 3, 6), (3, 2, 1, 4, 7), (4, 2, 1, 3, 6), (3, 1, 1, 5, 5), (5, 3, 2, 4, 11), (3, 2, 0, 3, 8)]
        {
            let mut seen = Vec::new();
            for p in phases(kernel, stride, cut, from, to).expect("no gaps") {
                for j in 0..p.count {
                    for v in 0..p.taps {
                        let input = (j + v + p.skip).checked_sub(p.before).filter(|&i| i < from);
                        if let Some(i) = input {
                            seen.push((p.first + j * stride, i, p.tap + (p.taps - 1 - v) * stride));
                        }
                    }
                }
            }
            let mut wanted = Vec::new();
            for i in 0..from {
                for t in 0..kernel {
                    if let Some(o) = (i * stride + t).checked_sub(cut).filter(|&o| o < to) {
                        wanted.push((o, i, t));
                    }
                }
            }
            seen.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(seen, wanted, "{kernel} {stride} {cut} {from} {to}");
        }
        assert!(phases(1, 2, 0, 3, 6).is_err());
    }
}
