//! ONNX bytes: import, passes, plan for the CPU, head recognition.

#![no_main]

use eyas::Model;
use eyas::infer::import::ImportOptions;
use eyas::infer::import::onnx::import_onnx;
use eyas::infer::plan::lower::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Without a size first, as most files are; one that leaves its size open gets a small one.
    let bytes = bytes::Bytes::copy_from_slice(data);
    let sized = || ImportOptions { size_px: Some([32, 24]), ..ImportOptions::default() };
    let graph = import_onnx(bytes.clone(), "fuzz", &ImportOptions::default())
        .or_else(|_| import_onnx(bytes, "fuzz", &sized()));
    let Ok(graph) = graph else { return };
    let model = Model::from_graph(graph);
    let _ = model.plan(Target::CPU);
    let _ = model.decoder(&eyas::DecodeOptions::default());
});
