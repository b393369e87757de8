//! Stage 4: the layers. Files become a [`graph::Graph`], passes make it small, the planner makes it a [`plan::Plan`],
//! and a backend walks the plan.

pub mod activation;
pub mod bytes;
pub mod graph;
pub mod import;
pub mod kernel;
pub mod kernels;
pub mod op;
pub mod ops;
pub mod plan;
pub mod tensor;
