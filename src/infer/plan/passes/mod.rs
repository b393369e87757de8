//! Rewrites of the graph before it is planned. Each pass is one file, says what it did, and why it did not.

mod activation_patterns;
mod affine;
mod dead_code;
mod epilogue;
mod fold_constants;
pub mod integers;
mod pattern;
mod quantise_pairs;

use crate::infer::graph::Graph;

/// What a pass has to say, for `eyas info --explain`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassReport {
    pub pass: &'static str,
    /// How often the rewrite was applied.
    pub applied: usize,
    /// One line per kind of thing done or not done.
    pub notes: Vec<String>,
}

impl PassReport {
    fn new(pass: &'static str) -> PassReport {
        PassReport { pass, ..PassReport::default() }
    }

    fn did(&mut self, note: String) {
        self.applied += 1;
        self.notes.push(note);
    }

    fn did_not(&mut self, note: String) {
        self.notes.push(format!("not: {note}"));
    }
}

type Pass = fn(&mut Graph) -> PassReport;

/// The passes in the order in which they run. Dead code goes after each pattern: what it left behind would count as a
/// reader of the convolution that the next one is to be fused into.
const PASSES: &[Pass] = &[
    fold_constants::run,
    quantise_pairs::run,
    dead_code::run,
    activation_patterns::run,
    dead_code::run,
    affine::run,
    epilogue::run,
    dead_code::run,
];

/// Runs all passes.
pub fn optimise(graph: &mut Graph) -> Vec<PassReport> {
    PASSES.iter().map(|pass| pass(graph)).collect()
}

/// As [`optimise`], for a plan on the CPU: quantised arithmetic stays in integers where there are operators for it.
/// `None` where nothing would.
pub fn optimise_for_bytes(graph: &Graph) -> Option<(Graph, Vec<PassReport>)> {
    if !graph.nodes.iter().any(|node| node.op.name() == "QuantizeLinear") {
        return None;
    }
    let constants = integers::QuantisedConstants::of(graph);
    let mut graph = graph.clone();
    graph.dequantised.clear();
    let mut reports = vec![fold_constants::run(&mut graph), integers::run(&mut graph, &constants)];
    if reports[1].applied == 0 {
        return None;
    }
    reports.extend(PASSES[1..].iter().map(|pass| pass(&mut graph)));
    Some((graph, reports))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::activation::Activation;
    use crate::infer::graph::{Fact, Format, ValueId};
    use crate::infer::kernels::conv::{Residual, Window};
    use crate::infer::kernels::elementwise::Function;
    use crate::infer::ops::activation::Activate;
    use crate::infer::ops::batch_norm::BatchNorm;
    use crate::infer::ops::conv::Conv;
    use crate::infer::ops::elementwise::Elementwise;
    use crate::infer::tensor::Tensor;
    use crate::session::{Backend, Model, Session, SessionOptions};

    /// A graph with a picture input of 3 channels, and helpers to append to it.
    struct Builder {
        graph: Graph,
        x: ValueId,
    }

    impl Builder {
        fn new() -> Builder {
            let mut graph = Graph::new("test", Format::Onnx);
            let x = graph.add_value("x", Fact::f32(&[1, 3, 5, 4]));
            graph.inputs.push(x);
            Builder { graph, x }
        }

        fn numbers(&mut self, name: &str, shape: &[usize]) -> ValueId {
            let n: usize = shape.iter().product();
            let values = (0..n).map(|i| ((i * 7 + name.len()) % 11) as f32 * 0.1 + 0.3).collect();
            self.graph.add_constant(name, &Tensor::from_f32(shape, values).expect("shape"))
        }

        fn scalar(&mut self, value: f32) -> ValueId {
            self.graph.add_constant("c", &Tensor::scalar_f32(value))
        }

        fn node(&mut self, op: impl crate::infer::op::Op + 'static, inputs: &[ValueId]) -> ValueId {
            let name = format!("node_{}", self.graph.nodes.len());
            let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
            self.graph.add_node(&name, Box::new(op), &inputs).expect("fits")[0]
        }

        fn conv(&mut self, x: ValueId, channels: usize) -> ValueId {
            let ins = self.graph.fact(x).shape[1];
            let w = self.numbers("w", &[channels, ins, 1, 1]);
            let window = Window { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };
            self.node(Conv::new(window, 1), &[x, w])
        }

        fn binary(&mut self, function: Function, a: ValueId, b: ValueId) -> ValueId {
            self.node(Elementwise::new(function), &[a, b])
        }

        fn activate(&mut self, activation: Activation, x: ValueId) -> ValueId {
            self.node(Activate { activation }, &[x])
        }

        /// Optimises; the result must compute what the graph as written computes.
        fn finish(mut self, outputs: &[ValueId]) -> Graph {
            self.graph.outputs = outputs.to_vec();
            let plain = Model::as_it_is(self.graph.clone());
            let optimised = Model::from_graph(self.graph);
            let input: Vec<f32> = (0..60).map(|i| (i as f32 * 0.37).sin() * 4.0).collect();
            let input = Tensor::from_f32(&[1, 3, 5, 4], input).expect("shape");
            let options = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
            let run = |model: &Model| {
                let mut session = Session::new(model, &options).expect("plan");
                session.run(&[("x", input.clone())]).expect("run")
            };
            for ((_, a), (_, b)) in run(&plain).iter().zip(run(&optimised)) {
                let (a, b) = (a.to_f32(), b.to_f32());
                let scale = a.iter().fold(1.0f32, |m, v| m.max(v.abs()));
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * scale), "{a:?} {b:?}");
            }
            optimised.graph
        }
    }

    fn only_conv(graph: &Graph) -> &Conv {
        assert_eq!(graph.nodes.len(), 1, "{:?}", graph.nodes);
        graph.nodes[0].op.downcast::<Conv>().expect("a convolution")
    }

    #[test]
    fn silu_behind_a_convolution_becomes_its_epilogue() {
        let mut b = Builder::new();
        let y = b.conv(b.x, 5);
        let gate = b.activate(Activation::Sigmoid, y);
        let y = b.binary(Function::Mul, gate, y);
        assert_eq!(only_conv(&b.finish(&[y])).activation, Activation::Silu);
    }

    #[test]
    fn hard_swish_is_recognised_in_every_grouping() {
        for grouping in 0..3 {
            let mut b = Builder::new();
            let y = b.conv(b.x, 5);
            let (three, six) = (b.scalar(3.0), b.scalar(6.0));
            let sum = b.binary(Function::Add, y, three);
            let clip = b.activate(Activation::Clip { lo: 0.0, hi: 6.0 }, sum);
            let out = match grouping {
                0 => {
                    let p = b.binary(Function::Mul, y, clip);
                    b.binary(Function::Div, p, six)
                }
                1 => {
                    let gate = b.binary(Function::Div, clip, six);
                    b.binary(Function::Mul, gate, y)
                }
                _ => {
                    let sixth = b.scalar(1.0 / 6.0);
                    let p = b.binary(Function::Mul, y, clip);
                    b.binary(Function::Mul, p, sixth)
                }
            };
            assert_eq!(only_conv(&b.finish(&[out])).activation, Activation::HardSwish, "grouping {grouping}");
        }
    }

    #[test]
    fn mish_and_gelu_are_recognised() {
        let mut b = Builder::new();
        let y = b.conv(b.x, 5);
        let soft = b.activate(Activation::Softplus, y);
        let tanh = b.activate(Activation::Tanh, soft);
        let out = b.binary(Function::Mul, y, tanh);
        assert_eq!(only_conv(&b.finish(&[out])).activation, Activation::Mish);

        let mut b = Builder::new();
        let y = b.conv(b.x, 5);
        let (root, one, half) = (b.scalar(std::f32::consts::SQRT_2), b.scalar(1.0), b.scalar(0.5));
        let scaled = b.binary(Function::Div, y, root);
        let erf = b.node(Elementwise::new(Function::Erf), &[scaled]);
        let sum = b.binary(Function::Add, erf, one);
        let product = b.binary(Function::Mul, y, sum);
        let out = b.binary(Function::Mul, product, half);
        assert_eq!(only_conv(&b.finish(&[out])).activation, Activation::Gelu);
    }

    #[test]
    fn what_only_looks_like_a_pattern_is_left_alone() {
        let mut b = Builder::new();
        let y = b.conv(b.x, 5);
        let (two, six) = (b.scalar(2.0), b.scalar(6.0));
        let sum = b.binary(Function::Add, y, two);
        let clip = b.activate(Activation::Clip { lo: 0.0, hi: 6.0 }, sum);
        let product = b.binary(Function::Mul, y, clip);
        let out = b.binary(Function::Div, product, six);
        let graph = b.finish(&[out]);
        assert!(graph.nodes.len() > 1, "x·clip(x + 2)/6 is no HardSwish");
    }

    #[test]
    fn batch_norm_and_channel_arithmetic_fold_into_the_convolution() {
        let mut b = Builder::new();
        let y = b.conv(b.x, 5);
        let statistics: Vec<ValueId> = ["scale", "shift", "mean", "variance"].map(|n| b.numbers(n, &[5])).to_vec();
        let y = b.node(BatchNorm { epsilon: 1e-5 }, &[&[y], statistics.as_slice()].concat());
        let per_channel = b.numbers("per channel", &[5, 1, 1]);
        let y = b.binary(Function::Mul, per_channel, y);
        let shift = b.numbers("offset", &[1, 5, 1, 1]);
        let y = b.binary(Function::Sub, y, shift);
        let y = b.activate(Activation::Relu, y);
        assert_eq!(only_conv(&b.finish(&[y])).activation, Activation::Relu);
    }

    #[test]
    fn a_residual_is_added_before_or_after_the_activation() {
        for after in [true, false] {
            let mut b = Builder::new();
            let x = b.conv(b.x, 3);
            let mut y = b.conv(x, 3);
            if after {
                y = b.activate(Activation::Silu, y);
            }
            let mut out = b.binary(Function::Add, x, y);
            if !after {
                out = b.activate(Activation::Relu, out);
            }
            let graph = b.finish(&[out, x]);
            let last = graph.nodes.last().and_then(|n| n.op.downcast::<Conv>()).expect("a convolution");
            let expected = if after { Residual::AfterActivation } else { Residual::BeforeActivation };
            assert_eq!((graph.nodes.len(), last.residual), (2, expected));
        }
    }

    #[test]
    fn a_value_with_other_readers_is_not_fused_away() {
        let mut b = Builder::new();
        let y = b.conv(b.x, 5);
        let z = b.activate(Activation::Relu, y);
        let graph = b.finish(&[y, z]);
        assert_eq!(graph.nodes.len(), 2);
    }

    #[test]
    fn dead_and_constant_nodes_disappear() {
        let mut b = Builder::new();
        let y = b.conv(b.x, 5);
        b.activate(Activation::Tanh, y);
        let (one, two) = (b.scalar(1.0), b.scalar(2.0));
        let three = b.binary(Function::Add, one, two);
        let y = b.binary(Function::Max, y, three);
        let graph = b.finish(&[y]);
        assert_eq!(graph.nodes.len(), 2, "convolution and maximum remain: {:?}", graph.nodes);
    }
}
