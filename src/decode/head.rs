//! What a detection head is, and how a graph tells which one it ends in.
//!
//! One file, though a long one: a head is written against this trait, this registry and this signature together.

use std::fmt::Debug;
use std::sync::Arc;

use super::RawDetection;
use super::heads;
use super::labels::Labels;
use super::mask::MaskGrid;
use super::points::CellPoints;
use super::rotated::RotatedBox;
use crate::convert::{ChannelOrder, Preprocess};
use crate::infer::graph::{Declared, Graph, ValueId};
use crate::infer::plan::View;
use crate::infer::tensor::{DType, Tensor, TensorElements};
use crate::letterbox::Fit;
use crate::marshal::ChannelAxis;
use crate::shader::{Precision, Variant};

/// Why outputs cannot be turned into boxes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "no detection head fits the outputs {outputs}; name one with --head {known}, or use `eyas run` for raw outputs"
    )]
    NoHead { outputs: String, known: String },
    #[error("several detection heads fit the outputs {outputs}: say which one with --head {candidates}")]
    Ambiguous { outputs: String, candidates: String },
    #[error("there is no detection head called '{name}'; known are {known}")]
    UnknownHead { name: String, known: String },
    #[error("the head '{head}' does not fit this network: {reason}")]
    Misfit { head: String, reason: String },
    #[error(
        "input '{input}' of shape {shape:?} is no picture: a detector needs floats or bytes [1, 1 or 3, height, width] or \
         [1, height, width, 1 or 3], or the same without the batch"
    )]
    Input { input: String, shape: Vec<usize> },
    #[error("output {index} of the network should have shape {expected:?}, but is {found}")]
    Output { index: usize, expected: Vec<usize>, found: String },
    #[error("the network's outputs cannot be decoded: {0}")]
    Outputs(String),
    #[error("the file's metadata '{key}' should be a number from 0 to 1, but is '{text}'")]
    Metadata { key: String, text: String },
    #[error("{0}")]
    Labels(String),
}

/// One output of the network in host memory.
#[derive(Clone, Copy, Debug)]
pub struct OutputRef<'a> {
    /// The whole buffer that the view is a window of.
    pub values: &'a [f32],
    /// Where the output lies; axes in the file's order.
    pub view: &'a View,
}

/// Which candidates count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreFilter {
    /// Candidates with a lower score are dropped.
    pub threshold: f32,
    /// Every class of an anchor that reaches the threshold becomes a candidate, instead of its best class only.
    pub multi_label: bool,
}

/// Which overlaps are thinned out, among candidates of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Suppression {
    /// IoU above the threshold.
    Iou,
    /// IoU − (d²/c²)^beta above the threshold: d between the centres, c the diagonal of the box around both.
    Distance { beta: f32 },
    /// Probabilistic IoU of turned boxes above the threshold. Candidates then hold centre, size and angle, see
    /// [`RawDetection`].
    Rotated,
    /// None: what leaves the network is final.
    None,
}

/// What a head tells of an object besides box, class and score; all in pixels of the network's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub landmarks: Vec<[f32; 2]>,
    /// One a landmark, 0 to 1, or none.
    pub visibility: Vec<f32>,
    pub rotated: Option<RotatedBox>,
    pub mask: Option<MaskGrid>,
}

/// A detection head with everything fixed but the outputs' values.
pub trait Head: Debug + Send + Sync {
    /// Stem of the shader and of the twin's file.
    fn stem(&self) -> &'static str;

    fn classes(&self) -> usize;

    /// Number of places that can each hold an object.
    fn anchors(&self) -> usize;

    /// The reference: appends the candidates, boxes in pixels of the network's input. `outputs` are all outputs of the
    /// network in the order of the file.
    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>);

    fn suppression(&self) -> Suppression {
        Suppression::Iou
    }

    /// Values of the network's inputs beside the picture, by name: the same for every frame.
    fn inputs(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Whether outputs whose shapes depend on the picture are what the twin reads; it is asked before each frame's.
    ///
    /// # Errors
    /// Says which output is not.
    fn check(&self, _outputs: &[OutputRef<'_>]) -> Result<(), String> {
        Ok(())
    }

    /// Boxes that the shaders read beside the outputs, bound after these as four f32 each; none for most heads.
    fn priors(&self) -> &[[f32; 4]] {
        &[]
    }

    /// False where only the twin can: the outputs are then read back for it.
    fn has_shader(&self) -> bool {
        true
    }

    /// The shaders that append the same candidates (best class of each anchor only) to a buffer, each with the indices
    /// of the outputs it binds, in order, after the candidates buffer. `views` are those of all outputs. None where
    /// [`Head::has_shader`] says so.
    fn variants(&self, _views: &[View], _precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        Vec::new()
    }

    /// Where the landmarks of objects lie, for heads whose cells hold them and nothing else of [`Details`]; a GPU then finds
    /// them without the host. Empty where [`Head::details`] alone knows, or where there are none. All scales have as many.
    fn cell_points(&self) -> Vec<CellPoints> {
        Vec::new()
    }

    /// Whether objects have [`Head::details`]: the outputs are then read back for them.
    fn has_details(&self) -> bool {
        false
    }

    /// What else is known of the object at an anchor, as [`RawDetection::anchor`] counts them. Asked for what was kept.
    fn details(&self, _outputs: &[OutputRef<'_>], _anchor: u32) -> Details {
        Details::default()
    }
}

/// What [`recognise`] found: a head and the defaults of the networks that have it.
#[derive(Debug)]
pub struct Recognised {
    pub name: &'static str,
    pub head: Box<dyn Head>,
    pub preprocess: Preprocess,
    pub score_threshold: f32,
    pub iou_threshold: f32,
    pub labels: Labels,
    pub picture: PictureInput,
    /// Shapes of the graph's outputs, which the head relies on; `None` for those that depend on the picture.
    pub output_shapes: Vec<Option<Vec<usize>>>,
}

/// Which of a network's inputs takes the picture, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureInput {
    /// Among the graph's inputs.
    pub index: usize,
    pub axis: ChannelAxis,
}

/// What a head kind's `fit` returns.
#[derive(Debug)]
pub struct Fitted {
    pub head: Box<dyn Head>,
    pub fit: Fit,
    pub order: ChannelOrder,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub score_threshold: f32,
    pub iou_threshold: f32,
    /// Class names that go with this kind of network when the file has none.
    pub labels: Labels,
}

/// A line of the registry.
pub struct HeadKind {
    /// As in `--head NAME`.
    pub name: &'static str,
    /// Whether the network described by the signature ends in this head; if not, why.
    pub fit: fn(&Signature<'_>) -> Result<Fitted, String>,
}

/// Every kind of head that outputs and metadata tell. `recognise` tries them all; more than one that fits is an error.
pub const REGISTRY: &[HeadKind] = &[
    HeadKind { name: "yolox", fit: heads::grid_anchor_free::fit_yolox },
    HeadKind { name: "yolo_v8", fit: heads::yolo_v8::fit_v8 },
    HeadKind { name: "yolo_v8_seg", fit: heads::yolo_v8::fit_v8_seg },
    HeadKind { name: "yolo_v8_pose", fit: heads::yolo_v8::fit_v8_pose },
    HeadKind { name: "yolo_v8_obb", fit: heads::yolo_v8::fit_v8_obb },
    HeadKind { name: "end_to_end", fit: heads::end_to_end::fit },
    HeadKind { name: "yolo_v6", fit: heads::yolo_v8::fit_v6 },
    HeadKind { name: "yolo_v5", fit: heads::yolo_v8::fit_v5 },
    HeadKind { name: "yolo_v5_seg", fit: heads::yolo_v8::fit_v5_seg },
    HeadKind { name: "yolo_v5_face", fit: heads::yolo_v8::fit_v5_face },
    HeadKind { name: "nanodet", fit: heads::gfl::fit_nanodet },
    HeadKind { name: "nanodet_plus", fit: heads::gfl::fit_nanodet_plus },
    HeadKind { name: "picodet", fit: heads::gfl::fit_picodet },
    HeadKind { name: "fastestdet", fit: heads::fastestdet::fit },
    HeadKind { name: "yunet", fit: heads::yunet::fit },
    HeadKind { name: "yunet_2021", fit: heads::yunet_2021::fit },
    HeadKind { name: "scrfd", fit: heads::scrfd::fit },
    HeadKind { name: "retinaface", fit: heads::retinaface::fit },
    HeadKind { name: "blazeface", fit: heads::blazeface::fit },
    HeadKind { name: "ultraface", fit: heads::ssd::fit_ultraface },
    HeadKind { name: "ssd_raw", fit: heads::ssd_raw::fit_raw },
    HeadKind { name: "ssd_decoded", fit: heads::ssd_raw::fit_decoded },
    HeadKind { name: "detection_output", fit: heads::detection_output::fit },
    HeadKind { name: "yolo_v4", fit: heads::ssd::fit_yolo_v4 },
    HeadKind { name: "yolo_nas", fit: heads::decoded_tables::fit_yolo_nas },
    HeadKind { name: "damo_yolo", fit: heads::decoded_tables::fit_damo_yolo },
    HeadKind { name: "pp_yoloe", fit: heads::decoded_tables::fit_pp_yoloe },
    HeadKind { name: "yolo_fastest_v2", fit: heads::yolo_fastest_v2::fit },
    HeadKind { name: "yolo_v2_maps", fit: heads::yolo_v2_maps::fit_v2 },
    HeadKind { name: "tiny_yolo_v2_maps", fit: heads::yolo_v2_maps::fit_tiny },
    HeadKind { name: "yolo_v3_maps", fit: heads::yolo_maps::fit_v3 },
    HeadKind { name: "yolo_v4_maps", fit: heads::yolo_maps::fit_v4 },
    HeadKind { name: "yolo_v5_maps", fit: heads::yolo_maps::fit_v5 },
    HeadKind { name: "yolo_v7_maps", fit: heads::yolo_maps::fit_v7 },
    HeadKind { name: "rt_detr", fit: heads::transformer::fit_rt_detr },
    HeadKind { name: "detr", fit: heads::transformer::fit_detr },
    HeadKind { name: "detr_lists", fit: heads::lists::fit_detr_lists },
    HeadKind { name: "torchvision", fit: heads::lists::fit_torchvision },
    HeadKind { name: "tf_detection", fit: heads::lists::fit_tf_detection },
    HeadKind { name: "pp_yoloe_nms", fit: heads::lists::fit_pp_yoloe_nms },
    HeadKind { name: "yolo_v7_nms", fit: heads::lists::fit_yolo_v7_nms },
    HeadKind { name: "yolo_v3_selected", fit: heads::yolo_v3_selected::fit },
    HeadKind { name: "classifier", fit: heads::classifier::fit },
    HeadKind { name: "semantic", fit: heads::semantic::fit },
];

/// Heads that sections of a Darknet cfg describe. A file that has such sections ends in no other.
pub const SECTIONS: &[HeadKind] = &[
    HeadKind { name: "darknet", fit: heads::yolo_anchors::fit },
    HeadKind { name: "region", fit: heads::region::fit },
    HeadKind { name: "detection_grid", fit: heads::detection_grid::fit },
    HeadKind { name: "gaussian_yolo", fit: heads::gaussian_yolo::fit },
];

/// Class numbers that a row may have where no metadata name the classes.
const UNNAMED_CLASSES: usize = 2048;

/// What heads look at to tell whether a network is theirs.
#[derive(Debug)]
pub struct Signature<'a> {
    pub graph: &'a Graph,
    pub picture: PictureInput,
    /// Width and height of the network's input.
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// Name and shape of each output; the shape is empty where it depends on the picture, see [`Signature::declared`].
    pub outputs: Vec<(&'a str, &'a [usize])>,
    /// The user named this head: what only serves to tell it from others of the same shape is not checked.
    pub named: bool,
}

impl<'a> Signature<'a> {
    pub(super) fn new(graph: &'a Graph, named: bool) -> Result<Signature<'a>, DecodeError> {
        let takes_picture = |dtype: DType| matches!(dtype, DType::F32 | DType::U8);
        let picture = graph.inputs.iter().enumerate().find_map(|(index, &id)| {
            let fact = graph.fact(id);
            let (axis, size) = ChannelAxis::of(&fact.shape).filter(|_| takes_picture(fact.dtype))?;
            Some((PictureInput { index, axis }, size))
        });
        let Some((picture, [channels, height, width])) = picture else {
            let input = graph.inputs.first().map(|&i| graph.value(i));
            let (name, shape) = input.map_or(("(none)", &[][..]), |v| (v.name.as_str(), &v.fact.shape[..]));
            return Err(DecodeError::Input { input: name.to_string(), shape: shape.to_vec() });
        };
        let outputs = graph.outputs.iter().map(|&o| (graph.value(o).name.as_str(), &graph.fact(o).shape[..])).collect();
        Ok(Signature { graph, picture, width, height, channels, outputs, named })
    }

    /// Element type and dims of an output: as computed, or as declared where they depend on the picture.
    pub fn declared(&self, output: usize) -> Option<Declared> {
        self.graph.output_declared(output)
    }

    /// True for an output whose shape depends on the picture.
    pub fn is_late(&self, output: usize) -> bool {
        self.graph.fact(self.graph.outputs[output]).late
    }

    /// True when the network takes the picture as bytes.
    pub fn takes_bytes(&self) -> bool {
        self.graph.fact(self.graph.inputs[self.picture.index]).dtype == DType::U8
    }

    /// Name and shape of each input beside the picture.
    pub fn further_inputs(&self) -> Vec<(&'a str, &'a [usize])> {
        let inputs = self.graph.inputs.iter().enumerate().filter(|&(i, _)| i != self.picture.index);
        inputs.map(|(_, &id)| (self.graph.value(id).name.as_str(), &self.graph.fact(id).shape[..])).collect()
    }

    /// A tensor of the type and shape of a further input, from its elements in order.
    ///
    /// # Errors
    /// When there is no such input, or it does not have that many elements of a type that numbers can be given in.
    pub fn input_of(&self, name: &str, values: &[f32]) -> Result<(String, Tensor), String> {
        let id = self.graph.inputs.iter().find(|&&id| self.graph.value(id).name == name);
        let fact = self.graph.fact(*id.ok_or_else(|| format!("it has no input called '{name}'"))?);
        let tensor = match fact.dtype {
            DType::F32 => Tensor::from_f32(&fact.shape, values.to_vec()),
            DType::I64 => Tensor::from_i64(&fact.shape, values.iter().map(|&v| v as i64).collect()),
            DType::I32 => {
                let values = values.iter().map(|&v| v as i32).collect();
                Tensor::new(fact.shape.clone(), TensorElements::I32(Arc::new(values)))
            }
            other => Err(format!("it is {other}")),
        };
        tensor.map(|t| (name.to_string(), t)).map_err(|why| format!("input '{name}' cannot be filled: {why}"))
    }

    /// The shape of the only output, if it has that rank.
    pub fn single(&self, rank: usize) -> Result<&'a [usize], String> {
        match self.outputs[..] {
            [(_, shape)] if shape.len() == rank && shape[0] == 1 => Ok(shape),
            _ => Err(format!("it needs one output of rank {rank}, but there are {}", self.describe())),
        }
    }

    /// Index of the output with that name.
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|(n, _)| *n == name)
    }

    /// The outputs as text.
    pub fn describe(&self) -> String {
        let late = |output: usize| match self.declared(output) {
            _ if !self.is_late(output) => None,
            Some(declared) => Some(declared.to_string()),
            None => Some("of a shape that depends on the picture".to_string()),
        };
        let describe = |(i, (name, shape)): (usize, &(&str, &[usize]))| match late(i) {
            Some(late) => format!("{name} {late}"),
            None => format!("{name} {shape:?}"),
        };
        let all: Vec<String> = self.outputs.iter().enumerate().map(describe).collect();
        if all.is_empty() { "(none)".to_string() } else { all.join(", ") }
    }

    /// A value of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.graph.metadata.get(key).map(String::as_str)
    }

    /// What the metadata say the network does: `detect`, `segment`, `pose`, `obb`, `semantic`.
    ///
    /// # Errors
    /// When they say that it is none of the `tasks` of a head.
    pub fn check_task(&self, tasks: &[&str]) -> Result<(), String> {
        match self.metadata("task") {
            Some(task) if !tasks.contains(&task) => {
                Err(format!("its metadata says that its task is '{task}', not '{}'", tasks.join("' or '")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the metadata say that the network is ultralytics' RT-DETR.
    pub fn is_rt_detr(&self) -> bool {
        self.metadata("head") == Some("RTDETRDecoder")
            || self.metadata("description").is_some_and(|text| text.to_lowercase().contains("rtdetr"))
    }

    /// Whether the metadata say that the rows that leave the network are final: no suppression is left to do.
    pub fn is_final(&self) -> bool {
        self.metadata("end2end").is_some_and(|v| v.eq_ignore_ascii_case("true"))
            || self.metadata("args").is_some_and(|args| args.contains("'nms': True"))
    }

    /// A threshold that the metadata recommend, under this key.
    ///
    /// # Errors
    /// When it is no number from 0 to 1.
    fn threshold(&self, key: &str) -> Result<Option<f32>, DecodeError> {
        let Some(text) = self.metadata(key) else { return Ok(None) };
        match text.trim().parse::<f32>() {
            Ok(value) if (0.0..=1.0).contains(&value) => Ok(Some(value)),
            _ => Err(DecodeError::Metadata { key: key.to_string(), text: text.to_string() }),
        }
    }

    /// Number of classes that the metadata name.
    pub fn named_classes(&self) -> Option<usize> {
        let labels = Labels::from_metadata(self.metadata("names")?).ok()?;
        Some(labels.names().len())
    }

    /// How many class numbers a row may have that holds its class as a number.
    pub fn numbered_classes(&self) -> usize {
        self.named_classes().unwrap_or(UNNAMED_CLASSES)
    }

    /// Refuses a reading with another number of classes than the metadata name, unless the user asked for it.
    ///
    /// # Errors
    /// See above.
    pub fn check_classes(&self, classes: usize) -> Result<(), String> {
        match self.named_classes() {
            Some(named) if named != classes && !self.named => {
                Err(format!("that would be {classes} classes, but the metadata name {named}"))
            }
            _ => Ok(()),
        }
    }

    /// Names of the operators that compute the parts of an output, in the order in which they are concatenated: what
    /// is found by walking back through concatenations and operators that only move elements.
    pub fn origins(&self, output: usize) -> Vec<&'static str> {
        let producers = self.graph.producers();
        let mut found = Vec::new();
        let mut pending: Vec<ValueId> = vec![self.graph.outputs[output]];
        while let Some(value) = pending.pop() {
            let Some(node) = producers[value.0].map(|n| &self.graph.nodes[n]) else { continue };
            match node.op.name() {
                "Concat" => pending.extend(node.inputs.iter().rev().flatten()),
                _ if node.op.is_view() => pending.extend(node.inputs.first().copied().flatten()),
                name => found.push(name),
            }
        }
        found
    }
}

/// Cells of one scale of an anchor-free grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridScale {
    pub stride_px: usize,
    pub cols: usize,
    pub rows: usize,
    /// Index of its first cell among those of all scales.
    pub first: usize,
}

impl GridScale {
    pub fn cells(&self) -> usize {
        self.cols * self.rows
    }
}

/// The grids of a `width` × `height` input at these strides, one after the other.
pub fn grids(width: usize, height: usize, strides_px: &[usize]) -> Vec<GridScale> {
    let mut first = 0;
    strides_px
        .iter()
        .map(|&stride_px| {
            let scale =
                GridScale { stride_px, cols: width.div_ceil(stride_px), rows: height.div_ceil(stride_px), first };
            first += scale.cells();
            scale
        })
        .collect()
}

/// Number of cells of all scales.
pub fn cell_count(scales: &[GridScale]) -> usize {
    scales.iter().map(GridScale::cells).sum()
}

/// Body of a WGSL function that maps an anchor to (column, row, stride) over these scales, on one line.
pub fn cell_of_wgsl(scales: &[GridScale]) -> String {
    let mut text = String::from("fn cell_of(anchor: u32) -> vec3<u32> {");
    for (i, s) in scales.iter().enumerate() {
        let cell = format!(
            "let a{i} = anchor - {}u; return vec3<u32>(a{i} % {}u, a{i} / {}u, {}u);",
            s.first, s.cols, s.cols, s.stride_px
        );
        if i + 1 < scales.len() {
            text.push_str(&format!(" if (anchor < {}u) {{ {cell} }}", s.first + s.cells()));
        } else {
            text.push_str(&format!(" {cell}"));
        }
    }
    text.push_str(" }");
    text
}

/// Threads of a decode workgroup.
pub const WORKGROUP: usize = 64;

/// Workgroups for one thread per anchor, and the threads of one row of workgroups (`ROW` in the shaders).
pub fn spread(anchors: usize) -> ([u32; 3], usize) {
    let groups = anchors.div_ceil(WORKGROUP).max(1);
    let x = groups.min(65535);
    ([x as u32, groups.div_ceil(x) as u32, 1], x * WORKGROUP)
}

/// What a kind of head makes of a network; all inputs beside the picture must be the head's.
fn fit(kind: &HeadKind, signature: &Signature<'_>) -> Result<Fitted, String> {
    let fitted = (kind.fit)(signature)?;
    let given = fitted.head.inputs();
    match signature.further_inputs().iter().find(|(name, _)| !given.iter().any(|(n, _)| n == name)) {
        Some((name, shape)) => Err(format!("nothing is known of the network's further input '{name}' {shape:?}")),
        None => Ok(fitted),
    }
}

/// Finds out which head a graph ends in; `name` overrides it. Wants the graph as imported, before passes rewrite it.
///
/// # Errors
/// When the input is no picture, or when no head or more than one fits: the message names them.
pub fn recognise(graph: &Graph, name: Option<&str>) -> Result<Recognised, DecodeError> {
    let signature = Signature::new(graph, name.is_some())?;
    let all = || REGISTRY.iter().chain(SECTIONS);
    let known = || all().map(|k| k.name).collect::<Vec<_>>().join("|");
    let (kind, fitted) = match name {
        Some(name) => {
            let Some(kind) = all().find(|k| k.name == name) else {
                return Err(DecodeError::UnknownHead { name: name.to_string(), known: known() });
            };
            let fitted =
                fit(kind, &signature).map_err(|reason| DecodeError::Misfit { head: name.to_string(), reason })?;
            (kind, fitted)
        }
        None => {
            let kinds = if graph.darknet_heads.is_empty() { REGISTRY } else { SECTIONS };
            let mut fits: Vec<(&HeadKind, Fitted)> =
                kinds.iter().filter_map(|k| fit(k, &signature).ok().map(|f| (k, f))).collect();
            if fits.len() > 1 {
                let candidates = fits.iter().map(|(k, _)| k.name).collect::<Vec<_>>().join("|");
                return Err(DecodeError::Ambiguous { outputs: signature.describe(), candidates });
            }
            fits.pop().ok_or_else(|| DecodeError::NoHead { outputs: signature.describe(), known: known() })?
        }
    };
    let labels = match signature.metadata("names") {
        Some(text) => Labels::from_metadata(text)?,
        None => fitted.labels,
    };
    let order = if signature.channels == 1 { ChannelOrder::Gray } else { fitted.order };
    let (mean, std) = if signature.takes_bytes() { heads::LEVELS } else { (fitted.mean, fitted.std) };
    Ok(Recognised {
        name: kind.name,
        head: fitted.head,
        preprocess: Preprocess {
            width_px: signature.width as u32,
            height_px: signature.height as u32,
            fit: fitted.fit,
            order,
            mean,
            std,
        },
        score_threshold: signature.threshold("score_threshold")?.unwrap_or(fitted.score_threshold),
        iou_threshold: signature.threshold("iou_threshold")?.unwrap_or(fitted.iou_threshold),
        labels,
        picture: signature.picture,
        output_shapes: graph
            .outputs
            .iter()
            .map(|&o| graph.fact(o))
            .map(|fact| (!fact.late).then(|| fact.shape.clone()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::heads::testing::graph;

    #[test]
    fn two_readings_are_refused_with_both_names() {
        // Raw boxes first and raw logits last, over four strides: YOLOX with 33 classes or NanoDet-Plus with 6.
        let g = graph(64, 64, &[("output", &[1, 85, 38], &["Conv", "Conv"])]);
        let error = recognise(&g, None).unwrap_err();
        assert!(matches!(&error, DecodeError::Ambiguous { candidates, .. } if candidates == "yolox|nanodet_plus"));
        assert_eq!(recognise(&g, Some("nanodet_plus")).unwrap().head.classes(), 6);
        assert_eq!(recognise(&g, Some("yolox")).unwrap().head.classes(), 33);
    }

    #[test]
    fn thresholds_of_the_metadata() {
        let mut g = graph(64, 64, &[("output0", &[1, 300, 6], &["TopK"])]);
        assert_eq!(recognise(&g, None).map(|r| (r.score_threshold, r.iou_threshold)).unwrap(), (0.25, 0.7));
        g.metadata.insert("score_threshold".into(), "0.3".into());
        g.metadata.insert("iou_threshold".into(), "0.45".into());
        assert_eq!(recognise(&g, None).map(|r| (r.score_threshold, r.iou_threshold)).unwrap(), (0.3, 0.45));
        for wrong in ["1.5", "-0.1", "NaN", "high", ""] {
            g.metadata.insert("iou_threshold".into(), wrong.into());
            let error = recognise(&g, None).unwrap_err().to_string();
            assert!(error.contains("iou_threshold") && error.contains(&format!("'{wrong}'")), "{error}");
        }
    }

    #[test]
    fn inputs_that_are_no_pictures_are_refused() {
        let mut g = graph(64, 64, &[("output", &[1, 84, 38], &["Conv"])]);
        g.values[g.inputs[0].0].fact.shape = vec![1, 64, 64, 4];
        assert!(matches!(recognise(&g, None), Err(DecodeError::Input { .. })));
        g.inputs.clear();
        assert!(matches!(recognise(&g, None), Err(DecodeError::Input { .. })));
    }

    #[test]
    fn cells_of_sizes_that_strides_do_not_divide() {
        let scales = grids(100, 60, &[8, 16, 32]);
        assert_eq!(scales.iter().map(|s| (s.cols, s.rows)).collect::<Vec<_>>(), [(13, 8), (7, 4), (4, 2)]);
        assert_eq!((cell_count(&scales), scales[2].first), (104 + 28 + 8, 132));
        assert_eq!(spread(1), ([1, 1, 1], 64));
        assert_eq!(spread(65535 * 64 + 1), ([65535, 2, 1], 65535 * 64));
    }
}
