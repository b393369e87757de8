//! Networks with the outputs of known ones, so that their heads fit, and weights that follow a rule: they recognise
//! nothing, but they find boxes, points and masks that move with the picture.

use eyas::Model;
use eyas::infer::import::onnx::proto::{
    AttributeProto, DataType, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message as _;

/// Width and height of their inputs.
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

fn integers(name: &str, int64_data: Vec<i64>) -> TensorProto {
    let dims = vec![int64_data.len() as i64];
    TensorProto { name: name.into(), dims, data_type: DataType::Int64 as i32, int64_data, ..Default::default() }
}

fn load(graph: GraphProto, metadata: &[(&str, &str)], name: &str) -> Model {
    let opset = OperatorSetIdProto { version: 17, ..Default::default() };
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
    let file = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![opset],
        metadata_props: metadata.iter().map(entry).collect(),
        ..Default::default()
    };
    Model::from_onnx(file.encode_to_vec().leak(), name).expect("the network loads")
}

/// The outputs of YuNet: boxes with five points. One convolution an output, as large as a cell.
pub fn faces() -> Model {
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
            graph.initializer.push(integers(&shape, vec![1, cells as i64, columns as i64]));
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
    load(graph, &[], "faces.onnx")
}

/// What a table of the YOLOv8 family says of an anchor beside box and scores of two classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Further {
    /// Four coefficients of masks, and a second output with the prototypes.
    Masks,
    /// Three points with their visibility.
    Keypoints,
    /// The box is turned.
    Angle,
}

/// The outputs of the YOLOv8 family: `[1, 6+…, 84]`. A column is its value for the cell plus a mix of the cell's mean
/// colour, so boxes, points and masks follow the picture.
pub fn table(further: Further) -> Model {
    let mut graph = GraphProto { input: vec![port("x", &[1, 3, SIDE_PX, SIDE_PX])], ..Default::default() };
    // How far the colour moves each column: the box in pixels, two scores, and what is further.
    let mut reach = vec![4.0, 4.0, 4.0, 4.0, 0.6, 0.6];
    reach.extend(match further {
        Further::Masks => vec![1.0; 4],
        Further::Keypoints => [4.0, 4.0, 0.05].repeat(3),
        Further::Angle => vec![0.3],
    });
    let columns = reach.len();
    let mix = |column: usize, colour: usize| ((column * 3 + colour) * 37 % 101) as f32 / 50.0 - 1.0;
    let mut add_conv = |name: &str, input: &str, side: usize, columns: usize, weight: &dyn Fn(usize, usize) -> f32| {
        let taps = side * side;
        let weights = (0..columns * 3 * taps).map(|i| weight(i / taps / 3, i / taps % 3) / taps as f32).collect();
        let w = format!("{name}.w");
        graph.initializer.push(floats(&w, &[columns, 3, side, side], weights));
        graph.node.push(node("Conv", &[input, &w], name, vec![AttributeProto::ints("strides", &[side as i64; 2])]));
    };
    let strides = [8, 16, 32];
    for stride in strides {
        add_conv(&format!("conv_{stride}"), "x", stride, columns, &|d, c| reach[d] * mix(d, c));
    }
    if further == Further::Masks {
        // Above 0 where the picture is yellow.
        add_conv("prototypes", "x", 4, 4, &|d, c| (d + 1) as f32 * [1.0, 1.0, -2.6][c]);
    }
    let mut cells = Vec::new();
    for stride in strides {
        let name = format!("conv_{stride}");
        let (shape, flat) = (format!("{name}.shape"), format!("{name}.flat"));
        let side = SIDE_PX / stride;
        graph.initializer.push(integers(&shape, vec![1, columns as i64, (side * side) as i64]));
        graph.node.push(node("Reshape", &[&name, &shape], &flat, vec![]));
        cells.extend((0..side * side).map(|i| [i % side, i / side].map(|v| (v as f32 + 0.5) * stride as f32)));
    }
    let size_px = |anchor: usize| if anchor < 64 { 8.0 } else { 20.0 };
    let base = (0..columns).flat_map(|column| {
        cells.iter().enumerate().map(move |(anchor, centre)| match column {
            0 | 1 => centre[column],
            2 => 3.0 * size_px(anchor),
            3 => 2.0 * size_px(anchor),
            4 | 5 => 0.3,
            _ => match (further, (column - 6) % 3) {
                (Further::Masks, _) => 3.0,
                (Further::Keypoints, 2) => 0.9,
                (Further::Keypoints, axis) => centre[axis] + (column - 6) as f32 - 3.0,
                (Further::Angle, _) => 0.4,
            },
        })
    });
    graph.initializer.push(floats("base", &[1, columns, cells.len()], base.collect()));
    let flats = strides.map(|stride| format!("conv_{stride}.flat"));
    graph.node.push(node(
        "Concat",
        &flats.each_ref().map(String::as_str),
        "rows",
        vec![AttributeProto::int("axis", 2)],
    ));
    graph.node.push(node("Add", &["rows", "base"], "output0", vec![]));
    graph.output.push(port("output0", &[1, columns, cells.len()]));
    if further == Further::Masks {
        graph.output.push(port("prototypes", &[1, 4, SIDE_PX / 4, SIDE_PX / 4]));
    }
    let metadata = match further {
        Further::Masks => vec![("task", "segment")],
        Further::Keypoints => vec![("task", "pose"), ("kpt_shape", "[3, 3]")],
        Further::Angle => vec![("task", "obb")],
    };
    load(graph, &metadata, "table.onnx")
}
