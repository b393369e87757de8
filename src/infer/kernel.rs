//! What a kernel is: a small struct of numbers with three faces. As a *twin* it runs on the CPU in safe Rust, in the
//! loop order of its shader. As a *variant* it is a WGSL file with constants filled in. And where it pays, it offers a
//! *fast* CPU form from [`crate::cpu`]. One file per kernel in [`super::kernels`], beside `shaders/infer/<stem>.wgsl`.

use std::cell::Cell;
use std::fmt::Debug;

use super::plan::step::Step;
use super::plan::view::View;
use super::tensor::DType;
use crate::shader::{Precision, Variant};

/// Memory of one binding as a twin sees it. Cells, because a step may read one part of a buffer and write another.
pub type Cells<'a> = &'a [Cell<f32>];

/// Where a step runs in a plan whose memory is on a device other than the host. Numbers are places among the plan's
/// [`crate::infer::plan::step::HostValues`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Device,
    /// An operator on dense host tensors.
    Host,
    /// Copies the one view that the step reads into a host tensor of this type.
    Download(usize, DType),
    /// Copies a host tensor into the one view that the step writes.
    Upload(usize),
}

/// A kernel with everything but the buffers fixed: shapes, attributes, packed weights.
pub trait Kernel: Debug + Send + Sync {
    /// Stem of the shader and of the twin's file: `conv` for `shaders/infer/conv.wgsl` and `src/infer/kernels/conv.rs`.
    fn stem(&self) -> &'static str;

    /// A name that can be read in a profile, e.g. `conv_3x3s2_silu`.
    fn label(&self) -> String {
        self.stem().to_string()
    }

    /// The reference: computes the step in safe Rust, in the shader's loop order. `reads[i]` and `writes[i]` are the
    /// whole buffers that `step.reads[i]` and `step.writes[i]` are views of.
    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]);

    /// The shader of this step on a device with that storage precision. The bindings are, in this order:
    /// the packed weights if [`Kernel::gpu_weights`] has any, the reads, the writes.
    fn variant(&self, step: &Step, precision: Precision) -> Variant;

    /// Weights in the order that the shader reads them; stored at the variant's precision. Empty: none.
    fn gpu_weights(&self, _step: &Step) -> Vec<f32> {
        Vec::new()
    }

    /// The step as an operator on dense host tensors, for steps that have no kernel proper.
    fn host(&self) -> Option<&super::kernels::host::Host> {
        None
    }

    /// Where the step runs.
    fn place(&self) -> Place {
        Place::Device
    }

    /// Places among the host tensors that the step takes from and gives to.
    fn host_places(&self) -> (Vec<usize>, Vec<usize>) {
        (Vec::new(), Vec::new())
    }

    /// A CPU form faster than the twin, for these instructions; `None` where the twin is all there is.
    fn fast(&self, _step: &Step, _isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        None
    }

    /// All CPU forms there are, that of [`Kernel::fast`] first: of different labels, for [`crate::cpu::tune`].
    fn fast_forms(&self, step: &Step, isa: crate::cpu::Isa) -> Vec<Box<dyn FastKernel>> {
        self.fast(step, isa).into_iter().collect()
    }
}

/// A kernel of which at least one view is of bytes. There is no shader: such steps stand in plans for the CPU only, as
/// [`OnBytes`].
pub trait ByteKernel: Debug + Send + Sync {
    /// Stem of the file in `src/infer/kernels/bytes/`, with `byte_` before it.
    fn stem(&self) -> &'static str;

    /// As [`Kernel::label`].
    fn label(&self) -> String {
        self.stem().to_string()
    }

    /// The reference in safe Rust. As [`Kernel::run_twin`]; [`crate::cpu::memory::as_bytes`] of the buffers that hold
    /// bytes.
    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]);

    /// As [`Kernel::fast`].
    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>>;

    /// As [`Kernel::fast_forms`].
    fn fast_forms(&self, step: &Step, isa: crate::cpu::Isa) -> Vec<Box<dyn FastKernel>> {
        self.fast(step, isa).into_iter().collect()
    }
}

/// A kernel on bytes as a step's kernel.
#[derive(Clone, Debug)]
pub struct OnBytes<K>(pub K);

impl<K: ByteKernel> Kernel for OnBytes<K> {
    fn stem(&self) -> &'static str {
        self.0.stem()
    }

    fn label(&self) -> String {
        self.0.label()
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        self.0.run_twin(step, reads, writes);
    }

    fn variant(&self, _step: &Step, _precision: Precision) -> Variant {
        Variant::none(self.stem())
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        self.0.fast(step, isa)
    }

    fn fast_forms(&self, step: &Step, isa: crate::cpu::Isa) -> Vec<Box<dyn FastKernel>> {
        self.0.fast_forms(step, isa)
    }
}

/// A prepared CPU kernel: weights packed, tiles chosen.
pub trait FastKernel: Debug + Send + Sync {
    /// Name of the micro-kernel, e.g. `conv_gemm_14x32_avx512`.
    fn label(&self) -> String;

    /// Computes the step. Threads come from the team that this is called in.
    fn run(&self, step: &Step, memory: &crate::cpu::Memory);

    /// The kernel as one that computes some output rows at a time, if it can.
    fn by_rows(&self) -> Option<&dyn crate::cpu::chain::ByRows> {
        None
    }
}

/// True when the views are of equal shape and lie in memory in the same axis order without gaps between them, so that
/// a kernel can treat them as flat rows.
pub fn same_layout(a: &View, b: &View) -> bool {
    a.shape == b.shape && a.strides == b.strides
}
