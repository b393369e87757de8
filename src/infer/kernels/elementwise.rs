//! Elementwise functions of one or two inputs. Twin of `shaders/infer/elementwise.wgsl`.
use crate::infer::activation::Activation;

/// The function before the activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// x
    Identity,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Neg,
    Abs,
    Floor,
    Ceil,
    /// Nearest integer, halves to even.
    Round,
    Erf,
    Sin,
    Cos,
    Add,
    Sub,
    Mul,
    Div,
    /// a^b
    Pow,
    Min,
    Max,
}

/// dst = activation(function(a, b)). Reads `[a]` or `[a, b]`, writes `[dst]`; the reads are already broadcast to the
/// shape of dst (stride 0 where they repeat); any strides.
#[derive(Clone, Copy, Debug)]
pub struct Elementwise {
    pub function: Function,
    pub activation: Activation,
}
