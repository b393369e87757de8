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
    /// `[N, C, H, W]`
    First,
    /// `[N, H, W, C]`
    Last,
}

/// Why an input can't take a picture.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MarshalError {
    #[error("the input of shape {shape:?} takes no picture: it must have 4 axes, the first of extent 1")]
    Shape { shape: Vec<usize> },
    #[error("the input of shape {shape:?} has strides {strides:?}: elements of a picture would overlap")]
    Overlap { shape: Vec<usize>, strides: Vec<usize> },
}

/// Chooses the way into `input`. `block` is what the backend pads channels to: 4 on the GPU, 1 on the CPU.
///
/// # Errors
/// When the view isn't that of one picture.
pub fn route(input: &View, axis: ChannelAxis, block: usize) -> Result<Route, MarshalError> {
    if input.rank() != 4 || input.shape[0] != 1 || input.is_empty() {
        return Err(MarshalError::Shape { shape: input.shape.clone() });
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
    fn refuses_what_takes_no_picture() {
        for shape in [vec![1, 3, 6], vec![2, 3, 6, 5], vec![1, 0, 6, 5]] {
            assert!(route(&View::row_major(BufferId(0), &shape), ChannelAxis::First, 1).is_err(), "{shape:?}");
        }
        let repeated = View { buffer: BufferId(0), offset: 0, shape: vec![1, 3, 6, 5], strides: vec![0, 0, 5, 1] };
        assert!(route(&repeated, ChannelAxis::First, 1).is_err());
    }
}
