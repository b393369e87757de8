//! From graph to plan: the passes, and the plain list of steps that both backends walk.

pub mod evaluate;
pub mod hops;
mod host_steps;
pub mod lower;
pub mod memory;
pub mod passes;
pub mod step;
pub mod transfer;
pub mod view;

pub use hops::Hop;
pub use step::{Buffer, BufferKind, Plan, Step};
pub use view::{BufferId, FeatureMap, View};
