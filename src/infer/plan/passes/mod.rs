//! Rewrites of the graph before it is planned. Each pass is one file, says what it did, and why it did not.

mod activation_patterns;
mod affine;
mod dead_code;
mod epilogue;
mod fold_constants;
mod pattern;

use crate::infer::graph::Graph;

/// What a pass has to say, for `eyas info --explain`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassReport {
    pub pass: &'static str,
    /// How often the rewrite was applied.
    pub applied: usize,
    /// One line per kind of thing done or not done.
    pub notes: Vec<String>,
}

impl PassReport {
    fn new(pass: &'static str) -> PassReport {
        PassReport { pass, ..PassReport::default() }
    }

    fn did(&mut self, note: String) {
        self.applied += 1;
        self.notes.push(note);
    }

    fn did_not(&mut self, note: String) {
        self.notes.push(format!("not: {note}"));
    }
}

type Pass = fn(&mut Graph) -> PassReport;

/// The passes in the order in which they run. Dead code goes twice: what a pattern left behind would count as a reader
/// of the convolution that the pattern's activation is to be fused into.
const PASSES: &[Pass] =
    &[fold_constants::run, activation_patterns::run, dead_code::run, affine::run, epilogue::run, dead_code::run];

/// Runs all passes.
pub fn optimise(graph: &mut Graph) -> Vec<PassReport> {
    PASSES.iter().map(|pass| pass(graph)).collect()
}
