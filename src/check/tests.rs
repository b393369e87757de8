use super::*;
use crate::infer::activation::Activation;
use crate::infer::graph::Format;
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::elementwise::Function;
use crate::infer::op::Op;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::conv::Conv;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::softmax::Softmax;
use crate::session;

const SHAPE: [usize; 4] = [1, 3, 9, 7];

fn add(graph: &mut Graph, name: &str, op: impl Op + 'static, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().map(|&id| Some(id)).collect();
    graph.add_node(name, Box::new(op), &inputs).expect("a node")[0]
}

fn numbers_like(shape: &[usize], seed: u64) -> Tensor {
    let mut random = Random(seed);
    let len: usize = shape.iter().product();
    Tensor::from_f32(shape, (0..len).map(|_| random.next() as f32 - 0.5).collect()).expect("shape")
}

/// x → first, times its sigmoid (one convolution after the passes) → second → softmax.
fn network() -> Graph {
    let mut graph = Graph::new("network", Format::Onnx);
    let x = graph.add_value("x", Fact::f32(&SHAPE));
    graph.inputs = vec![x];
    let window = Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] };
    let w = graph.add_constant("w", &numbers_like(&[5, 3, 3, 3], 1));
    let y = add(&mut graph, "first", Conv::new(window, 1), &[x, w]);
    let gate = add(&mut graph, "gate", Activate { activation: Activation::Sigmoid }, &[y]);
    let y = add(&mut graph, "product", Elementwise::new(Function::Mul), &[y, gate]);
    let w = graph.add_constant("w2", &numbers_like(&[6, 5, 3, 3], 2));
    let y = add(&mut graph, "second", Conv::new(window, 1), &[y, w]);
    let y = add(&mut graph, "scores", Softmax { axis: 1, log: false, flattens: false }, &[y]);
    graph.outputs = vec![y];
    graph
}

fn optimised(graph: &Graph) -> Graph {
    Model::from_graph(graph.clone()).graph
}

/// CPU, and GPU where there is one.
fn backends() -> Vec<SessionOptions> {
    let on = |backend| SessionOptions { backend, threads: Some(1), ..SessionOptions::default() };
    #[allow(unused_mut, reason = "mutated only with the feature gpu")]
    let mut all = vec![on(session::Backend::Cpu)];
    #[cfg(feature = "gpu")]
    if crate::gpu::test_gpu().is_some() {
        all.push(on(session::Backend::Gpu));
    }
    all
}

fn input() -> Vec<(String, Tensor)> {
    vec![("x".to_string(), numbers_like(&SHAPE, 3))]
}

#[test]
fn every_value_that_is_left_agrees_and_the_others_are_named() {
    let plain = network();
    let check = Check::new(plain.clone(), optimised(&plain));
    let (told, last) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let report = check.run(&input(), &backends(), &[], &|done, total| {
        assert!(done <= total);
        told.fetch_add(1, Ordering::Relaxed);
        last.store(total, Ordering::Relaxed);
    });
    let report = report.expect("runs");
    assert_eq!(told.into_inner(), last.into_inner(), "progress is told to its end");
    for backend in &report.backends {
        assert!(backend.agrees(), "{backend:?}");
        let values: Vec<&str> = backend.findings.iter().map(|f| f.value.as_str()).collect();
        assert_eq!(values, ["product", "second", "scores"], "{}", backend.name);
        let covered: Vec<&str> = backend.findings[0].covers.iter().map(|(_, node)| node.as_str()).collect();
        assert_eq!(covered, ["first", "gate", "product"]);
        assert!(!backend.findings[0].kernels.is_empty() && backend.outputs.len() == 1);
    }
    let gone: Vec<(&str, Option<&str>)> = report.gone.iter().map(|g| (g.value.as_str(), g.into.as_deref())).collect();
    assert_eq!(gone, [("first", Some("first")), ("gate", Some("first"))]);
}

/// Changes one weight of a convolution after the passes.
fn perturb(graph: &mut Graph, node: &str, by: f32) {
    let conv = graph.nodes.iter().find(|n| n.name == node).expect("the node");
    let weights = conv.inputs[1].expect("weights");
    let tensor = graph.fact(weights).constant.clone().expect("a constant");
    let mut values = tensor.to_f32();
    values[7] += by;
    graph.values[weights.0].fact.constant = Some(Tensor::from_f32(tensor.shape(), values).expect("shape"));
}

#[test]
fn a_wrong_plan_is_caught_at_the_node_that_is_wrong() {
    let plain = network();
    for node in ["first", "second"] {
        let mut wrong = optimised(&plain);
        perturb(&mut wrong, node, 0.01);
        let report = Check::new(plain.clone(), wrong).run(&input(), &backends(), &[], &|_, _| {}).expect("runs");
        assert!(!report.agrees());
        for backend in &report.backends {
            let first = backend.first_divergence().expect("a divergence");
            assert_eq!(first.node, node, "on {}", backend.name);
            let error = first.own.relative();
            assert!(error > 1e-4 && error < 0.1, "{error} on {}", backend.name);
            // Nodes after it are right for what they were given.
            assert_eq!(backend.findings.iter().filter(|f| !f.agrees()).count(), 1, "on {}", backend.name);
            assert!(backend.findings.last().is_some_and(|f| f.drift.relative() > f.own.relative()));
        }
    }
}

#[test]
fn tensors_that_are_given_are_compared_by_name() {
    let plain = network();
    let check = Check::new(plain.clone(), optimised(&plain));
    let all: Vec<ValueId> = (0..plain.values.len()).map(ValueId).collect();
    let parts = parts::parts(&plain, &plain, &all);
    let mut values = check.given(&input()).expect("inputs");
    for part in &parts {
        values.extend(part.evaluate(&plain, &values).expect("evaluates"));
    }
    // "gate" does not exist after the passes: only the plain path has it.
    for (name, on_backends) in [("second", 1), ("gate", 0), ("scores", 1)] {
        let id = check.value_named(name).expect("a value");
        let right = values[&id].clone();
        let mut numbers = right.to_f32();
        numbers[11] += 0.05;
        let wrong = Tensor::from_f32(right.shape(), numbers).expect("shape");
        for (tensor, agrees) in [(right, true), (wrong, false)] {
            let report = check.run(&input(), &backends(), &[(name.to_string(), tensor)], &|_, _| {}).expect("runs");
            assert_eq!(report.agrees(), agrees, "{name}");
            assert_eq!(report.expected.len(), 1, "{name}");
            for backend in &report.backends {
                assert_eq!(backend.expected.len(), on_backends, "{name}");
                assert!(backend.expected.iter().all(|one| one.agrees() == agrees), "{name}");
            }
        }
    }
    let unknown = check.run(&input(), &backends(), &[("nobody".into(), Tensor::scalar_f32(0.0))], &|_, _| {});
    assert!(unknown.is_err_and(|e| e.to_string().contains("'nobody'") && e.to_string().contains("scores")));
    let given = check.run(&input(), &backends(), &[("x".into(), Tensor::scalar_f32(0.0))], &|_, _| {});
    assert!(given.is_err_and(|e| e.to_string().contains("is an input")));
}

#[test]
fn nan_is_named_where_it_first_appears() {
    let plain = network();
    let check = Check::new(plain.clone(), optimised(&plain));
    let mut values = numbers_like(&SHAPE, 3).to_f32();
    values[20] = f32::NAN;
    let input = vec![("x".to_string(), Tensor::from_f32(&SHAPE, values).expect("shape"))];
    let cpu = &backends()[..1];
    let report = check.run(&input, cpu, &[], &|_, _| {}).expect("runs");
    let first = report.backends[0].first_odd().expect("a NaN");
    assert_eq!(first.value, "product");
    assert!(first.own.odd[0].nan > 0);
}

#[test]
fn an_error_that_the_network_itself_amplifies_is_no_divergence() {
    assert!(!passes(2e-5, 1e-5, None));
    assert!(passes(2e-5, 1e-5, Some(1.5e-5)));
    assert!(!passes(2e-5, 1e-5, Some(1e-5)));
    assert!(!passes(f64::INFINITY, 1e-5, Some(f64::INFINITY)));
}

#[test]
fn random_inputs_have_the_types_of_the_network() {
    let mut graph = Graph::new("inputs", Format::Onnx);
    for (name, dtype) in [("a", DType::F32), ("b", DType::I64), ("c", DType::Bool), ("d", DType::U8)] {
        let id = graph.add_value(name, Fact::new(dtype, &[2, 3]));
        graph.inputs.push(id);
    }
    let given = vec![("a".to_string(), Tensor::scalar_f32(0.0))];
    let made = random_inputs(&graph, None, &given, 5).expect("inputs");
    let kinds: Vec<DType> = made.iter().map(|(_, t)| t.dtype()).collect();
    assert_eq!(kinds, [DType::I64, DType::Bool, DType::U8]);
    assert!(made[0].1.to_i64().iter().all(|v| (1..=255).contains(v)));
    assert_eq!(made, random_inputs(&graph, None, &given, 5).expect("inputs"));
}
