//! Graphs and outputs for tests of heads.

use crate::decode::RawDetection;
use crate::decode::head::{Head, OutputRef, ScoreFilter};
use crate::infer::graph::{Declared, Fact, Format, Graph, Node, ValueId};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::{BufferId, View};
use crate::infer::tensor::DType;

/// An operator that is nothing but its name.
#[derive(Clone, Debug)]
struct Named(&'static str);

impl Op for Named {
    fn name(&self) -> &'static str {
        self.0
    }
    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(Vec::new())
    }
    fn is_view(&self) -> bool {
        matches!(self.0, "Transpose" | "Reshape")
    }
}

/// A graph with an input `[1, 3, height, width]` and these outputs: each the transposed concatenation of parts that
/// are computed by the named operators.
pub fn graph(width: usize, height: usize, outputs: &[(&str, &[usize], &[&'static str])]) -> Graph {
    let mut graph = Graph::new("test", Format::Onnx);
    let input = graph.add_value("images", Fact::f32(&[1, 3, height, width]));
    graph.inputs.push(input);
    let node = |graph: &mut Graph, op: &'static str, inputs: &[ValueId], shape: &[usize], name: &str| {
        let out = graph.add_value(name, Fact::f32(shape));
        graph.nodes.push(Node {
            name: name.to_string(),
            op: Box::new(Named(op)),
            inputs: inputs.iter().map(|&i| Some(i)).collect(),
            outputs: vec![out],
        });
        out
    };
    for &(name, shape, parts) in outputs {
        let parts: Vec<ValueId> = parts.iter().map(|op| node(&mut graph, op, &[input], &[1], op)).collect();
        let joined = node(&mut graph, "Concat", &parts, shape, "joined");
        let out = node(&mut graph, "Transpose", &[joined], shape, name);
        graph.outputs.push(out);
    }
    graph
}

/// Makes the shape of an output depend on the picture; the file says `dims` of it.
pub fn late(graph: &mut Graph, output: usize, dtype: DType, dims: &[Option<usize>]) {
    let id = graph.outputs[output];
    graph.values[id.0].fact = Fact::late();
    graph.declared_outputs.resize(graph.outputs.len(), None);
    graph.declared_outputs[output] = Some(Declared { dtype, dims: dims.to_vec() });
}

/// Repeatable numbers in 0..1.
pub fn noise(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0
    }
}

/// A dense tensor with a function from coordinates to values.
pub struct Table {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Table {
    pub fn new(shape: &[usize], mut value: impl FnMut(&[usize]) -> f32) -> Table {
        let mut at = vec![0; shape.len()];
        let values = (0..shape.iter().product::<usize>())
            .map(|flat| {
                let mut rest = flat;
                for axis in (0..shape.len()).rev() {
                    at[axis] = rest % shape[axis];
                    rest /= shape[axis];
                }
                value(&at)
            })
            .collect();
        Table { shape: shape.to_vec(), values }
    }

    pub fn at(&self, coordinates: &[usize]) -> f64 {
        f64::from(self.values[View::row_major(BufferId(0), &self.shape).index(coordinates)])
    }

    /// The same values in a buffer where the axes lie in that order, slowest first, after some unused elements.
    fn stored(&self, order: &[usize], block: usize, offset: usize) -> (Vec<f32>, View) {
        let mut view = View::in_order(BufferId(0), &self.shape, order, block);
        view.offset = offset;
        let dense = View::row_major(BufferId(0), &self.shape);
        let mut values = vec![f32::NAN; view.end() + 3];
        for flat in 0..dense.len() {
            let mut rest = flat;
            let mut at = vec![0; self.shape.len()];
            for axis in (0..self.shape.len()).rev() {
                at[axis] = rest % self.shape[axis];
                rest /= self.shape[axis];
            }
            values[view.index(&at)] = self.values[flat];
        }
        (values, view)
    }
}

/// The outputs of a network in several memory layouts, one after the other.
pub fn references(tables: &[Table], mut each: impl FnMut(&[OutputRef<'_>])) {
    for (block, offset, reverse) in [(1, 0, false), (4, 8, false), (1, 4, true)] {
        let stored: Vec<(Vec<f32>, View)> = tables
            .iter()
            .map(|t| {
                let mut order: Vec<usize> = (0..t.shape.len()).collect();
                if reverse {
                    order = crate::infer::plan::view::channels_last_order(t.shape.len());
                }
                t.stored(&order, block, offset)
            })
            .collect();
        let outputs: Vec<OutputRef<'_>> = stored.iter().map(|(values, view)| OutputRef { values, view }).collect();
        each(&outputs);
    }
}

/// Runs a head's twin on tables in several memory layouts, checks that all give the same, and returns it sorted by
/// anchor and class.
pub fn decode(head: &dyn Head, tables: &[Table], threshold: f32, multi_label: bool) -> Vec<RawDetection> {
    let mut all: Vec<Vec<RawDetection>> = Vec::new();
    references(tables, |outputs| {
        let mut found = Vec::new();
        head.decode_twin(outputs, ScoreFilter { threshold, multi_label }, &mut found);
        found.sort_by_key(|d| (d.anchor, d.class));
        all.push(found);
    });
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
    all.swap_remove(0)
}

/// Expected candidate: anchor, class, score and box in f64.
pub type Expected = (usize, usize, f64, [f64; 4]);

/// Compares with what an independent computation found. Candidates within 1e-5 of the threshold may be missing on
/// either side.
pub fn assert_same(found: &[RawDetection], expected: &[Expected], threshold: f64) {
    assert!(!expected.is_empty(), "the test finds nothing");
    let sure: Vec<&Expected> = expected.iter().filter(|e| e.2 > threshold + 1e-5).collect();
    let found: Vec<&RawDetection> = found.iter().filter(|d| f64::from(d.score) > threshold + 1e-5).collect();
    assert_eq!(
        found.iter().map(|d| (d.anchor as usize, d.class as usize)).collect::<Vec<_>>(),
        sure.iter().map(|e| (e.0, e.1)).collect::<Vec<_>>()
    );
    for (d, e) in found.iter().zip(&sure) {
        assert!((f64::from(d.score) - e.2).abs() < 1e-5, "{d:?} {e:?}");
        for k in 0..4 {
            assert!((f64::from(d.bounds[k]) - e.3[k]).abs() < 1e-2 + 1e-5 * e.3[k].abs(), "{d:?} {e:?}");
        }
    }
}
