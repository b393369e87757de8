//! Activation functions, as elementwise operators and as epilogues of convolutions.
//!
//! The WGSL twin is `shaders/common/activation.wgsl`: one function per variant, same name in snake case.

/// An activation with its parameters. All are evaluated in f32, with arguments of `exp` and `tanh` clamped so that the
/// result stays in range in the tails.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Activation {
    /// x
    #[default]
    None,
    /// max(x, 0)
    Relu,
    /// min(max(x, lo), hi); either side may be infinite
    Clip { lo: f32, hi: f32 },
    /// x ≥ 0 ? x : alpha·x
    LeakyRelu { alpha: f32 },
    /// 1 / (1 + e^−x)
    Sigmoid,
    /// x·sigmoid(x)
    Silu,
    /// clamp(alpha·x + beta, 0, 1)
    HardSigmoid { alpha: f32, beta: f32 },
    /// x·clamp(x/6 + 1/2, 0, 1)
    HardSwish,
    /// x·tanh(ln(1 + e^x))
    Mish,
    /// tanh x
    Tanh,
    /// x ≥ 0 ? x : alpha·(e^x − 1)
    Elu { alpha: f32 },
    /// ln(1 + e^x)
    Softplus,
    /// 0.5·x·(1 + erf(x/√2))
    Gelu,
    /// 0.5·x·(1 + tanh(0.7978846·(x + 0.044715·x³)))
    GeluTanh,
}

/// `exp` is evaluated on arguments no larger than this, so that its value stays finite in f32.
pub const EXP_ARGUMENT_MAX: f32 = 80.0;

/// 1 / (1 + e^−x), in [0, 1] for every finite x.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).min(EXP_ARGUMENT_MAX).exp())
}

/// tanh with its argument clamped to ±15, where it is ±1 in f32.
pub fn tanh(x: f32) -> f32 {
    x.clamp(-15.0, 15.0).tanh()
}

/// ln(1 + e^x); x itself above 20.
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// Error function after Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; error below 1.5e-7.
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let poly = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let y = 1.0 - poly * (-a * a).max(-EXP_ARGUMENT_MAX).exp();
    if x < 0.0 { -y } else { y }
}

impl Activation {
    /// The function itself.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::Clip { lo, hi } => x.max(lo).min(hi),
            Activation::LeakyRelu { alpha } => {
                if x >= 0.0 {
                    x
                } else {
                    alpha * x
                }
            }
            Activation::Sigmoid => sigmoid(x),
            Activation::Silu => x * sigmoid(x),
            Activation::HardSigmoid { alpha, beta } => (alpha * x + beta).clamp(0.0, 1.0),
            Activation::HardSwish => x * (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0),
            Activation::Mish => x * tanh(softplus(x)),
            Activation::Tanh => tanh(x),
            Activation::Elu { alpha } => {
                if x >= 0.0 {
                    x
                } else {
                    alpha * x.exp_m1()
                }
            }
            Activation::Softplus => softplus(x),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * x * (1.0 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x))),
        }
    }

    /// Lower-case name for kernel labels.
    pub fn label(self) -> &'static str {
        match self {
            Activation::None => "none",
            Activation::Relu => "relu",
            Activation::Clip { .. } => "clip",
            Activation::LeakyRelu { .. } => "leaky_relu",
            Activation::Sigmoid => "sigmoid",
            Activation::Silu => "silu",
            Activation::HardSigmoid { .. } => "hard_sigmoid",
            Activation::HardSwish => "hard_swish",
            Activation::Mish => "mish",
            Activation::Tanh => "tanh",
            Activation::Elu { .. } => "elu",
            Activation::Softplus => "softplus",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_functions_stay_bounded_in_the_tails() {
        for x in [-3e38f32, -1e4, -88.0, -20.0, 0.0, 20.0, 88.0, 1e4, 3e38] {
            let s = sigmoid(x);
            assert!((0.0..=1.0).contains(&s), "sigmoid({x}) = {s}");
            assert!((-1.0..=1.0).contains(&tanh(x)));
            assert!(Activation::Silu.apply(x).is_finite() && Activation::Mish.apply(x).is_finite());
        }
    }

    #[test]
    fn erf_agrees_with_published_values() {
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (-2.0, -0.995_322_3)] {
            assert!((erf(x) - y).abs() < 5e-7, "erf({x})");
        }
    }
}
