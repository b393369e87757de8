//! Darknet networks: a `.cfg` text and the `.weights` file that belongs to it.
//!
//! [`cfg`] reads the text, [`sections`] gives each kind of section its meaning, [`network`] puts them in order with their
//! shapes, [`weights`] checks the file's length; then each layer adds its nodes with the [`builder`]. A head (`[yolo]`
//! and its kin) adds none: what it reads becomes an output of the graph, and what it says goes to
//! [`Graph::darknet_heads`].

mod activation;
mod builder;
mod cfg;
mod network;
mod place;
mod sections;
mod weights;

use std::collections::HashMap;

use super::{ImportError, ImportOptions};
use crate::infer::graph::{Fact, Format, Graph};
use builder::{Builder, Site};
use network::Network;
use weights::Weights;

/// Builds the graph of a Darknet network. Its input is `input`, `[1, channels, height, width]`, RGB, 0 to 1; its
/// outputs are what the heads read, in the order of the file, or the last layer's where there is no head. A layer's
/// value is named after its section and number, `convolutional_12`.
///
/// `options.size_px` replaces the size of `[net]`. `name` is used in messages and as the graph's name.
///
/// # Errors
/// Every section, key and activation that is not supported, at once; else the first contradiction in the cfg; else by
/// how many floats the weights file is too short or too long.
pub fn import_darknet(
    cfg_text: &str,
    weights: &[u8],
    name: &str,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    let sections = cfg::parse(cfg_text)?;
    let network = Network::read(&sections, name, options.size_px)?;
    let weights = Weights::open(weights, &network)?;
    let mut graph = Graph::new(name, Format::Darknet);
    let input = graph.add_value("input", Fact::f32(&network.input.dims()));
    graph.inputs.push(input);
    if network.letter_box {
        graph.metadata.insert("letter_box".to_string(), "1".to_string());
    }
    let mut builder = Builder { graph, weights, values: Vec::new(), filters: HashMap::new() };
    let mut previous = input;
    for (index, placed) in network.layers.iter().enumerate() {
        let name = &format!("{}_{index}", placed.kind);
        let site = Site { index, name, input: placed.input, output: placed.output, previous };
        previous = placed.layer.build(&mut builder, &site)?;
        builder.values.push(previous);
    }
    let mut graph = builder.graph;
    if graph.darknet_heads.is_empty() {
        graph.outputs.push(previous);
    }
    Ok(graph)
}

/// How many floats the weights file of a cfg holds, behind its header. Files of the original code hold fewer where there
/// are `[batchnorm]` sections: these have no biases there.
///
/// # Errors
/// What [`import_darknet`] says of the cfg.
pub fn weights_floats(cfg_text: &str, name: &str, options: &ImportOptions) -> Result<usize, ImportError> {
    let network = Network::read(&cfg::parse(cfg_text)?, name, options.size_px)?;
    let [floats, _] = network.floats().ok_or_else(|| ImportError::malformed(weights::TOO_MANY))?;
    Ok(floats)
}

#[cfg(test)]
mod tests;
