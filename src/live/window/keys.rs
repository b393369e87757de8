//! What the keys do.

use winit::event_loop::ActiveEventLoop;
use winit::keyboard::{Key, NamedKey};
use winit::window::Fullscreen;

use super::App;
use crate::acquire::pictures;
use crate::error::Error;
use crate::gpu::offscreen;
use crate::live::{CONFIDENCE, CONFIDENCE_STEP};

impl App {
    /// Writes the frame as shown, in the size of the window, without the window's own messages and help: they would stay
    /// in the picture for good, the last `saved ...` first of all.
    fn save(&mut self) -> Result<(), Error> {
        if self.last.is_none() {
            self.say("no frame to save yet".into());
            return Ok(());
        }
        self.set_text(false)?;
        let Some(view) = &mut self.view else { return Ok(()) };
        let detector = if self.on_gpu { view.gpu_detector.as_mut() } else { self.cpu_detector.as_mut() };
        let Some(detector) = detector else { return Ok(()) };
        let before = view.surface.gpu.map_operations();
        let size_px = view.surface.size_px();
        let picture = offscreen::snapshot(&mut view.overlay, detector, size_px, view.surface.format)?;
        view.saved_reads += view.surface.gpu.map_operations() - before;
        let path = loop {
            let path = self.options.directory.join(format!("eyas-{:04}.png", self.saves));
            self.saves += 1;
            if !path.exists() {
                break path;
            }
        };
        match pictures::save(&path, &picture) {
            Ok(()) => self.say(format!("saved {}", path.display())),
            Err(e) => self.say(e.to_string()),
        }
        // The next frame that is drawn has the text again, as after each key.
        Ok(())
    }

    /// Does what the key stands for: [`crate::live::KEYS`].
    pub(super) fn press(&mut self, key: &Key, event_loop: &ActiveEventLoop) -> Result<(), Error> {
        let text = match key {
            Key::Named(NamedKey::Escape) => "q",
            Key::Named(NamedKey::Space) => " ",
            Key::Character(text) => text.as_str(),
            _ => return Ok(()),
        };
        match text {
            "q" | "Q" => event_loop.exit(),
            " " => {
                self.is_paused = !self.is_paused;
                self.capture.set_paused(self.is_paused);
                self.meter.pause();
            }
            "s" | "S" => self.save()?,
            "b" | "B" => {
                // Results of frames under way belong to the backend that they ran on.
                self.deliver(true)?;
                self.on_gpu = !self.on_gpu;
                self.meter.restart();
                if let Err(e) = self.make_detector() {
                    self.on_gpu = !self.on_gpu;
                    self.say(e.to_string());
                } else {
                    self.is_stale = true;
                    self.say(format!("inference on the {}", if self.on_gpu { "GPU" } else { "CPU" }));
                }
            }
            "+" | "=" | "-" => {
                let step = if text == "-" { -CONFIDENCE_STEP } else { CONFIDENCE_STEP };
                let old = self.confidence.unwrap_or(*CONFIDENCE.start());
                // Whole steps, so that up and down meet.
                let new = ((old + step) / CONFIDENCE_STEP).round() * CONFIDENCE_STEP;
                self.confidence = Some(new.clamp(*CONFIDENCE.start(), *CONFIDENCE.end()));
                self.make_detector()?;
                self.is_stale = true;
            }
            "f" | "F" => {
                if let Some(window) = &self.window {
                    let next = window.fullscreen().is_none().then_some(Fullscreen::Borderless(None));
                    window.set_fullscreen(next);
                }
            }
            "h" | "H" => self.shows_help = !self.shows_help,
            _ => return Ok(()),
        }
        self.meter.hurry();
        self.request_redraw();
        Ok(())
    }
}
