//! Stage: draw.
