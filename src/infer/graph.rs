//! The graph: what every importer produces and every pass rewrites.
//!
//! Values have a name, an element type, a shape and, where known, a constant. All shapes are concrete: an importer
//! binds dynamic dims before it builds the graph. Axes stand in the order of the file (NCHW for feature maps); how a
//! value lies in memory is the planner's business, see [`crate::infer::plan`].

use std::collections::BTreeMap;
use std::fmt;

use super::op::Op;
use super::tensor::{DType, Tensor};

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// What is known of a value before anything runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// The value itself, where it does not depend on the input.
    pub constant: Option<Tensor>,
    /// Type and shape are only known once the value is computed; `dtype` and `shape` mean nothing then.
    pub late: bool,
}

impl Fact {
    pub fn new(dtype: DType, shape: &[usize]) -> Fact {
        Fact { dtype, shape: shape.to_vec(), constant: None, late: false }
    }

    pub fn f32(shape: &[usize]) -> Fact {
        Fact::new(DType::F32, shape)
    }

    /// A value of which nothing is known before it is computed.
    pub fn late() -> Fact {
        Fact { late: true, ..Fact::f32(&[]) }
    }

    /// True where the value has no place in a plan's f32 memory: it is a dense host tensor at run time.
    pub fn is_host(&self) -> bool {
        self.constant.is_none() && (self.late || self.dtype != DType::F32 || self.shape.contains(&0))
    }

    pub fn of(tensor: &Tensor) -> Fact {
        Fact { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), constant: Some(tensor.clone()), late: false }
    }
}

/// A named edge of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    pub name: String,
    pub fact: Fact,
}

/// One operation. A missing optional input is `None`.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub op: Box<dyn Op>,
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<ValueId>,
}

/// What a file says of an output before anything is computed. Of a [`Fact::late`] value it is all that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub dtype: DType,
    /// `None`: the file leaves it open.
    pub dims: Vec<Option<usize>>,
}

impl From<&Fact> for Declared {
    fn from(fact: &Fact) -> Declared {
        Declared { dtype: fact.dtype, dims: fact.shape.iter().map(|&n| Some(n)).collect() }
    }
}

/// `f32 [1, ?, 6]`
impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(|n| n.map_or("?".to_string(), |n| n.to_string())).collect();
        write!(f, "{} [{}]", self.dtype, dims.join(", "))
    }
}

/// What an importer knows of a detection head: Darknet's head sections carry their anchors with them.
#[derive(Clone, Debug, PartialEq)]
pub struct DarknetHead {
    /// What the section reads, not activated; one of the graph's outputs.
    pub output: ValueId,
    pub classes: usize,
    pub nms: DarknetNms,
    pub layout: DarknetLayout,
}

/// Which overlaps a head's section wants suppressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DarknetNms {
    /// IoU above the threshold.
    Greedy,
    /// IoU − (d²/c²)^beta above the threshold: d between the centres, c the diagonal of the box around both.
    Distance { beta: f32 },
}

/// Which point of a box the network gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxPoint {
    Centre,
    LeftTop,
    RightBottom,
}

/// What the numbers of a Darknet head are. C: classes, A: number of anchors.
#[derive(Clone, Debug, PartialEq)]
pub enum DarknetLayout {
    /// `[yolo]`: `[1, A·(5+C), h, w]`; x y w h objectness classes.
    Yolo {
        /// Width and height of each anchor in pixels of the network's input.
        anchors_px: Vec<[f32; 2]>,
        scale_x_y: f32,
        /// Boxes and scores leave the network already activated (Scaled-YOLOv4, YOLOv7).
        new_coords: bool,
    },
    /// `[Gaussian_yolo]`: `[1, A·(9+C), h, w]`; x σx y σy w σw h σh objectness classes.
    GaussianYolo { anchors_px: Vec<[f32; 2]>, scale_x_y: f32, point: BoxPoint },
    /// `[region]`: `[1, A·(coords+1+C), h, w]`; x y w h, further coords, objectness, classes.
    Region {
        /// In cells of the grid.
        anchors_cells: Vec<[f32; 2]>,
        coords: usize,
        /// Over the classes of an anchor; else logistic.
        softmax: bool,
    },
    /// `[detection]`: `[1, side²·(C + 5·boxes), 1, 1]`: classes of every cell, confidences, boxes.
    Detection {
        side: usize,
        /// Boxes per cell.
        boxes: usize,
        /// Widths and heights are given as square roots.
        square_root: bool,
        /// Over the classes of a cell.
        softmax: bool,
    },
}

/// Which kind of file a graph came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Onnx,
    Darknet,
}

/// A network. Nodes stand in an order in which they can run.
#[derive(Clone, Debug)]
pub struct Graph {
    pub name: String,
    pub format: Format,
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    /// For each output, whether the file declares it as f16. The graph computes in f32; what is handed out is f16.
    pub half_outputs: Vec<bool>,
    /// For each output what an ONNX file says of it, if it does; empty for other formats.
    pub declared_outputs: Vec<Option<Declared>>,
    /// `metadata_props` of an ONNX file.
    pub metadata: BTreeMap<String, String>,
    pub darknet_heads: Vec<DarknetHead>,
    /// Nodes that gave constants numbers for integers (DequantizeLinear), and what was transposed of these. The importer has
    /// computed them; passes look for the integers here.
    pub dequantised: Vec<Node>,
}

impl Graph {
    pub fn new(name: &str, format: Format) -> Graph {
        Graph {
            name: name.to_string(),
            format,
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            half_outputs: Vec::new(),
            declared_outputs: Vec::new(),
            metadata: BTreeMap::new(),
            darknet_heads: Vec::new(),
            dequantised: Vec::new(),
        }
    }

    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    pub fn fact(&self, id: ValueId) -> &Fact {
        &self.values[id.0].fact
    }

    /// Element type and dims of an output: as computed, or as declared where they depend on the input. `None` where
    /// the file does not say either.
    pub fn output_declared(&self, output: usize) -> Option<Declared> {
        let fact = self.fact(self.outputs[output]);
        if fact.late {
            return self.declared_outputs.get(output).cloned().flatten();
        }
        Some(fact.into())
    }

    pub fn add_value(&mut self, name: &str, fact: Fact) -> ValueId {
        self.values.push(Value { name: name.to_string(), fact });
        ValueId(self.values.len() - 1)
    }

    pub fn add_constant(&mut self, name: &str, tensor: &Tensor) -> ValueId {
        self.add_value(name, Fact::of(tensor))
    }

    /// Appends a node whose output shapes follow from its inputs, and returns its outputs, named `name` for the
    /// first and `name:1`, ... for the others.
    ///
    /// # Errors
    /// What [`Op::infer`] says of these inputs.
    pub fn add_node(
        &mut self,
        name: &str,
        op: Box<dyn Op>,
        inputs: &[Option<ValueId>],
    ) -> Result<Vec<ValueId>, super::op::OpError> {
        let facts: Vec<Option<&Fact>> = inputs.iter().map(|i| i.map(|i| self.fact(i))).collect();
        let outputs = op.infer(&facts)?;
        let outputs: Vec<ValueId> = outputs
            .into_iter()
            .enumerate()
            .map(|(i, fact)| {
                let name = if i == 0 { name.to_string() } else { format!("{name}:{i}") };
                self.add_value(&name, fact)
            })
            .collect();
        self.nodes.push(Node { name: name.to_string(), op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// For each value, the nodes that read it (a node twice where it reads it twice).
    pub fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for input in node.inputs.iter().flatten() {
                consumers[input.0].push(i);
            }
        }
        consumers
    }

    /// For each value, the node that writes it.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for output in &node.outputs {
                producers[output.0] = Some(i);
            }
        }
        producers
    }

    /// Makes every reader of `old`, and the graph's outputs, read `new` instead.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for node in &mut self.nodes {
            for input in node.inputs.iter_mut().flatten() {
                if *input == old {
                    *input = new;
                }
            }
        }
        for output in &mut self.outputs {
            if *output == old {
                *output = new;
            }
        }
        for head in &mut self.darknet_heads {
            if head.output == old {
                head.output = new;
            }
        }
    }

    /// Multiply-accumulates of one inference.
    pub fn macs(&self) -> u64 {
        self.nodes
            .iter()
            .map(|n| {
                let inputs: Vec<Option<&Fact>> = n.inputs.iter().map(|i| i.map(|i| self.fact(i))).collect();
                let outputs: Vec<&Fact> = n.outputs.iter().map(|&o| self.fact(o)).collect();
                n.op.macs(&inputs, &outputs)
            })
            .sum()
    }
}
