//! What an operator is. One file per operator family lives in [`super::ops`]; its line in [`super::ops::REGISTRY`]
//! makes the ONNX importer know it.

use std::any::Any;
use std::fmt::Debug;

use super::graph::{Fact, ValueId};
use super::plan::lower::Lowering;
use super::plan::view::View;
use super::tensor::Tensor;

/// The largest integer that f32 memory holds in place of an integer type: all up to it are exact in f16.
pub const HELD_MAX: usize = 2048;

/// Why an operator refuses its attributes or inputs. The caller adds which node it was.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OpError {
    /// The file asks for something that is not implemented; says what and with which value.
    #[error("{0}")]
    Unsupported(String),
    /// The file contradicts itself or the standard.
    #[error("{0}")]
    Invalid(String),
    /// Something that shapes depend on is computed at run time. The importer then leaves the operator to the host,
    /// which builds it anew in each run; see [`super::ops::late::Late`].
    #[error("{0}")]
    RunTime(String),
}

/// An operator with its attributes resolved.
///
/// Inputs come in the file's axis order (NCHW for feature maps); a missing optional input is `None`.
pub trait Op: Debug + Send + Sync + OpObject {
    /// The name people know it by: the ONNX name where there is one.
    fn name(&self) -> &'static str;

    /// Types and shapes of the outputs. Constants among the inputs carry their value.
    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError>;

    /// Runs the operator on dense host tensors: what constant folding uses. `None` where an operator is never worth
    /// folding (convolutions and the like).
    fn eval(&self, _inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        None
    }

    /// Multiply-accumulates.
    fn macs(&self, _inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> u64 {
        0
    }

    /// Operators that only rename or reorder elements (Reshape, Transpose, Slice, Split, Squeeze, ...): where output
    /// `output` lies, given where input 0 lies. `None`: not an operator of that kind, or not expressible as
    /// offset and strides for this source; then the planner copies first.
    fn view_forward(&self, _source: &View, _inputs: &[Option<&Fact>], _output: usize) -> Option<View> {
        None
    }

    /// The inverse for one-to-one view operators: where input 0 must lie so that output 0 is `target`.
    fn view_backward(&self, _target: &View, _inputs: &[Option<&Fact>]) -> Option<View> {
        None
    }

    /// True for operators that move elements and compute nothing; they lower through the two methods above.
    fn is_view(&self) -> bool {
        false
    }

    /// True for operators whose output best lies in memory as their input of the same shape does (elementwise,
    /// softmax). All others write feature maps channels last and everything else row-major.
    fn keeps_layout(&self) -> bool {
        false
    }

    /// True where kernels also take and give the integers and booleans that the node has, as numbers in f32 memory.
    /// Integers must be exact in 16 bits too: none beyond [`HELD_MAX`]. Asked in plans for a GPU, where the host is far.
    fn holds(&self, _inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> bool {
        self.is_view()
    }

    /// True for the operators on bytes that a pass makes of quantised arithmetic: their u8 and i8 inputs and outputs lie
    /// in the plan's memory.
    fn is_on_bytes(&self) -> bool {
        false
    }

    /// Appends the steps that compute the outputs. View operators and Concat do not implement it.
    fn lower(&self, _l: &mut Lowering<'_>, _inputs: &[Option<ValueId>], _outputs: &[ValueId]) -> Result<(), OpError> {
        Err(OpError::Unsupported(format!("{} can only be computed at load, from constants", self.name())))
    }
}

/// Cloning and downcasting for boxed operators; implemented for every `Op` that is `Clone`.
pub trait OpObject {
    fn clone_op(&self) -> Box<dyn Op>;
    fn as_any(&self) -> &dyn Any;
}

impl<T: Op + Clone + 'static> OpObject for T {
    fn clone_op(&self) -> Box<dyn Op> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Clone for Box<dyn Op> {
    fn clone(&self) -> Self {
        (**self).clone_op()
    }
}

impl dyn Op {
    /// This operator as a concrete type, if it is one.
    pub fn downcast<T: Op + 'static>(&self) -> Option<&T> {
        self.as_any().downcast_ref::<T>()
    }
}
