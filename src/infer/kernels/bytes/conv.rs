//! Convolution of bytes with 8-bit weights: sums in i32, the result as bytes again.

use crate::cpu::memory::as_bytes;
use crate::infer::activation::Activation;
use crate::infer::bytes::{ByteScale, Rescale, Table, clamped, nearest};
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::wgsl::feature_map;
use crate::infer::plan::step::Step;
use std::sync::Arc;

/// dst = table[byte(activation(Σ(x − zero)·w·scales + bias))]. Reads `[src]`, writes `[dst]`; feature maps of bytes. Taps
/// in the padding add nothing.
#[derive(Clone, Debug)]
pub struct ByteConv {
    pub window: Window,
    /// Divides both channel counts.
    pub groups: usize,
    /// `[out][in / groups][kernel y][kernel x]`, less their zero points.
    pub weights: Arc<Vec<i16>>,
    /// One per output channel.
    pub weight_scales: Arc<Vec<f32>>,
    pub bias: Arc<Vec<f32>>,
    pub from: ByteScale,
    pub activation: Activation,
    pub to: ByteScale,
    /// What is looked up with the result.
    pub table: Option<Table>,
}

/// From sums to bytes. Per channel t = sum·factor + offset. With a clamp, t counts steps of the result; else it is a
/// number, which the activation takes.
#[derive(Clone, Debug)]
pub struct Requantise {
    pub factors: Vec<f32>,
    pub offsets: Vec<f32>,
    /// `None`: all of it is in the bounds.
    pub activation: Option<Activation>,
    /// |t| is nowhere larger.
    pub largest: f64,
    /// Of the result, in steps.
    pub bounds: [f32; 2],
    pub to: ByteScale,
    pub after: After,
}

/// What is done to the steps of a result.
#[derive(Clone, Debug)]
pub enum After {
    Nothing,
    Rescale(Rescale),
    Table(Arc<[u8; 256]>),
}

impl ByteConv {
    /// One filter of one channel for each channel.
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.bias.len() && self.weights.len() == self.groups * self.window.taps()
    }

    /// What the sums of each output channel are at most, without their sign: inputs less the zero point are within ±255.
    pub fn largest_sums(&self) -> impl Iterator<Item = i64> + '_ {
        let per_channel = (self.weights.len() / self.bias.len().max(1)).max(1);
        self.weights.chunks(per_channel).map(|f| 255 * f.iter().map(|w| i64::from(w.abs())).sum::<i64>())
    }

    /// The factors of sums.
    pub fn requantise(&self) -> Requantise {
        let clamp = self.to.clamp(self.activation);
        let step = if clamp.is_some() { f64::from(self.to.scale) } else { 1.0 };
        let factor = |s: &f32| (f64::from(self.from.scale) * f64::from(*s) / step) as f32;
        let after = match &self.table {
            None => After::Nothing,
            Some(table) => table.rescale().map_or_else(|| After::Table(table.bytes.clone()), After::Rescale),
        };
        let factors: Vec<f32> = self.weight_scales.iter().map(factor).collect();
        let offsets: Vec<f32> = self.bias.iter().map(|b| (f64::from(*b) / step) as f32).collect();
        let numbers = factors.iter().zip(&offsets).map(|(f, o)| (f64::from(*f).abs(), f64::from(*o).abs()));
        let steps = self.largest_sums().zip(numbers).map(|(sum, (f, o))| sum as f64 * f + o);
        Requantise {
            largest: steps.fold(0.0, f64::max),
            factors,
            offsets,
            activation: if clamp.is_some() { None } else { Some(self.activation) },
            bounds: clamp.unwrap_or_else(|| self.to.bounds()),
            to: self.to,
            after,
        }
    }
}

impl Requantise {
    /// The byte for a sum of channel `c`.
    pub fn byte(&self, sum: i32, c: usize) -> u8 {
        let mut t = sum as f32 * self.factors[c] + self.offsets[c];
        if let Some(activation) = self.activation {
            t = activation.apply(t) / self.to.scale;
        }
        let steps = nearest(clamped(t, self.bounds));
        match &self.after {
            After::Nothing => (steps + self.to.zero) as u8,
            After::Rescale(rescale) => rescale.apply(steps) as u8,
            After::Table(table) => table[usize::from((steps + self.to.zero) as u8)],
        }
    }
}

impl ByteKernel for ByteConv {
    fn stem(&self) -> &'static str {
        match self.groups {
            1 => "byte_conv",
            _ if self.is_depthwise() => "byte_depthwise",
            _ => "byte_grouped_conv",
        }
    }

    fn label(&self) -> String {
        let kind = match self.activation {
            Activation::None => String::new(),
            other => format!("_{}", other.label()),
        };
        format!("{}_{}{kind}{}", self.stem(), self.window.label(), if self.table.is_some() { "_table" } else { "" })
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (feature_map(&step.reads[0]), feature_map(&step.writes[0]));
        let (from, to) = (as_bytes(reads[0]), as_bytes(writes[0]));
        let (inputs, outputs) = (src.channels / self.groups, dst.channels / self.groups);
        let (taps, requantise) = (self.window.taps(), self.requantise());
        for n in 0..dst.batch {
            for y in 0..dst.height {
                for x in 0..dst.width {
                    for o in 0..dst.channels {
                        let first = o / outputs * inputs;
                        let mut sum = 0i32;
                        for ky in 0..self.window.kernel[0] {
                            for kx in 0..self.window.kernel[1] {
                                let place = self.window.source([src.height, src.width], [y, x], [ky, kx]);
                                let Some([sy, sx]) = place else { continue };
                                let at = src.pixel(n, sy, sx) + first;
                                let tap = ky * self.window.kernel[1] + kx;
                                for i in 0..inputs {
                                    let w = i32::from(self.weights[(o * inputs + i) * taps + tap]);
                                    sum += self.from.steps(from[at + i].get()) * w;
                                }
                            }
                        }
                        to[dst.pixel(n, y, x) + o].set(requantise.byte(sum, o));
                    }
                }
            }
        }
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::bytes::prepare_conv(self, step, isa)
    }

    fn fast_forms(&self, step: &Step, isa: crate::cpu::Isa) -> Vec<Box<dyn FastKernel>> {
        crate::cpu::bytes::conv_forms(self, step, isa)
    }
}
