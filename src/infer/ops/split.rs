//! Split: views into the input.
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};

/// ONNX Split with its parts resolved.
#[derive(Clone, Debug)]
pub struct Split {
    pub axis: usize,
    pub parts: Vec<usize>,
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "Split"
    }
    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        todo!()
    }
    fn is_view(&self) -> bool {
        true
    }
}
