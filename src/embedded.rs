//! The detector that comes with the program: heads and safety helmets, see `models/README.md`.

use crate::error::Error;
use crate::infer::graph::Graph;
use crate::infer::import::ImportOptions;
use crate::session::Model;

/// Its name in reports.
pub const NAME: &str = "heads_helmets_small (embedded)";

/// The file `models/heads_helmets_small.onnx`; `None` in a build without the feature `embedded`.
#[cfg(feature = "embedded")]
pub const ONNX: Option<&[u8]> = Some(include_bytes!("../models/heads_helmets_small.onnx"));
#[cfg(not(feature = "embedded"))]
pub const ONNX: Option<&[u8]> = None;

/// Whether this build has it.
pub const IS_EMBEDDED: bool = ONNX.is_some();

/// The embedded network as it is in its file, without passes.
///
/// # Errors
/// When this build has none, or the options do not fit it.
pub fn import(options: &ImportOptions) -> Result<Graph, Error> {
    let bytes = ONNX.ok_or_else(|| {
        Error::Input(
            "no model given, and this eyas was built without its own (feature 'embedded'): name one with -m FILE, \
             .onnx, or .cfg with its .weights"
                .into(),
        )
    })?;
    crate::infer::import::onnx::import_onnx(bytes::Bytes::from_static(bytes), NAME, options).map_err(Error::Import)
}

impl Model {
    /// The detector of heads and helmets that is compiled in.
    ///
    /// # Errors
    /// As [`import`].
    pub fn embedded(options: &ImportOptions) -> Result<Model, Error> {
        Ok(Model::from_graph(import(options)?))
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::decode::DecodeOptions;

    #[test]
    fn loads_and_knows_its_classes() {
        let model = Model::embedded(&ImportOptions::default()).expect("the embedded network loads");
        let decoder = model.decoder(&DecodeOptions::default()).expect("its head is known");
        assert_eq!(decoder.name, "yolo_v8");
        assert_eq!([0, 1].map(|class| decoder.labels.name(class)), ["head", "helmet"]);
        // Small enough for the smallest devices.
        assert!(model.graph.macs() <= 120_000_000, "{} multiply-accumulates", model.graph.macs());
        let size_bytes = ONNX.map(<[u8]>::len);
        assert!(size_bytes.is_some_and(|n| n < 1 << 20), "{size_bytes:?} bytes");
    }
}
