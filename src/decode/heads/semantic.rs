//! Semantic segmentation: a class for every cell of a map `[1, C, H, W]`, that of the largest value. On the CPU.
//!
//! One detection for each class that occurs: the smallest box around its cells, their mask (a pixel of the picture belongs
//! to the cell that its centre falls in), and as score the mean probability of the class in them. Values are probabilities
//! where the graph ends in Softmax or Sigmoid, else logits of which the softmax is taken. Nothing is suppressed.
//! Long et al., "Fully Convolutional Networks for Semantic Segmentation", arXiv 1411.4038.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Details, Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::decode::mask::{MaskGrid, Sampling};
use crate::decode::scan::softmax_share;
use crate::letterbox::Fit;

#[derive(Clone, Debug)]
pub struct Semantic {
    classes: usize,
    rows: usize,
    cols: usize,
    /// Values leave the network as probabilities.
    activated: bool,
    /// Width and height of the network's input.
    input_px: [usize; 2],
}

/// Letterboxed where metadata of the ultralytics exporter name the task, else stretched; RGB, divided by 255.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["semantic"])?;
    let &[_, classes, rows, cols] = signature.single(4)? else {
        return Err(format!("it needs one map, but there are {}", signature.describe()));
    };
    let is_said = signature.named || signature.metadata("task").is_some();
    if classes < 2 || rows == 0 || cols == 0 {
        return Err(format!("a map of {classes} classes has no class to choose"));
    }
    // Three channels are a picture, and small maps belong to detectors.
    if !is_said && (classes == 3 || rows * 4 < signature.height || cols * 4 < signature.width) {
        return Err(format!("a map {} need not hold classes", signature.describe()));
    }
    signature.check_classes(classes)?;
    let origins = signature.origins(0);
    let (mean, std) = super::UNIT;
    Ok(Fitted {
        head: Box::new(Semantic {
            classes,
            rows,
            cols,
            activated: !origins.is_empty() && origins.iter().all(|o| matches!(*o, "Softmax" | "Sigmoid")),
            input_px: [signature.width, signature.height],
        }),
        fit: if signature.metadata("task").is_some() { Fit::LetterboxCentre { pad: 114 } } else { Fit::Stretch },
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.25,
        iou_threshold: 0.7,
        labels: Labels::default(),
    })
}

/// The cells of one class.
struct Region {
    cells: usize,
    probabilities: f64,
    /// First and last column and row.
    low: [usize; 2],
    high: [usize; 2],
}

impl Semantic {
    fn values<'a>(&self, output: &OutputRef<'a>, row: usize, col: usize) -> impl Iterator<Item = f32> + Clone + 'a {
        let OutputRef { values, view } = *output;
        let at = view.offset + row * view.strides[2] + col * view.strides[3];
        let stride = view.strides[1];
        (0..self.classes).map(move |c| values[at + c * stride])
    }

    /// The class of a cell and its value; of equal values the first, and none where all are NaN.
    fn best(&self, output: &OutputRef<'_>, row: usize, col: usize) -> Option<(usize, f32)> {
        let mut best = None;
        for (class, value) in self.values(output, row, col).enumerate() {
            if best.is_none_or(|(_, v)| value > v) && !value.is_nan() {
                best = Some((class, value));
            }
        }
        best
    }

    fn cell_px(&self) -> [f32; 2] {
        [self.input_px[0] as f32 / self.cols as f32, self.input_px[1] as f32 / self.rows as f32]
    }
}

impl Head for Semantic {
    fn stem(&self) -> &'static str {
        "semantic"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.classes
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let mut regions: Vec<Region> = (0..self.classes)
            .map(|_| Region { cells: 0, probabilities: 0.0, low: [usize::MAX; 2], high: [0; 2] })
            .collect();
        for row in 0..self.rows {
            for col in 0..self.cols {
                let Some((class, value)) = self.best(&outputs[0], row, col) else { continue };
                let probability = match self.activated {
                    true => value,
                    false => softmax_share(self.values(&outputs[0], row, col), value),
                };
                let region = &mut regions[class];
                region.cells += 1;
                region.probabilities += f64::from(probability);
                region.low = [region.low[0].min(col), region.low[1].min(row)];
                region.high = [region.high[0].max(col), region.high[1].max(row)];
            }
        }
        let [cell_w, cell_h] = self.cell_px();
        for (class, region) in regions.iter().enumerate().filter(|(_, region)| region.cells > 0) {
            let score = (region.probabilities / region.cells as f64) as f32;
            if score.is_nan() || score < filter.threshold {
                continue;
            }
            let (low, high) = (region.low, region.high);
            emit.push(RawDetection {
                bounds: [
                    low[0] as f32 * cell_w,
                    low[1] as f32 * cell_h,
                    (high[0] + 1) as f32 * cell_w,
                    (high[1] + 1) as f32 * cell_h,
                ],
                score,
                class: class as u32,
                anchor: class as u32,
                reserved: 0,
            });
        }
    }

    fn suppression(&self) -> Suppression {
        Suppression::None
    }

    fn has_shader(&self) -> bool {
        false
    }

    fn has_details(&self) -> bool {
        true
    }

    fn details(&self, outputs: &[OutputRef<'_>], anchor: u32) -> Details {
        let class_of = |cell: usize| self.best(&outputs[0], cell / self.cols, cell % self.cols).map(|b| b.0 as u32);
        let is_inside = |cell: usize| f32::from(u8::from(class_of(cell) == Some(anchor)));
        let mask = MaskGrid {
            cols: self.cols,
            rows: self.rows,
            area_px: [0.0, 0.0, self.input_px[0] as f32, self.input_px[1] as f32],
            values: (0..self.rows * self.cols).map(is_inside).collect(),
            sampling: Sampling::Nearest,
        };
        Details { mask: Some(mask), ..Details::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise, references};
    use super::*;
    use crate::decode::head::recognise;

    #[test]
    fn classes_by_definition() {
        for activated in [false, true] {
            let parts: &[&'static str] = if activated { &["Softmax"] } else { &["Conv"] };
            let r = recognise(&graph(96, 64, &[("output0", &[1, 5, 16, 24], parts)]), None).unwrap();
            assert_eq!((r.name, r.head.classes()), ("semantic", 5));
            let mut next = noise(4);
            let table = Table::new(&[1, 5, 16, 24], |at| {
                // The last class is nowhere, class 1 only on the left.
                let bias = if at[1] == 4 || (at[1] == 1 && at[3] > 9) { -2.0 } else { 0.0 };
                next() + bias + if activated { 2.0 } else { 0.0 }
            });
            let v = |c: usize, j: usize, i: usize| table.at(&[0, c, j, i]);
            let mut expected: Vec<Expected> = Vec::new();
            let mut class_of = vec![0; 16 * 24];
            let mut sums = [(0.0, 0.0, [f64::MAX, f64::MAX, 0.0, 0.0]); 5];
            for j in 0..16 {
                for i in 0..24 {
                    let best = (0..5).max_by(|&a, &b| v(a, j, i).total_cmp(&v(b, j, i))).unwrap();
                    class_of[j * 24 + i] = best;
                    let total: f64 = (0..5).map(|c| v(c, j, i).exp()).sum();
                    let p = if activated { v(best, j, i) } else { v(best, j, i).exp() / total };
                    let (x, y) = (i as f64 * 4.0, j as f64 * 4.0);
                    let (sum, count, b) = sums[best];
                    sums[best] = (
                        sum + p,
                        count + 1.0,
                        [f64::min(b[0], x), f64::min(b[1], y), f64::max(b[2], x + 4.0), f64::max(b[3], y + 4.0)],
                    );
                }
            }
            for (class, (sum, count, bounds)) in sums.into_iter().enumerate() {
                if count > 0.0 {
                    expected.push((class, class, sum / count, bounds));
                }
            }
            assert_eq!(expected.len(), 4);
            let tables = [table];
            assert_same(&decode(&*r.head, &tables, 0.1, false), &expected, 0.1);
            references(&tables, |outputs| {
                for class in 0..5 {
                    let grid = r.head.details(outputs, class as u32).mask.unwrap();
                    for (cell, value) in grid.values.iter().enumerate() {
                        assert_eq!(*value > 0.0, class_of[cell] == class);
                    }
                }
            });
        }
    }

    #[test]
    fn maps_that_need_not_hold_classes_need_the_name() {
        for shape in [[1, 3, 64, 96], [1, 85, 4, 6], [1, 1, 64, 96]] {
            let g = graph(96, 64, &[("output0", &shape, &["Conv"])]);
            assert!(fit(&Signature::new(&g, false).unwrap()).is_err(), "{shape:?}");
            assert_eq!(recognise(&g, Some("semantic")).is_ok(), shape[1] > 1);
        }
    }
}
