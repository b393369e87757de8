//! Plans for a GPU with operators that the CPU computes in between: right, few, and in every loop around a network.
#![cfg(feature = "gpu")]

use std::sync::Arc;

use eyas::acquire::Source;
use eyas::acquire::pattern::Pattern;
use eyas::acquire::scenes::Shapes;
use eyas::draw::Style;
use eyas::gpu::{Gpu, Offscreen, test_gpu};
use eyas::infer::activation::Activation;
use eyas::infer::graph::{Fact, Format, Graph, ValueId};
use eyas::infer::op::Op;
use eyas::infer::ops::activation::Activate;
use eyas::infer::ops::compare::{Compare, Relation, Where};
use eyas::infer::ops::function::HostFunction;
use eyas::infer::tensor::{DType, Tensor, TensorElements};
use eyas::shader::Precision;
use eyas::{Backend, DecodeOptions, Detector, Frame, Model, Session, SessionOptions};

/// x + 1, without a kernel.
fn plus_one(shape: &[usize]) -> Box<dyn Op> {
    HostFunction::boxed("PlusOne", vec![Fact::f32(shape)], |inputs| {
        let x = inputs[0].ok_or_else(|| eyas::infer::op::OpError::Invalid("no input".into()))?;
        let values = x.to_f32().into_iter().map(|v| v + 1.0).collect();
        Ok(vec![Tensor::from_f32(x.shape(), values).map_err(eyas::infer::op::OpError::Invalid)?])
    })
}

fn activate(activation: Activation) -> Box<dyn Op> {
    Box::new(Activate { activation })
}

fn one(graph: &mut Graph, name: &str, op: Box<dyn Op>, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().map(|&i| Some(i)).collect();
    graph.add_node(name, op, &inputs).expect("a node")[0]
}

fn on_gpu(model: &Model, gpu: &Arc<Gpu>, precision: Precision) -> Session {
    Session::on_device(model, Arc::clone(gpu), Some(precision)).expect("a session")
}

fn on_cpu(model: &Model) -> Session {
    let options = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
    Session::new(model, &options).expect("a session")
}

fn precisions(gpu: &Gpu) -> &'static [Precision] {
    if gpu.adapter.f16 { &[Precision::F32, Precision::F16] } else { &[Precision::F32] }
}

/// x -> Relu -> PlusOne (host) -> Sigmoid -> output; and the sum of a place in x with an integer, on the host.
fn in_between(shape: [usize; 4]) -> Model {
    let mut graph = Graph::new("hop", Format::Onnx);
    let x = graph.add_value("x", Fact::f32(&shape));
    let k = graph.add_value("k", Fact::new(DType::I64, &[2]));
    graph.inputs = vec![x, k];
    let a = one(&mut graph, "a", activate(Activation::Relu), &[x]);
    let b = one(&mut graph, "b", plus_one(&shape), &[a]);
    let c = one(&mut graph, "c", activate(Activation::Sigmoid), &[b]);
    let doubled = HostFunction::boxed("Doubled", vec![Fact::new(DType::I64, &[2])], |inputs| {
        let k = inputs[0].map(Tensor::to_i64).unwrap_or_default();
        Ok(vec![Tensor::vec_i64(k.into_iter().map(|v| 2 * v).collect())])
    });
    let d = one(&mut graph, "d", doubled, &[k]);
    graph.outputs = vec![c, d, k];
    graph.half_outputs = vec![false; 3];
    Model::from_graph(graph)
}

#[test]
fn host_steps_in_the_middle_give_what_the_cpu_gives() {
    let Some(gpu) = test_gpu() else { return };
    // The small one stays on the host to its end, the large one returns to the device.
    for (shape, up_elements) in [([1, 3, 5, 7], 0), ([1, 5, 127, 131], 5 * 127 * 131)] {
        let model = in_between(shape);
        let len: usize = shape.iter().product();
        let values = (0..len).map(|i| (i % 23) as f32 * 0.25 - 3.0).collect();
        let x = Tensor::from_f32(&shape, values).expect("tensor");
        let k = Tensor::vec_i64(vec![-(1 << 60), 1 << 40]);
        let want = on_cpu(&model).run(&[("x", x.clone()), ("k", k.clone())]).expect("runs");
        for &precision in precisions(&gpu) {
            let mut session = on_gpu(&model, &gpu, precision);
            let plan = session.plan();
            assert_eq!(plan.hops.len(), 1, "{:?}", plan.hops);
            assert_eq!((plan.hops[0].down_elements, plan.hops[0].up_elements), (len, up_elements));
            assert!(session.notes.iter().any(|note| note.contains("hop")), "{:?}", session.notes);
            for _ in 0..2 {
                let got = session.run(&[("x", x.clone()), ("k", k.clone())]).expect("runs");
                let close =
                    |(a, b): (&f32, &f32)| (a - b).abs() < if precision == Precision::F16 { 2e-3 } else { 1e-6 };
                assert!(got[0].1.to_f32().iter().zip(&want[0].1.to_f32()).all(close));
                assert_eq!(got[1..], want[1..]);
                assert_eq!(got[1].1.as_i64(), Some([-(1 << 61), 1 << 41].as_slice()));
            }
            let wrong = session.run(&[("x", x.clone()), ("k", Tensor::from_f32(&[2], vec![0.0; 2]).expect("tensor"))]);
            assert!(wrong.is_err_and(|e| e.to_string().contains("i64")));
            assert!(session.profile().expect("times").iter().any(|(label, _)| label == "host_PlusOne"));
        }
    }
}

/// Truths that memory holds as numbers, between kernels, to the host and as an output.
#[test]
fn booleans_stay_on_the_device_and_leave_it_as_booleans() {
    let Some(gpu) = test_gpu() else { return };
    // Large enough that the device does what it can.
    let shape = [2, 5, 67, 211];
    let len: usize = shape.iter().product();
    let model = |counted: bool| {
        let mut graph = Graph::new("held", Format::Onnx);
        let x = graph.add_value("x", Fact::f32(&shape));
        let mask = graph.add_value("mask", Fact::new(DType::Bool, &shape));
        graph.inputs = vec![x, mask];
        let zero = graph.add_value("zero", Fact::of(&Tensor::scalar_f32(0.0)));
        let ten = graph.add_value("ten", Fact::of(&Tensor::scalar_f32(10.0)));
        let compare = |relation| Box::new(Compare { relation });
        let above = one(&mut graph, "above", compare(Relation::Greater), &[x, zero]);
        let both = one(&mut graph, "both", compare(Relation::And), &[above, mask]);
        let neither = one(&mut graph, "neither", compare(Relation::Not), &[both]);
        let chosen = one(&mut graph, "chosen", Box::new(Where), &[neither, ten, x]);
        graph.outputs = vec![chosen, both];
        if counted {
            let count = HostFunction::boxed("Count", vec![Fact::new(DType::I64, &[1])], |inputs| match inputs[0] {
                Some(t) if t.dtype() == DType::Bool => Ok(vec![Tensor::vec_i64(vec![t.to_i64().iter().sum()])]),
                other => Err(eyas::infer::op::OpError::Invalid(format!("{other:?} is not boolean"))),
            });
            let count = one(&mut graph, "count", count, &[neither]);
            graph.outputs.push(count);
        }
        graph.half_outputs = vec![false; graph.outputs.len()];
        Model::from_graph(graph)
    };
    let x: Vec<f32> = (0..len).map(|i| (i % 23) as f32 * 0.25 - 3.0).collect();
    let mask: Vec<bool> = (0..len).map(|i| i % 3 != 1).collect();
    let both: Vec<i64> = x.iter().zip(&mask).map(|(&x, &m)| i64::from(x > 0.0 && m)).collect();
    let chosen: Vec<f32> = x.iter().zip(&both).map(|(&x, &b)| if b == 0 { 10.0 } else { x }).collect();
    let elements = TensorElements::Bool(Arc::new(mask));
    let inputs = [
        ("x", Tensor::from_f32(&shape, x).expect("tensor")),
        ("mask", Tensor::new(shape.to_vec(), elements).expect("tensor")),
    ];
    for (counted, fallbacks) in [(false, vec![]), (true, vec!["Count"])] {
        let model = model(counted);
        for &precision in precisions(&gpu) {
            let mut session = on_gpu(&model, &gpu, precision);
            assert_eq!(session.plan().fallbacks().map(|(op, _)| op).collect::<Vec<_>>(), fallbacks);
            let got = session.run(&inputs).expect("runs");
            assert_eq!(got[0].1.to_f32(), chosen);
            assert_eq!((got[1].1.dtype(), got[1].1.to_i64()), (DType::Bool, both.clone()));
            if counted {
                let zeros = both.iter().filter(|&&b| b == 0).count();
                assert_eq!(got[2].1.as_i64(), Some([zeros as i64].as_slice()));
            }
            let wrong = session.run(&[inputs[0].clone(), ("mask", inputs[0].1.clone())]);
            assert!(wrong.is_err_and(|e| e.to_string().contains("bool")));
        }
        let want = on_cpu(&model).run(&inputs).expect("runs");
        assert_eq!((want[0].1.to_f32(), want[1].1.dtype()), (chosen.clone(), DType::Bool));
    }
}

#[test]
fn values_that_the_host_refuses_are_an_error() {
    let Some(gpu) = test_gpu() else { return };
    let mut graph = Graph::new("refusing", Format::Onnx);
    let x = graph.add_value("x", Fact::f32(&[4]));
    graph.inputs = vec![x];
    let picky =
        HostFunction::boxed("Picky", vec![Fact::f32(&[4])], |inputs| match inputs[0].and_then(Tensor::as_f32) {
            Some([first, ..]) if *first > 0.0 => Ok(inputs.iter().flatten().map(|&t| t.clone()).collect()),
            _ => Err(eyas::infer::op::OpError::Invalid("wants a positive number first".into())),
        });
    let y = one(&mut graph, "picky", picky, &[x]);
    graph.outputs = vec![y];
    graph.half_outputs = vec![false];
    let mut session = on_gpu(&Model::from_graph(graph), &gpu, Precision::F32);
    let of = |first: f32| Tensor::from_f32(&[4], vec![first, 1.0, 2.0, 3.0]).expect("tensor");
    for _ in 0..2 {
        let error = session.run(&[("x", of(-1.0))]).expect_err("refused").to_string();
        assert!(error.contains("picky") && error.contains("positive"), "{error}");
        assert_eq!(session.run(&[("x", of(1.0))]).expect("runs")[0].1, of(1.0));
    }
}

/// The network in the repository with an operator of the host behind the node that writes the value which `pick` chooses.
fn shapes_with_hop(pick: impl Fn(&Graph) -> ValueId) -> Model {
    let bytes = include_bytes!("../models/shapes.onnx");
    let mut model = Model::from_onnx(bytes, "shapes.onnx").expect("the network loads");
    let graph = &mut model.graph;
    let value = pick(graph);
    let at = graph.nodes.iter().position(|n| n.outputs.contains(&value)).expect("a producer");
    let shape = graph.fact(value).shape.clone();
    let same = HostFunction::boxed("Same", vec![Fact::f32(&shape)], |inputs| {
        Ok(inputs.iter().flatten().map(|&t| t.clone()).collect())
    });
    let passed = graph.add_value("passed on", Fact::f32(&shape));
    graph.replace_uses(value, passed);
    let node =
        eyas::infer::graph::Node { name: "same".into(), op: same, inputs: vec![Some(value)], outputs: vec![passed] };
    graph.nodes.insert(at + 1, node);
    model
}

fn detector(model: &Model, session: Session) -> Detector {
    Detector::with_session(session, model.decoder(&DecodeOptions::default()).expect("a decoder")).expect("a detector")
}

fn frames(count: usize) -> Vec<Frame> {
    let mut pattern = Pattern::new(Shapes::new(320, 240).expect("a scene"));
    (0..count).map(|_| pattern.next().expect("a frame").expect("a frame").frame).collect()
}

#[test]
fn pictures_go_through_a_network_with_hops() {
    let Some(gpu) = test_gpu() else { return };
    let clip = frames(3);
    let middle = shapes_with_hop(|graph| graph.nodes[graph.nodes.len() / 2].outputs[0]);
    let at_the_end = shapes_with_hop(|graph| graph.outputs[0]);
    for model in [middle, at_the_end] {
        for &precision in precisions(&gpu) {
            let mut on_gpu = detector(&model, on_gpu(&model, &gpu, precision));
            let mut on_cpu = detector(&model, on_cpu(&model));
            assert_eq!(on_gpu.session().plan().hops.len(), 1);
            let (score, px) = if precision == Precision::F16 { (2e-2, 1.5) } else { (1e-3, 0.05) };
            for frame in &clip {
                let (a, b) = (on_gpu.detect(frame).expect("detects"), on_cpu.detect(frame).expect("detects"));
                assert!(!b.is_empty(), "the pattern shows shapes");
                assert_eq!(a.len(), b.len());
                for (a, b) in a.iter().zip(&b).filter(|_| precision == Precision::F32) {
                    assert_eq!(a.label, b.label);
                    assert!((a.score - b.score).abs() < score, "{a:?} {b:?}");
                    assert!(a.bounds.iter().zip(b.bounds).all(|(p, q)| (p - q).abs() < px), "{a:?} {b:?}");
                }
            }
            // The live view takes such a frame apart, and says so.
            let mut live = Offscreen::new(&gpu, [320, 240], Style::default(), true).expect("a canvas");
            let drawn = live.draw(&mut on_gpu, Some(&clip[0])).expect("draws");
            assert!(drawn.host_decoded);
            let shown = live.picture(true).expect("a picture").expect("a picture");
            assert_ne!(shown.into_rgb8().bytes, clip[0].to_rgb8().bytes, "boxes are drawn");
        }
    }
}
