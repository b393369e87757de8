//! Activations that exporters write out in several nodes become one.
//!
//! | pattern | becomes |
//! |---|---|
//! | x·Sigmoid(x) | SiLU |
//! | x·HardSigmoid(x; 1/6, 1/2) | HardSwish |
//! | x·Clip(x + 3; 0, 6) / 6, in any grouping | HardSwish |
//! | x·Tanh(Softplus(x)) | Mish |
//! | 0.5·x·(1 + Erf(x/√2)), in any grouping | GELU |

use super::PassReport;
use super::pattern::{Edges, as_activation, as_binary, producer_of, uniform, with_uniform};
use crate::infer::activation::Activation;
use crate::infer::graph::{Graph, ValueId};
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::elementwise::Elementwise;

pub fn run(graph: &mut Graph) -> PassReport {
    let mut report = PassReport::new("recognise activations");
    let edges = Edges::of(graph);
    let mut replacements = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let Some(op) = node.op.downcast::<Elementwise>() else { continue };
        if op.activation != Activation::None || !matches!(op.function, Function::Mul | Function::Div) {
            continue;
        }
        let output = node.outputs[0];
        if let Some((activation, x)) = recognise(graph, &edges, output) {
            if graph.fact(x).shape == graph.fact(output).shape {
                replacements.push((i, activation, x));
            } else {
                report.did_not(format!("'{}' broadcasts its operand", node.name));
            }
        }
    }
    for (i, activation, x) in replacements {
        let node = &mut graph.nodes[i];
        report.did(format!("{} ending in '{}'", activation.label(), node.name));
        node.op = Box::new(Activate { activation });
        node.inputs = vec![Some(x)];
    }
    report
}

fn recognise(graph: &Graph, edges: &Edges, output: ValueId) -> Option<(Activation, ValueId)> {
    let product = as_binary(graph, edges, output, Function::Mul);
    if let Some([a, b]) = product {
        for (x, gate) in [(a, b), (b, a)] {
            match as_activation(graph, edges, gate) {
                Some((Activation::Sigmoid, of)) if of == x => return Some((Activation::Silu, x)),
                Some((Activation::HardSigmoid { alpha, beta }, of)) if of == x && is_sixth(alpha) && beta == 0.5 => {
                    return Some((Activation::HardSwish, x));
                }
                Some((Activation::Tanh, inner)) => match as_activation(graph, edges, inner) {
                    Some((Activation::Softplus, of)) if of == x => return Some((Activation::Mish, x)),
                    _ => {}
                },
                _ => {}
            }
        }
    }
    hard_swish(graph, edges, output).or_else(|| gelu(graph, edges, output))
}

fn is_sixth(v: f32) -> bool {
    (v - 1.0 / 6.0).abs() < 1e-6
}

/// The factors of a product (or quotient by a constant): run-time values, and the product of the constants.
fn factors(graph: &Graph, edges: &Edges, value: ValueId, depth: usize, out: &mut Vec<ValueId>, scale: &mut f32) {
    if let Some(c) = uniform(graph, value) {
        *scale *= c;
        return;
    }
    if depth < 4 {
        let is_ours = depth == 0 || edges.has_one_reader(value);
        if is_ours && let Some([a, b]) = as_binary(graph, edges, value, Function::Mul) {
            factors(graph, edges, a, depth + 1, out, scale);
            factors(graph, edges, b, depth + 1, out, scale);
            return;
        }
        if is_ours
            && let Some([a, b]) = as_binary(graph, edges, value, Function::Div)
            && let Some(c) = uniform(graph, b)
        {
            *scale /= c;
            factors(graph, edges, a, depth + 1, out, scale);
            return;
        }
    }
    out.push(value);
}

fn two_factors(graph: &Graph, edges: &Edges, output: ValueId) -> Option<([ValueId; 2], f32)> {
    let (mut values, mut scale) = (Vec::new(), 1.0);
    factors(graph, edges, output, 0, &mut values, &mut scale);
    match values[..] {
        [a, b] => Some(([a, b], scale)),
        _ => None,
    }
}

fn hard_swish(graph: &Graph, edges: &Edges, output: ValueId) -> Option<(Activation, ValueId)> {
    let ([a, b], scale) = two_factors(graph, edges, output)?;
    if !is_sixth(scale) {
        return None;
    }
    [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
        let (Activation::Clip { lo, hi }, sum) = as_activation(graph, edges, gate)? else { return None };
        let (of, c) = with_uniform(graph, as_binary(graph, edges, sum, Function::Add)?)?;
        (of == x && c == 3.0 && lo == 0.0 && hi == 6.0).then_some((Activation::HardSwish, x))
    })
}

fn gelu(graph: &Graph, edges: &Edges, output: ValueId) -> Option<(Activation, ValueId)> {
    let ([a, b], scale) = two_factors(graph, edges, output)?;
    if (scale - 0.5).abs() > 1e-6 {
        return None;
    }
    [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
        let (erf, one) = with_uniform(graph, as_binary(graph, edges, gate, Function::Add)?)?;
        let (node, op) = producer_of::<Elementwise>(graph, edges, erf)?;
        if one != 1.0 || op.function != Function::Erf {
            return None;
        }
        let (mut of, mut s) = (Vec::new(), 1.0);
        factors(graph, edges, node.inputs[0]?, 0, &mut of, &mut s);
        (of == [x] && (s - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-5).then_some((Activation::Gelu, x))
    })
}
