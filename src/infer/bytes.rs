//! Bytes that stand for numbers, and tables over all of them.

use super::activation::Activation;
use super::tensor::DType;
use crate::cpu::simd::SHIFT;
use std::sync::Arc;

/// How a byte stands for a number: x = (q − zero)·scale, with q a u8 or an i8 (ONNX QuantizeLinear, one scale for all).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ByteScale {
    /// The byte is an i8.
    pub signed: bool,
    /// Finite and above 0.
    pub scale: f32,
    pub zero: i32,
}

/// The nearest integer of a number within ±2²², halves to even.
#[inline(always)]
pub fn nearest(x: f32) -> i32 {
    (x + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32
}

/// x in [lo, hi]; NaN becomes `lo`.
#[inline(always)]
pub fn clamped(x: f32, [lo, hi]: [f32; 2]) -> f32 {
    let x = if x > lo { x } else { lo };
    if x < hi { x } else { hi }
}

impl ByteScale {
    /// For a quantised type; `None` for others, and for what is no scale or no value of the type.
    pub fn new(dtype: DType, scale: f32, zero: f32) -> Option<ByteScale> {
        let signed = match dtype {
            DType::U8 => false,
            DType::I8 => true,
            _ => return None,
        };
        let byte = ByteScale { signed, scale, zero: zero as i32 };
        let [least, largest] = byte.range();
        let fits = (least..=largest).contains(&byte.zero) && byte.zero as f32 == zero;
        (fits && scale.is_normal() && scale > 0.0).then_some(byte)
    }

    /// Element type of the bytes.
    pub fn dtype(&self) -> DType {
        if self.signed { DType::I8 } else { DType::U8 }
    }

    /// Least and largest value of the type.
    pub fn range(&self) -> [i32; 2] {
        if self.signed { [-128, 127] } else { [0, 255] }
    }

    /// Least and largest value less the zero point.
    pub fn bounds(&self) -> [f32; 2] {
        self.range().map(|q| (q - self.zero) as f32)
    }

    /// The byte's value less the zero point.
    #[inline(always)]
    pub fn steps(&self, byte: u8) -> i32 {
        let q = if self.signed { i32::from(byte as i8) } else { i32::from(byte) };
        q - self.zero
    }

    /// DequantizeLinear.
    #[inline(always)]
    pub fn number(&self, byte: u8) -> f32 {
        self.steps(byte) as f32 * self.scale
    }

    /// QuantizeLinear: round(x / scale), halves to even, plus zero, saturated. NaN becomes the least value.
    #[inline(always)]
    pub fn byte(&self, x: f32) -> u8 {
        (nearest(clamped(x / self.scale, self.bounds())) + self.zero) as u8
    }

    /// The bounds of a clamp in steps: byte(clamp(x)) is byte(x) in these. `None`: the activation is no clamp.
    pub fn clamp(&self, activation: Activation) -> Option<[f32; 2]> {
        let steps = |x: f32| nearest(clamped(x / self.scale, self.bounds())) as f32;
        match activation {
            Activation::None => Some(self.bounds()),
            Activation::Relu => Some([steps(0.0), steps(f32::INFINITY)]),
            Activation::Clip { lo, hi } if lo <= hi => Some([steps(lo), steps(hi)]),
            _ => None,
        }
    }

    /// The number of each byte.
    pub fn numbers(&self) -> [f32; 256] {
        std::array::from_fn(|byte| self.number(byte as u8))
    }
}

/// A function of bytes that gives bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub bytes: Arc<[u8; 256]>,
    /// What goes in.
    pub from: ByteScale,
    /// What comes out.
    pub to: ByteScale,
}

/// A table that is arithmetic: nearest(clamp(steps·ratio)) + zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rescale {
    pub ratio: f32,
    pub bounds: [f32; 2],
    pub zero: i32,
}

impl Table {
    /// The table of a function on numbers, given for each byte that goes in.
    pub fn new(numbers: &[f32; 256], from: ByteScale, to: ByteScale) -> Table {
        Table { bytes: Arc::new(std::array::from_fn(|i| to.byte(numbers[i]))), from, to }
    }

    /// What one table makes of the other's bytes.
    pub fn after(&self, first: &Table) -> Table {
        let bytes = std::array::from_fn(|i| self.bytes[usize::from(first.bytes[i])]);
        Table { bytes: Arc::new(bytes), from: first.from, to: self.to }
    }

    /// True where nothing changes.
    pub fn is_identity(&self) -> bool {
        self.from.signed == self.to.signed && self.bytes.iter().enumerate().all(|(i, &byte)| i == usize::from(byte))
    }

    /// The arithmetic that gives exactly this table, if there is one: another scale, within bounds.
    pub fn rescale(&self) -> Option<Rescale> {
        let steps = |i: usize| self.to.steps(self.bytes[i]) as f32;
        let bounds = (0..256).fold([f32::MAX, f32::MIN], |[lo, hi], i| [steps(i).min(lo), steps(i).max(hi)]);
        let rescale = Rescale { ratio: self.from.scale / self.to.scale, bounds, zero: self.to.zero };
        (0..256).all(|i| rescale.apply(self.from.steps(i as u8)) as u8 == self.bytes[i]).then_some(rescale)
    }
}

/// The numbers of all bytes in whole units, of which so many can be added in an i32.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedPoint {
    pub units: Arc<[i32; 256]>,
    /// A power of two times the scale of the bytes: numbers of bytes as they are are exact.
    pub unit: f64,
    /// The arithmetic that gives exactly these, if there is one.
    pub multiple: Option<Multiple>,
}

/// Units that are arithmetic: steps·factor, within bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multiple {
    pub factor: i32,
    pub bounds: [i32; 2],
}

impl FixedPoint {
    /// The smallest unit is 2⁻¹⁶ steps; numbers have 24 bits at most. `None` where numbers are not finite, or 8 bits are
    /// too many for a sum of `count`.
    pub fn new(numbers: &[f32; 256], from: ByteScale, count: usize) -> Option<FixedPoint> {
        let largest = numbers.iter().fold(0f64, |most, x| most.max(f64::from(x.abs())));
        let limit = i32::MAX as usize / count.max(1);
        if limit < 256 || !numbers.iter().all(|x| x.is_finite()) {
            return None;
        }
        let limit = limit.min(1 << 24) as f64;
        let mut unit = f64::from(from.scale) / 65536.0;
        while largest / unit > limit - 1.0 {
            unit *= 2.0;
        }
        let units: [i32; 256] = std::array::from_fn(|i| (f64::from(numbers[i]) / unit).round() as i32);
        let factor = (f64::from(from.scale) / unit) as i32;
        let bounds = units.iter().fold([i32::MAX, i32::MIN], |[lo, hi], &v| [v.min(lo), v.max(hi)]);
        let multiple = Multiple { factor, bounds };
        let is_multiple = (0..256).all(|i| multiple.apply(from.steps(i as u8)) == units[i]);
        Some(FixedPoint { units: Arc::new(units), unit, multiple: is_multiple.then_some(multiple) })
    }
}

impl Multiple {
    /// The units for so many steps.
    #[inline(always)]
    pub fn apply(&self, steps: i32) -> i32 {
        (steps * self.factor).max(self.bounds[0]).min(self.bounds[1])
    }
}

impl Rescale {
    /// The byte for so many steps of what goes in.
    #[inline(always)]
    pub fn apply(&self, steps: i32) -> i32 {
        nearest(clamped(steps as f32 * self.ratio, self.bounds)) + self.zero
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_quantize_linear() {
        for (dtype, zero, least, largest) in [(DType::U8, 130.0, 0.0, 255.0), (DType::I8, -3.0, -128.0, 127.0)] {
            let scale = ByteScale::new(dtype, 0.125, zero).expect("a scale");
            for x in [0.0, 0.0625, 0.1875, -0.0625, -0.1875, 1.0, -1.03, 99.0, -99.0, 1e30, f32::NEG_INFINITY] {
                let wanted = ((x / 0.125f32).round_ties_even() + zero).clamp(least, largest);
                let byte = scale.byte(x);
                assert_eq!(scale.steps(byte) as f32 + zero, wanted, "{x}");
                assert_eq!(scale.number(byte), (wanted - zero) * 0.125);
            }
            assert_eq!(scale.steps(scale.byte(f32::NAN)) as f32, least - zero);
        }
        for (dtype, scale, zero) in
            [(DType::F32, 1.0, 0.0), (DType::U8, 0.0, 0.0), (DType::U8, f32::NAN, 0.0), (DType::I8, 1.0, 128.0)]
        {
            assert_eq!(ByteScale::new(dtype, scale, zero), None);
        }
    }

    #[test]
    fn clamps_are_bounds_of_bytes() {
        let scale = ByteScale::new(DType::U8, 0.05, 12.0).expect("a scale");
        for activation in [Activation::Relu, Activation::Clip { lo: -0.33, hi: 6.0 }, Activation::None] {
            let bounds = scale.clamp(activation).expect("a clamp");
            for i in -400..400 {
                let x = i as f32 * 0.037;
                let byte = (nearest(clamped(x / scale.scale, bounds)) + scale.zero) as u8;
                assert_eq!(byte, scale.byte(activation.apply(x)), "{activation:?} of {x}");
            }
        }
        assert_eq!(scale.clamp(Activation::Silu), None);
    }

    #[test]
    fn fixed_point_is_exact_for_bytes_and_close_for_functions() {
        let from = ByteScale::new(DType::U8, 0.0713, 100.0).expect("a scale");
        for count in [1, 49, 1 << 14, 1 << 20] {
            let plain = FixedPoint::new(&from.numbers(), from, count).expect("fits");
            let steps = |i: usize| f64::from(from.steps(i as u8)) * f64::from(from.scale);
            assert!((0..256).all(|i| f64::from(plain.units[i]) * plain.unit == steps(i)), "{count}");
            assert!(plain.multiple.is_some() && plain.units.iter().all(|&v| v.checked_mul(count as i32).is_some()));
            for (function, arithmetic) in [(Activation::Clip { lo: -0.5, hi: 6.0 }, true), (Activation::Silu, false)] {
                let numbers = from.numbers().map(|x| function.apply(x));
                let units = FixedPoint::new(&numbers, from, count).expect("fits");
                let off = |i: usize| (f64::from(units.units[i]) * units.unit - f64::from(numbers[i])).abs();
                assert!((0..256).all(|i| off(i) <= 0.501 * units.unit), "{count} {function:?}");
                assert_eq!(units.multiple.is_some(), arithmetic, "{count} {function:?}");
            }
        }
        assert_eq!(FixedPoint::new(&from.numbers(), from, 1 << 24), None);
        assert_eq!(FixedPoint::new(&[f32::INFINITY; 256], from, 4), None);
    }

    #[test]
    fn tables_that_are_arithmetic_are_recognised() {
        let from = ByteScale::new(DType::U8, 0.0713, 100.0).expect("a scale");
        let to = ByteScale::new(DType::I8, 6.0 / 255.0, -128.0).expect("a scale");
        let numbers = from.numbers().map(|x| x.clamp(0.0, 6.0));
        let table = Table::new(&numbers, from, to);
        let rescale = table.rescale().expect("a clip is arithmetic");
        assert!((0..=255u8).all(|byte| rescale.apply(from.steps(byte)) as u8 == table.bytes[usize::from(byte)]));
        assert_eq!(Table::new(&from.numbers().map(|x| Activation::Silu.apply(x)), from, to).rescale(), None);
        assert!(Table::new(&from.numbers(), from, from).is_identity() && !table.is_identity());
    }
}
