//! What the heads of Darknet networks share. One kind of network per file: `yolo_anchors`, `gaussian_yolo`, `region`,
//! `detection_grid`.

use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Head, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::infer::graph::{DarknetHead, DarknetLayout, DarknetNms};
use crate::letterbox::Fit;

/// Darknet's grey, 0.5.
const PAD: u8 = 127;

/// Levels divided by 255, RGB; stretched, or with `letter_box` in `[net]` in the middle of grey.
pub fn fitted(signature: &Signature<'_>, head: Box<dyn Head>) -> Fitted {
    let (mean, std) = super::UNIT;
    let boxed = signature.metadata("letter_box").is_some();
    Fitted {
        labels: Labels::usual(head.classes()),
        head,
        fit: if boxed { Fit::LetterboxCentre { pad: PAD } } else { Fit::Stretch },
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.35,
        iou_threshold: 0.45,
    }
}

/// Index of a head's output, its rows and columns; `channels` is what the head needs.
///
/// # Errors
/// When the output is no such map.
pub fn map_of(signature: &Signature<'_>, head: &DarknetHead, channels: usize) -> Result<(usize, [usize; 2]), String> {
    let Some(output) = signature.graph.outputs.iter().position(|&o| o == head.output) else {
        return Err(format!("the map {} of a head's section is no output", signature.graph.value(head.output).name));
    };
    match *signature.outputs[output].1 {
        [1, c, rows, cols] if c == channels && c > 0 && rows > 0 && cols > 0 => Ok((output, [rows, cols])),
        ref shape => Err(format!(
            "a head's section with {} classes needs a map [1, {channels}, h, w], not {shape:?}",
            head.classes
        )),
    }
}

/// What suppression the heads want; Darknet asks the last one.
pub fn suppression(heads: &[DarknetHead]) -> Suppression {
    match heads.last().map(|head| head.nms) {
        Some(DarknetNms::Distance { beta }) => Suppression::Distance { beta },
        Some(DarknetNms::Greedy) | None => Suppression::Iou,
    }
}

/// The only head of a network, if it is of that layout.
///
/// # Errors
/// When there is none, or more than one.
pub fn only_head<'a>(
    signature: &Signature<'a>,
    section: &str,
    of_layout: fn(&DarknetLayout) -> bool,
) -> Result<&'a DarknetHead, String> {
    match &signature.graph.darknet_heads[..] {
        [head] if of_layout(&head.layout) => Ok(head),
        _ => Err(format!("it needs one {section} section and no other head")),
    }
}
