//! Masks, turned boxes and landmarks as rectangles of whole pixels, so that both backends draw the same.

use super::instances::{Instance, SOLID};
use super::palette::{Rgba, class_colour, outline_colour};
use crate::decode::{Mask, Quad};

/// How much of a mask's pixel is the class's colour, of 255.
const MASK_ALPHA: u8 = 115;

/// Sides beyond this do not exist; up to it every pixel has an exact f32.
const SIDE_LIMIT_PX: u32 = 1 << 24;

fn solid(rect_px: [i32; 4], colour: Rgba) -> Instance {
    Instance { rect_px, texel_px: [0, 0], colour, source: SOLID }
}

fn sides(picture_px: [u32; 2]) -> [i32; 2] {
    picture_px.map(|v| v.min(SIDE_LIMIT_PX) as i32)
}

/// Stretches of rows as rectangles: a stretch that goes on with the same columns in the next row makes one rectangle.
/// Stretches come from top to bottom: row, first column, column after the last.
fn stacked(spans: impl Iterator<Item = [i32; 3]>, colour: Rgba) -> Vec<Instance> {
    let mut done = Vec::new();
    // Rectangles whose last row is the one before, or this one.
    let mut open: Vec<[i32; 4]> = Vec::new();
    for [y, from, to] in spans {
        open.retain(|r| {
            let goes_on = r[3] >= y;
            if !goes_on {
                done.push(solid(*r, colour));
            }
            goes_on
        });
        match open.iter_mut().find(|r| r[3] == y && r[0] == from && r[2] == to) {
            Some(r) => r[3] = y + 1,
            None => open.push([from, y, to, y + 1]),
        }
    }
    done.extend(open.into_iter().map(|r| solid(r, colour)));
    done
}

/// The object's pixels in the colour of its class, the picture shining through.
pub fn mask(mask: &Mask, class: u32, picture_px: [u32; 2]) -> Vec<Instance> {
    let [width, height] = sides(picture_px);
    let [r, g, b, _] = class_colour(class);
    let inside = mask.spans().filter_map(|(y, from, to)| {
        let [y, from, to] = [y, from, to].map(|v| v.min(SIDE_LIMIT_PX) as i32);
        (y < height && from < width).then_some([y, from, to.min(width)])
    });
    stacked(inside, [r, g, b, MASK_ALPHA])
}

/// The four sides of a turned box, with a dark line around them.
pub fn quad(quad: &Quad, class: u32, picture_px: [u32; 2], line_px: u32) -> Vec<Instance> {
    let fill = class_colour(class);
    let sides = |half_px: f32, colour| {
        (0..4).flat_map(move |k| {
            let (a, b) = (quad.corners[k], quad.corners[(k + 1) % 4]);
            stacked(thick_line(a, b, half_px, picture_px).into_iter(), colour)
        })
    };
    let half_px = line_px as f32 * 0.5;
    sides(half_px + 1.0, outline_colour(fill)).chain(sides(half_px, fill)).collect()
}

/// The box that the label of a turned box is laid out by: its left is the topmost corner, so that the label touches it.
/// `bounds` is the upright box around the turned one.
pub fn label_bounds(quad: &Quad, bounds: [f32; 4]) -> [f32; 4] {
    // Corners of nearly the same height are equal; the left one counts.
    let key = |p: &[f32; 2]| (p[1].round(), p[0]);
    let top = quad.corners.iter().min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal));
    // `max` and `min`, which pass NaN over.
    let left = top.map_or(bounds[0], |p| p[0]).max(bounds[0]).min(bounds[2]);
    [left, bounds[1], bounds[2].max(left + 1.0), bounds[3]]
}

/// The pixels whose centres lie within `half_px` of the line from `a` to `b`, or of its prolongation by as much: row, first
/// column, column after the last. At least one pixel in every row or column that the line crosses.
fn thick_line(a: [f32; 2], b: [f32; 2], half_px: f32, picture_px: [u32; 2]) -> Vec<[i32; 3]> {
    let [width, height] = sides(picture_px);
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let length = dx.hypot(dy);
    // Far outside, pixels are coarser than the line.
    let is_near = [a, b].iter().flatten().all(|v| v.abs() < SIDE_LIMIT_PX as f32);
    if !is_near || length.is_nan() || length <= 0.0 {
        return Vec::new();
    }
    let half_px = half_px.max(0.5);
    let (ux, uy) = (dx / length * half_px, dy / length * half_px);
    let corners = [
        [a[0] - ux - uy, a[1] - uy + ux],
        [b[0] + ux - uy, b[1] + uy + ux],
        [b[0] + ux + uy, b[1] + uy - ux],
        [a[0] - ux + uy, a[1] - uy - ux],
    ];
    let low = corners.iter().map(|p| p[1]).fold(f32::MAX, f32::min);
    let high = corners.iter().map(|p| p[1]).fold(f32::MIN, f32::max);
    let mut spans = Vec::new();
    for y in ((low - 0.5).ceil() as i32).max(0)..((high - 0.5).ceil() as i32).min(height) {
        let centre = y as f32 + 0.5;
        let (mut left, mut right) = (f32::MAX, f32::MIN);
        for k in 0..4 {
            let (p, q) = (corners[k], corners[(k + 1) % 4]);
            if (p[1] <= centre) != (q[1] <= centre) {
                let x = p[0] + (q[0] - p[0]) * ((centre - p[1]) / (q[1] - p[1]));
                left = left.min(x);
                right = right.max(x);
            }
        }
        let (from, to) = (((left - 0.5).ceil() as i32).max(0), ((right - 0.5).ceil() as i32).min(width));
        if from < to {
            spans.push([y, from, to]);
        }
    }
    spans
}

/// A square on the pixel of a landmark, with a dark line around it; nothing when the point lies outside.
pub fn landmark(point_px: [f32; 2], class: u32, picture_px: [u32; 2], line_px: u32) -> Vec<Instance> {
    let side = sides(picture_px);
    let [x, y] = point_px.map(|v| v.floor());
    if !(x >= 0.0 && y >= 0.0 && x < side[0] as f32 && y < side[1] as f32) {
        return Vec::new();
    }
    let fill = class_colour(class);
    let half_px = line_px as i32;
    let square = |half_px: i32, colour| {
        let [x, y] = [x as i32, y as i32];
        let low = [(x - half_px).max(0), (y - half_px).max(0)];
        let high = [(x + half_px + 1).min(side[0]), (y + half_px + 1).min(side[1])];
        solid([low[0], low[1], high[0], high[1]], colour)
    };
    vec![square(half_px + 1, outline_colour(fill)), square(half_px, fill)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each pixel is covered.
    fn cover(list: &[Instance], [width, height]: [i32; 2]) -> Vec<u32> {
        let mut count = vec![0; (width * height) as usize];
        for i in list {
            let [l, t, r, b] = i.rect_px;
            assert!(l >= 0 && t >= 0 && l < r && t < b && r <= width && b <= height, "{i:?}");
            (t..b).for_each(|y| (l..r).for_each(|x| count[(y * width + x) as usize] += 1));
        }
        count
    }

    #[test]
    fn masks_cover_their_pixels_once() {
        let found = Mask { bounds_px: [10, 5, 14, 9], runs: vec![2, 7, 1, 1, 1, 1, 3] };
        let list = mask(&found, 3, [20, 8]);
        let count = cover(&list, [20, 8]);
        for y in 0..8 {
            for x in 0..20 {
                let inside = found.spans().any(|(row, from, to)| row == y && (from..to).contains(&x));
                assert_eq!(count[(y * 20 + x) as usize], u32::from(inside), "{x} {y}");
            }
        }
        // A rectangle is one rectangle.
        let block = Mask { bounds_px: [2, 2, 6, 6], runs: vec![0, 16] };
        assert_eq!(mask(&block, 0, [9, 9]).iter().map(|i| i.rect_px).collect::<Vec<_>>(), [[2, 2, 6, 6]]);
        // A mask of a larger picture is cut.
        assert!(mask(&found, 0, [11, 6]).is_empty());
    }

    #[test]
    fn lines_are_as_thick_as_asked() {
        let size = [60, 50];
        for (a, b) in [
            ([10.0, 10.0], [50.0, 10.0]),
            ([10.0, 10.0], [10.0, 40.0]),
            ([5.5, 7.25], [48.0, 33.0]),
            ([48.0, 7.0], [20.0, 45.0]),
        ] {
            let half = 2.0f32;
            let spans = thick_line(a, b, half, size.map(|v: i32| v as u32));
            let list = stacked(spans.into_iter(), [1; 4]);
            let count = cover(&list, size);
            let (dx, dy) = (f64::from(b[0] - a[0]), f64::from(b[1] - a[1]));
            let length = dx.hypot(dy);
            for y in 0..size[1] {
                for x in 0..size[0] {
                    let (px, py) = (f64::from(x) + 0.5 - f64::from(a[0]), f64::from(y) + 0.5 - f64::from(a[1]));
                    let along = (px * dx + py * dy) / length;
                    let across = (px * dy - py * dx).abs() / length;
                    let beyond = (-along).max(along - length).max(across);
                    if (beyond - f64::from(half)).abs() > 1e-3 {
                        let expected = u32::from(beyond < f64::from(half));
                        assert_eq!(count[(y * size[0] + x) as usize], expected, "{a:?} {b:?} {x} {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn labels_touch_the_topmost_corner() {
        let corners = [[20.0, 30.0], [60.0, 10.0], [70.0, 30.0], [30.0, 50.0]];
        let quad = Quad { corners, angle: -0.46 };
        assert_eq!(label_bounds(&quad, [20.0, 10.0, 70.0, 50.0]), [60.0, 10.0, 70.0, 50.0]);
        // All but upright: the left of two corners of a height, although the right one is a little higher.
        let corners = [[60.0, 10.0], [60.1, 50.0], [20.1, 50.1], [20.0, 10.1]];
        assert_eq!(label_bounds(&Quad { corners, angle: 1.57 }, [20.0, 10.0, 60.1, 50.1])[0], 20.0);
        // At the right border, and no number at all.
        let bounds = [0.0, 0.0, 60.0, 50.0];
        assert_eq!(label_bounds(&quad, bounds), [60.0, 0.0, 61.0, 50.0]);
        let none = Quad { corners: [[f32::NAN; 2]; 4], angle: 0.0 };
        assert_eq!(label_bounds(&none, bounds)[1..], bounds[1..]);
        let _ = label_bounds(&quad, [f32::NAN; 4]);
    }

    #[test]
    fn strange_quads_draw_nothing_and_large_ones_stay_inside() {
        let at = |corners| quad(&Quad { corners, angle: 0.0 }, 0, [40, 30], 2);
        assert!(at([[f32::NAN; 2]; 4]).is_empty());
        assert!(at([[f32::INFINITY, 1.0]; 4]).is_empty());
        assert!(at([[5.0, 5.0]; 4]).is_empty());
        let wide = at([[-500.0, 10.0], [900.0, 12.0], [900.0, 600.0], [-500.0, 600.0]]);
        assert!(!wide.is_empty());
        cover(&wide, [40, 30]);
    }
}
