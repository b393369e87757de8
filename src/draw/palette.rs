//! Colours by class.

/// An opaque colour: red, green, blue, alpha.
pub type Rgba = [u8; 4];

/// Twenty colours that stay apart from each other and from most backgrounds.
///
/// They are colours of OKLCH (Ottosson 2020): the hue starts at 25° and advances by the golden angle, 137.508°, so that
/// neighbouring classes differ most; lightness goes round 0.72, 0.84, 0.64, 0.78; chroma is 0.21 or the most that sRGB
/// can show.
pub const PALETTE: [[u8; 3]; 20] = [
    [0xFF, 0x72, 0x6B],
    [0x09, 0xEE, 0xA7],
    [0xA2, 0x64, 0xF6],
    [0xF0, 0xA8, 0x06],
    [0x0B, 0xB8, 0xD6],
    [0xFE, 0xB0, 0xD1],
    [0x68, 0x9F, 0x01],
    [0x98, 0xB5, 0xFE],
    [0xFF, 0x77, 0x2E],
    [0x15, 0xE9, 0xD3],
    [0xC2, 0x56, 0xD9],
    [0xD4, 0xB7, 0x07],
    [0x07, 0xB2, 0xF5],
    [0xFE, 0xB3, 0xBB],
    [0x08, 0xA8, 0x4E],
    [0xB3, 0xAB, 0xFF],
    [0xE7, 0x8C, 0x07],
    [0x0C, 0xE5, 0xF3],
    [0xD9, 0x4A, 0xB3],
    [0xAF, 0xC5, 0x06],
];

/// The colour of a class: always the same, repeating after twenty.
pub fn class_colour(class: u32) -> Rgba {
    let [r, g, b] = PALETTE[class as usize % PALETTE.len()];
    [r, g, b, 255]
}

/// The thin line beside an edge of this colour: the same hue, a fifth as bright.
pub fn outline_colour([r, g, b, a]: Rgba) -> Rgba {
    [r / 5, g / 5, b / 5, a]
}

/// Black or white, whichever contrasts more with this colour (contrast ratio of WCAG 2.2).
pub fn ink_colour(colour: Rgba) -> Rgba {
    let luminance = luminance(colour);
    if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) { [0, 0, 0, 255] } else { [255, 255, 255, 255] }
}

/// Relative luminance of sRGB, 0 to 1 (WCAG 2.2).
fn luminance([r, g, b, _]: Rgba) -> f64 {
    let linear = |level: u8| {
        let v = f64::from(level) / 255.0;
        if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ink_is_readable_on_every_colour() {
        for class in 0..40 {
            let fill = class_colour(class);
            let (a, b) = (luminance(fill), luminance(ink_colour(fill)));
            let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
            assert!(contrast >= 4.5, "class {class}: {contrast}");
        }
        assert_eq!(ink_colour([20, 20, 90, 255]), [255, 255, 255, 255]);
        assert_eq!(ink_colour([250, 250, 90, 255]), [0, 0, 0, 255]);
    }

    #[test]
    fn colours_are_distinct_and_repeat() {
        for (i, a) in PALETTE.iter().enumerate() {
            for b in &PALETTE[..i] {
                let distance: u32 = (0..3).map(|c| u32::from(a[c].abs_diff(b[c]))).sum();
                assert!(distance > 20, "{a:?} {b:?}");
            }
        }
        assert_eq!(class_colour(3), class_colour(23));
        assert_eq!(class_colour(u32::MAX)[3], 255);
    }
}
