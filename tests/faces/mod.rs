//! A network with the outputs of YuNet, so that its head fits, and weights that follow a rule: it finds no faces, but it
//! finds boxes with five points that move with the picture.

use eyas::Model;
use eyas::infer::import::onnx::proto::{
    AttributeProto, DataType, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message as _;

/// Width and height of its input.
const SIDE_PX: usize = 64;

fn port(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| DimensionProto { value: Some(DimensionValue::Value(d as i64)) }).collect();
    let tensor = TensorTypeProto { elem_type: DataType::Float as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

fn floats(name: &str, dims: &[usize], float_data: Vec<f32>) -> TensorProto {
    assert_eq!(dims.iter().product::<usize>(), float_data.len());
    let dims = dims.iter().map(|&d| d as i64).collect();
    TensorProto { name: name.into(), dims, data_type: DataType::Float as i32, float_data, ..Default::default() }
}

fn node(op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec![output.to_string()],
        op_type: op_type.into(),
        attribute,
        ..Default::default()
    }
}

/// One convolution an output, as large as a cell.
pub fn model() -> Model {
    let mut graph = GraphProto { input: vec![port("x", &[1, 3, SIDE_PX, SIDE_PX])], ..Default::default() };
    for (kind, columns) in [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)] {
        for stride in [8, 16, 32] {
            let name = format!("{kind}_{stride}");
            let [w, b, shape, conv, rows, flat] =
                ["w", "b", "shape", "conv", "rows", "flat"].map(|part| format!("{name}.{part}"));
            let taps = 3 * stride * stride;
            let weights = (0..columns * taps).map(|i| ((i * 37 % 101) as f32 - 50.0) / (500.0 * taps as f32)).collect();
            let biases = (0..columns).map(|k| if kind == "kps" { 0.13 * k as f32 } else { 1.0 }).collect();
            let cells = (SIDE_PX / stride) * (SIDE_PX / stride);
            graph.initializer.push(floats(&w, &[columns, 3, stride, stride], weights));
            graph.initializer.push(floats(&b, &[columns], biases));
            graph.initializer.push(TensorProto {
                name: shape.clone(),
                dims: vec![3],
                data_type: DataType::Int64 as i32,
                int64_data: vec![1, cells as i64, columns as i64],
                ..Default::default()
            });
            let strides = vec![AttributeProto::ints("strides", &[stride as i64; 2])];
            graph.node.push(node("Conv", &["x", &w, &b], &conv, strides));
            graph.node.push(node("Transpose", &[&conv], &rows, vec![AttributeProto::ints("perm", &[0, 2, 3, 1])]));
            if kind == "cls" || kind == "obj" {
                graph.node.push(node("Reshape", &[&rows, &shape], &flat, vec![]));
                graph.node.push(node("Sigmoid", &[&flat], &name, vec![]));
            } else {
                graph.node.push(node("Reshape", &[&rows, &shape], &name, vec![]));
            }
            graph.output.push(port(&name, &[1, cells, columns]));
        }
    }
    let opset = OperatorSetIdProto { version: 17, ..Default::default() };
    let file = ModelProto { ir_version: 8, graph: Some(graph), opset_import: vec![opset], ..Default::default() };
    Model::from_onnx(file.encode_to_vec().leak(), "faces.onnx").expect("the network loads")
}
