//! Sliding windows of any dimensionality: attributes, output sizes, and the walk over places and taps. For the operators
//! of [`super::conv_host`] and [`super::pool_host`]; [`super::window`] is the 2-D form that most kernels work with.

use super::context::{NodeContext, WINDOW_MAX};
use crate::infer::op::OpError;

#[derive(Clone, Debug)]
pub struct WindowNd {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub before: Vec<usize>,
    pub after: Vec<usize>,
}

/// An attribute with `count` numbers that are no less than the default.
pub(super) fn list(context: &NodeContext<'_>, name: &str, count: usize, default: usize) -> Result<Vec<usize>, OpError> {
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

    pub(super) fn reach(&self, a: usize) -> usize {
        (self.kernel[a].max(1) - 1) * self.dilation[a] + 1
    }

    /// Outputs along each axis of a picture of `size`.
    pub(super) fn output(&self, size: &[usize], ceil: bool) -> Result<Vec<usize>, OpError> {
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

    /// The places along axis `a` of `size` elements that output `out` sees.
    pub(super) fn taps(&self, a: usize, size: usize, out: usize) -> Vec<usize> {
        (0..self.kernel[a])
            .filter_map(|tap| (out * self.stride[a] + tap * self.dilation[a]).checked_sub(self.before[a]))
            .filter(|&place| place < size)
            .collect()
    }

    /// Where tap `tap` of output `at` lies: coordinates in the unpadded input, possibly outside.
    pub(super) fn source(&self, at: &[usize], tap: &[usize]) -> Vec<isize> {
        (0..at.len())
            .map(|a| (at[a] * self.stride[a] + tap[a] * self.dilation[a]) as isize - self.before[a] as isize)
            .collect()
    }
}

/// All coordinates below a shape, row-major.
pub(super) fn each(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
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

/// The row-major position, where the coordinates are inside.
pub(super) fn inside(at: &[isize], size: &[usize]) -> Option<usize> {
    at.iter()
        .zip(size)
        .try_fold(0usize, |flat, (&i, &n)| usize::try_from(i).ok().filter(|&i| i < n).map(|i| flat * n + i))
}

/// N, C and the spatial axes.
pub(super) fn spatial(shape: &[usize]) -> Result<(usize, usize, Vec<usize>), OpError> {
    match shape {
        [n, c, rest @ ..] if !rest.is_empty() => Ok((*n, *c, rest.to_vec())),
        _ => Err(OpError::Invalid(format!("shape {shape:?} has no spatial axes"))),
    }
}
