//! Rows that are final, as Caffe's DetectionOutput and OpenVINO write them. On the CPU.
//!
//! `[1, 1, K, 7]`, a row: number of the picture, class (0 is the background), score, corners x0 y0 x1 y1 as fractions of the
//! input. A negative number of a picture ends the rows; classes are counted without the background here. Nothing is
//! suppressed. Liu et al., "SSD", arXiv 1512.02325; the DetectionOutput layer of its Caffe branch.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::decode::scan::Matrix;
use crate::infer::tensor::DType;
use crate::letterbox::Fit;

const COLUMNS: usize = 7;

/// Most rows of a table whose length depends on the picture.
const MAX_LATE_ROWS: usize = 1 << 20;

#[derive(Clone, Debug)]
struct DetectionOutput {
    classes: usize,
    /// Number of rows, or the most that are taken where it depends on the picture.
    rows: usize,
    /// Width and height of the network's input.
    input_px: [usize; 2],
}

/// Stretched, BGR, levels 0 to 255.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let declared = match signature.outputs.len() {
        1 => signature.declared(0),
        _ => None,
    };
    let rows = match declared.as_ref().map(|d| (d.dtype, &d.dims[..])) {
        Some((DType::F32, &[Some(1), Some(1), rows, Some(COLUMNS)])) if rows != Some(0) => {
            rows.unwrap_or(MAX_LATE_ROWS)
        }
        _ => return Err(format!("it needs one output [1, 1, K, {COLUMNS}], but there are {}", signature.describe())),
    };
    let (mean, std) = super::LEVELS;
    Ok(Fitted {
        head: Box::new(DetectionOutput {
            classes: signature.numbered_classes(),
            rows,
            input_px: [signature.width, signature.height],
        }),
        fit: Fit::Stretch,
        order: ChannelOrder::Bgr,
        mean,
        std,
        score_threshold: 0.5,
        iou_threshold: 0.45,
        labels: Labels::default(),
    })
}

impl Head for DetectionOutput {
    fn stem(&self) -> &'static str {
        "detection_output"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.rows
    }

    fn check(&self, outputs: &[OutputRef<'_>]) -> Result<(), String> {
        match outputs[0].view.shape[..] {
            [1, 1, rows, COLUMNS] if rows <= self.rows => Ok(()),
            ref shape => Err(format!("the rows should be [1, 1, K, {COLUMNS}], but are {shape:?}")),
        }
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let OutputRef { values, view } = outputs[0];
        let rows = Matrix::of(view, 2, 3);
        let [w, h] = self.input_px.map(|n| n as f32);
        for row in 0..rows.rows {
            let at = |k: usize| rows.at(values, row, k);
            if at(0) < 0.0 {
                break;
            }
            let class = (at(1) - 0.5).floor();
            if at(2) >= filter.threshold && class >= 0.0 && class < self.classes as f32 {
                emit.push(RawDetection {
                    bounds: [at(3) * w, at(4) * h, at(5) * w, at(6) * h],
                    score: at(2),
                    class: class as u32,
                    anchor: row as u32,
                    reserved: 0,
                });
            }
        }
    }

    fn suppression(&self) -> Suppression {
        Suppression::None
    }

    fn has_shader(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Table, assert_same, decode, graph};
    use crate::decode::head::recognise;

    #[test]
    fn rows_by_definition() {
        let shape = [1, 1, 6, 7];
        let g = graph(200, 100, &[("detection_out", &shape, &["DetectionOutput"])]);
        let r = recognise(&g, None).unwrap();
        assert_eq!((r.name, r.head.has_shader()), ("detection_output", false));
        let rows: [[f32; 7]; 6] = [
            [0.0, 15.0, 0.75, 0.25, 0.5, 0.75, 1.0],
            // The background, a score that is too low, and no number.
            [0.0, 0.0, 0.875, 0.0, 0.0, 0.5, 0.5],
            [0.0, 1.0, 0.25, 0.0, 0.0, 0.5, 0.5],
            [0.0, 1.0, f32::NAN, 0.0, 0.0, 0.5, 0.5],
            [-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            // After the end.
            [0.0, 1.0, 0.875, 0.0, 0.0, 0.5, 0.5],
        ];
        let table = Table::new(&shape, |at| rows[at[2]][at[3]]);
        let expected = [(0, 14, 0.75, [50.0, 50.0, 150.0, 100.0])];
        assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.5, false), &expected, 0.5);
    }

    #[test]
    fn other_shapes_are_refused() {
        for shape in [&[1, 1, 6, 6][..], &[1, 2, 6, 7], &[1, 6, 7], &[1, 1, 0, 7]] {
            let error = recognise(&graph(64, 64, &[("o", shape, &["X"])]), Some("detection_output")).unwrap_err();
            assert!(error.to_string().contains("[1, 1, K, 7]"), "{error}");
        }
    }
}
