//! Elementwise functions of one or two inputs. Twin of `shaders/infer/elementwise.wgsl`.

use super::walk::Walk;
use super::wgsl::{self, Lanes};
use crate::infer::activation::{Activation, erf};
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::View;
use crate::shader::{Precision, Variant, VariantBuilder};

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
    /// −1, 0 or 1; NaN stays.
    Sign,
    /// x / (1 + |x|)
    Softsign,
    Add,
    Sub,
    Mul,
    Div,
    /// a^b
    Pow,
    /// The remainder of a / b with the sign of a, exact.
    Remainder,
    /// The remainder of a / b with the sign of b.
    Modulo,
    Min,
    Max,
    /// a > b ? 1 : 0, as all comparisons
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Equal,
    /// a where a > b, else 0
    Above,
}

impl Function {
    /// True for functions of two inputs.
    pub fn is_binary(self) -> bool {
        use Function::{
            Above, Add, Div, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Max, Min, Modulo, Mul, Pow, Remainder,
            Sub,
        };
        let arithmetic = matches!(self, Add | Sub | Mul | Div | Pow | Remainder | Modulo | Min | Max);
        arithmetic || matches!(self, Greater | GreaterOrEqual | Less | LessOrEqual | Equal | Above)
    }

    /// The function itself; `b` is ignored by functions of one input.
    pub fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            Function::Identity => a,
            Function::Exp => a.exp(),
            Function::Log => a.ln(),
            Function::Sqrt => a.sqrt(),
            Function::Reciprocal => 1.0 / a,
            Function::Neg => -a,
            Function::Abs => a.abs(),
            Function::Floor => a.floor(),
            Function::Ceil => a.ceil(),
            Function::Round => a.round_ties_even(),
            Function::Erf => erf(a),
            Function::Sin => a.sin(),
            Function::Cos => a.cos(),
            Function::Sign if a == 0.0 || a.is_nan() => a,
            Function::Sign => a.signum(),
            Function::Softsign => a / (1.0 + a.abs()),
            Function::Add => a + b,
            Function::Sub => a - b,
            Function::Mul => a * b,
            Function::Div => a / b,
            Function::Pow => a.powf(b),
            Function::Remainder => remainder(a, b),
            Function::Modulo => modulo(a, b),
            Function::Min => a.min(b),
            Function::Max => a.max(b),
            Function::Greater => truth(a > b),
            Function::GreaterOrEqual => truth(a >= b),
            Function::Less => truth(a < b),
            Function::LessOrEqual => truth(a <= b),
            Function::Equal => truth(a == b),
            Function::Above => {
                if a > b {
                    a
                } else {
                    0.0
                }
            }
        }
    }

    /// Lower-case name for kernel labels.
    pub fn label(self) -> &'static str {
        match self {
            Function::Identity => "identity",
            Function::Exp => "exp",
            Function::Log => "log",
            Function::Sqrt => "sqrt",
            Function::Reciprocal => "reciprocal",
            Function::Neg => "neg",
            Function::Abs => "abs",
            Function::Floor => "floor",
            Function::Ceil => "ceil",
            Function::Round => "round",
            Function::Erf => "erf",
            Function::Sin => "sin",
            Function::Cos => "cos",
            Function::Sign => "sign",
            Function::Softsign => "softsign",
            Function::Add => "add",
            Function::Sub => "sub",
            Function::Mul => "mul",
            Function::Div => "div",
            Function::Pow => "pow",
            Function::Remainder => "remainder",
            Function::Modulo => "modulo",
            Function::Min => "min",
            Function::Max => "max",
            Function::Greater => "greater",
            Function::GreaterOrEqual => "greater_or_equal",
            Function::Less => "less",
            Function::LessOrEqual => "less_or_equal",
            Function::Equal => "equal",
            Function::Above => "above",
        }
    }

    /// As WGSL, on vectors `a` and `b`.
    fn wgsl(self) -> &'static str {
        match self {
            Function::Identity => "a",
            Function::Exp => "exp(a)",
            Function::Log => "log(a)",
            Function::Sqrt => "sqrt(a)",
            Function::Reciprocal => "1.0 / a",
            Function::Neg => "-a",
            Function::Abs => "abs(a)",
            Function::Floor => "floor(a)",
            Function::Ceil => "ceil(a)",
            Function::Round => "round(a)",
            Function::Erf => "erf(a)",
            Function::Sin => "sin(a)",
            Function::Cos => "cos(a)",
            Function::Sign => "select(sign(a), a, a != a)",
            Function::Softsign => "a / (1.0 + abs(a))",
            Function::Add => "a + b",
            Function::Sub => "a - b",
            Function::Mul => "a * b",
            Function::Div => "a / b",
            Function::Pow => "power(a, b)",
            Function::Remainder => "remainder(a, b)",
            Function::Modulo => "modulo(a, b)",
            Function::Min => "min(a, b)",
            Function::Max => "max(a, b)",
            Function::Greater => "truth(a > b)",
            Function::GreaterOrEqual => "truth(a >= b)",
            Function::Less => "truth(a < b)",
            Function::LessOrEqual => "truth(a <= b)",
            Function::Equal => "truth(a == b)",
            Function::Above => "select(vec4<f32>(0.0), a, a > b)",
        }
    }
}

fn truth(holds: bool) -> f32 {
    if holds { 1.0 } else { 0.0 }
}

/// The remainder of a / b with the sign of a: the significands divided as integers, eight bits of the quotient a turn.
fn remainder(a: f32, b: f32) -> f32 {
    let (x, y) = (a.abs().to_bits(), b.abs().to_bits());
    if !a.is_finite() || b.is_nan() || b == 0.0 {
        return f32::NAN;
    }
    if x < y {
        return a;
    }
    let significand =
        |magnitude: u32| if magnitude < 0x80_0000 { magnitude } else { (magnitude & 0x7f_ffff) | 0x80_0000 };
    let (exponent, divisor) = ((y >> 23).max(1), significand(y));
    let mut rest = significand(x) % divisor;
    let mut left = (x >> 23).max(1) - exponent;
    while left > 0 {
        let bits = left.min(8);
        rest = (rest << bits) % divisor;
        left -= bits;
    }
    let sign = a.to_bits() & 0x8000_0000;
    if rest == 0 {
        return f32::from_bits(sign);
    }
    let shift = (rest.leading_zeros() - 8).min(exponent - 1);
    f32::from_bits(sign | ((rest << shift) + ((exponent - 1 - shift) << 23)))
}

/// The remainder of a / b with the sign of b, also where it is 0.
fn modulo(a: f32, b: f32) -> f32 {
    let rest = remainder(a, b);
    if rest == 0.0 {
        0f32.copysign(b)
    } else if (rest < 0.0) == (b < 0.0) {
        rest
    } else {
        rest + b
    }
}

/// dst = activation(function(a, b)). Reads `[a]` or `[a, b]`, writes `[dst]`; the reads are already broadcast to the
/// shape of dst (stride 0 where they repeat); any strides.
#[derive(Clone, Copy, Debug)]
pub struct Elementwise {
    pub function: Function,
    pub activation: Activation,
}

impl Elementwise {
    fn walk(&self, step: &Step) -> Walk {
        let views: Vec<&View> = step.reads.iter().take(self.inputs()).chain(&step.writes).collect();
        Walk::new(&views)
    }

    fn inputs(&self) -> usize {
        if self.function.is_binary() { 2 } else { 1 }
    }
}

impl Kernel for Elementwise {
    fn stem(&self) -> &'static str {
        "elementwise"
    }

    fn label(&self) -> String {
        match (self.function, self.activation) {
            (Function::Identity, a) => a.label().to_string(),
            (f, Activation::None) => f.label().to_string(),
            (f, a) => format!("{}_{}", f.label(), a.label()),
        }
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let walk = self.walk(step);
        let last = self.inputs();
        // A function of one input is given it twice.
        let second = last - 1;
        let strides: Vec<usize> = walk.strides.iter().map(|s| s[0]).collect();
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                let a = reads[0][at[0] + i * strides[0]].get();
                let b = reads[second][at[second] + i * strides[second]].get();
                writes[0][at[last] + i * strides[last]].set(self.activation.apply(self.function.apply(a, b)));
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let lanes = Lanes::new(self.walk(step));
        let mut b = VariantBuilder::new("elementwise", include_str!("../../../shaders/infer/elementwise.wgsl"));
        b = wgsl::activation(b.precision(precision), self.activation);
        b = lanes.read(lanes.extents(b), "a", 0, 0);
        b = if self.function.is_binary() {
            lanes.write(lanes.read(b, "b", 1, 1), 2, 2)
        } else {
            let b = b
                .line("@group(0) @binding(1) var<storage, read> b", "")
                .line("fn load_b(", "fn load_b(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(0.0); }");
            lanes.write(wgsl::list(b, "B_STRIDES", &vec![0; lanes.rank()]), 2, 1)
        };
        b = b.line(
            "fn apply(",
            &format!("fn apply(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {{ return {}; }}", self.function.wgsl()),
        );
        wgsl::build_flat(b, lanes.count().div_ceil(64))
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::elementwise::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, coordinates, map, run, values};
    use super::*;
    use crate::infer::plan::view::BufferId;

    #[test]
    fn functions_have_their_values() {
        let apply = |f: Function, a: f32, b: f32| f.apply(a, b);
        for (function, a, b, expected) in [
            (Function::Round, 2.5, 0.0, 2.0),
            (Function::Round, -1.5, 0.0, -2.0),
            (Function::Floor, -0.5, 0.0, -1.0),
            (Function::Ceil, -0.5, 0.0, 0.0),
            (Function::Pow, -2.0, 3.0, -8.0),
            (Function::Sub, 1.0, 4.0, -3.0),
            (Function::Div, 1.0, 4.0, 0.25),
            (Function::Modulo, -4.25, 2.0, 1.75),
            (Function::Modulo, 7.5, -3.0, -1.5),
            (Function::Modulo, -3.0, f32::INFINITY, f32::INFINITY),
            (Function::Modulo, 3.0, f32::INFINITY, 3.0),
            (Function::Min, 1.0, 4.0, 1.0),
            (Function::Max, 1.0, 4.0, 4.0),
            (Function::Reciprocal, 4.0, 9.0, 0.25),
            (Function::Neg, 4.0, 9.0, -4.0),
            (Function::Abs, -4.0, 9.0, 4.0),
            (Function::Sign, -4.0, 9.0, -1.0),
            (Function::Sign, 0.0, 9.0, 0.0),
            (Function::Softsign, -3.0, 9.0, -0.75),
            (Function::Greater, 2.0, 2.0, 0.0),
            (Function::GreaterOrEqual, 2.0, 2.0, 1.0),
            (Function::Less, 1.0, f32::NAN, 0.0),
            (Function::LessOrEqual, 1.0, 2.0, 1.0),
            (Function::Equal, 1.0, 2.0, 0.0),
            (Function::Above, 3.0, 2.0, 3.0),
            (Function::Above, f32::NEG_INFINITY, 2.0, 0.0),
        ] {
            assert_eq!(apply(function, a, b), expected, "{function:?}");
        }
        let e = std::f32::consts::E;
        assert!((apply(Function::Log, e, 0.0) - 1.0).abs() < 1e-6 && (apply(Function::Exp, 1.0, 0.0) - e).abs() < 1e-6);
    }

    #[test]
    fn remainders_are_exact() {
        let mut hard = vec![0.0, f32::from_bits(1), f32::from_bits(77), f32::MIN_POSITIVE, 1e-38, 1e-20, 0.1, 0.3, 1.0];
        hard.extend([2.0, 3.0, 5.5, 7.0, 1e7, 16_777_215.0, 1e20, 3e38, f32::MAX, f32::INFINITY, f32::NAN]);
        // Multiples and their neighbours.
        hard.extend(
            [0.3f32, 7.0, 1e-38].iter().flat_map(|b| [b * 4097.0, (b * 4097.0).next_down(), (b * 4097.0).next_up()]),
        );
        hard.extend(values(9, 40).iter().enumerate().map(|(i, v)| v * 2f32.powi(i as i32 * 6 - 120)));
        let signed: Vec<f32> = hard.iter().flat_map(|&v| [v, -v]).collect();
        for &a in &signed {
            for &b in &signed {
                let (got, exact) = (Function::Remainder.apply(a, b), f64::from(a) % f64::from(b));
                assert!(got.is_nan() == exact.is_nan(), "{a:e} % {b:e} is {exact:e}, not {got:e}");
                if !got.is_nan() {
                    assert_eq!(f64::from(got).to_bits(), exact.to_bits(), "{a:e} % {b:e} is {exact:e}, not {got:e}");
                }
                let got = Function::Modulo.apply(a, b);
                assert!(
                    got.is_nan() == exact.is_nan() && (got.is_nan() || got.is_sign_negative() == b.is_sign_negative())
                );
            }
        }
    }

    #[test]
    fn broadcasts_over_any_strides() {
        let shape = [2, 5, 3, 7];
        let (x, per_channel) = (values(1, 210), values(2, 5));
        let b = View::row_major(BufferId(1), &[5, 1, 1]).broadcast_to(&shape).expect("broadcast");
        let expected: Vec<f64> =
            (0..210).map(|i| (f64::from(x[i]) - f64::from(per_channel[coordinates(&shape, i)[1]])).max(0.0)).collect();
        let kernel = Elementwise { function: Function::Sub, activation: Activation::Relu };
        let mut values_of_b = Vec::new();
        for i in 0..210 {
            values_of_b.push(per_channel[coordinates(&shape, i)[1]]);
        }
        for a in [map(0, shape, 1, 2), View::row_major(BufferId(0), &shape)] {
            for dst in [map(2, shape, 3, 0), View::row_major(BufferId(2), &shape)] {
                let got = run(kernel, &[(a.clone(), &x), (b.clone(), &values_of_b)], &dst);
                assert_close(&got, &expected, 1e-6, "sub_relu");
            }
        }
    }

    #[test]
    fn one_input_is_enough() {
        let x = values(3, 6);
        let view = |buffer: usize| View::row_major(BufferId(buffer), &[2, 3]);
        let kernel = Elementwise { function: Function::Neg, activation: Activation::None };
        let expected: Vec<f64> = x.iter().map(|&x| -f64::from(x)).collect();
        assert_close(&run(kernel, &[(view(0), &x)], &view(1)), &expected, 0.0, "neg");
        assert_eq!(Elementwise { function: Function::Identity, activation: Activation::Mish }.label(), "mish");
    }
}
