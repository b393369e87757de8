//! From outputs to detections: a recognised head with the thresholds, labels and options of one session.

use super::candidates::{CandidatesHeader, GpuDecode, NMS_CAPACITY};
use super::head::{DecodeError, Details, Head, OutputRef, PictureInput, Recognised, ScoreFilter, recognise};
use super::labels::Labels;
use super::nms;
use super::scan::box_in_picture;
use super::{Detection, RawDetection};
use crate::convert::Preprocess;
use crate::infer::graph::Graph;
use crate::infer::plan::View;
use crate::letterbox::Letterbox;
use crate::shader::Precision;

/// What a user may override; `None` takes the default of the network's kind.
#[derive(Clone, Debug, Default)]
pub struct DecodeOptions {
    /// Name of a head, as in [`super::head::REGISTRY`] and [`super::head::SECTIONS`].
    pub head: Option<String>,
    pub score_threshold: Option<f32>,
    pub iou_threshold: Option<f32>,
    /// 300 by default.
    pub max_detections: Option<usize>,
    pub labels: Option<Labels>,
    /// Only these classes, by name or number.
    pub classes: Option<Vec<String>>,
    /// Every class of an anchor that reaches the threshold, instead of the best one. CPU only.
    pub multi_label: bool,
}

/// Decodes the outputs of one network.
#[derive(Debug)]
pub struct Decoder {
    /// The kind of head, e.g. `yolox`.
    pub name: &'static str,
    pub preprocess: Preprocess,
    pub picture: PictureInput,
    pub score_threshold: f32,
    pub iou_threshold: f32,
    pub max_detections: usize,
    pub labels: Labels,
    pub multi_label: bool,
    classes: Option<Vec<u32>>,
    head: Box<dyn Head>,
    output_shapes: Vec<Option<Vec<usize>>>,
}

const DEFAULT_MAX_DETECTIONS: usize = 300;

impl Decoder {
    /// Recognises the head of a graph as it was imported.
    ///
    /// # Errors
    /// What [`recognise`] says, or that a class named in the options does not exist.
    pub fn new(graph: &Graph, options: &DecodeOptions) -> Result<Decoder, DecodeError> {
        Decoder::from_recognised(recognise(graph, options.head.as_deref())?, options)
    }

    /// See [`Decoder::new`].
    ///
    /// # Errors
    /// When a class named in the options does not exist.
    pub fn from_recognised(found: Recognised, options: &DecodeOptions) -> Result<Decoder, DecodeError> {
        let labels = options.labels.clone().unwrap_or(found.labels);
        let count = found.head.classes();
        let classes = options.classes.as_ref().map(|names| {
            names
                .iter()
                .map(|name| {
                    labels.class(name).filter(|&c| (c as usize) < count).ok_or_else(|| {
                        let known = (0..count.min(100) as u32).map(|c| labels.name(c)).collect::<Vec<_>>().join(", ");
                        DecodeError::Labels(format!("the network has no class '{name}'; it has {known}"))
                    })
                })
                .collect::<Result<Vec<u32>, DecodeError>>()
        });
        Ok(Decoder {
            name: found.name,
            preprocess: found.preprocess,
            picture: found.picture,
            score_threshold: options.score_threshold.unwrap_or(found.score_threshold),
            iou_threshold: options.iou_threshold.unwrap_or(found.iou_threshold),
            max_detections: options.max_detections.unwrap_or(DEFAULT_MAX_DETECTIONS).max(1),
            labels,
            multi_label: options.multi_label,
            classes: classes.transpose()?,
            head: found.head,
            output_shapes: found.output_shapes,
        })
    }

    /// Whether a class was asked for.
    pub fn shows(&self, class: u32) -> bool {
        self.classes.as_ref().is_none_or(|classes| classes.contains(&class))
    }

    pub fn head(&self) -> &dyn Head {
        &*self.head
    }

    /// Candidates in pixels of the network's input.
    ///
    /// # Errors
    /// When the outputs are not those of the graph that was recognised.
    pub fn candidates(&self, outputs: &[OutputRef<'_>]) -> Result<Vec<RawDetection>, DecodeError> {
        for (index, expected) in self.output_shapes.iter().enumerate() {
            let is_expected = |o: &OutputRef<'_>| expected.as_ref().is_none_or(|shape| o.view.shape == *shape);
            let found = match outputs.get(index) {
                Some(o) if is_expected(o) && o.view.end() <= o.values.len() => continue,
                Some(o) => format!("{:?} in {} elements", o.view.shape, o.values.len()),
                None => "missing".to_string(),
            };
            return Err(DecodeError::Output { index, expected: expected.clone().unwrap_or_default(), found });
        }
        self.head.check(outputs).map_err(DecodeError::Outputs)?;
        let mut candidates = Vec::new();
        let filter = ScoreFilter { threshold: self.score_threshold, multi_label: self.multi_label };
        self.head.decode_twin(outputs, filter, &mut candidates);
        if let Some(classes) = &self.classes {
            candidates.retain(|c| classes.contains(&c.class));
        }
        Ok(candidates)
    }

    /// The CPU path: head, NMS and the way back to the picture. Boxes in pixels of the picture, best first.
    ///
    /// # Errors
    /// As [`Decoder::candidates`].
    pub fn decode(&self, outputs: &[OutputRef<'_>], letterbox: &Letterbox) -> Result<Vec<RawDetection>, DecodeError> {
        let candidates = self.candidates(outputs)?;
        let (threshold, max) = (self.iou_threshold, self.max_detections);
        let mut kept = nms::run(candidates, self.head.suppression(), threshold, max);
        for d in &mut kept {
            d.bounds = box_in_picture(d.bounds, letterbox);
        }
        Ok(kept)
    }

    /// Names detections, on whichever backend they were found, and adds what else the head knows of them (landmarks,
    /// turned boxes, masks) if the outputs are given. Drops classes that were not
    /// asked for (a GPU finds them all).
    pub fn detections(
        &self,
        found: &[RawDetection],
        letterbox: &Letterbox,
        outputs: Option<&[OutputRef<'_>]>,
    ) -> Vec<Detection> {
        found
            .iter()
            .filter(|d| self.shows(d.class))
            .map(|d| {
                let details = outputs.map_or_else(Details::default, |o| self.head.details(o, d.anchor));
                Detection {
                    class: d.class,
                    label: self.labels.name(d.class),
                    score: d.score,
                    bounds: d.bounds,
                    landmarks: details.landmarks.into_iter().map(|p| letterbox.pixel_from_model(p)).collect(),
                    visibility: details.visibility,
                    quad: details.rotated.map(|r| r.in_picture(letterbox)),
                    mask: details.mask.map(|m| m.in_picture(d.bounds, letterbox)),
                }
            })
            .collect()
    }

    /// The GPU path for outputs that lie at `views`; `None` where only the CPU can (a head without a shader,
    /// several classes per anchor, more detections than the shader keeps).
    pub fn gpu(&self, views: &[View], precision: Precision) -> Option<GpuDecode> {
        (self.head.has_shader() && !self.multi_label && self.max_detections <= NMS_CAPACITY)
            .then(|| GpuDecode::new(&*self.head, views, precision, self.max_detections))
    }

    /// False where the outputs must be read back for what else is known of objects than their boxes.
    pub fn details_are_on_gpu(&self) -> bool {
        !self.head.has_details() || !self.head.cell_points().is_empty()
    }

    /// The head of the candidates buffer for a frame.
    pub fn candidates_header(&self, letterbox: &Letterbox) -> CandidatesHeader {
        let capacity = self.head.anchors();
        let (score, iou) = (self.score_threshold, self.iou_threshold);
        CandidatesHeader::new(letterbox, capacity, score, iou, self.max_detections)
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::decode::heads::testing::graph;
    use crate::infer::plan::BufferId;

    /// One row per anchor: cx cy w h objectness and two classes.
    fn outputs() -> Vec<f32> {
        let mut values = vec![0.0; 84 * 7];
        values[..7].copy_from_slice(&[32.0, 32.0, 20.0, 20.0, 1.0, 0.9, 0.8]);
        values[7..14].copy_from_slice(&[33.0, 32.0, 20.0, 20.0, 1.0, 0.1, 0.7]);
        values[14..21].copy_from_slice(&[33.0, 33.0, 20.0, 20.0, 1.0, 0.6, 0.2]);
        values
    }

    #[test]
    fn options_and_the_way_to_the_picture() {
        let g = graph(64, 64, &[("output0", &[1, 84, 7], &["Mul"])]);
        let labels = Some(Labels::new(vec!["cat".into(), "dog".into()]));
        let values = outputs();
        let view = View::row_major(BufferId(0), &[1, 84, 7]);
        let outputs = [OutputRef { values: &values, view: &view }];
        let found = |options: &DecodeOptions| {
            let decoder = Decoder::new(&g, options).unwrap();
            let letterbox = Letterbox::new(decoder.preprocess.fit, [128, 64], [64, 64]);
            let raw = decoder.decode(&outputs, &letterbox).unwrap();
            decoder
                .detections(&raw, &letterbox, Some(&outputs))
                .into_iter()
                .map(|d| (d.label, d.score, d.bounds))
                .collect::<Vec<_>>()
        };
        let options = DecodeOptions { labels, ..DecodeOptions::default() };
        let cat = ("cat".to_string(), 0.9, [44.0, 12.0, 84.0, 52.0]);
        let dog = ("dog".to_string(), 0.7, [46.0, 12.0, 86.0, 52.0]);
        assert_eq!(found(&options), [cat.clone(), dog.clone()]);
        let only = |name: &str| DecodeOptions { classes: Some(vec![name.into()]), ..options.clone() };
        assert_eq!(found(&only("dog")), slice::from_ref(&dog));
        assert_eq!(found(&only("0")), slice::from_ref(&cat));
        assert!(matches!(Decoder::new(&g, &only("horse")), Err(DecodeError::Labels(m)) if m.contains("cat, dog")));
        let strict = DecodeOptions { score_threshold: Some(0.8), ..options.clone() };
        assert_eq!(found(&strict), slice::from_ref(&cat));
        let one = DecodeOptions { max_detections: Some(1), ..options.clone() };
        assert_eq!(found(&one), slice::from_ref(&cat));
        // Both classes of the first anchor; it then beats the dog beside it.
        let multi = DecodeOptions { multi_label: true, ..options };
        assert_eq!(found(&multi), [cat, ("dog".to_string(), 0.8, [44.0, 12.0, 84.0, 52.0])]);
        assert!(Decoder::new(&g, &multi).unwrap().gpu(slice::from_ref(&view), Precision::F32).is_none());
    }

    #[test]
    fn other_outputs_are_refused() {
        let g = graph(64, 64, &[("output0", &[1, 84, 7], &["Mul"])]);
        let decoder = Decoder::new(&g, &DecodeOptions::default()).unwrap();
        let values = outputs();
        let short = View::row_major(BufferId(0), &[1, 84, 6]);
        let view = View::row_major(BufferId(0), &[1, 84, 7]);
        assert!(decoder.candidates(&[]).is_err());
        assert!(decoder.candidates(&[OutputRef { values: &values, view: &short }]).is_err());
        assert!(decoder.candidates(&[OutputRef { values: &values[1..], view: &view }]).is_err());
        assert!(decoder.candidates(&[OutputRef { values: &values, view: &view }]).is_ok());
    }
}
