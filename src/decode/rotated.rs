//! Boxes that are turned around their centre, and how much two of them overlap. Twin of `shaders/common/rotated.wgsl`.

use super::RawDetection;
use crate::letterbox::Letterbox;

/// A turned box in pixels of the network's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotatedBox {
    pub centre: [f32; 2],
    /// Along its own first and second axis.
    pub size: [f32; 2],
    /// From the x axis to the box's first axis, in radians; positive turns from x to y, clockwise on a screen.
    pub angle: f32,
}

/// A turned box in the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quad {
    /// In pixels of the picture, not clipped to it: left top, right top, right bottom, left bottom of the box before it
    /// was turned.
    pub corners: [[f32; 2]; 4],
    /// Of the side from the first corner to the second, in radians: 0 along x, positive clockwise on the screen.
    pub angle: f32,
}

/// Keeps divisions and logarithms finite.
const EPSILON: f32 = 1e-7;

impl RotatedBox {
    /// The box of a candidate that holds centre, size and angle, see [`RawDetection::reserved`].
    pub fn of_candidate(candidate: &RawDetection) -> RotatedBox {
        let [x, y, w, h] = candidate.bounds;
        RotatedBox { centre: [x, y], size: [w, h], angle: f32::from_bits(candidate.reserved) }
    }

    /// Left top, right top, right bottom, left bottom of the box before it was turned.
    pub fn corners(&self) -> [[f32; 2]; 4] {
        let (sin, cos) = self.angle.sin_cos();
        let [half_w, half_h] = self.size.map(|v| v * 0.5);
        [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]].map(|[sx, sy]| {
            let (x, y) = (sx * half_w, sy * half_h);
            [self.centre[0] + x * cos - y * sin, self.centre[1] + x * sin + y * cos]
        })
    }

    /// The smallest upright box around it: left, top, right, bottom.
    pub fn bounds(&self) -> [f32; 4] {
        let (sin, cos) = self.angle.sin_cos();
        let [w, h] = self.size;
        let half_w = ((w * cos).abs() + (h * sin).abs()) * 0.5;
        let half_h = ((w * sin).abs() + (h * cos).abs()) * 0.5;
        let [cx, cy] = self.centre;
        [cx - half_w, cy - half_h, cx + half_w, cy + half_h]
    }

    /// The box in the picture. Where both axes are scaled alike it stays a rectangle.
    pub fn in_picture(&self, letterbox: &Letterbox) -> Quad {
        let corners =
            self.corners().map(|p| [0, 1].map(|axis| (p[axis] - letterbox.offset_px[axis]) / letterbox.scale[axis]));
        let side = [0, 1].map(|axis| corners[1][axis] - corners[0][axis]);
        Quad { corners, angle: side[1].atan2(side[0]) }
    }

    /// The normal distribution with mean and variances of a uniform one over the box.
    pub fn gaussian(&self) -> Gaussian {
        let (sin, cos) = self.angle.sin_cos();
        let [a, b] = self.size.map(|v| v * v / 12.0);
        let covariance = [a * cos * cos + b * sin * sin, a * sin * sin + b * cos * cos, (a - b) * cos * sin];
        Gaussian { mean: self.centre, covariance }
    }
}

/// A normal distribution in the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaussian {
    pub mean: [f32; 2],
    /// Variance along x, along y, and covariance.
    pub covariance: [f32; 3],
}

impl Gaussian {
    /// Probabilistic IoU of two boxes: 1 − the Hellinger distance of their distributions; 1 for the same box, towards 0
    /// far apart. Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union for Object
    /// Detection", arXiv 2106.06072.
    pub fn overlap(&self, other: &Gaussian) -> f32 {
        let ([a_x, a_y, a_xy], [b_x, b_y, b_xy]) = (self.covariance, other.covariance);
        let (var_x, var_y, var_xy) = (a_x + b_x, a_y + b_y, a_xy + b_xy);
        let (x, y) = (self.mean[0] - other.mean[0], self.mean[1] - other.mean[1]);
        let determinant = var_x * var_y - var_xy * var_xy;
        let of_centres = 0.25 * (var_x * y * y + var_y * x * x - 2.0 * var_xy * x * y) / (determinant + EPSILON);
        let own = ((a_x * a_y - a_xy * a_xy).max(0.0) * (b_x * b_y - b_xy * b_xy).max(0.0)).sqrt();
        let of_shapes = 0.5 * (determinant / (4.0 * own + EPSILON) + EPSILON).ln();
        let bhattacharyya = (of_centres + of_shapes).clamp(EPSILON, 100.0);
        1.0 - (1.0 - (-bhattacharyya).exp() + EPSILON).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letterbox::Fit;
    use std::f32::consts::{FRAC_PI_2, FRAC_PI_4};

    fn rotated(cx: f32, cy: f32, w: f32, h: f32, angle: f32) -> RotatedBox {
        RotatedBox { centre: [cx, cy], size: [w, h], angle }
    }

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-4
    }

    #[test]
    fn corners_of_a_quarter_and_an_eighth_turn() {
        // Clockwise on a screen: the left top corner goes to the right top.
        let quarter = rotated(10.0, 20.0, 8.0, 4.0, FRAC_PI_2).corners();
        for (p, q) in quarter.iter().zip([[12.0, 16.0], [12.0, 24.0], [8.0, 24.0], [8.0, 16.0]]) {
            assert!(close(p[0], q[0]) && close(p[1], q[1]), "{quarter:?}");
        }
        let eighth = rotated(0.0, 0.0, 2.0, 2.0, FRAC_PI_4);
        let diagonal = 2f32.sqrt();
        assert!(close(eighth.corners()[0][1], -diagonal) && close(eighth.corners()[1][0], diagonal));
        for box_ in [eighth, rotated(3.0, -5.0, 7.0, 2.5, 2.0), rotated(3.0, -5.0, 7.0, 2.5, -0.6)] {
            let corners = box_.corners();
            let b = box_.bounds();
            for axis in 0..2 {
                let low = corners.iter().map(|p| p[axis]).fold(f32::MAX, f32::min);
                let high = corners.iter().map(|p| p[axis]).fold(f32::MIN, f32::max);
                assert!(close(b[axis], low) && close(b[axis + 2], high));
            }
        }
    }

    #[test]
    fn in_the_picture() {
        let letterbox = Letterbox::new(Fit::LetterboxCentre { pad: 114 }, [128, 64], [64, 64]);
        let quad = rotated(32.0, 32.0, 10.0, 4.0, 0.5).in_picture(&letterbox);
        assert!(close(quad.angle, 0.5));
        let centre = [0, 1].map(|axis| quad.corners.iter().map(|p| p[axis]).sum::<f32>() / 4.0);
        assert!(close(centre[0], 64.0) && close(centre[1], 32.0), "{quad:?}");
        // Stretched, an eighth turn is no longer one.
        let stretched = Letterbox::new(Fit::Stretch, [128, 64], [64, 64]);
        let quad = rotated(32.0, 32.0, 10.0, 4.0, FRAC_PI_4).in_picture(&stretched);
        assert!(close(quad.angle, 1f32.atan2(2.0)));
    }

    /// The integral of √(p·q) over the plane, summed on a fine raster: what the closed form says.
    #[test]
    fn overlap_is_that_of_the_two_distributions() {
        let density = |b: &RotatedBox, x: f64, y: f64| {
            let (sin, cos) = f64::from(b.angle).sin_cos();
            let (dx, dy) = (x - f64::from(b.centre[0]), y - f64::from(b.centre[1]));
            let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
            let [su, sv] = b.size.map(|s| f64::from(s) / 12f64.sqrt());
            (-0.5 * ((u / su).powi(2) + (v / sv).powi(2))).exp() / (std::f64::consts::TAU * su * sv)
        };
        for (a, b) in [
            (rotated(0.0, 0.0, 20.0, 10.0, 0.3), rotated(2.0, -1.0, 16.0, 12.0, -0.4)),
            (rotated(0.0, 0.0, 20.0, 8.0, 1.2), rotated(5.0, 4.0, 18.0, 9.0, 1.0)),
            (rotated(0.0, 0.0, 20.0, 8.0, 0.0), rotated(-14.0, 5.0, 12.0, 6.0, 0.7)),
        ] {
            let step = 0.5;
            let mut coefficient = 0.0;
            for i in -120..120 {
                for j in -120..120 {
                    let (x, y) = (f64::from(i) * step, f64::from(j) * step);
                    coefficient += (density(&a, x, y) * density(&b, x, y)).sqrt() * step * step;
                }
            }
            let expected = 1.0 - (1.0 - coefficient).max(0.0).sqrt();
            assert!((f64::from(a.gaussian().overlap(&b.gaussian())) - expected).abs() < 1e-3, "{a:?} {b:?} {expected}");
        }
    }

    #[test]
    fn the_same_box_overlaps_wholly_and_no_box_breaks_it() {
        let one = rotated(30.0, 40.0, 20.0, 10.0, 0.3);
        assert!(one.gaussian().overlap(&one.gaussian()) > 0.999);
        assert!(one.gaussian().overlap(&rotated(3000.0, 40.0, 20.0, 10.0, 0.3).gaussian()) < 1e-3);
        let empty = rotated(5.0, 5.0, 0.0, 0.0, 0.0);
        assert!(empty.gaussian().overlap(&empty.gaussian()).is_finite());
    }
}
