//! Small and hostile files, built with prost; and the real ones where `EYAS_MODELS` says where they are.

use super::proto::*;
use super::*;
use crate::infer::plan::lower::{Target, plan_graph};

fn tensor_type(elem_type: DataType, dims: &[i64]) -> Option<TypeProto> {
    let dim = dims.iter().map(|&d| DimensionProto { value: Some(DimensionValue::Value(d)) }).collect();
    let tensor = TensorTypeProto { elem_type: elem_type as i32, shape: Some(TensorShapeProto { dim }) };
    Some(TypeProto { tensor_type: Some(tensor) })
}

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: tensor_type(DataType::Float, dims) }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[AttributeProto]) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: outputs.iter().map(|s| s.to_string()).collect(),
        name: format!("{op}_of_{}", outputs[0]),
        op_type: op.into(),
        attribute: attributes.to_vec(),
        domain: String::new(),
    }
}

fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: vec![0.25; count],
        ..Default::default()
    }
}

fn longs(name: &str, values: &[i64]) -> TensorProto {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: DataType::Int64 as i32,
        raw_data: raw.into(),
        ..Default::default()
    }
}

fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, input: ValueInfoProto, output: &str) -> ModelProto {
    ModelProto {
        ir_version: 8,
        producer_name: "a test".into(),
        graph: Some(GraphProto {
            node: nodes,
            name: "g".into(),
            initializer,
            input: vec![input],
            output: vec![ValueInfoProto { name: output.into(), r#type: None }],
            sparse_initializer: vec![],
        }),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
        metadata_props: vec![StringStringEntryProto { key: "names".into(), value: "{0: 'cat'}".into() }],
    }
}

fn import(model: &ModelProto) -> Result<Graph, ImportError> {
    import_onnx(model.encode_to_vec().into(), "test", &ImportOptions::default())
}

/// Conv, then a reshape whose target is computed from the shape of its input.
fn small() -> ModelProto {
    model(
        vec![
            node("Conv", &["x", "w"], &["c"], &[AttributeProto::ints("pads", &[1, 1, 1, 1])]),
            node("Shape", &["c"], &["s"], &[]),
            node("Gather", &["s", "zero"], &["n"], &[]),
            node("Concat", &["n", "rest"], &["to"], &[AttributeProto::int("axis", 0)]),
            node("Reshape", &["c", "to"], &["y"], &[]),
        ],
        vec![floats("w", &[4, 3, 3, 3]), longs("zero", &[0]), longs("rest", &[-1])],
        value("x", &[1, 3, 5, 7]),
        "y",
    )
}

#[test]
fn shape_subgraphs_vanish() {
    let graph = import(&small()).expect("imports");
    let names: Vec<&str> = graph.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["Conv", "Reshape"]);
    assert_eq!(graph.fact(graph.outputs[0]).shape, [1, 140]);
    assert_eq!(graph.nodes[1].inputs.len(), 1, "the target is part of the operator");
    assert_eq!(graph.metadata["names"], "{0: 'cat'}");
    assert_eq!(graph.macs(), 4 * 5 * 7 * 27);
    for target in [Target::CPU, Target::GPU] {
        plan_graph(&graph, target).expect("plans");
    }
}

#[test]
fn integers_of_constants_stay_known_where_they_are_transposed() {
    let scalar = |name: &str, data_type: DataType, bytes: &[u8]| TensorProto {
        name: name.into(),
        data_type: data_type as i32,
        raw_data: bytes.to_vec().into(),
        ..Default::default()
    };
    let (scale, zero) = (0.05f32.to_le_bytes(), [128]);
    let mut weights = scalar("w", DataType::Int8, &[1, 2, 3, 253, 252, 251]);
    weights.dims = vec![2, 3];
    let nodes = vec![
        node("QuantizeLinear", &["x", "scale", "zero"], &["q"], &[]),
        node("DequantizeLinear", &["q", "scale", "zero"], &["numbers"], &[]),
        node("DequantizeLinear", &["w", "scale"], &["dequantised"], &[]),
        node("Transpose", &["dequantised"], &["matrix"], &[AttributeProto::ints("perm", &[1, 0])]),
        node("MatMul", &["numbers", "matrix"], &["product"], &[]),
        node("QuantizeLinear", &["product", "scale", "zero"], &["p"], &[]),
        node("DequantizeLinear", &["p", "scale", "zero"], &["y"], &[]),
    ];
    let constants = vec![weights, scalar("scale", DataType::Float, &scale), scalar("zero", DataType::Uint8, &zero)];
    let graph = import(&model(nodes, constants, value("x", &[5, 3]), "y")).expect("imports");
    let on_bytes = crate::session::Model::from_graph(graph).on_bytes.expect("runs on bytes").0;
    let names: Vec<&str> = on_bytes.nodes.iter().map(|node| node.op.name()).collect();
    assert_eq!(names, ["Quantise", "MatMulOnBytes", "Dequantise"]);
}

#[test]
fn everything_unsupported_is_reported_at_once() {
    let mut m = small();
    let graph = m.graph.as_mut().expect("graph");
    graph.node.push(node("Frobnicate", &["c"], &["f"], &[]));
    graph.node.push(node("Relu", &["f"], &["dependent"], &[]));
    graph.node.push(node("LeakyRelu", &["c"], &["l"], &[AttributeProto::float("beta", 1.0)]));
    graph.node.push(node("EfficientNMS_TRT", &["c"], &["o"], &[]));
    let mut foreign = node("Gelu", &["c"], &["g"], &[]);
    foreign.domain = "com.vendor".into();
    graph.node.push(foreign);
    let Err(ImportError::Unsupported(found)) = import(&m) else { panic!("must be refused") };
    let ops: Vec<&str> = found.iter().map(|u| u.op.as_str()).collect();
    assert_eq!(ops, ["Frobnicate", "LeakyRelu", "EfficientNMS_TRT", "Gelu"], "the dependent Relu is not listed");
    let text = ImportError::Unsupported(found).to_string();
    for part in ["Frobnicate_of_f", "beta", "post-processing", "com.vendor"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn files_that_are_not_models() {
    for (bytes, part) in [
        (&b""[..], "empty"),
        (b"[net]\nwidth=416\nheight=416\n", "not"),
        (b"hello world, this is a text file\n", "not"),
        (b"\x00\x00\x00\x00", "not"),
    ] {
        match import_onnx(Bytes::copy_from_slice(bytes), "thing", &ImportOptions::default()) {
            Err(e @ ImportError::NotAModel { .. }) => assert!(e.to_string().contains(part), "{e}"),
            other => panic!("{bytes:?} gave {other:?}"),
        }
    }
}

#[test]
fn truncated_files_are_refused() {
    let mut m = small();
    m.metadata_props.clear();
    let whole = m.encode_to_vec();
    for i in 0..20 {
        let cut = whole.len() * i / 20;
        let part = Bytes::copy_from_slice(&whole[..cut]);
        assert!(import_onnx(part, "cut", &ImportOptions::default()).is_err(), "cut at {cut} of {}", whole.len());
    }
}

#[test]
fn absurd_sizes_are_refused() {
    let mut m = small();
    m.graph.as_mut().expect("graph").initializer[0].dims = vec![1 << 60, 3, 3, 3];
    assert!(import(&m).is_err_and(|e| e.to_string().contains("'w'")));
    m.graph.as_mut().expect("graph").initializer[0].dims = vec![1 << 60];
    assert!(import(&m).is_err());
    let mut m = small();
    m.graph.as_mut().expect("graph").input[0] = value("x", &[1, 3, 1 << 60, 7]);
    assert!(import(&m).is_err());
    let many = vec![node("ConstantOfShape", &["big"], &["a"], &[]), node("Add", &["x", "a"], &["y"], &[])];
    let m = model(many, vec![longs("big", &[1 << 40, 1 << 30])], value("x", &[1]), "y");
    assert!(import(&m).is_err());
}

#[test]
fn contradictions_are_malformed() {
    let malformed = |m: &ModelProto, part: &str| match import(m) {
        Err(e @ ImportError::Malformed { .. }) => assert!(e.to_string().contains(part), "{e}"),
        other => panic!("{other:?}"),
    };
    let mut m = small();
    m.graph.as_mut().expect("graph").initializer.remove(0);
    malformed(&m, "'w'");
    let cycle = vec![node("Relu", &["b"], &["a"], &[]), node("Relu", &["a"], &["b"], &[])];
    malformed(&model(cycle, vec![], value("x", &[1]), "b"), "Relu_of_a");
    let twice = vec![node("Relu", &["x"], &["a"], &[]), node("Relu", &["x"], &["a"], &[])];
    malformed(&model(twice, vec![], value("x", &[1]), "a"), "twice");
    malformed(&model(vec![node("Relu", &["x"], &["a"], &[])], vec![], value("x", &[1]), "z"), "'z'");
}

#[test]
fn opsets_outside_the_range_and_types_are_refused() {
    let mut m = small();
    m.opset_import[0].version = 6;
    assert!(import(&m).is_err_and(|e| e.to_string().contains("operator set 6")));
    m.opset_import[0].domain = "ai.onnx.ml".into();
    assert!(import(&m).is_err(), "no standard operators imported");
    let mut m = small();
    m.graph.as_mut().expect("graph").input[0].r#type = tensor_type(DataType::String, &[1, 3, 5, 7]);
    assert!(import(&m).is_err_and(|e| e.to_string().contains("type")));
}

#[test]
fn outputs_that_are_not_produced_matter_only_where_used() {
    let relu = node("Relu", &["x"], &["y", "more"], &[]);
    let m = model(vec![relu.clone()], vec![], value("x", &[1, 4]), "y");
    assert!(import(&m).is_ok());
    let m = model(vec![relu, node("Neg", &["more"], &["z"], &[])], vec![], value("x", &[1, 4]), "z");
    assert!(import(&m).is_err_and(|e| e.to_string().contains("output 1")));
}

#[test]
fn external_tensors_stay_below_the_folder() {
    let entry = |k: &str, v: &str| StringStringEntryProto { key: k.into(), value: v.into() };
    let folder = std::env::temp_dir().join(format!("eyas-external-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let raw: Vec<u8> = std::iter::repeat_n(0.25f32.to_le_bytes(), 110).flatten().collect();
    std::fs::write(folder.join("tensors.bin"), &raw).expect("writes");
    let mut m = small();
    let with = |m: &mut ModelProto, location: &str, offset: &str| {
        let w = &mut m.graph.as_mut().expect("graph").initializer[0];
        w.float_data.clear();
        w.data_location = 1;
        w.external_data = vec![entry("location", location), entry("offset", offset), entry("length", "432")];
        import_onnx_from(m.encode_to_vec().into(), "test", &ImportOptions::default(), Some(&folder), None)
    };
    assert!(with(&mut m, "tensors.bin", "8").is_ok());
    assert!(with(&mut m, "tensors.bin", "9").is_err_and(|e| e.to_string().contains("outside")));
    assert!(with(&mut m, "../tensors.bin", "0").is_err_and(|e| e.to_string().contains("below")));
    assert!(with(&mut m, "gone.bin", "0").is_err());
    assert!(import(&m).is_err(), "without a folder");
    std::fs::remove_dir_all(&folder).expect("removes");
}

/// Every `.onnx` below `EYAS_MODELS` that is meant to work imports and plans for both targets.
#[test]
fn real_models_import_and_plan() {
    let Ok(folders) = std::env::var("EYAS_MODELS") else {
        eprintln!("SKIPPED: set EYAS_MODELS to a folder (or several, separated by ':') of .onnx files");
        return;
    };
    let mut failed = Vec::new();
    let mut tried = 0;
    for folder in folders.split(':').flat_map(|f| [f.to_string(), format!("{f}/onnx")]) {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "onnx"));
        paths.sort();
        tried += paths.len();
        for path in paths {
            let started = std::time::Instant::now();
            let mut outcome = super::super::import_file(&path, None, &ImportOptions::default());
            if matches!(outcome, Err(ImportError::MissingOption { .. })) {
                let options = ImportOptions { size_px: Some([320, 256]), ..Default::default() };
                outcome = super::super::import_file(&path, None, &options);
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let load_ms = started.elapsed().as_secs_f64() * 1e3;
            match outcome {
                Ok(graph) => {
                    for target in [Target::CPU, Target::GPU] {
                        match plan_graph(&graph, target) {
                            Ok((plan, notes)) => println!(
                                "{name}: {load_ms:.0} ms, {} nodes, {} steps, {} notes, {} MMAC",
                                graph.nodes.len(),
                                plan.steps.len(),
                                notes.len(),
                                graph.macs() / 1_000_000
                            ),
                            Err(errors) => failed.push(format!("{name} for {target:?}: {errors:?}")),
                        }
                    }
                }
                Err(e) => failed.push(format!("{name}: {e}")),
            }
        }
    }
    assert!(tried > 0, "no .onnx files in EYAS_MODELS");
    println!("{}", failed.join("\n"));
    // Quantised and transformer networks are refused with a list; everything else must load.
    let meant_to_fail = |f: &&String| ["qdq", "deimv2"].iter().any(|n| f.contains(n));
    assert!(failed.iter().all(|f| meant_to_fail(&f)), "see above");
}
