//! Stage: convert.
