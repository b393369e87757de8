//! Operators: one file per family, with attributes, shapes, folding, lowering and tests.

pub mod concat;
pub mod conv;
pub mod split;
