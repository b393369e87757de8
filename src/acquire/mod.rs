//! Stage: acquire.
