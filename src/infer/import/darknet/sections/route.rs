//! `[route]`: the channels of the listed layers one after the other; with `groups`, block `group_id` of each.

use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::ops::concat::Concat;

#[derive(Debug)]
struct Route {
    layers: Vec<usize>,
    groups: usize,
    group: usize,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let layers = at.layers("layers")?;
    let groups = at.section.positive("groups", 1)?;
    let group = at.section.count("group_id", 0)?;
    if group >= groups {
        return Err(at.malformed(format!("group_id={group} is not below groups={groups}")).into());
    }
    Ok(Box::new(Route { layers, groups, group }))
}

impl Layer for Route {
    fn place(&mut self, at: Place<'_>, _input: Shape, before: &Before<'_>) -> Result<Shape, Refusal> {
        let first = before.shape(at, self.layers[0])?;
        let mut channels = 0usize;
        for &index in &self.layers {
            let shape = before.shape(at, index)?;
            if !shape.same_size(first) {
                let why = format!(
                    "layer {index} has {}x{} pixels, layer {} has {}x{}",
                    shape.width, shape.height, self.layers[0], first.width, first.height
                );
                return Err(at.malformed(why).into());
            }
            if !shape.channels.is_multiple_of(self.groups) {
                let why =
                    format!("groups={} does not divide the {} channels of layer {index}", self.groups, shape.channels);
                return Err(at.malformed(why).into());
            }
            channels = channels.saturating_add(shape.channels / self.groups);
        }
        Ok(Shape { channels, ..first })
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let name = site.name;
        let mut parts = Vec::with_capacity(self.layers.len());
        for (part, &layer) in self.layers.iter().enumerate() {
            let value = builder.values[layer];
            let taken = builder.channel_count(value) / self.groups;
            parts.push(builder.channels(&format!("{name}.split{part}"), value, self.group * taken, taken)?);
        }
        match parts[..] {
            [one] => Ok(one),
            _ => builder.one(name, Concat { axis: 1 }, &parts),
        }
    }

    fn reads_previous(&self) -> bool {
        false
    }
}
