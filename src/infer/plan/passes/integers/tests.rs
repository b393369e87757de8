//! Quantised arithmetic as files have it, on bytes and in f32.

use super::*;
use crate::infer::graph::Format;
use crate::infer::import::onnx::proto::AttributeProto;
use crate::infer::kernels::bytes::arithmetic::ByteArithmetic;
use crate::infer::kernels::bytes::constant::ByteConstant;
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::elementwise::Function;
use crate::infer::kernels::reduce::ReduceKind;
use crate::infer::ops::batch_norm::BatchNorm;
use crate::infer::ops::bytes::{Arithmetic, Average};
use crate::infer::ops::context::build_for_test;
use crate::infer::ops::conv::Conv;
use crate::infer::ops::dense::{Numbers, from_numbers};
use crate::infer::ops::gemm::{Gemm, MatMul};
use crate::infer::ops::reduce::Reduce;
use crate::infer::ops::transpose::Transpose;
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
        self.linear_along(0, name, x, scale, zero)
    }

    fn linear_along(&mut self, axis: i64, name: &str, x: ValueId, scale: ValueId, zero: ValueId) -> ValueId {
        let facts = [x, scale, zero].map(|v| self.0.fact(v).clone());
        let axis = [AttributeProto::int("axis", axis)];
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

    fn numbers(&mut self, shape: &[usize]) -> ValueId {
        let len: usize = shape.iter().product();
        let values = (0..len).map(|i| (i as f32 * 1.7).sin() + 0.3).collect();
        self.0.add_constant("numbers", &Tensor::from_f32(shape, values).expect("tensor"))
    }

    /// A matrix of i8 or u8 with a scale for all (`None`) or along an axis, dequantised.
    fn matrix(&mut self, shape: [usize; 2], dtype: DType, axis: Option<usize>) -> ValueId {
        let least = if dtype == DType::I8 { -127 } else { 0 };
        let values = (0..shape[0] * shape[1]).map(|i| (i * 91 % 255) as i64 + least).collect();
        let q = self.integers(&shape, dtype, values);
        let count = axis.map_or(1, |axis| shape[axis]);
        let scales = (0..count).map(|f| 0.004 + 0.0009 * f as f32).collect();
        let scale_shape: &[usize] = if axis.is_some() { &[count] } else { &[] };
        let scales = self.0.add_constant("scales", &Tensor::from_f32(scale_shape, scales).expect("tensor"));
        let zeros = (0..count).map(|f| if dtype == DType::I8 { 0 } else { 120 + f as i64 }).collect();
        let zeros = self.integers(scale_shape, dtype, zeros);
        self.linear_along(axis.unwrap_or(1) as i64, "DequantizeLinear", q, scales, zeros)
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
        assert_eq!((count::<ConvOnBytes>(&graph), count::<Arithmetic<ByteArithmetic>>(&graph)), (3, 1));
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
    let turned = b.node(Box::new(Transpose { permutation: vec![0, 1, 3, 2] }), &[x]);
    let turned = b.node(Box::new(Transpose { permutation: vec![0, 1, 3, 2] }), &[turned]);
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

/// Counts of Quantise and Dequantise.
fn borders(graph: &Graph) -> (usize, usize) {
    (count::<Quantise>(graph), count::<Dequantise>(graph))
}

#[test]
fn grouped_convolutions_are_on_bytes() {
    for (groups, filters) in [(2, 4), (3, 9), (6, 12)] {
        let (mut b, x) = start();
        let y = b.conv(x, filters, groups, SAME);
        let y = b.pair(y, DType::U8, 0.05, 100);
        let graph = b.finish(y, 0.05);
        assert_eq!((count::<ConvOnBytes>(&graph), borders(&graph)), (1, (1, 1)), "{groups} groups");
    }
}

#[test]
fn a_classifiers_end_is_on_bytes() {
    for (transpose_b, dtype, per_filter) in
        [(true, DType::I8, true), (false, DType::I8, true), (true, DType::U8, false), (false, DType::U8, true)]
    {
        let (mut b, x) = start();
        let y = b.conv(x, 9, 1, SAME);
        let y = b.pair(y, DType::U8, 0.04, 20);
        let y = b.activate(Activation::Clip { lo: 0.0, hi: 6.0 }, y);
        let y = b.node(Box::new(Reduce::global_average()), &[y]);
        let y = b.node(Box::new(Reshape { shape: vec![1, 9] }), &[y]);
        let y = b.pair(y, DType::U8, 0.012, 0);
        let filter_axis = usize::from(!transpose_b);
        let shape = if transpose_b { [13, 9] } else { [9, 13] };
        let weights = b.matrix(shape, dtype, per_filter.then_some(filter_axis));
        let bias = b.numbers(&[13]);
        let gemm = Gemm { alpha: 0.75, beta: 1.25, transpose_a: false, transpose_b };
        let y = b.node(Box::new(gemm), &[y, weights, bias]);
        let y = b.pair(y, DType::I8, 0.03, 4);
        let graph = b.finish(y, 0.03);
        assert_eq!((count::<ConvOnBytes>(&graph), count::<Average>(&graph)), (2, 1));
        assert_eq!((graph.nodes.len(), borders(&graph)), (6, (1, 1)), "{:?}", graph.nodes);
    }
}

#[test]
fn batch_norm_and_arithmetic_per_channel_go_into_what_is_before_them() {
    let (mut b, x) = start();
    let y = b.conv(x, 9, 1, SAME);
    let statistics: Vec<ValueId> = (0..4).map(|_| b.numbers(&[9])).collect();
    // No variance is negative.
    let variance = Tensor::from_f32(&[9], (0..9).map(|c| 0.4 + 0.1 * c as f32).collect()).expect("tensor");
    b.0.values[statistics[3].0].fact = Fact::of(&variance);
    let y = b.node(Box::new(BatchNorm { epsilon: 1e-3 }), &[&[y], &statistics[..]].concat());
    let factor = b.numbers(&[9, 1, 1]);
    let y = b.binary(Function::Mul, factor, y);
    let y = b.activate(Activation::Silu, y);
    let y = b.pair(y, DType::U8, 0.02, 14);
    let y = b.node(Box::new(Transpose { permutation: vec![0, 2, 3, 1] }), &[y]);
    // The weights are transposed after they were dequantised.
    let weights = b.matrix([4, 9], DType::I8, Some(0));
    let weights = b.node(Box::new(Transpose { permutation: vec![1, 0] }), &[weights]);
    let y = b.node(Box::new(MatMul), &[y, weights]);
    let (factor, shift) = (b.numbers(&[4]), b.numbers(&[1, 1, 1, 4]));
    let y = b.binary(Function::Div, y, factor);
    let y = b.binary(Function::Sub, y, shift);
    let y = b.pair(y, DType::I8, 0.05, -3);
    let graph = b.finish(y, 0.05);
    assert_eq!((count::<ConvOnBytes>(&graph), count::<Elementwise>(&graph), borders(&graph)), (2, 0, (1, 1)));
}

#[test]
fn functions_of_bytes_that_f32_reads_are_one_step() {
    // A maximum of what is not monotone is one of numbers.
    for (activation, steps) in [(Activation::Relu, 2), (Activation::Silu, 1)] {
        let scale = 1.0 / 255.0;
        let (mut b, x) = start();
        let y = b.conv(x, 5, 1, SAME);
        let y = b.pair(y, DType::U8, 0.05, 100);
        let y = b.activate(activation, y);
        let pool = b.node(Box::new(Pool::max(SAME)), &[y]);
        let y = b.binary(Function::Sub, y, pool);
        let y = b.node(Box::new(crate::infer::ops::softmax::Softmax { axis: 1, log: false, flattens: false }), &[y]);
        let y = b.pair(y, DType::U8, scale, 0);
        let y = b.conv(y, 3, 1, POINT);
        let y = b.pair(y, DType::U8, scale, 100);
        let graph = b.finish(y, scale);
        let functions = graph.nodes.iter().filter_map(|node| node.op.downcast::<Dequantise>());
        assert_eq!(functions.filter(|op| op.function.is_some()).count(), steps);
        assert_eq!((count::<Activate>(&graph), count::<ConvOnBytes>(&graph)), (0, 2));
    }
}

#[test]
fn matrix_products_of_rows_take_a_bias_that_is_added_after() {
    // Rows of 5 columns, which are not next to each other in memory; then rows of what came out.
    let (mut b, x) = start();
    let weights = b.matrix([5, 4], DType::I8, Some(1));
    let y = b.node(Box::new(MatMul), &[x, weights]);
    let bias = b.numbers(&[4]);
    let y = b.binary(Function::Add, bias, y);
    let y = b.activate(Activation::Relu, y);
    let y = b.pair(y, DType::U8, 0.03, 0);
    let y = b.node(Box::new(Reshape { shape: vec![6, 7, 4] }), &[y]);
    let weights = b.matrix([4, 11], DType::U8, None);
    let y = b.node(Box::new(MatMul), &[y, weights]);
    let y = b.node(Box::new(Transpose { permutation: vec![0, 2, 1] }), &[y]);
    let y = b.node(Box::new(Reshape { shape: vec![1, 66, 7] }), &[y]);
    let y = b.pair(y, DType::I8, 0.05, -3);
    let graph = b.finish(y, 0.05);
    assert_eq!((count::<ConvOnBytes>(&graph), count::<Elementwise>(&graph), borders(&graph)), (2, 0, (1, 1)));
}

#[test]
fn products_without_a_form_say_why() {
    // A scale for each row of the sum; a mean over channels.
    let (mut b, x) = start();
    let y = b.conv(x, 5, 1, POINT);
    let y = b.pair(y, DType::U8, 0.05, 100);
    let weights = b.matrix([5, 4], DType::I8, Some(0));
    let y = b.node(Box::new(MatMul), &[y, weights]);
    let y = b.pair(y, DType::U8, 0.04, 90);
    let z = b.node(Box::new(Reduce { kind: ReduceKind::Mean, axes: vec![1], keepdims: true }), &[y]);
    let z = b.pair(z, DType::U8, 0.02, 90);
    let out = b.conv(z, 3, 1, POINT);
    let out = b.pair(out, DType::U8, 0.01, 100);
    // Not quantised before something that has no form; not quantised before the output.
    let soft = b.node(Box::new(Elementwise::new(Function::Exp)), &[out]);
    let pool = b.node(Box::new(Reduce::global_average()), &[out]);
    let pool_name = b.0.value(pool).name.clone();
    let soft = b.binary(Function::Add, soft, pool);
    let last = b.conv(x, 3, 1, POINT);
    b.0.outputs.extend([soft, last]);
    let notes = Model::from_graph(b.0).on_bytes.expect("runs on bytes").1.remove(1).notes.join("\n");
    let before_add = format!("ReduceMean '{pool_name}': its result is not quantised before Add");
    for why in ["one per filter", "a mean over other axes", &before_add, "its result is an output"] {
        assert!(notes.contains(why), "{notes}");
    }
}

#[test]
fn means_are_on_bytes() {
    for (count_include_pad, ceil_mode) in [(true, false), (false, false), (false, true), (true, true)] {
        let (mut b, x) = start();
        let x = b.activate(Activation::Relu, x);
        let window = Window { kernel: [3, 2], stride: [2, 2], pads: [1, 1, 1, 0], dilation: [1, 1] };
        let pool = Pool { kind: PoolKind::Average { count_include_pad }, window, ceil_mode };
        let y = b.node(Box::new(pool), &[x]);
        let y = b.activate(Activation::Clip { lo: 0.2, hi: 1.0 }, y);
        let y = b.pair(y, DType::I8, 0.005, -120);
        let graph = b.finish(y, 0.005);
        assert_eq!((count::<Average>(&graph), borders(&graph)), (1, (1, 1)));
    }
    // Without the axes that are gone.
    let (mut b, x) = start();
    let y = b.node(Box::new(Reduce { keepdims: false, ..Reduce::global_average() }), &[x]);
    let y = b.pair(y, DType::I8, 0.005, 3);
    let graph = b.finish(y, 0.005);
    assert_eq!((count::<Average>(&graph), borders(&graph)), (1, (1, 1)));
}

#[test]
fn arithmetic_with_constants_is_on_bytes() {
    for shape in [&[6, 1, 1][..], &[1, 6, 7, 5], &[5], &[2, 6, 7, 5], &[1, 6, 1, 1]] {
        let (mut b, mut x) = start();
        let functions = [Function::Add, Function::Mul, Function::Sub, Function::Sub];
        for (i, function) in functions.into_iter().enumerate() {
            let constant = b.numbers(shape);
            x = if i % 2 == 0 { b.binary(function, x, constant) } else { b.binary(function, constant, x) };
            if i == 1 {
                x = b.activate(Activation::Relu, x);
            }
            x = b.pair(x, [DType::U8, DType::I8][i % 2], 0.04 + 0.01 * i as f32, 100);
        }
        let graph = b.finish(x, 0.07);
        assert_eq!((count::<Arithmetic<ByteConstant>>(&graph), borders(&graph)), (4, (1, 1)), "{shape:?}");
    }
}
