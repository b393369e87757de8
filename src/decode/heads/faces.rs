//! What detectors of faces with tables and priors share: finding their outputs. One kind of network per file: `scrfd`,
//! `retinaface`, `yunet_2021`, `blazeface`. All are decoded by `ssd`.

use super::ssd::{Activation, Ssd};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature};
use crate::decode::labels::Labels;
use crate::letterbox::Fit;

/// Points per face: eyes, nose, corners of the mouth.
pub const LANDMARKS: usize = 5;

/// Index of the only output `[1, rows, columns]` or `[rows, columns]`.
///
/// # Errors
/// When there is none, or more than one.
pub fn table(signature: &Signature<'_>, rows: usize, columns: usize) -> Result<usize, String> {
    let is_table = |shape: &[usize]| *shape == [1, rows, columns] || *shape == [rows, columns];
    let mut all = signature.outputs.iter().enumerate().filter(|(_, (_, shape))| is_table(shape));
    match (all.next(), all.next()) {
        (Some((output, _)), None) => Ok(output),
        _ => Err(format!("it needs one output [1, {rows}, {columns}], but there are {}", signature.describe())),
    }
}

/// What is still to do to the scores of an output: nothing, unless they come straight from a convolution.
pub fn activation(signature: &Signature<'_>, output: usize, raw: Activation) -> Activation {
    if signature.origins(output).contains(&"Conv") { raw } else { Activation::None }
}

/// # Errors
/// When there are more outputs than the `used` ones.
pub fn check_count(signature: &Signature<'_>, used: usize) -> Result<(), String> {
    match signature.outputs.len() {
        n if n == used => Ok(()),
        _ => Err(format!("it needs {used} outputs, but there are {}", signature.describe())),
    }
}

/// The defaults of a network for faces.
pub fn fitted(head: Ssd, order: ChannelOrder, (mean, std): ([f32; 3], [f32; 3]), fit: Fit) -> Fitted {
    Fitted {
        head: Box::new(head),
        fit,
        order,
        mean,
        std,
        score_threshold: 0.5,
        iou_threshold: 0.4,
        labels: Labels::faces(),
    }
}

/// For the tests of these heads.
#[cfg(test)]
pub mod tests {
    use crate::decode::head::Head;
    use crate::decode::heads::testing::{Expected, Table, assert_same, decode, references};

    /// Compares boxes and landmarks with expected ones, the latter in the same order.
    pub fn assert_faces(
        head: &dyn Head,
        tables: &[Table],
        threshold: f32,
        expected: &[Expected],
        landmarks: &[Vec<[f64; 2]>],
    ) {
        assert_same(&decode(head, tables, threshold, false), expected, f64::from(threshold));
        assert_eq!(expected.len(), landmarks.len());
        references(tables, |outputs| {
            for (e, want) in expected.iter().zip(landmarks) {
                let found = head.details(outputs, e.0 as u32).landmarks;
                assert_eq!(found.len(), want.len());
                for (p, q) in found.iter().zip(want) {
                    assert!((0..2).all(|k| (f64::from(p[k]) - q[k]).abs() < 1e-2), "{p:?} {q:?}");
                }
            }
            assert!(head.details(outputs, 1_000_000).landmarks.is_empty());
        });
    }
}
