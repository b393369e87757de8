//! The detectors that come with the program: heads and safety helmets in two sizes, see `models/README.md`.

use crate::error::Error;
use crate::infer::graph::Graph;
use crate::infer::import::ImportOptions;
use crate::session::Model;

/// A network inside the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Embedded {
    /// 320x320 pixels, 0.2 M parameters, 0.11 G multiply-accumulates: for the smallest devices.
    #[default]
    Small,
    /// 416x416 pixels, 1.0 M parameters, 0.88 G multiply-accumulates: finds more, for desktops and GPUs.
    Large,
}

/// Whether this build has them: the feature `embedded`.
pub const IS_EMBEDDED: bool = cfg!(feature = "embedded");

impl Embedded {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Embedded::Small => "heads_helmets_small (embedded)",
            Embedded::Large => "heads_helmets_large (embedded)",
        }
    }

    /// The file in `models/`; `None` in a build without the feature `embedded`.
    #[cfg(feature = "embedded")]
    pub fn onnx(self) -> Option<&'static [u8]> {
        Some(match self {
            Embedded::Small => include_bytes!("../models/heads_helmets_small.onnx"),
            Embedded::Large => include_bytes!("../models/heads_helmets_large.onnx"),
        })
    }

    /// The file in `models/`; `None` in a build without the feature `embedded`.
    #[cfg(not(feature = "embedded"))]
    pub fn onnx(self) -> Option<&'static [u8]> {
        None
    }

    /// The network as it is in its file, without passes.
    ///
    /// # Errors
    /// When this build has none, or the options do not fit it.
    pub fn import(self, options: &ImportOptions) -> Result<Graph, Error> {
        let bytes = self.onnx().ok_or_else(|| {
            Error::Input(
                "no model given, and this eyas was built without its own (feature 'embedded'): name one with -m FILE, \
                 .onnx, or .cfg with its .weights"
                    .into(),
            )
        })?;
        crate::infer::import::onnx::import_onnx(bytes::Bytes::from_static(bytes), self.name(), options)
            .map_err(Error::Import)
    }
}

impl Model {
    /// A detector of heads and helmets that is compiled in.
    ///
    /// # Errors
    /// As [`Embedded::import`].
    pub fn embedded(which: Embedded, options: &ImportOptions) -> Result<Model, Error> {
        Ok(Model::from_graph(which.import(options)?))
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::decode::DecodeOptions;

    #[test]
    fn they_load_know_their_classes_and_are_small() {
        // Most multiply-accumulates and bytes of each.
        for (which, macs, size_bytes) in
            [(Embedded::Small, 120_000_000, 1 << 20), (Embedded::Large, 1_000_000_000, 3 << 20)]
        {
            let model = Model::embedded(which, &ImportOptions::default()).expect("loads");
            let decoder = model.decoder(&DecodeOptions::default()).expect("its head is known");
            assert_eq!(decoder.name, "yolo_v8");
            assert_eq!([0, 1].map(|class| decoder.labels.name(class)), ["head", "helmet"]);
            assert!(model.graph.macs() <= macs, "{which:?}: {} multiply-accumulates", model.graph.macs());
            let len = which.onnx().map(<[u8]>::len);
            assert!(len.is_some_and(|n| n < size_bytes), "{which:?}: {len:?} bytes");
        }
    }
}
