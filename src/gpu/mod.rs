//! Everything that names wgpu.
