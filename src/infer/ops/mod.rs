//! Operators: one file per family, with attributes, shapes, folding, lowering and tests.
//!
//! [`REGISTRY`] maps the operator names of ONNX to builders. How to add one: `docs/adding-an-operator.md`.

pub mod activation;
pub mod batch_norm;
pub mod cast;
pub mod compare;
pub mod concat;
pub mod constant;
pub mod context;
pub mod conv;
pub mod dense;
pub mod elementwise;
pub mod expand;
pub mod gather;
pub mod gemm;
pub mod pad;
pub mod pool;
pub mod reduce;
pub mod reshape;
pub mod resize;
pub mod slice;
pub mod softmax;
pub mod space_depth;
pub mod split;
pub mod transpose;
pub mod window;

pub use context::NodeContext;

use super::op::{Op, OpError};

/// Reads the attributes of a node and the constants among its inputs, and makes the operator.
pub type Builder = fn(&mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError>;

/// The ONNX operators that are known, by name.
pub static REGISTRY: &[(&str, Builder)] = &[
    ("Abs", elementwise::build),
    ("Add", elementwise::build),
    ("And", compare::build),
    ("AveragePool", pool::build),
    ("BatchNormalization", batch_norm::build),
    ("Cast", cast::build),
    ("CastLike", cast::build_like),
    ("Ceil", elementwise::build),
    ("Clip", activation::build),
    ("Concat", concat::build),
    ("Constant", constant::build_constant),
    ("ConstantOfShape", constant::build_constant_of_shape),
    ("Conv", conv::build),
    ("Cos", elementwise::build),
    ("DepthToSpace", space_depth::build),
    ("Div", elementwise::build),
    ("Dropout", reshape::build_dropout),
    ("Elu", activation::build),
    ("Equal", compare::build),
    ("Erf", elementwise::build),
    ("Exp", elementwise::build),
    ("Expand", expand::build_expand),
    ("Flatten", reshape::build_flatten),
    ("Floor", elementwise::build),
    ("Gather", gather::build),
    ("Gelu", activation::build),
    ("Gemm", gemm::build_gemm),
    ("GlobalAveragePool", reduce::build_global),
    ("GlobalMaxPool", reduce::build_global),
    ("Greater", compare::build),
    ("GreaterOrEqual", compare::build),
    ("HardSigmoid", activation::build),
    ("HardSwish", activation::build),
    ("Identity", reshape::build_identity),
    ("LeakyRelu", activation::build),
    ("Less", compare::build),
    ("LessOrEqual", compare::build),
    ("Log", elementwise::build),
    ("LogSoftmax", softmax::build),
    ("MatMul", gemm::build_matmul),
    ("Max", elementwise::build),
    ("MaxPool", pool::build),
    ("Min", elementwise::build),
    ("Mish", activation::build),
    ("Mod", compare::build_mod),
    ("Mul", elementwise::build),
    ("Neg", elementwise::build),
    ("Not", compare::build),
    ("Or", compare::build),
    ("PRelu", activation::build_prelu),
    ("Pad", pad::build),
    ("Pow", elementwise::build),
    ("Range", constant::build_range),
    ("Reciprocal", elementwise::build),
    ("ReduceMax", reduce::build),
    ("ReduceMean", reduce::build),
    ("ReduceMin", reduce::build),
    ("ReduceSum", reduce::build),
    ("Relu", activation::build),
    ("Reshape", reshape::build_reshape),
    ("Resize", resize::build_resize),
    ("Round", elementwise::build),
    ("Shape", constant::build_shape),
    ("Sigmoid", activation::build),
    ("Sin", elementwise::build),
    ("Size", constant::build_size),
    ("Slice", slice::build),
    ("Softmax", softmax::build),
    ("Softplus", activation::build),
    ("SpaceToDepth", space_depth::build),
    ("Split", split::build),
    ("Sqrt", elementwise::build),
    ("Squeeze", reshape::build_squeeze),
    ("Sub", elementwise::build),
    ("Sum", elementwise::build),
    ("Swish", activation::build),
    ("Tanh", activation::build),
    ("Tile", expand::build_tile),
    ("Transpose", transpose::build),
    ("Unsqueeze", reshape::build_unsqueeze),
    ("Upsample", resize::build_upsample),
    ("Where", compare::build_where),
    ("Xor", compare::build),
];

/// The builder of an ONNX operator.
pub fn builder(op_type: &str) -> Option<Builder> {
    REGISTRY.binary_search_by(|(name, _)| (*name).cmp(op_type)).ok().map(|i| REGISTRY[i].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_is_sorted_so_that_it_can_be_searched() {
        assert!(REGISTRY.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(REGISTRY.iter().all(|(name, _)| builder(name).is_some()));
        assert!(builder("NoSuchOperator").is_none());
    }
}
