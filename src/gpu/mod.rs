//! Everything that names wgpu: the device, its buffers, dispatches, and the session that walks a plan on them.
//!
//! No call here panics on what a device, a driver or a shader does: errors that wgpu reports are caught in scopes or by
//! the device's callbacks and come back as [`GpuError`].

pub mod buffer;
pub mod device;
pub mod dispatch;
pub mod draw;
pub mod frame_loop;
mod hop;
pub mod live;
pub mod offscreen;
mod pass_timer;
pub mod probe;
pub mod profile;
mod results;
pub mod scene;
pub mod session;

pub use buffer::Readback;
pub use device::{AdapterKind, AdapterReport, Gpu, GpuApi, GpuOptions, test_gpu};
pub use dispatch::Dispatch;
pub use frame_loop::FrameLoop;
pub use live::LiveOverlay;
pub use offscreen::Offscreen;
pub use scene::SceneRenderer;
pub use session::GpuSession;

/// What can go wrong on a GPU.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error("no GPU adapter: {0}")]
    NoAdapter(String),
    /// The adapters that were found compute on the CPU, and the options do not allow that.
    #[error(
        "only software adapters found ({0}): they are slower than the CPU backend; use the CPU backend, or allow a \
         software adapter"
    )]
    OnlySoftware(String),
    #[error("cannot open the adapter '{adapter}': {message}")]
    Open { adapter: String, message: String },
    /// The driver gave the device up (reset, unplugged, out of memory). Open a new one.
    #[error("the GPU device is lost: {0}")]
    Lost(String),
    #[error("GPU: {0}")]
    Device(String),
    /// A shader that does not compile, or does not fit its bindings.
    #[error("shader '{stem}': {message}")]
    Shader { stem: String, message: String },
    /// More than the device can do.
    #[error("{what} is {value}, but this device allows {limit}")]
    Limit { what: String, value: u64, limit: u64 },
    /// An argument that does not fit the network.
    #[error("{0}")]
    Invalid(String),
}
