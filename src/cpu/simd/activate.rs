//! Activation functions on vectors, after [`crate::infer::activation`].

use super::{SHIFT, Vector};
use crate::infer::activation::{Activation, EXP_ARGUMENT_MAX};

/// An activation function with its parameters.
pub trait Activate: Copy {
    /// # Safety
    /// See [`Vector`].
    unsafe fn apply<V: Vector>(self, x: V) -> V;
}

/// Bounds of the exponent's argument: e^x stays a normal number.
const EXP_LOW: f32 = -87.3;
const EXP_HIGH: f32 = 88.0;
/// ln 2 in two parts, the first of which is exact in products with small integers.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// e^r = 1 + c₁·r + … + c₆·r⁶ on ±ln 2 / 2, c₆ first: least maximum of the relative error, 2e-9 before rounding.
const EXP_POLYNOMIAL: [f32; 6] = [1.384_360_7e-3, 8.374_196e-3, 4.166_800_4e-2, 1.666_643e-1, 0.499_999_94, 1.0];

/// e^x for x in [−87.3, 88]; arguments outside are clamped to that. Error below 2 ulp.
///
/// x = n·ln 2 + r (Cody and Waite), a polynomial for e^r, then the exponent.
#[inline(always)]
pub unsafe fn exp<V: Vector>(x: V) -> V {
    let x = V::splat(EXP_HIGH).min(V::splat(EXP_LOW).max(x));
    let shifted = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(SHIFT));
    let n = shifted.sub(V::splat(SHIFT));
    let r = n.mul_add(V::splat(-LN2_HIGH), x);
    let r = n.mul_add(V::splat(-LN2_LOW), r);
    let mut p = V::splat(EXP_POLYNOMIAL[0]);
    for &c in &EXP_POLYNOMIAL[1..] {
        p = p.mul_add(r, V::splat(c));
    }
    p.mul_add(r, V::splat(1.0)).scale_by_power_of_two(shifted)
}

/// 1 / (1 + e^−x)
#[inline(always)]
unsafe fn sigmoid<V: Vector>(x: V) -> V {
    // As `exp`, with the sign of the argument in the constants: s = −r.
    let x = V::splat(-EXP_LOW).min(V::splat(-EXP_ARGUMENT_MAX).max(x));
    let shifted = x.mul_add(V::splat(-std::f32::consts::LOG2_E), V::splat(SHIFT));
    let n = shifted.sub(V::splat(SHIFT));
    let s = n.mul_add(V::splat(LN2_HIGH), x);
    let s = n.mul_add(V::splat(LN2_LOW), s);
    let mut p = V::splat(EXP_POLYNOMIAL[0]);
    for (i, &c) in EXP_POLYNOMIAL.iter().enumerate().skip(1) {
        p = p.mul_add(s, V::splat(if i % 2 == 0 { c } else { -c }));
    }
    let e = p.mul_add(s, V::splat(1.0)).scale_by_power_of_two(shifted);
    e.add(V::splat(1.0)).reciprocal()
}

/// tanh after Eigen's rational approximation, argument clamped to where it is ±1 in f32; absolute error below 6e-7.
#[inline(always)]
pub unsafe fn tanh<V: Vector>(x: V) -> V {
    let limit = 7.905_311;
    let x = x.max(V::splat(-limit)).min(V::splat(limit));
    let x2 = x.mul(x);
    let mut p = V::splat(-2.760_768_5e-16);
    for c in [2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3] {
        p = p.mul_add(x2, V::splat(c));
    }
    let mut q = V::splat(1.198_258_4e-6);
    for c in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3] {
        q = q.mul_add(x2, V::splat(c));
    }
    x.mul(p).div(q)
}

#[derive(Clone, Copy)]
pub struct Identity;
impl Activate for Identity {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        x
    }
}

/// e^x; infinite and 0 where that is no normal number, not a number where x is not.
#[derive(Clone, Copy)]
pub struct Exp;
impl Activate for Exp {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        // The square of the exponential of a half, to reach the ends of the range. In this order min and max let pass
        // what is not a number, and x − x is 0 or not a number.
        let x = V::splat(200.0).min(V::splat(-200.0).max(x));
        let half = exp(x.mul(V::splat(0.5)));
        half.mul(half).add(x.sub(x))
    }
}

#[derive(Clone, Copy)]
pub struct Clip {
    pub lo: f32,
    pub hi: f32,
}
impl Activate for Clip {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        x.max(V::splat(self.lo)).min(V::splat(self.hi))
    }
}

#[derive(Clone, Copy)]
pub struct LeakyRelu {
    pub alpha: f32,
}
impl Activate for LeakyRelu {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        x.select_non_negative(x, x.mul(V::splat(self.alpha)))
    }
}

#[derive(Clone, Copy)]
pub struct Sigmoid;
impl Activate for Sigmoid {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        sigmoid(x)
    }
}

#[derive(Clone, Copy)]
pub struct Silu;
impl Activate for Silu {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        x.mul(sigmoid(x))
    }
}

#[derive(Clone, Copy)]
pub struct HardSigmoid {
    pub alpha: f32,
    pub beta: f32,
}
impl Activate for HardSigmoid {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        x.mul_add(V::splat(self.alpha), V::splat(self.beta)).max(V::splat(0.0)).min(V::splat(1.0))
    }
}

#[derive(Clone, Copy)]
pub struct HardSwish;
impl Activate for HardSwish {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        let gate = x.mul_add(V::splat(1.0 / 6.0), V::splat(0.5)).max(V::splat(0.0)).min(V::splat(1.0));
        x.mul(gate)
    }
}

#[derive(Clone, Copy)]
pub struct Mish;
impl Activate for Mish {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        // tanh(ln(1 + e)) = (e² + 2e) / (e² + 2e + 2); above 20 that is 1 in f32.
        let e = exp(x.min(V::splat(20.0)));
        let n = e.mul(e.add(V::splat(2.0)));
        x.mul(n).mul(n.add(V::splat(2.0)).reciprocal())
    }
}

#[derive(Clone, Copy)]
pub struct Tanh;
impl Activate for Tanh {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        tanh(x)
    }
}

#[derive(Clone, Copy)]
pub struct Elu {
    pub alpha: f32,
}
impl Activate for Elu {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        let below = exp(x.min(V::splat(0.0))).sub(V::splat(1.0)).mul(V::splat(self.alpha));
        x.select_non_negative(x, below)
    }
}

/// With the error function after Abramowitz and Stegun 7.1.26, as the scalar one.
#[derive(Clone, Copy)]
pub struct Gelu;
impl Activate for Gelu {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        let one = V::splat(1.0);
        let z = x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2));
        // Beyond 10 the exponential is 0 in f32.
        let a = z.abs().min(V::splat(10.0));
        let t = a.mul_add(V::splat(0.327_591_1), one).reciprocal();
        let mut p = V::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = p.mul_add(t, V::splat(c));
        }
        let tail = p.mul(t).mul(exp(V::splat(0.0).sub(a.mul(a)).max(V::splat(-EXP_ARGUMENT_MAX))));
        let erf = z.select_non_negative(one.sub(tail), tail.sub(one));
        x.mul(V::splat(0.5)).mul(erf.add(one))
    }
}

/// Any other function, lane by lane.
#[derive(Clone, Copy)]
pub struct Scalar(pub Activation);
impl Activate for Scalar {
    #[inline(always)]
    unsafe fn apply<V: Vector>(self, x: V) -> V {
        // As many as the widest vectors have.
        let mut lanes = [0.0f32; 16];
        x.store(lanes.as_mut_ptr());
        for lane in &mut lanes[..V::LANES] {
            *lane = self.0.apply(*lane);
        }
        V::load(lanes.as_ptr())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Vector, Work, run};
    use crate::cpu::Isa;

    struct Map<'a, const TANH: bool>(&'a mut [f32]);
    impl<const TANH: bool> Work for Map<'_, TANH> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            for lanes in self.0.chunks_mut(V::LANES) {
                let x = V::load_first(lanes.as_ptr(), lanes.len());
                let y = if TANH { super::tanh(x) } else { super::exp(x) };
                y.store_first(lanes.as_mut_ptr(), lanes.len());
            }
        }
    }

    #[test]
    fn exp_and_tanh_are_good_to_a_few_units_in_the_last_place() {
        let xs: Vec<f32> = (0..100_003).map(|i| (i as f32 / 100_003.0 - 0.5) * 174.0).collect();
        for isa in Isa::available() {
            let mut ys = xs.clone();
            run(isa, Map::<false>(&mut ys));
            for (&x, &y) in xs.iter().zip(&ys) {
                let wanted = f64::from(x).exp();
                assert!((f64::from(y) / wanted - 1.0).abs() < 2.4e-7, "{isa:?} exp({x}) = {y}, {wanted}");
            }
            let mut ys: Vec<f32> = xs.iter().map(|x| x * 0.15).collect();
            let arguments = ys.clone();
            run(isa, Map::<true>(&mut ys));
            for (&x, &y) in arguments.iter().zip(&ys) {
                let wanted = f64::from(x).tanh();
                assert!((f64::from(y) - wanted).abs() < 6e-7, "{isa:?} tanh({x}) = {y}, {wanted}");
            }
        }
    }
}
