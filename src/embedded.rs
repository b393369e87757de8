//! The detector that comes with the program: heads and safety helmets, see `models/README.md`.

use crate::error::Error;
use crate::infer::graph::Graph;
use crate::infer::import::ImportOptions;
use crate::session::Model;

/// Its name in reports.
pub const NAME: &str = "heads_helmets_small (embedded)";

/// The file `models/heads_helmets_small.onnx`.
#[cfg(feature = "embedded")]
pub const ONNX: &[u8] = include_bytes!("../models/heads_helmets_small.onnx");

/// Whether this build has it.
pub const IS_EMBEDDED: bool = cfg!(feature = "embedded");

/// The embedded network as it is in its file, without passes.
///
/// # Errors
/// When this build has none (feature `embedded`), or the options do not fit it.
#[cfg(feature = "embedded")]
pub fn import(options: &ImportOptions) -> Result<Graph, Error> {
    let bytes = bytes::Bytes::from_static(ONNX);
    crate::infer::import::onnx::import_onnx(bytes, NAME, options).map_err(Error::Import)
}

/// The embedded network as it is in its file, without passes.
///
/// # Errors
/// Always: this build has none (feature `embedded`).
#[cfg(not(feature = "embedded"))]
pub fn import(_: &ImportOptions) -> Result<Graph, Error> {
    Err(Error::Input(
        "no model given, and this eyas was built without its own (feature 'embedded'): name one with -m FILE, .onnx, or \
         .cfg with its .weights"
            .into(),
    ))
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
        assert!(ONNX.len() < 1 << 20, "{} bytes", ONNX.len());
    }
}
