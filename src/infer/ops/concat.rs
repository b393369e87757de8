//! Concat: the planner lays the inputs into the output's memory, see [`crate::infer::plan::lower`].
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};

/// ONNX Concat.
#[derive(Clone, Debug)]
pub struct Concat {
    /// Resolved: 0 ≤ axis < rank.
    pub axis: usize,
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "Concat"
    }
    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        todo!()
    }
}
