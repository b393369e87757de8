//! `[yolo]` (YOLOv3, v4, v7, Yolo-Fastest) and `[Gaussian_yolo]`: heads with anchors in pixels of the network's input.

use crate::infer::graph::{BoxPoint, DarknetHead, DarknetLayout, DarknetNms, ValueId};
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};

#[derive(Debug)]
struct Yolo {
    classes: usize,
    nms: DarknetNms,
    anchors: usize,
    /// Numbers of an anchor besides the classes.
    own: usize,
    layout: DarknetLayout,
}

/// Pairs of `anchors=` that `mask=` lists.
fn anchors(at: Place<'_>) -> Result<Vec<[f32; 2]>, ImportError> {
    let section = at.section;
    let num = section.positive("num", 1)?;
    let sides = section.floats("anchors")?.ok_or_else(|| at.malformed("anchors= is missing"))?;
    let mask = match section.integers("mask")? {
        Some(mask) => mask,
        None => (0..num.min(sides.len()) as i64).collect(),
    };
    let mut anchors = Vec::with_capacity(mask.len());
    for &anchor in &mask {
        let sides = usize::try_from(anchor).ok().and_then(|a| sides.get(a.checked_mul(2)?..)?.first_chunk::<2>());
        match sides {
            Some(&sides) if sides.iter().all(|&side| side > 0.0) => anchors.push(sides),
            Some(sides) => return Err(at.malformed(format!("anchor {anchor} is {sides:?}, not above 0"))),
            None => return Err(at.malformed(format!("mask={anchor} names an anchor that anchors= lacks"))),
        }
    }
    Ok(anchors)
}

/// `nms_kind=` and `beta_nms=`.
fn nms(at: Place<'_>) -> Result<DarknetNms, Refusal> {
    let beta = at.section.float("beta_nms", 0.6)?;
    match at.section.text("nms_kind", "default") {
        "default" | "greedynms" => Ok(DarknetNms::Greedy),
        "diounms" => Ok(DarknetNms::Distance { beta }),
        other => Err(at.unsupported(format!("nms_kind={other}; default, greedynms and diounms are supported"))),
    }
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let anchors_px = anchors(at)?;
    let layout = DarknetLayout::Yolo {
        scale_x_y: at.section.float("scale_x_y", 1.0)?,
        new_coords: at.section.flag("new_coords")?,
        anchors_px: anchors_px.clone(),
    };
    let classes = at.section.positive("classes", 20)?;
    Ok(Box::new(Yolo { classes, nms: nms(at)?, anchors: anchors_px.len(), own: 5, layout }))
}

pub fn read_gaussian(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let anchors_px = anchors(at)?;
    let point = match at.section.text("yolo_point", "center") {
        "center" => BoxPoint::Centre,
        "left_top" => BoxPoint::LeftTop,
        "right_bottom" => BoxPoint::RightBottom,
        other => {
            let why = format!("yolo_point={other}; center, left_top and right_bottom are known");
            return Err(at.unsupported(why));
        }
    };
    let layout = DarknetLayout::GaussianYolo {
        scale_x_y: at.section.float("scale_x_y", 1.0)?,
        anchors_px: anchors_px.clone(),
        point,
    };
    let classes = at.section.positive("classes", 20)?;
    Ok(Box::new(Yolo { classes, nms: nms(at)?, anchors: anchors_px.len(), own: 9, layout }))
}

impl Layer for Yolo {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        let channels = self.classes.checked_add(self.own).and_then(|n| n.checked_mul(self.anchors));
        if channels != Some(input.channels) {
            let Yolo { anchors, own, classes, .. } = self;
            let why = format!(
                "{anchors} anchors of {own} + {classes} values do not make the {} channels of its input",
                input.channels
            );
            return Err(at.malformed(why).into());
        }
        Ok(input)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let head =
            DarknetHead { output: site.previous, classes: self.classes, nms: self.nms, layout: self.layout.clone() };
        Ok(builder.head(head))
    }

    fn is_head(&self) -> bool {
        true
    }
}
