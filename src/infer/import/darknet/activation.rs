//! Activations by Darknet's names. Those that no shader has are composed of operators that both backends have: they are
//! rare, and one of them costs a few passes over its map.

use super::builder::Builder;
use crate::infer::activation::Activation;
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::kernels::elementwise::Function;
use crate::infer::kernels::reduce::ReduceKind;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::reduce::Reduce;

/// Added to the sums of `normalize_channels`.
const SUM_EPSILON: f32 = 1e-4;

/// What stands behind `activation=`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nonlinearity {
    /// Becomes part of the operator before it.
    Fused(Activation),
    /// 1.0507·(x ≥ 0 ? x : 1.6732·(e^x − 1))
    Selu,
    /// x·(x > 0) + 0.1·x
    Ramp,
    /// 2/(1 + e^−x) − 1
    Loggy,
    /// x < −4: 0.01·(x + 4); x > 4: 0.01·(x − 4) + 1; else 0.125·x + 0.5
    Plse,
    /// x < 0: 0.001·x; x > 1: 0.001·(x − 1) + 1; else x
    Lhtan,
    /// n = floor x; n even: floor(x/2); else (x − n) + floor(x/2)
    Stair,
    /// x > 0: x; −2 < x ≤ 0: x²/2 + x; else 0
    HardMish,
    /// max(x, 0)/(Σ max(x, 0) + 1e-4), the sum over the channels of a pixel
    NormalizeChannels,
    /// e^(x − m)/(Σ e^(x − m) + 1e-4) over the channels of a pixel; m is 0 or the largest of them
    NormalizeChannelsSoftmax { less_maximum: bool },
}

impl Nonlinearity {
    pub const NONE: Nonlinearity = Nonlinearity::Fused(Activation::None);

    /// Every name, for the message about another one.
    pub const NAMES: &[&str] = &[
        "linear",
        "logistic",
        "relu",
        "relu6",
        "leaky",
        "revleaky",
        "ramp",
        "relie",
        "tanh",
        "elu",
        "selu",
        "gelu",
        "swish",
        "mish",
        "hard_mish",
        "loggy",
        "plse",
        "hardtan",
        "lhtan",
        "stair",
        "normalize_channels",
        "normalize_channels_softmax",
        "normalize_channels_softmax_maxval",
    ];

    pub fn named(name: &str) -> Option<Nonlinearity> {
        Some(Nonlinearity::Fused(match name {
            "linear" => Activation::None,
            "logistic" => Activation::Sigmoid,
            "relu" => Activation::Relu,
            "relu6" => Activation::Clip { lo: 0.0, hi: 6.0 },
            "leaky" | "revleaky" => Activation::LeakyRelu { alpha: 0.1 },
            "relie" => Activation::LeakyRelu { alpha: 0.01 },
            "tanh" => Activation::Tanh,
            "elu" => Activation::Elu { alpha: 1.0 },
            "gelu" => Activation::GeluTanh,
            "swish" => Activation::Silu,
            "mish" => Activation::Mish,
            "hardtan" => Activation::Clip { lo: -1.0, hi: 1.0 },
            "selu" => return Some(Nonlinearity::Selu),
            "ramp" => return Some(Nonlinearity::Ramp),
            "loggy" => return Some(Nonlinearity::Loggy),
            "plse" => return Some(Nonlinearity::Plse),
            "lhtan" => return Some(Nonlinearity::Lhtan),
            "stair" => return Some(Nonlinearity::Stair),
            "hard_mish" => return Some(Nonlinearity::HardMish),
            "normalize_channels" => return Some(Nonlinearity::NormalizeChannels),
            "normalize_channels_softmax" => {
                return Some(Nonlinearity::NormalizeChannelsSoftmax { less_maximum: false });
            }
            "normalize_channels_softmax_maxval" => {
                return Some(Nonlinearity::NormalizeChannelsSoftmax { less_maximum: true });
            }
            _ => return None,
        }))
    }
}

impl Builder<'_> {
    /// The value of `node(name, activation)`, with the activation behind it: fused where that is possible.
    pub fn activated(
        &mut self,
        name: &str,
        activation: Nonlinearity,
        node: impl FnOnce(&mut Self, &str, Activation) -> Result<ValueId, ImportError>,
    ) -> Result<ValueId, ImportError> {
        match activation {
            Nonlinearity::Fused(fused) => node(self, name, fused),
            composed => {
                let linear = node(self, &format!("{name}.linear"), Activation::None)?;
                self.activate(name, composed, linear)
            }
        }
    }

    /// activation(x) as nodes of their own.
    pub fn activate(&mut self, name: &str, activation: Nonlinearity, x: ValueId) -> Result<ValueId, ImportError> {
        use Function::{Add, Exp, Floor, Max, Min, Mul, Sub};
        let sub = |what: &str| format!("{name}.{what}");
        match activation {
            Nonlinearity::Fused(Activation::None) => Ok(x),
            Nonlinearity::Fused(activation) => self.one(name, Activate { activation }, &[x]),
            Nonlinearity::Selu => {
                let activation = Activation::Elu { alpha: 1.6732 };
                let elu = self.one(&sub("elu"), Activate { activation }, &[x])?;
                self.with_number(name, Mul, elu, 1.0507)
            }
            Nonlinearity::Ramp => {
                let positive = self.one(&sub("relu"), Activate { activation: Activation::Relu }, &[x])?;
                let tenth = self.with_number(&sub("tenth"), Mul, x, 0.1)?;
                self.binary(name, Add, Activation::None, [positive, tenth])
            }
            // The same as tanh(x/2).
            Nonlinearity::Loggy => {
                let half = self.constant(&sub("constant"), &[1], vec![0.5])?;
                self.binary(name, Mul, Activation::Tanh, [x, half])
            }
            // Three lines: the middle one is the lowest of the two on the right, and the highest on the left.
            Nonlinearity::Plse => {
                let middle = self.line(&sub("middle"), x, 0.125, 0.5)?;
                let right = self.line(&sub("right"), x, 0.01, 0.96)?;
                let left = self.line(&sub("left"), x, 0.01, 0.04)?;
                let low = self.binary(&sub("low"), Min, Activation::None, [middle, right])?;
                self.binary(name, Max, Activation::None, [left, low])
            }
            Nonlinearity::Lhtan => {
                let right = self.line(&sub("right"), x, 0.001, 0.999)?;
                let left = self.with_number(&sub("left"), Mul, x, 0.001)?;
                let low = self.binary(&sub("low"), Min, Activation::None, [x, right])?;
                self.binary(name, Max, Activation::None, [left, low])
            }
            // With r = x − 2·floor(x/2), which is in [0, 2): floor(x/2) + max(r − 1, 0).
            Nonlinearity::Stair => {
                let half = self.with_number(&sub("half"), Mul, x, 0.5)?;
                let step = self.unary(&sub("step"), Floor, half)?;
                let rest = self.binary(&sub("rest"), Sub, Activation::None, [half, step])?;
                let twice = self.with_number(&sub("twice"), Mul, rest, 2.0)?;
                let one = self.constant(&sub("one"), &[1], vec![1.0])?;
                let slope = self.binary(&sub("slope"), Sub, Activation::Relu, [twice, one])?;
                self.binary(name, Add, Activation::None, [step, slope])
            }
            // With c = x clamped to [−2, 0]: c²/2 + c + max(x, 0).
            Nonlinearity::HardMish => {
                let activation = Activation::Clip { lo: -2.0, hi: 0.0 };
                let bent = self.one(&sub("bent"), Activate { activation }, &[x])?;
                let factor = self.line(&sub("factor"), bent, 0.5, 1.0)?;
                let low = self.binary(&sub("low"), Mul, Activation::None, [bent, factor])?;
                let high = self.one(&sub("high"), Activate { activation: Activation::Relu }, &[x])?;
                self.binary(name, Add, Activation::None, [low, high])
            }
            Nonlinearity::NormalizeChannels => {
                let positive = self.one(&sub("relu"), Activate { activation: Activation::Relu }, &[x])?;
                self.over_sum(name, positive)
            }
            Nonlinearity::NormalizeChannelsSoftmax { less_maximum } => {
                let x = if less_maximum {
                    let reduce = Reduce { kind: ReduceKind::Max, axes: vec![1], keepdims: true };
                    let largest = self.one(&sub("largest"), reduce, &[x])?;
                    self.binary(&sub("less"), Sub, Activation::None, [x, largest])?
                } else {
                    x
                };
                let raised = self.unary(&sub("exp"), Exp, x)?;
                self.over_sum(name, raised)
            }
        }
    }

    /// a·x + b
    fn line(&mut self, name: &str, x: ValueId, a: f32, b: f32) -> Result<ValueId, ImportError> {
        let scaled = self.with_number(&format!("{name}.scaled"), Function::Mul, x, a)?;
        self.with_number(name, Function::Add, scaled, b)
    }

    /// x/(Σ x + 1e-4) over the channels.
    fn over_sum(&mut self, name: &str, x: ValueId) -> Result<ValueId, ImportError> {
        let reduce = Reduce { kind: ReduceKind::Sum, axes: vec![1], keepdims: true };
        let sum = self.one(&format!("{name}.sum"), reduce, &[x])?;
        let divisor = self.with_number(&format!("{name}.divisor"), Function::Add, sum, SUM_EPSILON)?;
        self.binary(name, Function::Div, Activation::None, [x, divisor])
    }
}
