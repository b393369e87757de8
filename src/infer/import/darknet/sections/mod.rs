//! What the kinds of sections compute: one file per topic, one line in [`KINDS`] per kind.

mod connected;
pub mod convolution;
mod crop;
mod detection;
mod element;
mod implicit;
mod local;
mod normalise;
mod pool;
mod region;
mod reorg;
mod route;
mod shortcut;
mod softmax;
mod upsample;
mod yolo;

use super::network::Layer;
use super::place::{Place, Refusal};

/// A kind of section.
pub struct Kind {
    /// Its long name.
    pub name: &'static str,
    /// Its short name, if it has one.
    alias: &'static str,
    /// Reads its keys.
    pub read: fn(Place<'_>) -> Result<Box<dyn Layer>, Refusal>,
}

const fn kind(name: &'static str, alias: &'static str, read: fn(Place<'_>) -> Result<Box<dyn Layer>, Refusal>) -> Kind {
    Kind { name, alias, read }
}

/// Every kind that is supported.
const KINDS: &[Kind] = &[
    kind("activation", "", element::read_activation),
    kind("avgpool", "avg", pool::read_global),
    kind("batchnorm", "", normalise::read_batch_norm),
    kind("connected", "conn", connected::read),
    kind("contrastive", "", element::read_identity),
    kind("convolutional", "conv", convolution::read),
    kind("cost", "", element::read_identity),
    kind("crop", "", crop::read),
    kind("detection", "", detection::read),
    kind("dropout", "", element::read_identity),
    kind("empty", "", element::read_identity),
    kind("Gaussian_yolo", "gaussian_yolo", yolo::read_gaussian),
    kind("implicit", "", implicit::read),
    kind("local", "", local::read),
    kind("local_avgpool", "local_avg", pool::read_average),
    kind("maxpool", "max", pool::read_max),
    kind("normalization", "lrn", normalise::read_response),
    kind("region", "", region::read),
    kind("reorg", "", reorg::read_flat),
    kind("reorg3d", "", reorg::read),
    kind("route", "", route::read),
    kind("sam", "", element::read_sam),
    kind("scale_channels", "", element::read_scale_channels),
    kind("shortcut", "", shortcut::read),
    kind("silence", "", element::read_identity),
    kind("softmax", "soft", softmax::read),
    kind("upsample", "", upsample::read),
    kind("yolo", "", yolo::read),
];

/// The kind of a section.
///
/// # Errors
/// When there is none; names all that are.
pub fn find(at: Place<'_>) -> Result<&'static Kind, Refusal> {
    let name = at.section.kind.as_str();
    KINDS.iter().find(|k| k.name == name || (!k.alias.is_empty() && k.alias == name)).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
        at.unsupported(format!("no such section is supported; those that are: {}", known.join(", ")))
    })
}
