//! ONNX files.
pub mod attributes;
pub mod proto;
pub mod tensors;
