//! Operators whose parameters are computed at run time.

use super::context::NodeContext;
use crate::infer::graph::Fact;
use crate::infer::import::onnx::attributes::Attributes;
use crate::infer::import::onnx::proto::AttributeProto;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::evaluate::evaluate;
use crate::infer::tensor::Tensor;

/// An ONNX node as the file has it. In each run, when all its inputs are known, it is built as at load and evaluated.
/// Only possible on host tensors.
#[derive(Clone, Debug)]
pub struct Late {
    /// The ONNX name, and the registry's.
    pub op_type: &'static str,
    pub build: super::Builder,
    pub opset: i64,
    pub attributes: Vec<AttributeProto>,
    pub output_count: usize,
}

impl Op for Late {
    fn name(&self) -> &'static str {
        self.op_type
    }

    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::late(); self.output_count])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let facts: Vec<Option<Fact>> = inputs.iter().map(|t| t.map(Fact::of)).collect();
            let mut context = NodeContext::new(
                self.op_type,
                self.opset,
                Attributes::new(&self.attributes),
                facts.iter().map(Option::as_ref).collect(),
                self.output_count,
            );
            let op = (self.build)(&mut context)?;
            context.refuse_unread()?;
            let kept = context.kept(inputs);
            let kept_facts = context.kept(&facts.iter().map(Option::as_ref).collect::<Vec<_>>());
            for fact in op.infer(&kept_facts)? {
                super::context::check_shape(&fact.shape)?;
            }
            evaluate(&*op, &kept)
        };
        Some(evaluate())
    }
}
