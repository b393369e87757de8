//! Where a value lies: a buffer, an offset, and a stride per axis.
//!
//! Axes keep the order of the graph (NCHW for feature maps) whatever the memory order is. A feature map in the
//! preferred layout, channels last with pixel stride P, has strides `[H·W·P, 1, W·P, P]`. Concat, split, slice,
//! reshape and transpose are mostly arithmetic on this struct, and cost nothing at run time.

/// Index of a buffer in [`super::Plan::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub usize);

/// A strided window into a buffer, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub buffer: BufferId,
    /// Index of the first element.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Distance between neighbours along each axis. 0 repeats an element (broadcast).
    pub strides: Vec<usize>,
}

/// Strides of a dense tensor, last axis fastest.
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1].max(1);
    }
    strides
}

impl View {
    /// A dense row-major view of a whole buffer.
    pub fn row_major(buffer: BufferId, shape: &[usize]) -> View {
        View { buffer, offset: 0, shape: shape.to_vec(), strides: row_major_strides(shape) }
    }

    /// A view whose axes, slowest first, are `order`, the fastest one padded to a multiple of `block` elements.
    pub fn in_order(buffer: BufferId, shape: &[usize], order: &[usize], block: usize) -> View {
        let mut strides = vec![1; shape.len()];
        let mut next = 1;
        for (i, &axis) in order.iter().rev().enumerate() {
            strides[axis] = next;
            let extent = shape[axis].max(1);
            next *= if i == 0 { extent.next_multiple_of(block) } else { extent };
        }
        View { buffer, offset: 0, shape: shape.to_vec(), strides }
    }

    /// Channels last for shapes `[N, C, spatial...]`, with the channels padded to a multiple of `block`.
    pub fn channels_last(buffer: BufferId, shape: &[usize], block: usize) -> View {
        View::in_order(buffer, shape, &channels_last_order(shape.len()), block)
    }

    /// Whether every element lies where the other view has it; strides of axes of one element do not matter.
    pub fn is_place_of(&self, other: &View) -> bool {
        let strides = self.shape.iter().zip(self.strides.iter().zip(&other.strides));
        (self.buffer, self.offset, &self.shape) == (other.buffer, other.offset, &other.shape)
            && strides.into_iter().all(|(&n, (a, b))| n <= 1 || a == b)
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One past the last element that the view can touch; 0 for an empty view.
    pub fn end(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        self.offset + 1 + self.shape.iter().zip(&self.strides).map(|(&n, &s)| (n - 1) * s).sum::<usize>()
    }

    /// Position of an element in the buffer.
    pub fn index(&self, coordinates: &[usize]) -> usize {
        self.offset + coordinates.iter().zip(&self.strides).map(|(&i, &s)| i * s).sum::<usize>()
    }

    /// True when the elements fill a contiguous range in the order of the axes.
    pub fn is_row_major(&self) -> bool {
        let mut expected = 1;
        for (&n, &s) in self.shape.iter().zip(&self.strides).rev() {
            if n != 1 {
                if s != expected {
                    return false;
                }
                expected *= n;
            }
        }
        true
    }

    /// The axes, slowest in memory first; among equals the order of the shape.
    pub fn axis_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.sort_by(|&a, &b| self.strides[b].cmp(&self.strides[a]).then(a.cmp(&b)));
        order
    }

    /// A feature map `[N, C, H, W]` whose channels are neighbours, on pixels that are evenly spaced:
    /// what the convolution kernels read and write.
    pub fn feature_map(&self) -> Option<FeatureMap> {
        if self.rank() != 4 {
            return None;
        }
        let [n, c, h, w] = [self.shape[0], self.shape[1], self.shape[2], self.shape[3]];
        if c > 1 && self.strides[1] != 1 {
            return None;
        }
        let pixel_stride = if w > 1 {
            self.strides[3]
        } else if h > 1 {
            self.strides[2]
        } else {
            c
        };
        if pixel_stride < c {
            return None;
        }
        Some(FeatureMap {
            offset: self.offset,
            batch: n,
            channels: c,
            height: h,
            width: w,
            pixel_stride,
            row_stride: if h > 1 { self.strides[2] } else { w * pixel_stride },
            image_stride: if n > 1 { self.strides[0] } else { h * w * pixel_stride },
        })
    }

    /// The same elements with axes permuted: axis `i` of the result is axis `permutation[i]` of this view.
    pub fn transposed(&self, permutation: &[usize]) -> View {
        View {
            buffer: self.buffer,
            offset: self.offset,
            shape: permutation.iter().map(|&p| self.shape[p]).collect(),
            strides: permutation.iter().map(|&p| self.strides[p]).collect(),
        }
    }

    /// A window: `start` and `count` along `axis`, every `step`-th element.
    pub fn sliced(&self, axis: usize, start: usize, count: usize, step: usize) -> View {
        let mut view = self.clone();
        view.offset += start * self.strides[axis];
        view.shape[axis] = count;
        view.strides[axis] *= step;
        view
    }

    /// The same elements under another shape, in row-major order of the axes, if strides can express it.
    pub fn reshaped(&self, shape: &[usize]) -> Option<View> {
        if shape.iter().product::<usize>() != self.len() {
            return None;
        }
        let mut strides = vec![0; shape.len()];
        if self.is_empty() {
            return Some(View {
                buffer: self.buffer,
                offset: self.offset,
                shape: shape.to_vec(),
                strides: row_major_strides(shape),
            });
        }
        // Walk both shapes from the back, matching groups of axes with equal products. Inside a group the source
        // axes must be evenly spaced in memory.
        let source: Vec<(usize, usize)> =
            self.shape.iter().zip(&self.strides).map(|(&n, &s)| (n, s)).filter(|&(n, _)| n != 1).collect();
        let mut from = source.len();
        let mut to = shape.len();
        while to > 0 {
            if shape[to - 1] == 1 {
                to -= 1;
                strides[to] = 1;
                continue;
            }
            from = from.checked_sub(1)?;
            let (mut have, base) = source[from];
            let mut span = have * base;
            let mut want = 1;
            let mut stride = base;
            loop {
                while want < have && to > 0 {
                    to -= 1;
                    want *= shape[to];
                    strides[to] = stride;
                    stride *= shape[to];
                    if want > have {
                        break;
                    }
                }
                if want == have {
                    break;
                }
                if want < have {
                    return None;
                }
                from = from.checked_sub(1)?;
                let (n, s) = source[from];
                if s != span {
                    return None;
                }
                have *= n;
                span *= n;
            }
        }
        Some(View { buffer: self.buffer, offset: self.offset, shape: shape.to_vec(), strides })
    }

    /// This view stretched to `shape` by the rules of ONNX (numpy) broadcasting: repeated axes get stride 0.
    pub fn broadcast_to(&self, shape: &[usize]) -> Option<View> {
        let lead = shape.len().checked_sub(self.rank())?;
        let mut strides = vec![0; shape.len()];
        for axis in 0..self.rank() {
            let (have, want) = (self.shape[axis], shape[lead + axis]);
            strides[lead + axis] = match have {
                _ if have == want && have != 1 => self.strides[axis],
                1 => 0,
                _ => return None,
            };
        }
        Some(View { buffer: self.buffer, offset: self.offset, shape: shape.to_vec(), strides })
    }
}

/// Axis order of channels-last memory for `[N, C, spatial...]`, slowest first: `[0, 2, 3, ..., 1]`.
pub fn channels_last_order(rank: usize) -> Vec<usize> {
    match rank {
        0..=2 => (0..rank).collect(),
        _ => std::iter::once(0).chain(2..rank).chain([1]).collect(),
    }
}

/// A [`View`] of a feature map with channel stride 1, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeatureMap {
    pub offset: usize,
    pub batch: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Distance between horizontal neighbours; at least `channels`.
    pub pixel_stride: usize,
    pub row_stride: usize,
    pub image_stride: usize,
}

impl FeatureMap {
    /// True when offset and strides are multiples of `block`, so that vector loads of `block` channels are aligned.
    /// Strides of axes with one element do not matter.
    pub fn is_aligned(&self, block: usize) -> bool {
        self.offset.is_multiple_of(block)
            && [(self.width, self.pixel_stride), (self.height, self.row_stride), (self.batch, self.image_stride)]
                .iter()
                .all(|&(extent, stride)| extent <= 1 || stride % block == 0)
    }

    /// True when all pixels are equally far apart, row after row and image after image. Strides of axes with one element
    /// do not matter.
    pub fn is_in_a_line(&self) -> bool {
        let row = self.width * self.pixel_stride;
        let axes = [(self.height, self.row_stride, row), (self.batch, self.image_stride, self.height * row)];
        axes.iter().all(|&(extent, stride, next)| extent <= 1 || stride == next)
    }

    /// True when the pixels lie side by side, row after row. Strides of axes with one element do not matter.
    pub fn is_dense(&self) -> bool {
        let row = self.width * self.channels;
        let image = self.height * row;
        let axes = [
            (self.width, self.pixel_stride, self.channels),
            (self.height, self.row_stride, row),
            (self.batch, self.image_stride, image),
        ];
        axes.iter().all(|&(extent, stride, dense)| extent <= 1 || stride == dense)
    }

    /// Position of channel 0 of a pixel.
    pub fn pixel(&self, n: usize, y: usize, x: usize) -> usize {
        self.offset + n * self.image_stride + y * self.row_stride + x * self.pixel_stride
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nhwc(shape: &[usize]) -> View {
        View::channels_last(BufferId(0), shape, 1)
    }

    /// Every element of a reshaped view must be found where the original row-major walk finds it.
    fn assert_same_walk(a: &View, b: &View) {
        let walk = |v: &View| -> Vec<usize> {
            (0..v.len())
                .map(|flat| {
                    let mut rest = flat;
                    let mut at = vec![0; v.rank()];
                    for axis in (0..v.rank()).rev() {
                        at[axis] = rest % v.shape[axis];
                        rest /= v.shape[axis];
                    }
                    v.index(&at)
                })
                .collect()
        };
        assert_eq!(walk(a), walk(b), "{a:?} {b:?}");
    }

    #[test]
    fn reshape_merges_pixels_of_channels_last() {
        let v = nhwc(&[1, 85, 4, 6]);
        let r = v.reshaped(&[1, 85, 24]).expect("H and W are evenly spaced");
        assert_eq!(r.strides[1..], [1, 85]);
        assert_same_walk(&v, &r);
        let back = r.reshaped(&[1, 85, 4, 6]).expect("split again");
        assert_same_walk(&v, &back);
    }

    #[test]
    fn reshape_splits_channels_but_does_not_merge_them_with_pixels() {
        let v = nhwc(&[1, 12, 3, 5]);
        let r = v.reshaped(&[1, 2, 6, 3, 5]).expect("split");
        assert_same_walk(&v, &r);
        let shuffled = r.transposed(&[0, 2, 1, 3, 4]);
        assert!(shuffled.reshaped(&[1, 12, 3, 5]).is_none());
        assert!(v.reshaped(&[1, 180]).is_none());
        assert!(v.reshaped(&[6, 2, 15]).is_some_and(|r| {
            assert_same_walk(&v, &r);
            true
        }));
    }

    #[test]
    fn reshape_regroups_across_boundaries_of_dense_views() {
        let v = View::row_major(BufferId(0), &[2, 3, 4, 5]);
        for shape in [vec![6, 20], vec![8, 15], vec![1, 120, 1], vec![3, 2, 5, 4], vec![120]] {
            assert_same_walk(&v, &v.reshaped(&shape).expect("dense"));
        }
        assert!(v.reshaped(&[7, 20]).is_none());
    }

    #[test]
    fn one_place_under_other_strides_of_single_elements() {
        let a = View { strides: vec![4032, 1, 7], ..View::row_major(BufferId(0), &[1, 7, 576]) };
        let b = View { strides: vec![5292, 1, 7], ..a.clone() };
        assert!(a != b && a.is_place_of(&b));
        assert!(!a.is_place_of(&View { offset: 1, ..a.clone() }));
        assert!(!a.is_place_of(&View { strides: vec![4032, 576, 1], ..a.clone() }));
        assert!(!a.is_place_of(&View { buffer: BufferId(1), ..a.clone() }));
    }

    #[test]
    fn slices_and_broadcasts() {
        let v = nhwc(&[1, 8, 4, 4]);
        let s = v.sliced(1, 3, 2, 1);
        assert_eq!((s.offset, s.shape[1]), (3, 2));
        assert_eq!(s.feature_map().map(|f| f.pixel_stride), Some(8));
        let focus = v.sliced(2, 1, 2, 2).sliced(3, 0, 2, 2);
        assert_eq!(focus.strides[2..], [64, 16]);
        let b = View::row_major(BufferId(0), &[8, 1, 1]).broadcast_to(&[1, 8, 4, 4]).expect("broadcast");
        assert_eq!(b.strides, [0, 1, 0, 0]);
        assert!(View::row_major(BufferId(0), &[3]).broadcast_to(&[4]).is_none());
    }
}
