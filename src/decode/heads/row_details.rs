//! What rows of a table hold beside box and classes: keypoints, an angle, coefficients of a mask. Shared by the heads
//! whose rows are decoded in the graph.
//!
//! Keypoints: K · (x, y) or K · (x, y, visibility), pixels of the input. Angle: radians, of a box given by centre and size.
//! Mask: coefficients m and prototypes `p [1, M, h, w]` in an output of their own; inside where Σ mₖ pₖ > 0, that is where
//! its logistic is above ½. Bolya et al., "YOLACT", arXiv 1904.02689.

use crate::decode::head::{Details, OutputRef, Signature};
use crate::decode::mask::{MaskGrid, Sampling};
use crate::decode::rotated::RotatedBox;
use crate::decode::scan::Matrix;
use crate::infer::tensor::DType;

/// Columns of keypoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeypointColumns {
    pub first: usize,
    pub count: usize,
    /// 2: x y; 3: x y visibility.
    pub numbers: usize,
}

/// Columns of mask coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskColumns {
    pub first: usize,
    pub count: usize,
    /// Index of the output with the prototypes.
    pub prototypes: usize,
    /// Width and height of the network's input.
    pub input_px: [usize; 2],
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowDetails {
    pub keypoints: Option<KeypointColumns>,
    pub angle: Option<usize>,
    pub mask: Option<MaskColumns>,
}

/// A table of decoded rows among the outputs, and the prototypes of masks if there are any.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// Index and shape of the table, `[1, _, _]`.
    pub table: usize,
    pub shape: &'a [usize],
    /// Index of the prototypes and their number.
    pub prototypes: Option<(usize, usize)>,
}

/// The outputs of a network that ends in one table, or in one table and the prototypes of masks.
///
/// # Errors
/// Other outputs.
pub fn tables<'a>(signature: &Signature<'a>) -> Result<Tables<'a>, String> {
    let is_table = |shape: &[usize]| matches!(*shape, [1, _, _]);
    let prototypes = |shape: &[usize]| match *shape {
        [1, count, rows, cols] if count > 0 && rows > 0 && cols > 0 => Some(count),
        _ => None,
    };
    match signature.outputs[..] {
        [(_, shape)] if is_table(shape) => Ok(Tables { table: 0, shape, prototypes: None }),
        [(_, a), (_, b)] if is_table(a) && prototypes(b).is_some() => {
            Ok(Tables { table: 0, shape: a, prototypes: prototypes(b).map(|n| (1, n)) })
        }
        [(_, a), (_, b)] if is_table(b) && prototypes(a).is_some() => {
            Ok(Tables { table: 1, shape: b, prototypes: prototypes(a).map(|n| (0, n)) })
        }
        _ => Err(format!(
            "it needs one output of rank 3, and for masks one [1, M, h, w] beside it, but there are {}",
            signature.describe()
        )),
    }
}

/// A table whose shape depends on the picture, by what the file says of it.
#[derive(Clone, Copy, Debug)]
pub struct LateTable {
    /// Index of the table.
    pub table: usize,
    pub rows: Option<usize>,
    pub columns: Option<usize>,
    /// Index of the prototypes and their number.
    pub prototypes: Option<(usize, usize)>,
}

/// The outputs of a network that ends in one table of floats whose shape depends on the picture, or in such a table and
/// the prototypes of masks.
pub fn late_table(signature: &Signature<'_>) -> Option<LateTable> {
    let late = |output: usize| {
        let declared = signature.is_late(output).then(|| signature.declared(output)).flatten()?;
        match declared.dims[..] {
            [None | Some(1), rows, columns] if declared.dtype == DType::F32 => Some((rows, columns)),
            _ => None,
        }
    };
    let prototypes = |output: usize| match signature.outputs[output].1 {
        &[1, count, rows, cols] if !signature.is_late(output) && count * rows * cols > 0 => Some((output, count)),
        _ => None,
    };
    let (table, prototypes) = match signature.outputs.len() {
        1 => (0, None),
        2 if late(0).is_some() => (0, Some(prototypes(1)?)),
        2 => (1, Some(prototypes(0)?)),
        _ => return None,
    };
    late(table).map(|(rows, columns)| LateTable { table, rows, columns, prototypes })
}

/// Number and size of keypoints, as the metadata `kpt_shape` gives them: `[17, 3]`.
///
/// # Errors
/// When there are such metadata and they are something else.
pub fn keypoint_shape(signature: &Signature<'_>) -> Result<Option<(usize, usize)>, String> {
    let Some(text) = signature.metadata("kpt_shape") else { return Ok(None) };
    let wrong = || format!("its metadata 'kpt_shape' is {text}, not [number, 2 or 3]");
    let inner = text.trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
    let numbers: Vec<usize> =
        inner.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>().map_err(|_| wrong())?;
    match numbers[..] {
        [count @ 1..=10_000, numbers @ (2 | 3)] => Ok(Some((count, numbers))),
        _ => Err(wrong()),
    }
}

impl RowDetails {
    pub fn is_empty(&self) -> bool {
        *self == RowDetails::default()
    }

    /// The turned box of a row whose first four columns are centre and size.
    pub fn rotated(&self, values: &[f32], rows: &Matrix, row: usize) -> Option<RotatedBox> {
        let angle = rows.at(values, row, self.angle?);
        let [cx, cy, w, h] = [0, 1, 2, 3].map(|k| rows.at(values, row, k));
        Some(RotatedBox { centre: [cx, cy], size: [w, h], angle })
    }

    /// What the row tells; `bounds` is its box in pixels of the input.
    pub fn of_row(
        &self,
        outputs: &[OutputRef<'_>],
        values: &[f32],
        rows: &Matrix,
        row: usize,
        bounds: [f32; 4],
    ) -> Details {
        let mut details = Details { rotated: self.rotated(values, rows, row), ..Details::default() };
        if let Some(points) = self.keypoints {
            for k in 0..points.count {
                let at = |n: usize| rows.at(values, row, points.first + k * points.numbers + n);
                details.landmarks.push([at(0), at(1)]);
                if points.numbers == 3 {
                    details.visibility.push(at(2));
                }
            }
        }
        details.mask = self.mask.map(|mask| {
            let coefficients: Vec<f32> = (0..mask.count).map(|k| rows.at(values, row, mask.first + k)).collect();
            mask_grid(&outputs[mask.prototypes], &coefficients, mask.input_px, bounds)
        });
        details
    }
}

/// Σ mₖ pₖ in the cells that count for pixels of the box.
fn mask_grid(prototypes: &OutputRef<'_>, coefficients: &[f32], input_px: [usize; 2], bounds: [f32; 4]) -> MaskGrid {
    let OutputRef { values, view } = prototypes;
    let cells = [view.shape[3], view.shape[2]];
    let cell_px = [0, 1].map(|axis| input_px[axis] as f32 / cells[axis] as f32);
    // Casts saturate, so that no box leads out of the map.
    let first = [0, 1].map(|axis| ((bounds[axis] / cell_px[axis] - 0.5).floor() as usize).min(cells[axis] - 1));
    let end = [0, 1].map(|axis| {
        ((bounds[axis + 2] / cell_px[axis] - 0.5).ceil() as usize).min(cells[axis] - 1).max(first[axis]) + 1
    });
    let mut sums = Vec::with_capacity((end[0] - first[0]) * (end[1] - first[1]));
    for y in first[1]..end[1] {
        for x in first[0]..end[0] {
            let at = view.offset + y * view.strides[2] + x * view.strides[3];
            sums.push(coefficients.iter().enumerate().map(|(k, m)| m * values[at + k * view.strides[1]]).sum());
        }
    }
    MaskGrid {
        cols: end[0] - first[0],
        rows: end[1] - first[1],
        area_px: [
            first[0] as f32 * cell_px[0],
            first[1] as f32 * cell_px[1],
            end[0] as f32 * cell_px[0],
            end[1] as f32 * cell_px[1],
        ],
        values: sums,
        sampling: Sampling::Bilinear,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Table, graph, noise, references};
    use super::*;

    #[test]
    fn keypoint_shapes() {
        let shape = |text: &str| {
            let mut g = graph(64, 64, &[("output0", &[1, 56, 84], &["Concat"])]);
            g.metadata.insert("kpt_shape".into(), text.into());
            keypoint_shape(&Signature::new(&g, false).unwrap())
        };
        assert_eq!(shape("[17, 3]"), Ok(Some((17, 3))));
        assert_eq!(shape("(5,2)"), Ok(Some((5, 2))));
        for wrong in ["", "[17]", "[17, 4]", "[0, 3]", "[99999, 3]", "[a, 3]", "[17, 3, 1]"] {
            assert!(shape(wrong).unwrap_err().contains("kpt_shape"), "{wrong}");
        }
    }

    /// Every sum against a plain loop, and every point of the box has all cells that bilinear sampling needs.
    #[test]
    fn masks_by_definition() {
        let mut next = noise(4);
        let table = Table::new(&[1, 5, 6, 10], |_| next() - 0.5);
        let coefficients = [0.5f32, -1.0, 2.0, 0.25, -0.75];
        for bounds in [[3.0, 2.0, 50.0, 30.0], [-20.0, -9.0, 500.0, 99.0], [17.0, 13.0, 18.5, 13.2], [200.0; 4]] {
            references(std::slice::from_ref(&table), |outputs| {
                let grid = mask_grid(&outputs[0], &coefficients, [80, 48], bounds);
                let cell = [(grid.area_px[0] / 8.0) as usize, (grid.area_px[1] / 8.0) as usize];
                assert_eq!(grid.area_px[2], ((cell[0] + grid.cols) * 8) as f32);
                for y in 0..grid.rows {
                    for x in 0..grid.cols {
                        let sum: f64 = (0..5)
                            .map(|k| f64::from(coefficients[k]) * table.at(&[0, k, cell[1] + y, cell[0] + x]))
                            .sum();
                        assert!((f64::from(grid.values[y * grid.cols + x]) - sum).abs() < 1e-5);
                    }
                }
                for (axis, cells) in [(0, 10.0f32), (1, 6.0)] {
                    for point in [bounds[axis], bounds[axis + 2]] {
                        let at = (point / 8.0 - 0.5).clamp(0.0, cells - 1.0);
                        let count = [grid.cols, grid.rows][axis];
                        assert!(at.floor() as usize >= cell[axis] && (at.ceil() as usize) < cell[axis] + count);
                    }
                }
            });
        }
    }
}
