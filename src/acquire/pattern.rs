//! `pattern:`: one of the [`scenes`](super::scenes) as a source without an end.

use super::scenes::{SCENES, Scene};
use super::{AcquireError, Picture, Source};
use crate::frame::Frame;
#[cfg(feature = "gpu")]
use crate::gpu::{GpuOptions, SceneRenderer};

/// Pictures per second that the movements are made for.
const RATE: [u32; 2] = [30, 1];

/// A scene, frame after frame.
pub struct Pattern {
    scene: Box<dyn Scene>,
    next: u64,
    #[cfg(feature = "gpu")]
    renderer: Option<SceneRenderer>,
}

impl Pattern {
    pub fn new(scene: impl Scene + 'static) -> Pattern {
        Pattern::of(Box::new(scene))
    }

    /// From what follows `pattern:`: a scene's name, `WIDTHxHEIGHT`, both with a comma between, or nothing for the first
    /// scene at 640x480.
    ///
    /// # Errors
    /// When it is neither a scene nor a size, or a size out of range.
    pub fn parse(words: &str) -> Result<Pattern, String> {
        let (name, size) = match words.split_once(',') {
            Some(both) => both,
            None if words.contains(|c: char| c.is_ascii_digit()) => (SCENES[0].0, words),
            None if words.is_empty() => (SCENES[0].0, "640x480"),
            None => (words, "640x480"),
        };
        let Some((_, make)) = SCENES.iter().find(|(known, _)| *known == name) else {
            let known = SCENES.map(|(name, _)| name).join(", ");
            return Err(format!("there is no scene '{name}', but {known}; write it as in 'pattern:site,640x480'"));
        };
        let sides = size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        let Some((width, height)) = sides else {
            return Err(format!("'{size}' is no size; write it as in 'pattern:640x480'"));
        };
        Ok(Pattern::of(make(width, height)?))
    }

    fn of(scene: Box<dyn Scene>) -> Pattern {
        Pattern {
            scene,
            next: 0,
            #[cfg(feature = "gpu")]
            renderer: None,
        }
    }

    /// Renders on that GPU if there is one and the scene has a shader; else, and without options, on the CPU.
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn on_gpu(mut self, options: Option<GpuOptions>) -> Pattern {
        let options = options.filter(|_| self.scene.shader(0).is_some());
        self.renderer = options.and_then(|options| match SceneRenderer::open(&options) {
            Ok(renderer) => Some(renderer),
            Err(e) => {
                log::info!("the scene is rendered on the CPU: {e}");
                None
            }
        });
        self
    }

    #[cfg(feature = "gpu")]
    fn render(&mut self, n: u64) -> Frame {
        if let (Some(renderer), Some((variant, rows))) = (&self.renderer, self.scene.shader(n)) {
            match renderer.render(&variant, &rows, self.scene.size_px()) {
                Ok(frame) => return frame,
                Err(e) => log::warn!("the scene goes on on the CPU: {e}"),
            }
            self.renderer = None;
        }
        self.scene.render(n)
    }

    #[cfg(not(feature = "gpu"))]
    fn render(&self, n: u64) -> Frame {
        self.scene.render(n)
    }

    pub fn scene(&self) -> &dyn Scene {
        self.scene.as_ref()
    }
}

impl Source for Pattern {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        let n = self.next;
        self.next += 1;
        Some(Ok(Picture { frame: self.render(n), origin: format!("pattern frame {n}"), number: Some(n) }))
    }

    fn len_hint(&self) -> Option<usize> {
        None
    }

    fn frame_rate(&self) -> Option<[u32; 2]> {
        Some(RATE)
    }
}

/// One frame of a scene, as a picture.
#[derive(Clone, Debug)]
pub struct Still(Option<Picture>);

impl Still {
    pub fn new(scene: &impl Scene, n: u64, origin: &str) -> Still {
        Still(Some(Picture { frame: scene.render(n), origin: origin.to_string(), number: None }))
    }
}

impl Source for Still {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        self.0.take().map(Ok)
    }

    fn len_hint(&self) -> Option<usize> {
        Some(usize::from(self.0.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes() {
        let parsed = |words: &str| Pattern::parse(words).map(|p| (p.scene.classes().len(), p.scene.size_px()));
        assert_eq!(parsed(""), Ok((2, [640, 480])));
        assert_eq!(parsed("641x479"), Ok((2, [641, 479])));
        assert_eq!(parsed("shapes"), Ok((3, [640, 480])));
        assert_eq!(parsed("shapes,64x48"), Ok((3, [64, 48])));
        assert_eq!(parsed("site,64x48"), Ok((2, [64, 48])));
        for words in ["640", "640x", "x480", "0x480", "640x-1", "16385x2", "640x480x3", "big", "shapes,", ",64x48"] {
            assert!(parsed(words).is_err(), "{words}");
        }
    }
}
