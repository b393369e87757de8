//! Opening a device: which adapters there are, which one is taken, and how its errors come back.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::GpuError;
use super::dispatch::{BindingAccess, Pipeline};
use super::session::WeightsKey;
use crate::shader::Precision;

/// The graphics interface under wgpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GpuApi {
    Vulkan,
    Metal,
    Gles,
}

impl GpuApi {
    fn backends(self) -> wgpu::Backends {
        match self {
            GpuApi::Vulkan => wgpu::Backends::VULKAN,
            GpuApi::Metal => wgpu::Backends::METAL,
            GpuApi::Gles => wgpu::Backends::GL,
        }
    }
}

impl fmt::Display for GpuApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GpuApi::Vulkan => "vulkan",
            GpuApi::Metal => "metal",
            GpuApi::Gles => "gles",
        })
    }
}

/// Which adapter to take.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// `None`: all of them, or those that the environment variable WGPU_BACKEND names.
    pub api: Option<GpuApi>,
    /// A part of the adapter's name; case does not matter.
    pub adapter: Option<String>,
    /// Whether an adapter that computes on the CPU (lavapipe, llvmpipe, SwiftShader) may be taken.
    pub allow_software: bool,
    /// Compile shaders with bounds, loop and division checks. Off by default: see [`super::dispatch`].
    pub checked_shaders: bool,
}

/// What kind of processor an adapter is, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AdapterKind {
    Discrete,
    Integrated,
    Virtual,
    Other,
    /// A CPU that pretends to be a GPU.
    Software,
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Other => "other",
            AdapterKind::Software => "cpu",
        })
    }
}

/// What is known of an adapter before it is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterReport {
    pub name: String,
    pub driver: String,
    pub driver_info: String,
    /// `vulkan`, `metal`, `gles`; or `dx12`, `webgpu` when a host application brought the device.
    pub backend: &'static str,
    pub kind: AdapterKind,
    /// True for adapters that compute on the CPU.
    pub is_software: bool,
    /// 16-bit floats in shaders (SHADER_F16).
    pub f16: bool,
    /// Timestamps at the boundaries of passes.
    pub timestamps: bool,
    pub max_buffer_bytes: u64,
    /// Of one binding, which is what a network's largest feature map and largest weights must fit in.
    pub max_storage_binding_bytes: u64,
    pub max_storage_buffers: u32,
    pub max_workgroup_threads: u32,
    pub max_workgroup_memory_bytes: u32,
    pub max_workgroups_per_dimension: u32,
}

impl AdapterReport {
    fn new(info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits) -> AdapterReport {
        let kind = kind_of(info.device_type, &info.name);
        AdapterReport {
            name: info.name.clone(),
            driver: info.driver.clone(),
            driver_info: info.driver_info.clone(),
            backend: match info.backend {
                wgpu::Backend::Vulkan => "vulkan",
                wgpu::Backend::Metal => "metal",
                wgpu::Backend::Gl => "gles",
                wgpu::Backend::Dx12 => "dx12",
                wgpu::Backend::BrowserWebGpu => "webgpu",
                wgpu::Backend::Noop => "noop",
            },
            kind,
            is_software: kind == AdapterKind::Software,
            f16: features.contains(wgpu::Features::SHADER_F16),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            max_buffer_bytes: limits.max_buffer_size,
            max_storage_binding_bytes: limits.max_storage_buffer_binding_size,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_workgroup_threads: limits.max_compute_invocations_per_workgroup,
            max_workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
        }
    }
}

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}", self.name, self.backend, self.kind)?;
        for text in [&self.driver, &self.driver_info] {
            if !text.is_empty() {
                write!(f, ", {text}")?;
            }
        }
        f.write_str(")")
    }
}

/// GLES reports software renderers as `Other`, so names decide as well.
fn kind_of(device_type: wgpu::DeviceType, name: &str) -> AdapterKind {
    let name = name.to_lowercase();
    if ["llvmpipe", "lavapipe", "softpipe", "swiftshader", "software rasterizer"].iter().any(|s| name.contains(s)) {
        return AdapterKind::Software;
    }
    match device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Other => AdapterKind::Other,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
    }
}

/// Lower is better. A GPU is often listed twice; GLES is the poorer way to it.
fn preference(report: &AdapterReport) -> (AdapterKind, bool) {
    (report.kind, report.backend == "gles")
}

/// What the callbacks of a device leave behind.
#[derive(Debug, Default)]
struct Faults {
    /// Why the device was lost; once set, it stays.
    lost: Option<String>,
    /// The first error that no scope caught.
    uncaptured: Option<String>,
}

/// An open device.
#[derive(Debug)]
pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub adapter: AdapterReport,
    /// The best storage precision: f16 where shaders have it.
    pub precision: Precision,
    pub limits: wgpu::Limits,
    /// What the device was made from; `None` for a host application's device.
    pub origin: Option<(wgpu::Instance, wgpu::Adapter)>,
    pub(super) checked_shaders: bool,
    /// Compiled pipelines by final source text.
    pub(super) pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    /// Bind group layouts by the access of each binding.
    pub(super) layouts: Mutex<HashMap<Vec<BindingAccess>, wgpu::BindGroupLayout>>,
    /// Packed weights of the sessions that are alive, by hash, length and precision of their content.
    pub(super) weights: Mutex<HashMap<WeightsKey, Weak<wgpu::Buffer>>>,
    faults: Arc<Mutex<Faults>>,
    /// How often a buffer was mapped for reading, each with one copy of device memory to it.
    pub(super) map_operations: AtomicU64,
}

/// The value in a mutex, also after a panic of another thread: all of ours are valid at any time.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wanted_backends(options: &GpuOptions) -> wgpu::Backends {
    let ours = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::GL;
    match options.api {
        Some(api) => api.backends(),
        None => wgpu::Backends::from_env().unwrap_or(ours),
    }
}

/// An instance for the backends that the options ask for, without validation layers in release builds.
pub fn instance(options: &GpuOptions) -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    configure_instance(&mut descriptor, options);
    wgpu::Instance::new(descriptor)
}

/// Sets backends and flags of an instance that somebody else makes, such as a window that adds its display handle.
pub fn configure_instance(descriptor: &mut wgpu::InstanceDescriptor, options: &GpuOptions) {
    descriptor.backends = wanted_backends(options);
    descriptor.flags = if cfg!(debug_assertions) {
        wgpu::InstanceFlags::VALIDATION | wgpu::InstanceFlags::DEBUG
    } else {
        // The default keeps a check of indirect dispatches that costs a dispatch each.
        wgpu::InstanceFlags::empty()
    };
}

impl Gpu {
    /// Opens the best adapter that the options allow: discrete before integrated, virtual, other and software ones.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::OnlySoftware`] or [`GpuError::Open`].
    pub fn open(options: &GpuOptions) -> Result<Arc<Gpu>, GpuError> {
        Gpu::open_in(instance(options), None, options)
    }

    /// As [`Gpu::open`], in a given instance and for adapters that can present on `surface`.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_in(
        instance: wgpu::Instance,
        surface: Option<&wgpu::Surface<'_>>,
        options: &GpuOptions,
    ) -> Result<Arc<Gpu>, GpuError> {
        let backends = wanted_backends(options);
        let all = enumerate(&instance, backends);
        let names = |of: &[(wgpu::Adapter, AdapterReport)]| {
            of.iter().map(|(_, r)| r.to_string()).collect::<Vec<_>>().join("; ")
        };
        if all.is_empty() {
            return Err(GpuError::NoAdapter(format!("none found (looked for {backends:?})")));
        }
        let found = names(&all);
        let mut fit: Vec<_> = all
            .into_iter()
            .filter(|(_, r)| {
                options.adapter.as_ref().is_none_or(|part| r.name.to_lowercase().contains(&part.to_lowercase()))
            })
            .filter(|(a, _)| surface.is_none_or(|s| a.is_surface_supported(s)))
            .collect();
        if fit.is_empty() {
            let named = options.adapter.as_ref().map(|n| format!(" with '{n}' in its name")).unwrap_or_default();
            let shown = if surface.is_some() { " that can draw on the window" } else { "" };
            return Err(GpuError::NoAdapter(format!("none{named}{shown}; found: {found}")));
        }
        fit.sort_by_key(|(_, r)| preference(r));
        if !options.allow_software {
            let seen = names(&fit);
            fit.retain(|(_, r)| !r.is_software);
            if fit.is_empty() {
                return Err(GpuError::OnlySoftware(seen));
            }
        }
        let (adapter, report) = fit.remove(0);
        log::info!("GPU adapter: {report}");
        let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("eyas"),
            required_features: adapter.features() & wanted,
            required_limits: adapter.limits(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| GpuError::Open { adapter: report.to_string(), message: e.to_string() })?;
        let mut gpu = Gpu::assemble(device, queue, report, options.checked_shaders);
        gpu.origin = Some((instance, adapter));
        gpu.set_callbacks();
        Ok(Arc::new(gpu))
    }

    /// Takes over a device of the host application. Its callbacks are left alone.
    ///
    /// On GLES an adapter should give one device: all of its devices share one GL context, and wgpu 30 deletes the vertex
    /// array object that is bound in it with any of them. The others go on without error, but their indirect draws, and
    /// so all boxes and labels, are missing from then on. Enumerate the adapters again for a second device.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Arc<Gpu> {
        let report = AdapterReport::new(&device.adapter_info(), device.features(), &device.limits());
        Arc::new(Gpu::assemble(device, queue, report, false))
    }

    /// All adapters of the backends that the options ask for, best first; names and software are not filtered.
    pub fn adapters(options: &GpuOptions) -> Vec<AdapterReport> {
        let mut reports: Vec<AdapterReport> =
            enumerate(&instance(options), wanted_backends(options)).into_iter().map(|(_, r)| r).collect();
        reports.sort_by_key(preference);
        reports
    }

    fn assemble(device: wgpu::Device, queue: wgpu::Queue, adapter: AdapterReport, checked_shaders: bool) -> Gpu {
        let precision = if adapter.f16 { Precision::F16 } else { Precision::F32 };
        let limits = device.limits();
        Gpu {
            device,
            queue,
            adapter,
            precision,
            limits,
            origin: None,
            checked_shaders,
            pipelines: Mutex::default(),
            layouts: Mutex::default(),
            weights: Mutex::default(),
            faults: Arc::default(),
            map_operations: AtomicU64::new(0),
        }
    }

    fn set_callbacks(&self) {
        let faults = Arc::clone(&self.faults);
        self.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            log::error!("GPU: {error}");
            lock(&faults).uncaptured.get_or_insert(error.to_string());
        }));
        let faults = Arc::clone(&self.faults);
        self.device.set_device_lost_callback(move |reason, message| {
            lock(&faults).lost.get_or_insert(format!("{reason:?}: {message}"));
        });
    }

    /// The error that the device's callbacks have seen since the last call, if any. A lost device stays lost.
    ///
    /// # Errors
    /// [`GpuError::Lost`] or [`GpuError::Device`].
    pub fn check(&self) -> Result<(), GpuError> {
        let mut faults = lock(&self.faults);
        if let Some(message) = &faults.lost {
            return Err(GpuError::Lost(message.clone()));
        }
        match faults.uncaptured.take() {
            Some(message) => Err(GpuError::Device(message)),
            None => Ok(()),
        }
    }

    /// Runs calls to wgpu and returns the first error that they raised on this thread.
    pub(super) fn scoped<T>(&self, calls: impl FnOnce() -> T) -> Result<T, GpuError> {
        self.check()?;
        let filters = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let value = calls();
        let mut first = None;
        for scope in scopes.into_iter().rev() {
            if let Some(error) = pollster::block_on(scope.pop()) {
                first.get_or_insert(error.to_string());
            }
        }
        match first {
            Some(message) => Err(self.fault(message)),
            None => self.check().map(|()| value),
        }
    }

    /// An error with this message; [`GpuError::Lost`] when a lost device is behind it, which wgpu tells when polled.
    pub(super) fn fault(&self, message: String) -> GpuError {
        self.poll().err().unwrap_or(GpuError::Device(message))
    }

    /// Runs the callbacks of work that is done, without waiting.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub fn poll(&self) -> Result<(), GpuError> {
        self.poll_as(wgpu::PollType::Poll)
    }

    fn poll_as(&self, poll: wgpu::PollType) -> Result<(), GpuError> {
        // wgpu 30 panics in `poll` when the driver reports the device lost.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(poll))) {
            Ok(Ok(_)) => self.check(),
            Ok(Err(e)) => Err(GpuError::Device(e.to_string())),
            Err(_) => {
                lock(&self.faults).lost.get_or_insert("while waiting for it".to_string());
                self.check()
            }
        }
    }

    /// How often anything was read back since the device was opened: map operations, and as many copies to the host.
    pub fn map_operations(&self) -> u64 {
        self.map_operations.load(Ordering::Relaxed)
    }

    /// wgpu's objects that are alive: buffers, textures, bind groups, pipelines and so on, of all devices of this
    /// instance. `None` for a host application's device.
    pub fn objects_alive(&self) -> Option<usize> {
        let (instance, _) = self.origin.as_ref()?;
        let hub = instance.generate_report()?.hub;
        let kinds = [
            hub.pipeline_layouts,
            hub.shader_modules,
            hub.bind_group_layouts,
            hub.bind_groups,
            hub.command_encoders,
            hub.command_buffers,
            hub.render_pipelines,
            hub.compute_pipelines,
            hub.query_sets,
            hub.buffers,
            hub.textures,
            hub.texture_views,
            hub.samplers,
            hub.render_passes,
            hub.compute_passes,
        ];
        Some(kinds.iter().map(|kind| kind.num_allocated).sum())
    }

    /// Blocks until a submission is done; `None`: until all are.
    ///
    /// # Errors
    /// [`GpuError::Lost`] when the device goes away meanwhile.
    pub fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), GpuError> {
        self.poll_as(wgpu::PollType::Wait { submission_index: submission, timeout: None })
    }
}

fn enumerate(instance: &wgpu::Instance, backends: wgpu::Backends) -> Vec<(wgpu::Adapter, AdapterReport)> {
    pollster::block_on(instance.enumerate_adapters(backends))
        .into_iter()
        .map(|a| {
            let report = AdapterReport::new(&a.get_info(), a.features(), &a.limits());
            (a, report)
        })
        .collect()
}

/// The device that tests share, one per process: a Vulkan or Metal adapter, or what WGPU_BACKEND names; software is
/// allowed. `None`, with a line on stderr, where there is none. For tests only.
///
/// # Panics
/// When there is no adapter and the environment variable EYAS_REQUIRE_GPU is 1.
pub fn test_gpu() -> Option<Arc<Gpu>> {
    static SHARED: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    SHARED
        .get_or_init(|| {
            let from_environment = std::env::var_os("WGPU_BACKEND").is_some();
            let api = if from_environment {
                None
            } else if cfg!(target_vendor = "apple") {
                Some(GpuApi::Metal)
            } else {
                Some(GpuApi::Vulkan)
            };
            match Gpu::open(&GpuOptions { api, allow_software: true, ..GpuOptions::default() }) {
                Ok(gpu) => {
                    eprintln!("test GPU: {}", gpu.adapter);
                    Some(gpu)
                }
                Err(error) => {
                    assert!(std::env::var("EYAS_REQUIRE_GPU").as_deref() != Ok("1"), "EYAS_REQUIRE_GPU=1, but {error}");
                    eprintln!("NO GPU ADAPTER: {error}; tests that need one are skipped");
                    None
                }
            }
        })
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_is_known_by_type_or_name() {
        use wgpu::DeviceType;
        assert_eq!(kind_of(DeviceType::Cpu, "llvmpipe (LLVM 15.0.6, 256 bits)"), AdapterKind::Software);
        assert_eq!(kind_of(DeviceType::Other, "llvmpipe (LLVM 15.0.6, 256 bits)"), AdapterKind::Software);
        assert_eq!(kind_of(DeviceType::Cpu, "SwiftShader Device (Subzero)"), AdapterKind::Software);
        assert_eq!(kind_of(DeviceType::Other, "NVIDIA Tegra X2/PCIe/SSE2"), AdapterKind::Other);
        assert_eq!(kind_of(DeviceType::IntegratedGpu, "V3D 4.2"), AdapterKind::Integrated);
    }
}
