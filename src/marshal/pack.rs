//! Spreads a channels-last picture over any strided view: the twin of `shaders/marshal/pack.wgsl`.

use std::cell::Cell;

use crate::infer::plan::view::View;
use crate::shader::{Precision, Variant, VariantBuilder};

const SHADER: &str = include_str!("../../shaders/marshal/pack.wgsl");

/// Copies [`Pack::staging`] to [`Pack::input`]. Made by [`super::route`].
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    /// `[1, C, H, W]`, channels last, in a buffer of its own of `staging.end()` elements (its buffer id says nothing),
    /// on the GPU rounded up to a whole block.
    pub staging: View,
    /// The network's input, `[1, C, H, W]`.
    pub input: View,
}

impl Pack {
    /// Elements of the staging buffer, padding lanes included.
    pub fn staging_len(&self) -> usize {
        self.staging.shape[2] * self.staging.strides[2]
    }

    /// The reference, in the shader's order.
    ///
    /// # Panics
    /// When a view reaches outside its memory.
    pub fn run_twin(&self, src: &[Cell<f32>], dst: &[Cell<f32>]) {
        let [channels, height, width] = [1, 2, 3].map(|axis| self.input.shape[axis]);
        let strides = &self.input.strides;
        for y in 0..height {
            for x in 0..width {
                let from_at = (y * width + x) * self.staging.strides[3];
                let to_at = self.input.offset + y * strides[2] + x * strides[3];
                for c in 0..channels {
                    dst[to_at + c * strides[1]].set(src[from_at + c].get());
                }
            }
        }
    }

    /// The shader, at one precision for both buffers. Bindings: staging, input.
    pub fn variant(&self, precision: Precision) -> Variant {
        let [channels, height, width] = [1, 2, 3].map(|axis| self.input.shape[axis]);
        VariantBuilder::new("pack", SHADER)
            .u32("CHANNELS", channels)
            .u32("HEIGHT", height)
            .u32("WIDTH", width)
            .u32("SRC_PIXEL_STRIDE", self.staging.strides[3])
            .u32("OFFSET", self.input.offset)
            .u32("STRIDE_C", self.input.strides[1])
            .u32("STRIDE_Y", self.input.strides[2])
            .u32("STRIDE_X", self.input.strides[3])
            .precision(precision)
            .build([width.div_ceil(16) as u32, height.div_ceil(16) as u32, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::plan::view::BufferId;
    use crate::marshal::{ChannelAxis, Route, route};

    fn cells(v: &mut [f32]) -> &[Cell<f32>] {
        Cell::from_mut(v).as_slice_of_cells()
    }

    #[test]
    fn every_element_finds_its_place() {
        for (shape, order, block, offset) in [
            ([1, 3, 5, 7], [0, 1, 2, 3], 4, 0),
            ([1, 3, 5, 7], [0, 2, 1, 3], 1, 5),
            ([1, 13, 1, 2], [0, 3, 1, 2], 4, 1),
            ([1, 3, 1, 1], [0, 1, 2, 3], 1, 0),
        ] {
            let mut input = View::in_order(BufferId(0), &shape, &order, 1);
            input.offset = offset;
            // 1x1 pictures are channels last in any order.
            let pack = match route(&input, ChannelAxis::First, block) {
                Ok(Route::Packed(pack)) => pack,
                Ok(Route::Fused(input)) => Pack { staging: View::channels_last(BufferId(0), &shape, block), input },
                Err(e) => panic!("{e}"),
            };
            let mut src: Vec<f32> = (0..pack.staging_len()).map(|i| i as f32).collect();
            let mut dst = vec![-1.0; input.end() + 2];
            pack.run_twin(cells(&mut src), cells(&mut dst));
            let mut written = 0;
            for (c, y, x) in
                (0..shape[1]).flat_map(|c| (0..shape[2]).flat_map(move |y| (0..shape[3]).map(move |x| (c, y, x))))
            {
                assert_eq!(dst[input.index(&[0, c, y, x])], src[pack.staging.index(&[0, c, y, x])]);
                written += 1;
            }
            assert_eq!(dst.iter().filter(|&&v| v >= 0.0).count(), written, "and nothing else is written");
        }
    }
}
