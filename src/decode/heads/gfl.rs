//! Box distributions on anchor-free grids (NanoDet, NanoDet-Plus, PicoDet). Twin of `shaders/decode/gfl.wgsl`.
//!
//! Each cell has class probabilities (already through the sigmoid) and 4·(r+1) box logits: for each side left, top,
//! right, bottom a softmax over r+1 bins, whose expectation is the distance from the cell's point in strides. The point
//! of cell (i, j) is `((i+½)·s, (j+½)·s)`, for NanoDet-Plus the corner `(i·s, j·s)`. The score is the class probability.
//! Li et al., "Generalized Focal Loss", arXiv 2006.04388.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, GridScale, Head, OutputRef, ScoreFilter, Signature, cell_count, grids, spread};
use crate::decode::labels::Labels;
use crate::decode::scan::{Matrix, scan, side};
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "gfl";
const SHADER: &str = include_str!("../../../shaders/decode/gfl.wgsl");

/// Most bins per side that a shader unrolls to; real networks have 8.
const MAX_BINS: usize = 64;

/// Where one scale's numbers are.
#[derive(Clone, Debug)]
pub struct GflScale {
    pub grid: GridScale,
    /// Output with the classes, the row and the column in it where they begin.
    pub classes_at: (usize, usize, usize),
    /// The same for the box logits.
    pub boxes_at: (usize, usize, usize),
}

#[derive(Clone, Debug)]
pub struct Gfl {
    pub classes: usize,
    /// r + 1.
    pub bins: usize,
    /// Offset of a cell's point from its corner in cells: 0.5 or 0.
    pub point: f32,
    pub scales: Vec<GflScale>,
}

/// Mean and standard deviation of ImageNet in the order B, G, R and R, G, B.
const IMAGENET_BGR: ([f32; 3], [f32; 3]) = ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]);
const IMAGENET_RGB: ([f32; 3], [f32; 3]) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);

fn fitted(head: Gfl, order: ChannelOrder, (mean, std): ([f32; 3], [f32; 3])) -> Fitted {
    Fitted {
        labels: Labels::usual(head.classes),
        head: Box::new(head),
        fit: Fit::Stretch,
        order,
        mean,
        std,
        score_threshold: 0.35,
        iou_threshold: 0.45,
    }
}

/// Outputs: the classes `[1, n, C]` of each scale, then the boxes `[1, n, 4(r+1)]` of each scale.
fn fit_scales(signature: &Signature<'_>, strides: &[usize], class_outputs: &[usize]) -> Result<Gfl, String> {
    let count = strides.len();
    let scales = grids(signature.width, signature.height, strides);
    let (mut classes, mut bins) = (None, None);
    let mut found = Vec::new();
    for (i, &grid) in scales.iter().enumerate() {
        let (class_output, box_output) = (class_outputs[i], class_outputs[count + i]);
        let (c, b) = (signature.outputs[class_output].1, signature.outputs[box_output].1);
        match (c, b) {
            (&[1, n, columns], &[1, m, logits])
                if n == grid.cells()
                    && m == n
                    && columns > 0
                    && logits % 4 == 0
                    && (8..=4 * MAX_BINS).contains(&logits)
                    && *classes.get_or_insert(columns) == columns
                    && *bins.get_or_insert(logits / 4) == logits / 4 =>
            {
                found.push(GflScale { grid, classes_at: (class_output, 0, 0), boxes_at: (box_output, 0, 0) });
            }
            _ => {
                return Err(format!(
                    "stride {} needs outputs [1, {n}, classes] and [1, {n}, 4(r+1)], not {c:?} and {b:?}",
                    grid.stride_px,
                    n = grid.cells()
                ));
            }
        }
    }
    match (classes, bins) {
        (Some(classes), Some(bins)) => Ok(Gfl { classes, bins, point: 0.5, scales: found }),
        _ => Err("it has no scales".to_string()),
    }
}

fn has_stride_names(signature: &Signature<'_>) -> bool {
    signature.outputs.iter().any(|(name, _)| name.starts_with("cls_pred_stride_"))
}

/// NanoDet-m: `cls_pred_stride_8` … and `dis_pred_stride_8` …; BGR, standardised, stretched.
pub fn fit_nanodet(signature: &Signature<'_>) -> Result<Fitted, String> {
    let strides = [8, 16, 32];
    let names = ["cls", "dis"].iter().flat_map(|k| strides.iter().map(move |s| format!("{k}_pred_stride_{s}")));
    let named: Vec<usize> = names.filter_map(|n| signature.output(&n)).collect();
    let outputs = if named.len() == 6 { named } else { (0..signature.outputs.len()).collect() };
    if outputs.len() != 6 {
        return Err(format!("it needs six outputs, but there are {}", signature.describe()));
    }
    Ok(fitted(fit_scales(signature, &strides, &outputs)?, ChannelOrder::Bgr, IMAGENET_BGR))
}

/// PicoDet: eight outputs, classes then boxes of strides 8 to 64; RGB, standardised, stretched.
pub fn fit_picodet(signature: &Signature<'_>) -> Result<Fitted, String> {
    if signature.outputs.len() != 8 || (!signature.named && has_stride_names(signature)) {
        return Err(format!("it needs eight outputs without NanoDet's names, but there are {}", signature.describe()));
    }
    let outputs: Vec<usize> = (0..8).collect();
    Ok(fitted(fit_scales(signature, &[8, 16, 32, 64], &outputs)?, ChannelOrder::Rgb, IMAGENET_RGB))
}

/// NanoDet-Plus: one output `[1, N, C + 32]`, strides 8 to 64, points at the cells' corners; BGR as NanoDet.
pub fn fit_nanodet_plus(signature: &Signature<'_>) -> Result<Fitted, String> {
    const BINS: usize = 8;
    let shape = signature.single(3)?;
    let scales = grids(signature.width, signature.height, &[8, 16, 32, 64]);
    if shape[1] != cell_count(&scales) {
        return Err(format!("{} rows are not the cells of strides 8, 16, 32 and 64", shape[1]));
    }
    let Some(classes) = shape[2].checked_sub(4 * BINS).filter(|&c| c > 0) else {
        return Err(format!("{} columns leave no class beside {} box logits", shape[2], 4 * BINS));
    };
    // The classes went through a sigmoid, the box logits did not.
    if !signature.named && signature.origins(0).last() != Some(&"Conv") {
        return Err("the box logits do not come straight from a convolution".to_string());
    }
    let scales = scales
        .into_iter()
        .map(|grid| GflScale { grid, classes_at: (0, grid.first, 0), boxes_at: (0, grid.first, classes) })
        .collect();
    Ok(fitted(Gfl { classes, bins: BINS, point: 0.0, scales }, ChannelOrder::Bgr, IMAGENET_BGR))
}

impl Gfl {
    fn matrices(&self, scale: &GflScale, view_of: impl Fn(usize) -> Matrix) -> (Matrix, Matrix) {
        let part = |(output, row, column): (usize, usize, usize), columns| {
            view_of(output).rows(row, scale.grid.cells()).columns(column, columns)
        };
        (part(scale.classes_at, self.classes), part(scale.boxes_at, 4 * self.bins))
    }

    /// Expectation of the softmax over the bins of one side.
    fn distance(&self, values: &[f32], boxes: &Matrix, row: usize, which: usize) -> f32 {
        let at = |k: usize| boxes.at(values, row, which * self.bins + k);
        let mut largest = at(0);
        for k in 1..self.bins {
            largest = largest.max(at(k));
        }
        let (mut sum, mut weighted) = (0.0, 0.0);
        for k in 0..self.bins {
            let e = side(at(k) - largest);
            sum += e;
            weighted += e * k as f32;
        }
        weighted / sum
    }
}

impl Head for Gfl {
    fn stem(&self) -> &'static str {
        STEM
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.scales.iter().map(|s| s.grid.cells()).sum()
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        for scale in &self.scales {
            let (classes, boxes) = self.matrices(scale, |output| Matrix::of(outputs[output].view, 1, 2));
            let box_values = outputs[scale.boxes_at.0].values;
            let stride = scale.grid.stride_px as f32;
            scan(
                outputs[scale.classes_at.0].values,
                &classes,
                filter.threshold,
                filter.multi_label,
                |_| true,
                |r, class, score| {
                    let cx = ((r % scale.grid.cols) as f32 + self.point) * stride;
                    let cy = ((r / scale.grid.cols) as f32 + self.point) * stride;
                    let [l, t, right, b] = [0, 1, 2, 3].map(|k| self.distance(box_values, &boxes, r, k) * stride);
                    emit.push(RawDetection {
                        bounds: [cx - l, cy - t, cx + right, cy + b],
                        score,
                        class: class as u32,
                        anchor: (scale.grid.first + r) as u32,
                        reserved: 0,
                    });
                },
            );
        }
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        self.scales
            .iter()
            .map(|scale| {
                let (workgroups, row) = spread(scale.grid.cells());
                let (classes, boxes) = self.matrices(scale, |output| Matrix::of(&views[output], 1, 2));
                let variant = super::builder(STEM, SHADER, row, precision)
                    .include(super::BEST_CLASS)
                    .u32("CELLS", scale.grid.cells())
                    .u32("COLS", scale.grid.cols)
                    .u32("FIRST", scale.grid.first)
                    .f32("STRIDE_PX", scale.grid.stride_px as f32)
                    .f32("POINT", self.point)
                    .u32("CLASSES", self.classes)
                    .u32("BINS", self.bins)
                    .u32("CLASS_OFFSET", classes.offset)
                    .u32("CLASS_ROW_STRIDE", classes.row_stride)
                    .u32("CLASS_COLUMN_STRIDE", classes.column_stride)
                    .u32("BOX_OFFSET", boxes.offset)
                    .u32("BOX_ROW_STRIDE", boxes.row_stride)
                    .u32("BOX_COLUMN_STRIDE", boxes.column_stride)
                    .build(workgroups);
                (variant, vec![scale.classes_at.0, scale.boxes_at.0])
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use super::*;
    use crate::decode::head::{DecodeError, recognise};

    /// Candidates by definition; `class_at(scale, cell, k)` and `logit_at(scale, cell, k)` read the tables.
    fn expected(
        (width, height): (usize, usize),
        strides: &[usize],
        classes: usize,
        point: f64,
        class_at: impl Fn(usize, usize, usize) -> f64,
        logit_at: impl Fn(usize, usize, usize) -> f64,
    ) -> Vec<Expected> {
        let mut all = Vec::new();
        let mut anchor = 0;
        for (n, &stride) in strides.iter().enumerate() {
            let cols = width.div_ceil(stride);
            for cell in 0..cols * height.div_ceil(stride) {
                let best = (0..classes).max_by(|&a, &b| class_at(n, cell, a).total_cmp(&class_at(n, cell, b))).unwrap();
                let score = class_at(n, cell, best);
                if score >= 0.9 {
                    let s = stride as f64;
                    let d = [0, 1, 2, 3].map(|side| {
                        let e: Vec<f64> = (0..8).map(|k| logit_at(n, cell, side * 8 + k).exp()).collect();
                        let sum: f64 = e.iter().sum();
                        e.iter().enumerate().map(|(k, v)| k as f64 * v / sum).sum::<f64>() * s
                    });
                    let (cx, cy) = (((cell % cols) as f64 + point) * s, ((cell / cols) as f64 + point) * s);
                    all.push((anchor, best, score, [cx - d[0], cy - d[1], cx + d[2], cy + d[3]]));
                }
                anchor += 1;
            }
        }
        all
    }

    fn table(shape: &[usize], scale: f32, seed: u32) -> Table {
        let mut next = noise(seed);
        Table::new(shape, |_| next() * scale)
    }

    #[test]
    fn nanodet_and_picodet() {
        let size = (96usize, 64usize);
        for (strides, order) in [(&[8, 16, 32][..], ChannelOrder::Bgr), (&[8, 16, 32, 64], ChannelOrder::Rgb)] {
            let cells: Vec<usize> = strides.iter().map(|s| size.0.div_ceil(*s) * size.1.div_ceil(*s)).collect();
            let mut outputs: Vec<(String, Vec<usize>)> = Vec::new();
            for (kind, columns) in [("cls", 5), ("dis", 32)] {
                for (s, n) in strides.iter().zip(&cells) {
                    let name =
                        if strides.len() == 3 { format!("{kind}_pred_stride_{s}") } else { format!("{kind}{s}") };
                    outputs.push((name, vec![1, *n, columns]));
                }
            }
            let parts: &[&str] = &["Conv"];
            let list: Vec<(&str, &[usize], &[&str])> =
                outputs.iter().map(|(n, s)| (n.as_str(), s.as_slice(), parts)).collect();
            let r = recognise(&graph(size.0, size.1, &list), None).unwrap();
            assert_eq!(r.name, if strides.len() == 3 { "nanodet" } else { "picodet" });
            assert_eq!((r.preprocess.order, r.preprocess.fit), (order, Fit::Stretch));
            let half = strides.len();
            let tables: Vec<Table> = outputs
                .iter()
                .enumerate()
                .map(|(i, (_, s))| table(s, if i < half { 1.0 } else { 9.0 }, i as u32))
                .collect();
            let want = expected(
                size,
                strides,
                5,
                0.5,
                |n, cell, k| tables[n].at(&[0, cell, k]),
                |n, cell, k| tables[half + n].at(&[0, cell, k]),
            );
            assert_same(&decode(&*r.head, &tables, 0.9, false), &want, 0.9);
        }
    }

    #[test]
    fn nanodet_plus_in_one_table() {
        let (size, strides) = ((64, 64), [8, 16, 32, 64]);
        let count = 64 + 16 + 4 + 1;
        let g = graph(size.0, size.1, &[("output", &[1, count, 6 + 32], &["Sigmoid", "Conv"])]);
        let r = recognise(&g, None).unwrap();
        assert_eq!(r.name, "nanodet_plus");
        let mut next = noise(4);
        let t = Table::new(&[1, count, 38], |at| next() * if at[2] < 6 { 1.0 } else { 9.0 });
        let first = [0, 64, 80, 84];
        let want = expected(
            size,
            &strides,
            6,
            0.0,
            |n, cell, k| t.at(&[0, first[n] + cell, k]),
            |n, cell, k| t.at(&[0, first[n] + cell, 6 + k]),
        );
        assert_same(&decode(&*r.head, &[t], 0.9, false), &want, 0.9);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let shapes: [[usize; 3]; 6] = [[1, 64, 5], [1, 16, 5], [1, 5, 5], [1, 64, 32], [1, 16, 32], [1, 4, 32]];
        let names = ["a", "b", "c", "d", "e", "f"];
        let list: Vec<(&str, &[usize], &[&str])> =
            names.iter().zip(&shapes).map(|(n, s)| (*n, &s[..], &["Conv"][..])).collect();
        let error = recognise(&graph(64, 64, &list), Some("nanodet")).unwrap_err();
        assert!(matches!(error, DecodeError::Misfit { .. }));
        assert!(error.to_string().contains("stride 32"), "{error}");
    }
}
