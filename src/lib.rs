//! eyas finds objects in pictures with a detector that somebody already trained, on the GPU or on the CPU.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut detector = eyas::Detector::builder().model("yolov8n.onnx").build()?;
//! let picture = eyas::acquire::pictures::load("street.jpg".as_ref())?;
//! for found in detector.detect(&picture)? {
//!     println!("{} {:.2} {:?}", found.label, found.score, found.bounds);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A frame goes through six stages, one module each: [`acquire`], [`convert`], [`marshal`], [`infer`], [`decode`],
//! [`draw`]. [`Detector`] is that line; a [`Session`] below it runs raw tensors.

pub mod acquire;
pub mod check;
pub mod convert;
pub mod cpu;
pub mod decode;
pub mod detector;
pub mod draw;
pub mod dynamic;
pub mod embedded;
pub mod error;
pub mod evaluation;
pub mod frame;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod infer;
pub mod letterbox;
pub mod live;
pub mod marshal;
pub mod session;
pub mod shader;

pub use decode::{DecodeOptions, Detection};
pub use detector::{Detector, DetectorBuilder, StageTimes};
pub use dynamic::DynamicSession;
pub use error::Error;
pub use frame::{Colour, Frame, PixelFormat, YuvMatrix, YuvRange};
pub use infer::plan::Plan;
pub use infer::tensor::{DType, Tensor};
pub use session::{Backend, GpuApi, Model, Session, SessionOptions};
pub use shader::Precision;
