//! Convolution of bytes with several groups of several channels: a dense one for each.

use super::super::simd::dots::DotKernel;
use super::super::{Isa, Memory};
use super::dense::DenseFast;
use super::{Bytes, label_of, maps};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;
use std::sync::Arc;

/// A convolution for each group, on its channels.
#[derive(Debug)]
pub struct GroupedFast {
    label: String,
    src: FeatureMap,
    dst: FeatureMap,
    groups: Vec<DenseFast>,
}

impl GroupedFast {
    pub fn new(conv: &ByteConv, src: FeatureMap, dst: FeatureMap, isa: Isa, dot: DotKernel) -> Option<GroupedFast> {
        let groups = conv.groups;
        let divides = groups > 0 && src.channels.is_multiple_of(groups) && dst.channels.is_multiple_of(groups);
        if !divides || conv.bias.len() != dst.channels || conv.weight_scales.len() != dst.channels {
            return None;
        }
        let (inputs, outputs) = (src.channels / groups, dst.channels / groups);
        let weights = outputs * inputs * conv.window.taps();
        let convolution = |group: usize| {
            let channels = group * outputs..(group + 1) * outputs;
            let part = ByteConv {
                groups: 1,
                weights: Arc::new(conv.weights.get(group * weights..(group + 1) * weights)?.to_vec()),
                weight_scales: Arc::new(conv.weight_scales[channels.clone()].to_vec()),
                bias: Arc::new(conv.bias[channels].to_vec()),
                ..conv.clone()
            };
            let (src, dst) = (FeatureMap { channels: inputs, ..src }, FeatureMap { channels: outputs, ..dst });
            DenseFast::new(&part, src, dst, isa, dot)
        };
        Some(GroupedFast {
            label: label_of(conv, dot.name),
            src,
            dst,
            groups: (0..groups).map(convolution).collect::<Option<_>>()?,
        })
    }
}

impl FastKernel for GroupedFast {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let bytes = Bytes::new(step, memory);
        let (inputs, outputs) = (self.src.channels / self.groups.len(), self.dst.channels / self.groups.len());
        for (group, part) in self.groups.iter().enumerate() {
            part.run_at(bytes.moved(group * inputs, group * outputs));
        }
    }
}
