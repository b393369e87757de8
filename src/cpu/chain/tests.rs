//! Chains against the same steps one after the other, to the last bit.

use std::sync::Arc;

use super::*;
use crate::cpu::Isa;
use crate::cpu::testing::values;
use crate::infer::activation::Activation;
use crate::infer::bytes::ByteScale;
use crate::infer::kernel::{Kernel, OnBytes};
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::bytes::max_pool::ByteMaxPool;
use crate::infer::kernels::conv::{Conv, Residual};
use crate::infer::kernels::depthwise::Depthwise;
use crate::infer::kernels::pool::{Pool, PoolKind};
use crate::infer::plan::memory::plan_arena;
use crate::infer::plan::step::Buffer;
use crate::infer::tensor::DType;

/// Everything that can be a chain becomes one.
const EAGER: Limits = Limits { map_bytes: 0, windows_bytes: 1 << 30, rows: 3 };

#[derive(Clone, Copy, Debug)]
enum Layer {
    /// Output channels, side of the window, stride.
    Conv(usize, usize, usize),
    /// A convolution to which the network's input is added.
    AddInput(usize),
    Depthwise(usize, usize),
    MaxPool(usize, usize),
}
use Layer::{AddInput, Conv as C, Depthwise as D, MaxPool as M};

const NETWORKS: &[&[Layer]] = &[
    &[C(13, 1, 1), D(3, 1), C(5, 1, 1)],
    &[C(24, 1, 1), D(3, 2), C(7, 1, 1)],
    &[C(16, 1, 1), D(5, 1), AddInput(1)],
    &[C(9, 1, 1), D(5, 2), C(3, 1, 2), D(3, 1)],
    &[C(16, 3, 2), D(3, 1), C(8, 1, 1), C(24, 1, 1), D(3, 2), C(5, 1, 1)],
    &[C(8, 3, 1), M(2, 2), C(16, 3, 1), M(2, 2)],
    &[C(16, 3, 1), M(3, 2), C(32, 3, 1), C(16, 3, 1), M(2, 1)],
    &[C(16, 3, 1), C(16, 3, 1), AddInput(3)],
    &[C(40, 3, 1), C(8, 5, 3), D(4, 1)],
];

struct Network {
    plan: Plan,
    element: Element,
    /// Channels, height and width of the last map.
    shape: [usize; 3],
}

impl Network {
    fn new(layers: &[Layer], input: [usize; 3], element: Element) -> Option<Network> {
        let mut network = Network { plan: Plan::default(), element, shape: input };
        network.buffer(input, BufferKind::Input);
        for (i, &layer) in layers.iter().enumerate() {
            network.add(layer, i)?;
        }
        let last = network.plan.buffers.len() - 1;
        network.plan.outputs = vec![("out".into(), network.view(last, network.shape))];
        Some(network)
    }

    fn buffer(&mut self, [c, h, w]: [usize; 3], kind: BufferKind) {
        self.plan.buffers.push(Buffer { name: String::new(), len_elements: c * h * w, element: self.element, kind });
    }

    fn view(&self, buffer: usize, [c, h, w]: [usize; 3]) -> View {
        View { buffer: BufferId(buffer), offset: 0, shape: vec![1, c, h, w], strides: vec![c * h * w, 1, w * c, c] }
    }

    /// `None` where no window fits.
    fn add(&mut self, layer: Layer, at: usize) -> Option<()> {
        let [ins, h, w] = self.shape;
        let (side, stride, outs) = match layer {
            C(outs, side, stride) => (side, stride, outs),
            AddInput(side) => (side, 1, self.plan.inputs_channels()),
            D(side, stride) | M(side, stride) => (side, stride, ins),
        };
        let pads = [side / 2, side / 2, (side - 1) / 2, (side - 1) / 2];
        let window = Window { kernel: [side; 2], stride: [stride; 2], pads, dilation: [1, 1] };
        let len = |len: usize| Some((len + side - 1).checked_sub(side)? / stride + 1);
        let shape = [outs, len(h)?, len(w)?];
        let mut reads = vec![self.view(at, self.shape)];
        let mut residual = Residual::None;
        if matches!(layer, AddInput(_)) {
            if shape[1..] != self.plan.inputs_size() {
                return None;
            }
            reads.push(self.view(0, shape));
            residual = Residual::AfterActivation;
        }
        let kernel: Arc<dyn Kernel> = match (self.element, layer) {
            (Element::F32, M(..)) => Arc::new(Pool { kind: PoolKind::Max, window }),
            (Element::F32, D(..)) => {
                let weights = Arc::new(values(at as u64, ins * side * side));
                let bias = Arc::new(values(at as u64 + 50, ins));
                Arc::new(Depthwise { window, weights, bias, activation: Activation::Silu, residual })
            }
            (Element::F32, _) => {
                let weights = Arc::new(values(at as u64, outs * ins * side * side));
                let bias = Arc::new(values(at as u64 + 50, outs));
                Arc::new(Conv { window, weights, bias, activation: Activation::LeakyRelu { alpha: 0.1 }, residual })
            }
            (Element::Byte, M(..)) => Arc::new(OnBytes(ByteMaxPool { window, signed: false })),
            (Element::Byte, layer) => {
                let (groups, ins) = if matches!(layer, D(..)) { (ins, 1) } else { (1, ins) };
                let weights = values(at as u64, outs * ins * side * side);
                let scale = |scale| ByteScale::new(DType::U8, scale, 100.0);
                Arc::new(OnBytes(ByteConv {
                    window,
                    groups,
                    weights: Arc::new(weights.iter().map(|w| (w * 100.0) as i16).collect()),
                    weight_scales: Arc::new(vec![0.5 / ((ins * side * side) as f32).sqrt(); outs]),
                    bias: Arc::new(values(at as u64 + 50, outs)),
                    from: scale(0.02)?,
                    activation: Activation::None,
                    to: scale(0.4)?,
                    table: None,
                }))
            }
        };
        self.buffer(shape, BufferKind::Activation { first: at, last: at + 1 });
        let writes = vec![self.view(at + 1, shape)];
        self.plan.steps.push(Step { node: format!("{layer:?}"), kernel, reads, writes, macs: 0 });
        self.shape = shape;
        Some(())
    }

    /// Bytes of the output, and what ran in chains. Without limits: nothing does.
    fn run(&self, isa: Isa, limits: Option<Limits>, threads: usize) -> (Vec<u8>, Vec<Chain>) {
        let mut plan = self.plan.clone();
        let fast: Vec<_> = plan.steps.iter().map(|step| step.kernel.fast(step, isa)).collect();
        let chains = limits.map_or(Vec::new(), |limits| Chain::find(&mut plan, &fast, limits));
        let arena = plan_arena(&plan);
        let mut memory = Memory::new(arena.len_words, arena.spans);
        for (i, value) in values(7, plan.buffers[0].len_words()).into_iter().enumerate() {
            // As bytes anything.
            let bits =
                if self.element == Element::Byte { value.to_bits().wrapping_mul(0x9e37_79b9) } else { value.to_bits() };
            memory.slice_mut(BufferId(0))[i] = f32::from_bits(bits);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let memory_here = &memory;
        pool.install(|| {
            let mut at = 0;
            while at < plan.steps.len() {
                match chains.iter().find(|chain| chain.steps.start == at) {
                    Some(chain) => {
                        chain.run(&plan.steps, &fast, memory_here, None);
                        at = chain.steps.end;
                    }
                    None => {
                        fast[at].as_ref().expect("a fast form").run(&plan.steps[at], memory_here);
                        at += 1;
                    }
                }
            }
        });
        let output = plan.outputs[0].1.buffer;
        let len_bytes = plan.buffer(output).len_elements * self.element.size_bytes();
        let bytes = memory.slice_mut(output).iter().flat_map(|x| x.to_ne_bytes());
        (bytes.take(len_bytes).collect(), chains)
    }
}

impl Plan {
    fn inputs_channels(&self) -> usize {
        self.steps[0].reads[0].shape[1]
    }

    fn inputs_size(&self) -> [usize; 2] {
        [self.steps[0].reads[0].shape[2], self.steps[0].reads[0].shape[3]]
    }
}

fn check(element: Element) {
    let mut chained = 0;
    for layers in NETWORKS {
        for input in [[1, 1, 1], [3, 7, 5], [5, 13, 9], [13, 33, 17], [16, 40, 31], [7, 3, 40]] {
            if element == Element::Byte && layers.iter().any(|layer| matches!(layer, AddInput(_))) {
                continue;
            }
            let Some(network) = Network::new(layers, input, element) else { continue };
            for isa in Isa::available() {
                let (wanted, _) = network.run(isa, None, 1);
                for (rows, threads) in [(1, 1), (2, 1), (3, 3), (16, 1)] {
                    let (got, chains) = network.run(isa, Some(Limits { rows, ..EAGER }), threads);
                    let what = format!("{layers:?} of {input:?}, {rows} rows, {threads} threads, {}", isa.name());
                    assert!(got == wanted, "{what}: {chains:?}");
                    chained += chains.iter().map(|chain| chain.steps.len()).sum::<usize>();
                }
            }
        }
    }
    assert!(chained > 0, "nothing ran in a chain");
}

#[test]
fn chains_of_floats_give_what_their_steps_give() {
    check(Element::F32);
}

#[test]
fn chains_of_bytes_give_what_their_steps_give() {
    check(Element::Byte);
}

#[test]
fn a_chain_ends_where_a_map_is_wanted_elsewhere() {
    let isa = Isa::detect();
    let mut network = Network::new(&[C(8, 1, 1), D(3, 1), C(8, 1, 1)], [8, 9, 9], Element::F32).expect("a network");
    let chains = |network: &Network| -> Vec<(usize, usize)> {
        network.run(isa, Some(EAGER), 1).1.into_iter().map(|chain| (chain.steps.start, chain.steps.end)).collect()
    };
    assert_eq!(chains(&network), [(0, 3)]);
    // An output.
    let view = network.view(1, [8, 9, 9]);
    network.plan.outputs.push(("early".into(), view));
    assert_eq!(chains(&network), [(1, 3)]);
    network.plan.outputs.pop();
    // A second reader.
    let mut step = network.plan.steps[2].clone();
    step.reads = vec![network.view(2, [8, 9, 9])];
    network.buffer([8, 9, 9], BufferKind::Activation { first: 3, last: 3 });
    step.writes = vec![network.view(4, [8, 9, 9])];
    network.plan.steps.push(step);
    assert_eq!(chains(&network), [(0, 2)]);
    // What is added to another map.
    let mut network = Network::new(&[C(8, 1, 1), AddInput(1)], [8, 9, 9], Element::F32).expect("a network");
    assert_eq!(chains(&network), [(0, 2)]);
    network.plan.steps[1].reads.reverse();
    assert_eq!(chains(&network), []);
}

#[test]
fn small_maps_stay_in_memory_and_windows_within_their_limit() {
    let isa = Isa::detect();
    let network = Network::new(&[C(8, 1, 1), D(3, 1), C(8, 1, 1)], [8, 30, 10], Element::F32).expect("a network");
    let map_bytes = 8 * 30 * 10 * 4;
    let chains = |limits| network.run(isa, Some(limits), 1).1;
    assert!(chains(Limits { map_bytes, ..EAGER }).is_empty());
    assert_eq!(chains(Limits { map_bytes: map_bytes - 1, ..EAGER }).len(), 1);
    let windows_bytes = 12 * 8 * 10 * 4;
    let chain = chains(Limits { windows_bytes, rows: 16, ..EAGER }).remove(0);
    assert_eq!((chain.rows, chain.windows_bytes() <= windows_bytes), (5, true), "{chain:?}");
    assert!(chains(Limits { windows_bytes: 8 * 10 * 4 - 1, ..EAGER }).is_empty());
}

#[test]
fn maps_between_steps_take_no_memory() {
    let isa = Isa::detect();
    let network = Network::new(&[C(64, 1, 1), D(3, 1), C(3, 1, 1)], [3, 20, 20], Element::F32).expect("a network");
    let mut plan = network.plan.clone();
    let before = plan_arena(&plan).len_words;
    let fast: Vec<_> = plan.steps.iter().map(|step| step.kernel.fast(step, isa)).collect();
    let chains = Chain::find(&mut plan, &fast, EAGER);
    assert_eq!(chains.len(), 1);
    let after = plan_arena(&plan).len_words;
    assert!(before >= 2 * 64 * 400 && after <= 2 * 3 * 400 + 64, "{before} and {after} words");
}
