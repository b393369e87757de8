//! One file per head family; one that runs on a GPU has a shader of the same stem in `shaders/decode`, or is a form of
//! another family and says of which.

pub mod blazeface;
pub mod classifier;
mod darknet;
pub mod decoded_tables;
pub mod detection_grid;
pub mod detection_output;
pub mod end_to_end;
mod faces;
pub mod fastestdet;
pub mod gaussian_yolo;
pub mod gfl;
pub mod grid_anchor_free;
pub mod lists;
pub mod priors;
pub mod region;
pub mod retinaface;
pub mod row_details;
pub mod scrfd;
pub mod semantic;
pub mod ssd;
pub mod ssd_raw;
pub mod transformer;
pub mod yolo_anchors;
pub mod yolo_fastest_v2;
pub mod yolo_maps;
pub mod yolo_v2_maps;
pub mod yolo_v3_selected;
pub mod yolo_v8;
pub mod yunet;
pub mod yunet_2021;

use crate::shader::{Precision, VariantBuilder};

/// Levels 0 to 255 as they are.
pub(super) const LEVELS: ([f32; 3], [f32; 3]) = ([0.0; 3], [1.0; 3]);
/// Levels divided by 255.
pub(super) const UNIT: ([f32; 3], [f32; 3]) = ([0.0; 3], [255.0; 3]);

/// For shaders that look for the best class.
const BEST_CLASS: &str = include_str!("../../../shaders/common/best_class.wgsl");

/// For shaders of turned boxes.
const ROTATED: &str = include_str!("../../../shaders/common/rotated.wgsl");

/// A decode shader with the shared declarations, `ROW` for its spread, and that storage precision.
fn builder(stem: &'static str, source: &str, row: usize, precision: Precision) -> VariantBuilder {
    VariantBuilder::new(stem, source)
        .u32("ROW", row)
        .include(include_str!("../../../shaders/common/candidates.wgsl"))
        .precision(precision)
}

#[cfg(test)]
pub(crate) mod testing;
