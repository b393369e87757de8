//! Integers that DequantizeLinear makes constants of, as they are before constants are folded.

use crate::infer::graph::{Graph, Node, ValueId};
use crate::infer::ops::transpose::Transpose;
use crate::infer::tensor::{Tensor, TensorElements};
use std::collections::HashMap;
use std::sync::Arc;

/// Constants that DequantizeLinear makes of integers, as they are before they are folded.
pub struct QuantisedConstants(HashMap<ValueId, Weights>);

/// Integers less their zero points, and a scale for all or for each place along an axis.
struct Weights {
    shape: Vec<usize>,
    values: Arc<Vec<i16>>,
    scales: Vec<f32>,
    axis: usize,
}

/// Integers `[filter][...]` less their zero points, and the scale of each filter.
pub struct Filters {
    pub values: Arc<Vec<i16>>,
    pub scales: Vec<f32>,
}

impl QuantisedConstants {
    /// Looks for them in a graph as imported.
    pub fn of(graph: &Graph) -> QuantisedConstants {
        let producers = graph.producers();
        let constants = |node: &Node| -> Option<Vec<Option<Tensor>>> {
            node.inputs
                .iter()
                .map(|i| i.map(|i| graph.fact(i).constant.clone()).map_or(Some(None), |t| t.map(Some)))
                .collect()
        };
        let evaluated = |node: &Node, inputs: &[Option<Tensor>]| -> Option<Tensor> {
            let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
            node.op.eval(&inputs)?.ok()?.into_iter().next()
        };
        let mut found = HashMap::new();
        for node in graph.dequantised.iter().chain(&graph.nodes) {
            let Some(&Some(x)) = node.inputs.first() else { continue };
            if node.op.downcast::<Transpose>().is_some_and(|op| op.permutation == [1, 0]) {
                if let Some(transposed) = found.get(&x).and_then(Weights::transposed) {
                    found.insert(node.outputs[0], transposed);
                }
                continue;
            }
            if node.op.name() != "DequantizeLinear" {
                continue;
            }
            let mut inputs: Vec<Option<Tensor>> =
                node.inputs.iter().map(|i| i.and_then(|i| graph.fact(i).constant.clone())).collect();
            // Weights that the file quantises itself.
            if let (None, Some(producer)) = (&inputs[0], producers[x.0]) {
                let quantise = &graph.nodes[producer];
                if quantise.op.name() == "QuantizeLinear" {
                    inputs[0] = constants(quantise).and_then(|given| evaluated(quantise, &given));
                }
            }
            let given = node.inputs.iter().zip(&inputs).all(|(input, tensor)| input.is_none() == tensor.is_none());
            if !given {
                continue;
            }
            let computed = graph.fact(node.outputs[0]).constant.clone();
            let Some(numbers) = computed.or_else(|| evaluated(node, &inputs)) else { continue };
            if let Some(weights) = Weights::new(&inputs, &numbers) {
                found.insert(node.outputs[0], weights);
            }
        }
        QuantisedConstants(found)
    }

    /// The filters of a convolution, which are the places along the first axis, or of a matrix, along any of the two.
    pub fn filters(&self, constant: ValueId, axis: usize) -> Option<Filters> {
        let weights = self.0.get(&constant).filter(|w| w.scales.len() == 1 || w.axis == axis)?;
        let count = *weights.shape.get(axis)?;
        let values = match axis {
            0 => weights.values.clone(),
            _ => weights.transposed()?.values,
        };
        let scales = (0..count).map(|f| weights.scales[f.min(weights.scales.len() - 1)]).collect();
        Some(Filters { values, scales })
    }
}

impl Weights {
    /// Of a matrix, rows for columns.
    fn transposed(&self) -> Option<Weights> {
        let &[rows, columns] = &self.shape[..] else { return None };
        let column = |n: usize| (0..rows).map(move |k| self.values[k * columns + n]);
        let values = Arc::new((0..columns).flat_map(column).collect());
        Some(Weights { shape: vec![columns, rows], values, scales: self.scales.clone(), axis: 1 - self.axis })
    }

    /// `None` where the scales belong to no axis. `numbers`: what DequantizeLinear gives.
    fn new(inputs: &[Option<Tensor>], numbers: &Tensor) -> Option<Weights> {
        let (q, scales) = (inputs.first()?.as_ref()?, inputs.get(1)?.as_ref()?.to_f32());
        if ![2, 4].contains(&q.rank()) || q.is_empty() {
            return None;
        }
        let zeros = inputs.get(2).and_then(Option::as_ref).map_or(vec![0], Tensor::to_i64);
        if !scales.iter().all(|s| s.is_normal()) {
            return None;
        }
        let integers: Vec<i16> = match q.elements() {
            TensorElements::U8(values) => values.iter().map(|&q| i16::from(q)).collect(),
            TensorElements::I8(values) => values.iter().map(|&q| i16::from(q)).collect(),
            _ => return None,
        };
        let TensorElements::F32(numbers) = numbers.elements() else { return None };
        // Whichever axis the file names, it is one for which the integers mean these numbers.
        (0..q.rank()).find_map(|axis| {
            let (extent, inner) = (q.shape()[axis], q.shape()[axis + 1..].iter().product::<usize>());
            if ![1, extent].contains(&scales.len()) || ![1, extent].contains(&zeros.len()) {
                return None;
            }
            let mut values = integers.clone();
            for (run, (values, numbers)) in values.chunks_mut(inner).zip(numbers.chunks(inner)).enumerate() {
                let place = run % extent;
                let zero =
                    i16::try_from(zeros[place.min(zeros.len() - 1)]).ok().filter(|z| (-128..=255).contains(z))?;
                let scale = f64::from(scales[place.min(scales.len() - 1)]);
                for (value, &number) in values.iter_mut().zip(numbers) {
                    *value -= zero;
                    if !(-255..=255).contains(value) || (f64::from(*value) * scale) as f32 != number {
                        return None;
                    }
                }
            }
            Some(Weights { shape: q.shape().to_vec(), values: Arc::new(values), scales: scales.clone(), axis })
        })
    }
}
