//! Every frame drawn offscreen, on the GPU that infers or on the CPU.

use crate::decode::RawDetection;
use crate::decode::points::PointList;
use crate::detector::Detector;
use crate::draw::panel::{Corner, text_box};
use crate::draw::{Style, layout, rasterise};
use crate::error::Error;
use crate::frame::Frame;
use crate::live::meter::FrameTimes;
use crate::live::{FrameResult, MapOperations, Meter, Placement, raw_detection};

/// What to make beside the drawing itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadlessOptions {
    pub style: Style,
    /// Draw the corner panel.
    pub panel: bool,
    /// Give pictures.
    pub pictures: bool,
    /// Give detections.
    pub results: bool,
    /// Measure passes by GPU timestamps.
    pub profile: bool,
}

/// Draws what a window of a fixed size would show.
pub struct Headless {
    detector: Detector,
    options: HeadlessOptions,
    size_px: Option<[u32; 2]>,
    pub meter: Meter,
    frames: u64,
    results: Vec<FrameResult>,
    pictures: std::collections::VecDeque<Frame>,
    #[cfg(feature = "gpu")]
    offscreen: Option<crate::gpu::Offscreen>,
}

impl Headless {
    /// Draws with the backend that the detector runs on. The window's size is `size_px`, or that of the first picture.
    pub fn new(detector: Detector, size_px: Option<[u32; 2]>, options: HeadlessOptions) -> Headless {
        Headless {
            detector,
            options,
            size_px,
            meter: Meter::default(),
            frames: 0,
            results: Vec::new(),
            pictures: std::collections::VecDeque::new(),
            #[cfg(feature = "gpu")]
            offscreen: None,
        }
    }

    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// What was read back so far.
    pub fn map_operations(&self) -> MapOperations {
        #[cfg(feature = "gpu")]
        if let Some(offscreen) = &self.offscreen {
            let (for_pictures, for_statistics) = (offscreen.brought_back(), offscreen.overlay.statistics_reads());
            let all = offscreen.overlay.gpu().map_operations();
            let in_loop = all.saturating_sub(for_pictures + for_statistics);
            return MapOperations { in_loop, for_pictures, for_statistics };
        }
        MapOperations::default()
    }

    /// Objects of the GPU library that are alive, where frames are drawn on a device that eyas opened.
    pub fn gpu_objects(&self) -> Option<usize> {
        #[cfg(feature = "gpu")]
        return self.offscreen.as_ref()?.overlay.gpu().objects_alive();
        #[cfg(not(feature = "gpu"))]
        None
    }

    /// Finds and draws one frame; on a GPU it returns before that is done. `acquire_ms` is for the panel.
    ///
    /// # Errors
    /// When the frame does not fit the device, or the device fails.
    pub fn push(&mut self, frame: &Frame, acquire_ms: f64) -> Result<(), Error> {
        let size_px = *self.size_px.get_or_insert([frame.width, frame.height]);
        let times = match self.push_to_gpu(frame, size_px)? {
            Some(times) => times,
            None => self.push_to_cpu(frame, size_px)?,
        };
        self.frames += 1;
        self.meter.push(&FrameTimes { acquire: acquire_ms, ..times });
        Ok(())
    }

    #[cfg(not(feature = "gpu"))]
    fn push_to_gpu(&mut self, _: &Frame, _: [u32; 2]) -> Result<Option<FrameTimes>, Error> {
        Ok(None)
    }

    #[cfg(feature = "gpu")]
    fn push_to_gpu(&mut self, frame: &Frame, size_px: [u32; 2]) -> Result<Option<FrameTimes>, Error> {
        let Some(gpu) = self.detector.gpu_parts().map(|(session, _, _)| std::sync::Arc::clone(session.gpu())) else {
            return Ok(None);
        };
        if self.offscreen.is_none() {
            let mut made = crate::gpu::Offscreen::new(&gpu, size_px, self.options.style, self.options.pictures)?;
            made.overlay.collect_results(self.options.results);
            if self.options.profile && !made.overlay.measure_passes()? {
                log::warn!("{} has no timestamps: the panel shows the host's clock alone", gpu.adapter);
            }
            self.offscreen = Some(made);
        }
        let lines = (self.options.panel && self.meter.is_due()).then(|| self.meter.panel(&self.detector));
        let Some(offscreen) = &mut self.offscreen else { return Ok(None) };
        if let Some(lines) = lines {
            let atlas = self.options.style.atlas(Placement::new([frame.width, frame.height], size_px).content_px);
            offscreen.overlay.set_text(&text_box(&lines, size_px, Corner::TopLeft, &atlas))?;
        }
        let drawn = offscreen.draw(&mut self.detector, Some(frame))?;
        self.meter.device_ms = offscreen.overlay.device_times().map(|t| [t.convert, t.infer, t.decode, t.draw]);
        let stages = drawn.host_decoded.then_some(drawn.ms);
        if drawn.host_decoded && drawn.frame == 0 {
            log::warn!(
                "the GPU alone cannot do this network as asked: every frame is read back and finished on the host"
            );
        }
        while let Some(picture) = offscreen.picture(false)? {
            self.pictures.push_back(picture);
        }
        Ok(Some(FrameTimes {
            acquire: 0.0,
            encode: drawn.encode_ms,
            submit: drawn.submit_ms,
            wait: drawn.wait_ms,
            stages,
        }))
    }

    fn push_to_cpu(&mut self, frame: &Frame, size_px: [u32; 2]) -> Result<FrameTimes, Error> {
        let (found, ms) = self.detector.process(frame)?;
        let picture_px = [frame.width, frame.height];
        if self.options.pictures {
            let placement = Placement::new(picture_px, size_px);
            let mut shown = placement.show(frame);
            let (table, atlas) = placement.labels(self.detector.decoder(), &self.options.style);
            let raw: Vec<RawDetection> = found.iter().map(raw_detection).collect();
            let mut list = placement.shapes(&found, &self.options.style);
            list.extend(layout::lay_out_with_points(&raw, &PointList::of(&found), &table, usize::MAX));
            if self.options.panel {
                list.extend(text_box(&self.meter.panel(&self.detector), size_px, Corner::TopLeft, &atlas));
            }
            rasterise(&mut shown, &list, &atlas).map_err(|e| Error::Input(e.to_string()))?;
            self.pictures.push_back(shown);
        }
        if self.options.results {
            let result = FrameResult { frame: self.frames, picture_px, detections: found };
            self.results.push(result);
        }
        Ok(FrameTimes { stages: Some(ms), ..FrameTimes::default() })
    }

    /// The next drawn picture as Rgb8, in the order of the frames; with `wait`, also one that is not done yet.
    ///
    /// # Errors
    /// When the device fails.
    pub fn picture(&mut self, wait: bool) -> Result<Option<Frame>, Error> {
        #[cfg(feature = "gpu")]
        if let (true, Some(offscreen)) = (self.pictures.is_empty(), &mut self.offscreen) {
            return Ok(offscreen.picture(wait)?);
        }
        let _ = wait;
        Ok(self.pictures.pop_front())
    }

    /// Detections that have arrived, in the order of the frames; with `wait`, those of all frames so far.
    ///
    /// # Errors
    /// When the device fails.
    pub fn results(&mut self, wait: bool) -> Result<Vec<FrameResult>, Error> {
        #[cfg(feature = "gpu")]
        if let Some(offscreen) = &mut self.offscreen {
            return Ok(offscreen.overlay.results(self.detector.decoder(), wait)?);
        }
        let _ = wait;
        Ok(std::mem::take(&mut self.results))
    }

    /// Waits until all frames are drawn.
    ///
    /// # Errors
    /// When the device fails.
    pub fn finish(&mut self) -> Result<(), Error> {
        #[cfg(feature = "gpu")]
        if let Some(offscreen) = &mut self.offscreen {
            offscreen.overlay.finish()?;
        }
        Ok(())
    }
}
