//! Operators: one file per family, with attributes, shapes, folding, lowering and tests.
//!
//! [`REGISTRY`] maps the operator names of ONNX to builders. How to add one: `docs/adding-an-operator.md`.

pub mod activation;
pub mod batch_norm;
pub mod bytes;
pub mod cast;
pub mod compare;
pub mod concat;
pub mod constant;
pub mod context;
pub mod control_flow;
pub mod conv;
pub mod conv_host;
pub mod dense;
pub mod elementwise;
pub mod expand;
pub mod function;
pub mod gather;
pub mod gemm;
pub mod index;
pub mod late;
pub mod normalise;
pub mod pad;
pub mod pool;
pub mod pool_host;
pub mod quantise;
pub mod reduce;
pub mod reduce_host;
pub mod reshape;
pub mod resize;
pub mod resize_host;
pub mod reverse_sequence;
pub mod sample;
pub mod slice;
pub mod softmax;
pub mod space_depth;
pub mod split;
pub mod subpixel;
pub mod transpose;
pub mod window;
pub mod window_nd;

pub use context::NodeContext;

use super::op::{Op, OpError};

/// Reads the attributes of a node and the constants among its inputs, and makes the operator.
pub type Builder = fn(&mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError>;

/// The ONNX operators that are known, by name.
pub static REGISTRY: &[(&str, Builder)] = &[
    ("Abs", elementwise::build),
    ("Add", elementwise::build),
    ("And", compare::build),
    ("ArgMax", index::build_arg),
    ("ArgMin", index::build_arg),
    ("AveragePool", pool::build),
    ("BatchNormalization", batch_norm::build),
    ("Cast", cast::build),
    ("CastLike", cast::build_like),
    ("Ceil", elementwise::build),
    ("Celu", function::build_map),
    ("CenterCropPad", sample::build_center_crop_pad),
    ("Clip", activation::build),
    ("Col2Im", conv_host::build_col2im),
    ("Compress", index::build_compress),
    ("Concat", concat::build),
    ("Constant", constant::build_constant),
    ("ConstantOfShape", constant::build_constant_of_shape),
    ("Conv", conv::build),
    ("ConvInteger", quantise::build_conv_integer),
    ("ConvTranspose", conv_host::build_conv_transpose),
    ("Cos", elementwise::build),
    ("CumSum", index::build_cum_sum),
    ("DeformConv", conv_host::build_deform_conv),
    ("DepthToSpace", space_depth::build),
    ("DequantizeLinear", quantise::build_dequantize),
    ("Div", elementwise::build),
    ("Dropout", reshape::build_dropout),
    ("DynamicQuantizeLinear", quantise::build_dynamic),
    ("Elu", activation::build),
    ("Equal", compare::build),
    ("Erf", elementwise::build),
    ("Exp", elementwise::build),
    ("Expand", expand::build_expand),
    ("EyeLike", index::build_eye_like),
    ("Flatten", reshape::build_flatten),
    ("Floor", elementwise::build),
    ("Gather", gather::build),
    ("GatherElements", index::build_gather_elements),
    ("GatherND", index::build_gather_nd),
    ("Gelu", activation::build),
    ("Gemm", gemm::build_gemm),
    ("GlobalAveragePool", reduce::build_global),
    ("GlobalMaxPool", reduce::build_global),
    ("Greater", compare::build),
    ("GreaterOrEqual", compare::build),
    ("GridSample", sample::build_grid_sample),
    ("GroupNormalization", normalise::build_group),
    ("HardSigmoid", activation::build),
    ("HardSwish", activation::build),
    ("Hardmax", function::build_hardmax),
    ("Identity", reshape::build_identity),
    ("InstanceNormalization", normalise::build_group),
    ("IsInf", function::build_is),
    ("IsNaN", function::build_is),
    ("LRN", normalise::build_lrn),
    ("LayerNormalization", normalise::build_layer),
    ("LeakyRelu", activation::build),
    ("Less", compare::build),
    ("LessOrEqual", compare::build),
    ("Log", elementwise::build),
    ("LogSoftmax", softmax::build),
    ("LpNormalization", normalise::build_lp),
    ("LpPool", pool_host::build_pool),
    ("MatMul", gemm::build_matmul),
    ("MatMulInteger", quantise::build_matmul_integer),
    ("Max", elementwise::build),
    ("MaxPool", pool::build),
    ("MaxUnpool", pool_host::build_max_unpool),
    ("Mean", function::build_mean),
    ("MeanVarianceNormalization", normalise::build_mean_variance),
    ("Min", elementwise::build),
    ("Mish", activation::build),
    ("Mod", elementwise::build),
    ("Mul", elementwise::build),
    ("Neg", elementwise::build),
    ("NonMaxSuppression", sample::build_nms),
    ("NonZero", index::build_non_zero),
    ("Not", compare::build),
    ("OneHot", index::build_one_hot),
    ("Or", compare::build),
    ("PRelu", activation::build_prelu),
    ("Pad", pad::build),
    ("Pow", elementwise::build),
    ("QLinearConv", quantise::build_qlinear_conv),
    ("QLinearMatMul", quantise::build_qlinear_matmul),
    ("QuantizeLinear", quantise::build_quantize),
    ("RMSNormalization", normalise::build_layer),
    ("Range", constant::build_range),
    ("Reciprocal", elementwise::build),
    ("ReduceL1", reduce_host::build),
    ("ReduceL2", reduce_host::build),
    ("ReduceLogSum", reduce_host::build),
    ("ReduceLogSumExp", reduce_host::build),
    ("ReduceMax", reduce::build),
    ("ReduceMean", reduce::build),
    ("ReduceMin", reduce::build),
    ("ReduceProd", reduce_host::build),
    ("ReduceSum", reduce::build),
    ("ReduceSumSquare", reduce_host::build),
    ("Relu", activation::build),
    ("Reshape", reshape::build_reshape),
    ("Resize", resize::build_resize),
    ("ReverseSequence", reverse_sequence::build),
    ("RoiAlign", sample::build_roi_align),
    ("Round", elementwise::build),
    ("Scatter", index::build_scatter_elements),
    ("ScatterElements", index::build_scatter_elements),
    ("ScatterND", index::build_scatter_nd),
    ("Selu", function::build_map),
    ("Shape", constant::build_shape),
    ("Shrink", function::build_map),
    ("Sigmoid", activation::build),
    ("Sign", elementwise::build),
    ("Sin", elementwise::build),
    ("Size", constant::build_size),
    ("Slice", slice::build),
    ("Softmax", softmax::build),
    ("Softplus", activation::build),
    ("Softsign", elementwise::build),
    ("SpaceToDepth", space_depth::build),
    ("Split", split::build),
    ("Sqrt", elementwise::build),
    ("Squeeze", reshape::build_squeeze),
    ("Sub", elementwise::build),
    ("Sum", elementwise::build),
    ("Swish", activation::build),
    ("Tanh", activation::build),
    ("ThresholdedRelu", function::build_map),
    ("Tile", expand::build_tile),
    ("TopK", index::build_top_k),
    ("Transpose", transpose::build),
    ("Trilu", index::build_trilu),
    ("Unique", index::build_unique),
    ("Unsqueeze", reshape::build_unsqueeze),
    ("Upsample", resize::build_upsample),
    ("Where", compare::build_where),
    ("Xor", compare::build),
];

/// Name and builder of an ONNX operator.
pub fn entry(op_type: &str) -> Option<(&'static str, Builder)> {
    REGISTRY.binary_search_by(|(name, _)| (*name).cmp(op_type)).ok().map(|i| REGISTRY[i])
}

/// The builder of an ONNX operator.
pub fn builder(op_type: &str) -> Option<Builder> {
    entry(op_type).map(|(_, build)| build)
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
