//! Stage: marshal.
