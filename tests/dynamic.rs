//! A network with open batch, height and width: one session per combination of shapes, side by side, batch above 1, on
//! both backends, against a convolution written out here.

use eyas::infer::import::ImportOptions;
use eyas::infer::import::onnx::proto::{
    AttributeProto, DataType, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use eyas::{Backend, DynamicSession, SessionOptions, Tensor};
use prost::Message as _;
use std::path::PathBuf;

const CHANNELS: usize = 3;
const FILTERS: usize = 6;

fn weights() -> Vec<f32> {
    (0..FILTERS * CHANNELS * 9).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect()
}

/// `y = ReLU(Conv 3×3(x))`, `mean = GlobalAveragePool(y)`.
fn model_file(name: &str) -> PathBuf {
    let port = |name: &str, dims: &[&str]| {
        let value = |d: &&str| match d.parse::<i64>() {
            Ok(v) => DimensionValue::Value(v),
            Err(_) => DimensionValue::Param(d.to_string()),
        };
        let dim = dims.iter().map(|d| DimensionProto { value: Some(value(d)) }).collect();
        let tensor = TensorTypeProto { elem_type: DataType::Float as i32, shape: Some(TensorShapeProto { dim }) };
        ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
    };
    let node = |op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec![output.to_string()],
        op_type: op_type.into(),
        attribute,
        ..Default::default()
    };
    let filters = TensorProto {
        name: "w".into(),
        dims: vec![FILTERS as i64, CHANNELS as i64, 3, 3],
        data_type: DataType::Float as i32,
        float_data: weights(),
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![
            node("Conv", &["x", "w"], "c", vec![AttributeProto::ints("pads", &[1, 1, 1, 1])]),
            node("Relu", &["c"], "y", vec![]),
            node("GlobalAveragePool", &["y"], "mean", vec![]),
        ],
        initializer: vec![filters],
        input: vec![port("x", &["n", "3", "h", "w"])],
        output: vec![port("y", &["n", "6", "h", "w"]), port("mean", &["n", "6", "1", "1"])],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { version: 17, ..Default::default() };
    let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import: vec![opset], ..Default::default() };
    let path = std::env::temp_dir().join(format!("eyas_dynamic_{name}_{}.onnx", std::process::id()));
    std::fs::write(&path, model.encode_to_vec()).expect("the temporary folder is writable");
    path
}

fn input(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_f32(shape, (0..n).map(|i| (i as f32 * 0.7).sin()).collect()).expect("shape")
}

fn expected(x: &Tensor) -> Vec<f32> {
    let [n, _, h, w] = x.shape() else { panic!("rank 4") };
    let (x, filters) = (x.to_f32(), weights());
    let mut y = Vec::new();
    for (b, o) in (0..*n).flat_map(|b| (0..FILTERS).map(move |o| (b, o))) {
        for (oy, ox) in (0..*h).flat_map(|y| (0..*w).map(move |x| (y, x))) {
            let mut sum = 0.0f64;
            for (c, k) in (0..CHANNELS).flat_map(|c| (0..9).map(move |k| (c, k))) {
                let (iy, ix) = ((oy + k / 3).wrapping_sub(1), (ox + k % 3).wrapping_sub(1));
                if iy < *h && ix < *w {
                    let at = ((b * CHANNELS + c) * h + iy) * w + ix;
                    sum += f64::from(x[at]) * f64::from(filters[(o * CHANNELS + c) * 9 + k]);
                }
            }
            y.push(sum.max(0.0) as f32);
        }
    }
    y
}

fn check(backend: Backend, name: &str) {
    let path = model_file(name);
    let options = SessionOptions { backend, threads: Some(1), ..SessionOptions::default() };
    let mut network = DynamicSession::new(&path, None, ImportOptions::default(), options);
    network.keep_plans(3);
    let sizes =
        [[1, CHANNELS, 5, 7], [2, CHANNELS, 4, 4], [3, CHANNELS, 1, 9], [1, CHANNELS, 5, 7], [1, CHANNELS, 8, 6]];
    for (i, shape) in sizes.iter().enumerate() {
        let x = input(shape);
        let outputs = network.run(&[("x", x.clone())]).expect("runs");
        assert_eq!(outputs[0].1.shape(), [shape[0], FILTERS, shape[2], shape[3]]);
        assert_eq!(outputs[1].1.shape(), [shape[0], FILTERS, 1, 1]);
        for (got, want) in outputs[0].1.to_f32().iter().zip(expected(&x)) {
            assert!((got - want).abs() <= 1e-5, "{shape:?}: {got} {want}");
        }
        // The fourth is the first again; the fifth takes the place of the second.
        assert_eq!(network.plans(), [1, 2, 3, 3, 3][i]);
    }
    assert!(network.run(&[("x", input(&[1, 4, 5, 7]))]).is_err(), "the number of channels is fixed");
    let _ = std::fs::remove_file(path);
}

#[test]
fn sizes_and_batches_on_the_cpu() {
    check(Backend::Cpu, "cpu");
}

#[cfg(feature = "gpu")]
#[test]
fn sizes_and_batches_on_the_gpu() {
    if eyas::gpu::test_gpu().is_some() {
        check(Backend::Gpu, "gpu");
    }
}
