//! What makes twins fast: packed weights, register-blocked micro-kernels, threads.

pub(crate) mod blocks;
pub mod bytes;
pub mod chain;
pub mod conv;
pub mod copy;
pub mod depthwise;
pub mod elementwise;
pub mod fill;
pub mod isa;
#[cfg(test)]
mod layout_measurement;
pub mod matmul;
pub mod memory;
pub mod packed;
pub mod peak;
pub mod pool;
pub mod reduce;
pub mod resize;
pub mod session;
pub(crate) mod simd;
pub mod softmax;
pub mod team;
#[cfg(test)]
mod testing;
pub mod threads;
pub mod tune;
pub mod winograd;

pub use isa::Isa;
pub use memory::Memory;
pub use session::{CpuError, CpuSession};

/// What multiplies bytes in convolutions of quantised networks, with weights that are no less than -127.
pub fn byte_products(isa: Isa) -> &'static str {
    simd::dots::DotKernel::best(isa, -127..=127).name
}

/// The processor and the instructions used on it, as a person would name them.
pub fn processor_name(isa: Isa) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = ["model name", "Model", "Hardware", "Processor"].iter().find_map(|key| {
        text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_string())
    });
    format!("{} ({})", name.unwrap_or_else(|| std::env::consts::ARCH.to_string()), isa.name())
}
