//! Darknet: a cfg, a zero byte, and the weights file. Import, passes, plan for the CPU, head recognition.
//!
//! A weights file must have exactly the length that its cfg asks for, which a fuzzer does not hit. So where the first
//! byte of the weights is odd they are taken as they are; where it is even, the bytes behind it are repeated up to that
//! length, behind a header.

#![no_main]

use eyas::Model;
use eyas::infer::import::ImportOptions;
use eyas::infer::import::darknet::{import_darknet, weights_floats};
use eyas::infer::plan::lower::Target;
use libfuzzer_sys::fuzz_target;

/// Longer weights are not made up: 16 MiB.
const FLOATS_MAX: usize = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let (cfg, weights) = data.split_at(data.iter().position(|&b| b == 0).unwrap_or(data.len()));
    let Ok(cfg) = std::str::from_utf8(cfg) else { return };
    let options = ImportOptions::default();
    let weights = match weights.get(1..) {
        Some([kind, rest @ ..]) if kind % 2 == 1 => rest.to_vec(),
        given => {
            let Ok(floats) = weights_floats(cfg, "fuzz", &options) else { return };
            if floats > FLOATS_MAX {
                return;
            }
            let pattern = given.and_then(|w| w.get(1..)).filter(|w| !w.is_empty()).unwrap_or(&[0, 0, 128, 63]);
            let header = [0i32, 2, 5, 0, 0];
            let header = header.iter().flat_map(|v| v.to_le_bytes());
            header.chain(pattern.iter().copied().cycle().take(4 * floats)).collect()
        }
    };
    let Ok(graph) = import_darknet(cfg, &weights, "fuzz", &options) else { return };
    let model = Model::from_graph(graph);
    let _ = model.plan(Target::CPU);
    let _ = model.decoder(&eyas::DecodeOptions::default());
});
