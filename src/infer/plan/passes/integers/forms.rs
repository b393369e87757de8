//! The forms on bytes of a file's operators. An error says why there is none.

use super::{OfByte, Walk};
use crate::infer::activation::Activation;
use crate::infer::bytes::{ByteScale, FixedPoint};
use crate::infer::graph::{Node, ValueId};
use crate::infer::kernels::bytes::arithmetic::{ByteArithmetic, ByteFunction};
use crate::infer::kernels::bytes::average::ByteAverage;
use crate::infer::kernels::bytes::constant::ByteConstant;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::conv::{Residual, Window};
use crate::infer::kernels::elementwise::Function;
use crate::infer::kernels::pool::PoolKind;
use crate::infer::kernels::reduce::ReduceKind;
use crate::infer::op::Op;
use crate::infer::ops::bytes::{Arithmetic, Average, ConvOnBytes};
use crate::infer::ops::conv::Conv;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::gemm::{Gemm, MatMul, POINT};
use crate::infer::ops::pool::Pool;
use crate::infer::ops::reduce::Reduce;
use crate::infer::tensor::Tensor;
use std::sync::Arc;

/// Products of one sum, at most: it fits in i32 whatever they are.
const DEPTH_MAX: usize = 1 << 15;

/// An operator on bytes and what it reads.
pub(super) struct Form {
    pub op: Box<dyn Op>,
    pub inputs: Vec<ValueId>,
    /// Of its result, where that is not the shape in the file but holds the same elements.
    pub shape: Option<Vec<usize>>,
}

impl Form {
    fn new(op: impl Op + 'static, inputs: Vec<ValueId>) -> Form {
        Form { op: Box::new(op), inputs, shape: None }
    }
}

/// What follows an operator before its result is quantised.
pub(super) struct Follows {
    pub affine: Option<Affine>,
    pub activation: Activation,
    pub to: ByteScale,
}

/// Each channel times a factor, plus a shift.
pub(super) struct Affine {
    pub factors: Vec<f64>,
    pub shifts: Vec<f64>,
}

impl Affine {
    /// This one of what another gives.
    pub fn after(&self, first: &Affine) -> Affine {
        let channels = 0..self.factors.len();
        Affine {
            factors: channels.clone().map(|c| self.factors[c] * first.factors[c]).collect(),
            shifts: channels.map(|c| self.factors[c] * first.shifts[c] + self.shifts[c]).collect(),
        }
    }
}

/// Whether the node is a convolution, or a product of matrices.
pub(super) fn is_filtering(node: &Node, of_rows: bool) -> bool {
    let op = &node.op;
    if of_rows {
        op.downcast::<Gemm>().is_some() || op.downcast::<MatMul>().is_some()
    } else {
        op.downcast::<Conv>().is_some()
    }
}

/// A convolution, or what is one.
struct Filtering<'a> {
    window: Window,
    groups: usize,
    weights: ValueId,
    /// Axis of the weights along which the filters are.
    filter_axis: usize,
    bias: Option<Vec<f32>>,
    /// Of the weights.
    factor: f32,
    of_rows: bool,
    x: &'a OfByte,
}

fn input(node: &Node, i: usize) -> Option<ValueId> {
    node.inputs.get(i).copied().flatten()
}

impl Walk<'_> {
    /// The form of a node whose result is quantised.
    pub(super) fn form(&self, node: &Node, follows: &Follows) -> Result<Form, String> {
        let op = &node.op;
        if is_filtering(node, false) || is_filtering(node, true) {
            return self.filtering(node, follows);
        }
        if let Some(op) = op.downcast::<Elementwise>() {
            return self.arithmetic(node, op, follows);
        }
        if let Some(pool) = op.downcast::<Pool>()
            && let PoolKind::Average { count_include_pad } = pool.kind
        {
            return self.average(node, pool.window, count_include_pad, pool.ceil_mode, follows);
        }
        if let Some(reduce) = op.downcast::<Reduce>()
            && reduce.kind == ReduceKind::Mean
        {
            let shape = input(node, 0).map(|x| &self.graph.fact(x).shape[..]);
            let (Some(&[n, c, h, w]), [2, 3]) = (shape, &reduce.axes[..]) else {
                return Err("is a mean over other axes than height and width".into());
            };
            let window = Window { kernel: [h, w], ..POINT };
            let form = self.average(node, window, false, false, follows)?;
            return Ok(Form { shape: Some(vec![n, c, 1, 1]), ..form });
        }
        Err("has no form on bytes".into())
    }

    /// The bytes themselves that a value stands for.
    fn quantised_input(&self, node: &Node) -> Result<&OfByte, String> {
        let x = input(node, 0).and_then(|x| self.functions.get(&x)).ok_or("its input is not quantised")?;
        if x.plain { Ok(x) } else { Err("its input is not quantised after the function before it".into()) }
    }

    fn constant(&self, value: ValueId) -> Option<&Tensor> {
        self.graph.fact(value).constant.as_ref()
    }

    fn filtering(&self, node: &Node, follows: &Follows) -> Result<Form, String> {
        let x = self.quantised_input(node)?;
        let weights = input(node, 1).ok_or("has no weights")?;
        let shape = &self.graph.fact(node.outputs[0]).shape;
        let point = |filter_axis: usize, bias: Option<Vec<f32>>, factor: f32| Filtering {
            window: POINT,
            groups: 1,
            weights,
            filter_axis,
            bias,
            factor,
            of_rows: true,
            x,
        };
        let filtering = if let Some(conv) = node.op.downcast::<Conv>() {
            if shape.len() != 4 {
                return Err("is not 2-D".into());
            }
            if conv.activation != Activation::None || conv.residual != Residual::None {
                return Err("something is fused into it already".into());
            }
            let bias = match input(node, 2) {
                None => None,
                Some(bias) => Some(self.constant(bias).ok_or("its bias is no constant")?.to_f32()),
            };
            let Conv { window, groups, .. } = *conv;
            Filtering { window, groups, of_rows: false, ..point(0, bias, 1.0) }
        } else if let Some(gemm) = node.op.downcast::<Gemm>() {
            if gemm.transpose_a {
                return Err("its input is transposed".into());
            }
            let bias = match input(node, 2) {
                None => None,
                Some(c) => {
                    let c = self.constant(c).ok_or("its bias is no constant")?;
                    Some(gemm.bias(c, shape[1]).ok_or("its bias is not the same in all rows")?)
                }
            };
            point(usize::from(!gemm.transpose_b), bias, gemm.alpha)
        } else {
            if self.graph.fact(weights).shape.len() != 2 || shape.len() < 2 {
                return Err("is no product of rows and one matrix".into());
            }
            point(1, None, 1.0)
        };
        self.on_bytes(node, &filtering, follows)
    }

    fn on_bytes(&self, node: &Node, of: &Filtering<'_>, follows: &Follows) -> Result<Form, String> {
        let shape = self.graph.fact(node.outputs[0]).shape.clone();
        let axis = if of.of_rows { shape.len() - 1 } else { 1 };
        let filters = self.constants.filters(of.weights, of.filter_axis);
        let filters = filters.ok_or("its weights are not quantised in 8 bits, with one scale or one per filter")?;
        let count = shape[axis];
        if filters.values.len() / count.max(1) > DEPTH_MAX {
            return Err(format!("sums of more than {DEPTH_MAX} products"));
        }
        let bias = of.bias.clone().unwrap_or_else(|| vec![0.0; count]);
        let affine = follows.affine.as_ref();
        let factor = |channel: usize| affine.map_or(1.0, |affine| affine.factors[channel]);
        let shift = |channel: usize| affine.map_or(0.0, |affine| affine.shifts[channel]);
        let scale = |(c, s): (usize, &f32)| (f64::from(*s) * f64::from(of.factor) * factor(c)) as f32;
        let moved = |(c, b): (usize, &f32)| (f64::from(*b) * factor(c) + shift(c)) as f32;
        let kernel = ByteConv {
            window: of.window,
            groups: of.groups,
            weights: filters.values,
            weight_scales: Arc::new(filters.scales.iter().enumerate().map(scale).collect()),
            bias: Arc::new(bias.iter().enumerate().map(moved).collect()),
            from: of.x.from,
            activation: follows.activation,
            to: follows.to,
            table: None,
        };
        let requantise = kernel.requantise();
        if !requantise.factors.iter().chain(&requantise.offsets).all(|v| v.is_finite()) {
            return Err("its scales or its bias are not finite".into());
        }
        Ok(Form::new(ConvOnBytes { kernel, shape, of_rows: of.of_rows }, vec![of.x.base]))
    }

    fn arithmetic(&self, node: &Node, op: &Elementwise, follows: &Follows) -> Result<Form, String> {
        let to = follows.to;
        let bounds = to.clamp(follows.activation).filter(|_| op.activation == Activation::None);
        let bounds = || bounds.ok_or("has an activation that is no clamp");
        let (Some(a), Some(b)) = (input(node, 0), input(node, 1)) else { return Err("has no form on bytes".into()) };
        let of = |x: ValueId| self.functions.get(&x).filter(|f| f.plain);
        let function = match op.function {
            Function::Add => ByteFunction::Add,
            Function::Sub => ByteFunction::Sub,
            Function::Mul => ByteFunction::Mul,
            _ => return Err("has no form on bytes".into()),
        };
        let (x, constant, constant_first) = match (of(a), of(b)) {
            (Some(a), Some(b)) => {
                let kernel = ByteArithmetic { function, operands: [a.from, b.from], to, bounds: bounds()? };
                return Ok(Form::new(Arithmetic { kernel }, vec![a.base, b.base]));
            }
            (Some(x), None) if self.constant(b).is_some() => (x, b, false),
            (None, Some(x)) if self.constant(a).is_some() => (x, a, true),
            _ => return Err("not both of its inputs are quantised or constant".into()),
        };
        let kernel = ByteConstant { function, constant_first, from: x.from, to, bounds: bounds()? };
        Ok(Form::new(Arithmetic { kernel }, vec![x.base, constant]))
    }

    fn average(
        &self,
        node: &Node,
        window: Window,
        count_include_pad: bool,
        ceil_mode: bool,
        follows: &Follows,
    ) -> Result<Form, String> {
        let x = input(node, 0).and_then(|x| self.functions.get(&x)).ok_or("its input is not quantised")?;
        let bounds = follows.to.clamp(follows.activation).ok_or("has an activation that is no clamp")?;
        let numbers = FixedPoint::new(&x.numbers, x.from, window.taps()).ok_or("its sums do not fit in 32 bits")?;
        let kernel = ByteAverage { window, count_include_pad, from: x.from, numbers, to: follows.to, bounds };
        if !kernel.factor(1).is_finite() {
            return Err("its scales are too far apart".into());
        }
        Ok(Form::new(Average { kernel, ceil_mode }, vec![x.base]))
    }
}
