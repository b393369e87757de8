//! Quantised arithmetic as files have it, on bytes and in f32.

use super::*;
use crate::infer::graph::Format;
use crate::infer::kernels::conv::Window;
use crate::infer::ops::bytes::Arithmetic;
use crate::infer::ops::context::build_for_test;
use crate::infer::ops::conv::Conv;
use crate::infer::ops::dense::{Numbers, from_numbers};
use crate::infer::tensor::DType;
use crate::session::{Backend, Model, Session, SessionOptions};

/// Appends quantised arithmetic as files have it.
struct Builder(Graph);

impl Builder {
    fn node(&mut self, op: Box<dyn Op>, inputs: &[ValueId]) -> ValueId {
        let name = format!("node_{}", self.0.nodes.len());
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.0.add_node(&name, op, &inputs).expect("fits")[0]
    }

    fn linear(&mut self, name: &str, x: ValueId, scale: ValueId, zero: ValueId) -> ValueId {
        let facts = [x, scale, zero].map(|v| self.0.fact(v).clone());
        // The axis of filters.
        let axis = [crate::infer::import::onnx::proto::AttributeProto::int("axis", 0)];
        let op = build_for_test(name, 13, &axis, &[&facts[0], &facts[1], &facts[2]]).expect("builds");
        self.node(op, &[x, scale, zero])
    }

    fn integers(&mut self, shape: &[usize], dtype: DType, values: Vec<i64>) -> ValueId {
        let tensor = from_numbers(shape, dtype, &Numbers::Int(values)).expect("tensor");
        self.0.add_constant("integers", &tensor)
    }

    fn pair(&mut self, x: ValueId, dtype: DType, scale: f32, zero: i64) -> ValueId {
        let scale = self.0.add_constant("scale", &Tensor::scalar_f32(scale));
        let zero = self.integers(&[], dtype, vec![zero]);
        let q = self.linear("QuantizeLinear", x, scale, zero);
        self.linear("DequantizeLinear", q, scale, zero)
    }

    fn conv(&mut self, x: ValueId, filters: usize, groups: usize, window: Window) -> ValueId {
        let shape = [filters, self.0.fact(x).shape[1] / groups, window.kernel[0], window.kernel[1]];
        let len: usize = shape.iter().product();
        let values = (0..len).map(|i| (i * 37 % 255) as i64 - 127).collect();
        let q = self.integers(&shape, DType::I8, values);
        let scales = (0..filters).map(|f| 0.002 + 0.0007 * f as f32).collect();
        let scales = self.0.add_constant("scales", &Tensor::from_f32(&[filters], scales).expect("tensor"));
        let zeros = self.integers(&[filters], DType::I8, vec![0; filters]);
        let weights = self.linear("DequantizeLinear", q, scales, zeros);
        let bias = (0..filters).map(|f| f as f32 * 0.11 - 0.4).collect();
        let bias = self.0.add_constant("bias", &Tensor::from_f32(&[filters], bias).expect("tensor"));
        self.node(Box::new(Conv::new(window, groups)), &[x, weights, bias])
    }

    fn activate(&mut self, activation: Activation, x: ValueId) -> ValueId {
        self.node(Box::new(Activate { activation }), &[x])
    }

    fn binary(&mut self, function: Function, a: ValueId, b: ValueId) -> ValueId {
        self.node(Box::new(Elementwise::new(function)), &[a, b])
    }

    /// Plans on bytes and in f32, runs both, and compares: a step of the last scale at most, rarely.
    fn finish(mut self, output: ValueId, step: f32) -> Graph {
        self.0.outputs.push(output);
        let model = Model::from_graph(self.0);
        let on_f32 = Model { on_bytes: None, ..model.clone() };
        let shape = model.graph.fact(model.graph.inputs[0]).shape.clone();
        let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin() * 2.0).collect();
        let input = Tensor::from_f32(&shape, values).expect("tensor");
        let options = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
        let run = |model: &Model| {
            let mut session = Session::new(model, &options).expect("plans");
            session.run(&[("x", input.clone())]).expect("runs").remove(0).1.to_f32()
        };
        let (got, wanted) = (run(&model), run(&on_f32));
        let off = |(a, b): (&f32, &f32)| (a - b).abs() / step;
        assert!(got.iter().zip(&wanted).map(off).all(|steps| steps < 1.01), "{got:?} {wanted:?}");
        let moved = got.iter().zip(&wanted).filter(|(a, b)| (*a - *b).abs() > step / 2.0).count();
        assert!(moved * 50 <= got.len(), "{moved} of {}", got.len());
        assert!(wanted.iter().any(|&x| x != wanted[0]));
        model.on_bytes.expect("runs on bytes").0
    }
}

const SAME: Window = Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] };
const POINT: Window = Window { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };

fn start() -> (Builder, ValueId) {
    let mut graph = Graph::new("quantised", Format::Onnx);
    let x = graph.add_value("x", Fact::f32(&[1, 6, 7, 5]));
    graph.inputs.push(x);
    let mut b = Builder(graph);
    let x = b.pair(x, DType::U8, 0.016, 127);
    (b, x)
}

fn count<T: Op + 'static>(graph: &Graph) -> usize {
    graph.nodes.iter().filter(|node| node.op.downcast::<T>().is_some()).count()
}

#[test]
fn convolutions_stay_on_bytes() {
    for dtype in [DType::U8, DType::I8] {
        let zero = if dtype == DType::U8 { 100 } else { -20 };
        let (mut b, x) = start();
        let y = b.conv(x, 9, 1, SAME);
        let y = b.pair(y, dtype, 0.05, zero);
        // SiLU, quantised in the middle.
        let gate = b.activate(Activation::Sigmoid, y);
        let gate = b.pair(gate, DType::U8, 1.0 / 255.0, 0);
        let y = b.binary(Function::Mul, y, gate);
        let y = b.pair(y, dtype, 0.04, zero);
        let z = b.conv(y, 9, 9, SAME);
        let z = b.activate(Activation::Clip { lo: 0.0, hi: 6.0 }, z);
        let z = b.pair(z, dtype, 0.03, zero);
        let sum = b.binary(Function::Add, y, z);
        let sum = b.pair(sum, dtype, 0.05, zero);
        let out = b.conv(sum, 4, 1, POINT);
        let out = b.pair(out, dtype, 0.2, zero);
        let graph = b.finish(out, 0.2);
        assert_eq!((count::<ConvOnBytes>(&graph), count::<Arithmetic>(&graph)), (3, 1));
        assert_eq!((graph.nodes.len(), count::<Quantise>(&graph), count::<Dequantise>(&graph)), (6, 1, 1));
    }
}

#[test]
fn pools_resizes_views_and_concats_move_bytes() {
    let (mut b, x) = start();
    let y = b.conv(x, 6, 1, POINT);
    let y = b.pair(y, DType::U8, 0.05, 100);
    let pool = b.node(Box::new(Pool::max(SAME)), &[y]);
    let pool = b.pair(pool, DType::U8, 0.05, 100);
    let turned = b.node(Box::new(crate::infer::ops::transpose::Transpose { permutation: vec![0, 1, 3, 2] }), &[x]);
    let turned = b.node(Box::new(crate::infer::ops::transpose::Transpose { permutation: vec![0, 1, 3, 2] }), &[turned]);
    let all = b.node(Box::new(Concat { axis: 1 }), &[y, pool, turned]);
    let all = b.pair(all, DType::U8, 0.06, 90);
    let large = b.node(Box::new(Resize::repeat(2, [7, 5])), &[all]);
    let large = b.pair(large, DType::U8, 0.06, 90);
    let graph = b.finish(large, 0.06);
    assert_eq!((count::<MaxPool>(&graph), count::<Nearest>(&graph), count::<Concat>(&graph)), (1, 1, 1));
    assert_eq!((count::<Quantise>(&graph), count::<Dequantise>(&graph)), (1, 1));
}

#[test]
fn what_has_no_form_on_bytes_is_f32_in_between() {
    let (mut b, x) = start();
    let y = b.conv(x, 5, 1, SAME);
    let y = b.pair(y, DType::U8, 0.05, 100);
    let soft = b.node(Box::new(crate::infer::ops::softmax::Softmax { axis: 1, log: false, flattens: false }), &[y]);
    let soft = b.pair(soft, DType::U8, 1.0 / 255.0, 0);
    let root = b.node(Box::new(crate::infer::ops::softmax::Softmax { axis: 2, log: false, flattens: false }), &[soft]);
    let root = b.pair(root, DType::U8, 1.0 / 255.0, 0);
    let graph = b.finish(root, 1.0 / 255.0);
    assert_eq!((count::<ConvOnBytes>(&graph), count::<Quantise>(&graph), count::<Dequantise>(&graph)), (1, 1, 1));
}
