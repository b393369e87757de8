//! Stage 3: the pixels into the layout that the network's plan gave its input.
//!
//! Most often there is nothing left to do: an input whose channels are neighbours in memory is written by the convert
//! stage itself ([`Route::Fused`]). For every other layout convert writes a staging buffer and [`Pack`] spreads it.

mod pack;

pub use pack::Pack;

use crate::infer::plan::view::{BufferId, View};

/// How a converted picture gets into the network's input.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// Convert writes this view itself. It is the input's, or the input's with axes named in the order batch,
    /// channels, height, width.
    Fused(View),
    /// Convert writes [`Pack::staging`], a buffer of its own; then the pack kernel runs.
    Packed(Pack),
}

/// Which axis of a picture's input is the channels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelAxis {
    /// `[1, C, H, W]` or `[C, H, W]`
    First,
    /// `[1, H, W, C]` or `[H, W, C]`
    Last,
}

impl ChannelAxis {
    /// Where the channels of one picture stand, and its `[channels, height, width]`; `None` for what is no input for
    /// one picture of 1 or 3 channels.
    pub fn of(shape: &[usize]) -> Option<(ChannelAxis, [usize; 3])> {
        let picture = match *shape {
            [1, a, b, c] => [a, b, c],
            [a, b, c] => [a, b, c],
            _ => return None,
        };
        match picture {
            [c @ (1 | 3), h, w] if h > 0 && w > 0 => Some((ChannelAxis::First, [c, h, w])),
            [h, w, c @ (1 | 3)] if h > 0 && w > 0 => Some((ChannelAxis::Last, [c, h, w])),
            _ => None,
        }
    }
}

/// Why an input can't take a picture.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MarshalError {
    #[error("the input of shape {shape:?} takes no picture: it must have 3 axes, or 4 of which the first has extent 1")]
    Shape { shape: Vec<usize> },
    #[error("the input of shape {shape:?} has strides {strides:?}: elements of a picture would overlap")]
    Overlap { shape: Vec<usize>, strides: Vec<usize> },
}

/// Chooses the way into `input`. `block` is what the backend pads channels to: 4 on the GPU, 1 on the CPU.
///
/// # Errors
/// When the view isn't that of one picture.
pub fn route(input: &View, axis: ChannelAxis, block: usize) -> Result<Route, MarshalError> {
    let refused = || MarshalError::Shape { shape: input.shape.clone() };
    let input = match input.shape[..] {
        // A picture without a batch.
        [a, b, c] => input.reshaped(&[1, a, b, c]).ok_or_else(refused)?,
        [1, _, _, _] => input.clone(),
        _ => return Err(refused()),
    };
    if input.is_empty() {
        return Err(refused());
    }
    let input = match axis {
        ChannelAxis::First => input.clone(),
        ChannelAxis::Last => input.transposed(&[0, 3, 1, 2]),
    };
    if input.shape.iter().zip(&input.strides).any(|(&n, &s)| n > 1 && s == 0) {
        return Err(MarshalError::Overlap { shape: input.shape, strides: input.strides });
    }
    if input.feature_map().is_some() {
        return Ok(Route::Fused(input));
    }
    let staging = View::channels_last(BufferId(0), &input.shape, block.max(1));
    Ok(Route::Packed(Pack { staging, input }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_last_is_fused_and_planes_are_packed() {
        let b = BufferId(3);
        let feature_map = View::channels_last(b, &[1, 3, 6, 5], 4);
        assert_eq!(route(&feature_map, ChannelAxis::First, 4), Ok(Route::Fused(feature_map.clone())));
        // A Tensorflow export: the axes are named in memory order.
        let nhwc = View::row_major(b, &[1, 6, 5, 3]);
        let Ok(Route::Fused(view)) = route(&nhwc, ChannelAxis::Last, 4) else { panic!("is fused") };
        assert_eq!((view.shape.clone(), view.strides[1]), (vec![1, 3, 6, 5], 1));
        let planes = View::row_major(b, &[1, 3, 6, 5]);
        let Ok(Route::Packed(pack)) = route(&planes, ChannelAxis::First, 4) else { panic!("is packed") };
        assert_eq!(pack.staging.feature_map().map(|f| f.pixel_stride), Some(4));
        assert_eq!(pack.input, planes);
        // One channel: planes and pixels are the same.
        assert!(matches!(route(&View::row_major(b, &[1, 1, 6, 5]), ChannelAxis::First, 4), Ok(Route::Fused(_))));
    }

    #[test]
    fn pictures_without_a_batch() {
        let chw = View::row_major(BufferId(2), &[3, 6, 5]);
        let Ok(Route::Packed(pack)) = route(&chw, ChannelAxis::First, 1) else { panic!("is packed") };
        assert_eq!((pack.input.shape, pack.input.strides[1..].to_vec()), (vec![1, 3, 6, 5], vec![30, 5, 1]));
        let Ok(Route::Fused(view)) = route(&View::row_major(BufferId(2), &[6, 5, 3]), ChannelAxis::Last, 1) else {
            panic!("is fused")
        };
        assert_eq!((view.shape, view.strides[1..].to_vec()), (vec![1, 3, 6, 5], vec![1, 15, 3]));
    }

    #[test]
    fn channels_are_found_by_their_number() {
        use ChannelAxis::{First, Last};
        for (shape, expected) in [
            (vec![1, 3, 6, 5], Some((First, [3, 6, 5]))),
            (vec![1, 1, 6, 5], Some((First, [1, 6, 5]))),
            (vec![1, 6, 5, 3], Some((Last, [3, 6, 5]))),
            (vec![3, 6, 5], Some((First, [3, 6, 5]))),
            (vec![6, 5, 1], Some((Last, [1, 6, 5]))),
            (vec![2, 3, 6, 5], None),
            (vec![1, 4, 6, 5], None),
            (vec![1, 3, 0, 5], None),
            (vec![1, 2], None),
        ] {
            assert_eq!(ChannelAxis::of(&shape), expected, "{shape:?}");
        }
    }

    #[test]
    fn refuses_what_takes_no_picture() {
        for shape in [vec![3, 6], vec![2, 3, 6, 5], vec![1, 0, 6, 5], vec![0, 6, 5]] {
            assert!(route(&View::row_major(BufferId(0), &shape), ChannelAxis::First, 1).is_err(), "{shape:?}");
        }
        let repeated = View { buffer: BufferId(0), offset: 0, shape: vec![1, 3, 6, 5], strides: vec![0, 0, 5, 1] };
        assert!(route(&repeated, ChannelAxis::First, 1).is_err());
    }
}
