//! Moving scenes that need no file, and know what is where in them. `pattern:` names them, see [`crate::acquire::pattern`].

pub mod building_site;
pub mod shapes;
pub mod site;
pub mod vec3;

pub use shapes::Shapes;
pub use site::Site;

use crate::frame::Frame;
use crate::shader::Variant;

/// A scene. Frame n is the same whenever it is asked for.
pub trait Scene: Send {
    /// Class names in the order of the numbers that [`Scene::truth`] gives.
    fn classes(&self) -> &'static [&'static str];

    /// Width and height.
    fn size_px(&self) -> [u32; 2];

    /// Frame `n`, RGB8.
    fn render(&self, n: u64) -> Frame;

    /// The shader that renders frame `n` and what it reads, where the scene has one; it writes RGBA words.
    fn shader(&self, n: u64) -> Option<(Variant, Vec<[f32; 4]>)> {
        let _ = n;
        None
    }

    /// What is in frame `n`: class and bounds `[left, top, right, bottom]` in pixels.
    fn truth(&self, n: u64) -> Vec<(usize, [f32; 4])>;
}

/// How a scene is made for pictures of a width and height.
type Make = fn(u32, u32) -> Result<Box<dyn Scene>, String>;

/// The scenes by their names; the first is the one without a name.
pub const SCENES: [(&str, Make); 2] = [
    ("site", |width, height| Ok(Box::new(Site::sample(width, height)?))),
    ("shapes", |width, height| Ok(Box::new(Shapes::new(width, height)?))),
];

/// Numbers that look random: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn within(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }
}

/// Where frame `n` stands in a cycle of `frames`, 0 to 1; exact for every n.
pub fn cycle(n: u64, frames: u64) -> f32 {
    (n % frames) as f32 / frames as f32
}
