//! Stage: decode.
