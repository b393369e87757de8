//! `[region]` (YOLOv2): a head with anchors in grid cells.

use crate::infer::graph::{DarknetHead, DarknetLayout, DarknetNms, ValueId};
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};

#[derive(Debug)]
struct Region {
    anchors_cells: Vec<[f32; 2]>,
    classes: usize,
    coords: usize,
    softmax: bool,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    for (key, what) in [("tree", "hierarchical classes, as in yolo9000"), ("map", "a map of classes, as in yolo9000")] {
        if section.has(key) {
            return Err(at.unsupported(format!("{key}= ({what})")));
        }
    }
    at.refuse_flags(&[("background", "a background class")])?;
    let num = section.positive("num", 1)?;
    let coords = section.count("coords", 4)?;
    if coords < 4 {
        return Err(at.malformed(format!("coords={coords}; a box has 4")).into());
    }
    let sides = section.floats("anchors")?.ok_or_else(|| at.malformed("anchors= is missing"))?;
    let anchors_cells: Vec<[f32; 2]> = sides.as_chunks::<2>().0.iter().copied().take(num).collect();
    if anchors_cells.len() < num || anchors_cells.iter().flatten().any(|&side| side <= 0.0) {
        return Err(at.malformed(format!("anchors= must list {num} pairs of numbers above 0")).into());
    }
    let (classes, softmax) = (section.positive("classes", 20)?, section.flag("softmax")?);
    Ok(Box::new(Region { anchors_cells, classes, coords, softmax }))
}

impl Layer for Region {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        let Region { anchors_cells, classes, coords, .. } = self;
        let channels = classes.checked_add(*coords + 1).and_then(|n| n.checked_mul(anchors_cells.len()));
        if channels != Some(input.channels) {
            let why = format!(
                "{} anchors of {coords} + 1 + {classes} values do not make the {} channels of its input",
                anchors_cells.len(),
                input.channels
            );
            return Err(at.malformed(why).into());
        }
        Ok(input)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let layout = DarknetLayout::Region {
            anchors_cells: self.anchors_cells.clone(),
            coords: self.coords,
            softmax: self.softmax,
        };
        let nms = DarknetNms::Greedy;
        Ok(builder.head(DarknetHead { output: site.previous, classes: self.classes, nms, layout }))
    }

    fn is_head(&self) -> bool {
        true
    }
}
