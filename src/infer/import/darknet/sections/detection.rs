//! `[detection]` (YOLOv1): a head without anchors over a flat vector.

use crate::infer::graph::{DarknetHead, DarknetLayout, DarknetNms, ValueId};
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};

#[derive(Debug)]
struct Detection {
    side: usize,
    boxes: usize,
    classes: usize,
    square_root: bool,
    softmax: bool,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    let coords = section.count("coords", 1)?;
    if coords != 4 {
        return Err(at.unsupported(format!("coords={coords}; a box has 4")));
    }
    Ok(Box::new(Detection {
        side: section.positive("side", 7)?,
        boxes: section.positive("num", 1)?,
        classes: section.positive("classes", 1)?,
        square_root: section.flag("sqrt")?,
        softmax: section.flag("softmax")?,
    }))
}

impl Layer for Detection {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        let Detection { side, boxes, classes, .. } = *self;
        let per_cell = boxes.checked_mul(5).and_then(|n| n.checked_add(classes));
        let length = side.checked_mul(side).and_then(|cells| cells.checked_mul(per_cell?));
        if length != Some(input.elements()) {
            let why = format!(
                "{side}x{side} cells of {boxes} boxes and {classes} classes do not make the {} values of its input",
                input.elements()
            );
            return Err(at.malformed(why).into());
        }
        Ok(input)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, mut previous, .. } = *site;
        if (input.height, input.width) != (1, 1) {
            previous = builder.reshape(name, previous, &[1, input.elements(), 1, 1])?;
        }
        let Detection { side, boxes, classes, square_root, softmax } = *self;
        let layout = DarknetLayout::Detection { side, boxes, square_root, softmax };
        Ok(builder.head(DarknetHead { output: previous, classes, nms: DarknetNms::Greedy, layout }))
    }

    fn is_head(&self) -> bool {
        true
    }
}
