//! From a shader variant to something that can be put into a compute pass.
//!
//! Shaders are compiled without the bounds, loop and division guards that wgpu adds by default. Our shaders bake exact
//! sizes and guard their tails themselves; a variant that reads or writes outside its buffers is undefined behaviour on
//! the device. [`super::GpuOptions::checked_shaders`] turns the guards on, for shaders that are not known to be good.

use std::sync::Arc;

use super::device::lock;
use super::{Gpu, GpuError};
use crate::shader::Variant;
use rayon::prelude::*;

/// How a shader uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum BindingAccess {
    Read,
    ReadWrite,
}

/// A compiled shader and the layout of its bind group 0.
#[derive(Debug)]
pub(super) struct Pipeline {
    compute: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// A shader with its buffers bound, ready to be encoded any number of times.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub stem: &'static str,
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    pub workgroups: [u32; 3],
}

impl Dispatch {
    /// Appends this dispatch to a pass.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        if x == 0 || y == 0 || z == 0 {
            return;
        }
        pass.set_pipeline(&self.pipeline.compute);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// One `@group(0) @binding(i) var<storage, ...>` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Binding {
    index: usize,
    access: BindingAccess,
    /// Where the text between `var<` and `>` stands.
    qualifier: (usize, usize),
}

/// The storage bindings of a shader, by index. `None` when it declares any other binding, or leaves gaps.
fn storage_bindings(source: &str) -> Option<Vec<Binding>> {
    let mut bindings = Vec::new();
    let mut start = 0;
    for line in source.split_inclusive('\n') {
        let at = start;
        start += line.len();
        let line_start = line.trim_start();
        if !line_start.starts_with("@group") {
            continue;
        }
        if !line_start.starts_with("@group(0)") {
            return None;
        }
        let open = line.find("@binding(")? + "@binding(".len();
        let index: usize = line[open..].split(')').next()?.trim().parse().ok()?;
        let open = line.find("var<")? + "var<".len();
        let end = open + line[open..].find('>')?;
        let access = match line[open..end].replace(' ', "").as_str() {
            "storage" | "storage,read" => BindingAccess::Read,
            "storage,read_write" => BindingAccess::ReadWrite,
            _ => return None,
        };
        bindings.push(Binding { index, access, qualifier: (at + open, at + end) });
    }
    bindings.sort_by_key(|b| b.index);
    bindings.iter().enumerate().all(|(i, b)| b.index == i).then_some(bindings)
}

/// Makes every binding of a buffer `read_write` that is bound more than once and written through one of its bindings:
/// wgpu allows no buffer to be both in a dispatch.
fn rewrite_aliases(source: &str, bindings: &mut [Binding], buffers: &[&wgpu::Buffer]) -> Option<String> {
    let shares_written =
        |i: usize| {
            buffers.iter().zip(bindings.iter()).enumerate().any(|(j, (&other, binding))| {
                j != i && other == buffers[i] && binding.access == BindingAccess::ReadWrite
            })
        };
    let mut aliased: Vec<usize> =
        (0..bindings.len()).filter(|&i| bindings[i].access == BindingAccess::Read && shares_written(i)).collect();
    if aliased.is_empty() {
        return None;
    }
    // From the end of the text, so that earlier places stay valid.
    aliased.sort_by_key(|&i| std::cmp::Reverse(bindings[i].qualifier.0));
    let mut text = source.to_string();
    for i in aliased {
        let (start, end) = bindings[i].qualifier;
        text.replace_range(start..end, "storage, read_write");
        bindings[i].access = BindingAccess::ReadWrite;
    }
    Some(text)
}

impl Gpu {
    /// Compiles a variant (or finds it compiled) and binds `buffers[i]` to binding i of group 0, each as a whole.
    ///
    /// # Errors
    /// [`GpuError::Shader`] for a shader that does not compile or does not fit the buffers, [`GpuError::Limit`] for
    /// too many workgroups or too large a buffer.
    pub fn dispatch(&self, variant: &Variant, buffers: &[&wgpu::Buffer]) -> Result<Dispatch, GpuError> {
        let limit = self.limits.max_compute_workgroups_per_dimension;
        if let Some(&count) = variant.workgroups.iter().find(|&&n| n > limit) {
            let what = format!("the number of workgroups of shader '{}' {:?}", variant.stem, variant.workgroups);
            return Err(GpuError::Limit { what, value: count.into(), limit: limit.into() });
        }
        let limit = self.limits.max_storage_buffer_binding_size;
        if let Some((i, buffer)) = buffers.iter().enumerate().find(|(_, b)| b.size() > limit) {
            let what = format!("the size in bytes of the buffer at binding {i} of shader '{}'", variant.stem);
            return Err(GpuError::Limit { what, value: buffer.size(), limit });
        }
        let limit = self.limits.max_storage_buffers_per_shader_stage;
        if buffers.len() > limit as usize {
            let what = format!("the number of storage buffers of shader '{}'", variant.stem);
            return Err(GpuError::Limit { what, value: buffers.len() as u64, limit: limit.into() });
        }
        let fault = |message: String| GpuError::Shader { stem: variant.stem.to_string(), message };
        let mut bindings = storage_bindings(&variant.source).ok_or_else(|| {
            fault("its bindings are not the storage buffers 0, 1, 2, ... of group 0, each on a line of its own".into())
        })?;
        if bindings.len() != buffers.len() {
            return Err(fault(format!("it has {} bindings, but {} buffers were given", bindings.len(), buffers.len())));
        }
        let rewritten = rewrite_aliases(&variant.source, &mut bindings, buffers);
        let source = rewritten.as_deref().unwrap_or(&variant.source);
        let pipeline = self.pipeline(variant.stem, source, &bindings)?;
        let entries: Vec<wgpu::BindGroupEntry<'_>> = buffers
            .iter()
            .enumerate()
            .map(|(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: b.as_entire_binding() })
            .collect();
        let bind_group = self
            .scoped(|| {
                self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(variant.stem),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
            })
            .map_err(|e| in_shader(variant.stem, e))?;
        Ok(Dispatch { stem: variant.stem, pipeline, bind_group, workgroups: variant.workgroups })
    }

    /// As [`Gpu::dispatch`] for many, compiling in parallel where the driver allows it (Vulkan).
    ///
    /// # Errors
    /// The first error of any of them.
    pub fn dispatch_all(&self, jobs: &[(Variant, Vec<&wgpu::Buffer>)]) -> Result<Vec<Dispatch>, GpuError> {
        if self.adapter.backend == "vulkan" {
            jobs.par_iter().map(|(variant, buffers)| self.dispatch(variant, buffers)).collect()
        } else {
            jobs.iter().map(|(variant, buffers)| self.dispatch(variant, buffers)).collect()
        }
    }

    /// One encoder, one pass, one submit, and waits until it is done.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn run(&self, dispatches: &[&Dispatch]) -> Result<(), GpuError> {
        let submission = self.submit(|encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for dispatch in dispatches {
                dispatch.encode(&mut pass);
            }
        })?;
        self.wait(Some(submission))
    }

    /// Records commands and submits them.
    ///
    /// # Errors
    /// What wgpu finds wrong with the commands: [`GpuError::Device`]; or [`GpuError::Lost`].
    pub fn submit(&self, record: impl FnOnce(&mut wgpu::CommandEncoder)) -> Result<wgpu::SubmissionIndex, GpuError> {
        self.scoped(|| {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            record(&mut encoder);
            self.queue.submit([encoder.finish()])
        })
    }

    fn layout(&self, bindings: &[Binding]) -> Result<wgpu::BindGroupLayout, GpuError> {
        let key: Vec<BindingAccess> = bindings.iter().map(|b| b.access).collect();
        if let Some(layout) = lock(&self.layouts).get(&key) {
            return Ok(layout.clone());
        }
        let entries: Vec<wgpu::BindGroupLayoutEntry> = key
            .iter()
            .enumerate()
            .map(|(i, access)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: *access == BindingAccess::Read },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self.scoped(|| {
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        })?;
        lock(&self.layouts).insert(key, layout.clone());
        Ok(layout)
    }

    fn pipeline(&self, stem: &str, source: &str, bindings: &[Binding]) -> Result<Arc<Pipeline>, GpuError> {
        if let Some(pipeline) = lock(&self.pipelines).get(source) {
            return Ok(Arc::clone(pipeline));
        }
        // Not under the lock: compiling takes long, and other threads have shaders of their own.
        let layout = self.layout(bindings)?;
        let compute = self.scoped(|| self.compile(stem, source, &layout)).map_err(|e| in_shader(stem, e))?;
        let pipeline = Arc::new(Pipeline { compute, layout });
        Ok(Arc::clone(lock(&self.pipelines).entry(source.to_string()).or_insert(pipeline)))
    }

    fn compile(&self, stem: &str, source: &str, layout: &wgpu::BindGroupLayout) -> wgpu::ComputePipeline {
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(stem), source: wgpu::ShaderSource::Wgsl(source.into()) };
        let module = if self.checked_shaders {
            self.device.create_shader_module(descriptor)
        } else {
            // SAFETY: no memory of the host is at stake. The variants bake the sizes of the buffers that they are bound
            // to, guard their tails, have loops with constant bounds and divide by constants that are not 0.
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(stem),
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(stem),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }
}

/// A validation error in a shader is named after it.
fn in_shader(stem: &str, error: GpuError) -> GpuError {
    match error {
        GpuError::Device(message) => GpuError::Shader { stem: stem.to_string(), message },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_bindings_by_index() {
        let source = "// @group(0) in a comment\n@group(0) @binding(1) var<storage, read_write> b: array<f32>;\n\
                      @group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;\n";
        let bindings = storage_bindings(source).expect("two bindings");
        assert_eq!(
            bindings.iter().map(|b| b.access).collect::<Vec<_>>(),
            [BindingAccess::Read, BindingAccess::ReadWrite]
        );
        let (start, end) = bindings[0].qualifier;
        assert_eq!(&source[start..end], "storage, read");
        assert!(storage_bindings("@group(0) @binding(1) var<storage> a: array<f32>;").is_none(), "gap");
        assert!(storage_bindings("@group(1) @binding(0) var<storage> a: array<f32>;").is_none(), "group");
        assert!(storage_bindings("@group(0) @binding(0) var<uniform> a: f32;").is_none());
        assert!(storage_bindings("@group(0) @binding(0) var t: texture_2d<f32>;").is_none());
    }
}
