//! Options that all commands share.

use std::path::PathBuf;

use clap::ValueEnum;
use eyas::embedded::{Embedded, IS_EMBEDDED};
use eyas::infer::import::ImportOptions;
use eyas::{Backend, GpuApi, Model, Precision, SessionOptions};

use super::CliError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// A real GPU if there is one, else the CPU
    Auto,
    /// Any GPU adapter, a software one too
    Gpu,
    Cpu,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum GpuApiArg {
    Vulkan,
    Metal,
    Gles,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PrecisionArg {
    F32,
    F16,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// Model file: .onnx, or .cfg with its .weights beside it [default: the detector of heads and helmets inside]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Take the larger of the two detectors inside: 416 pixels, eight times the work, finds more
    #[arg(long)]
    pub large: bool,
    /// Weights of a Darknet .cfg [default: the .cfg's name with .weights]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub weights: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendArg,
    /// Interface to the GPU [default: the best that works]
    #[arg(long, value_enum)]
    pub gpu_api: Option<GpuApiArg>,
    /// Use the GPU adapter whose name contains this
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Input size for models that leave it open, e.g. 640x480
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// How activations and weights are stored on the GPU [default: f32]
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionArg>,
    /// Measure at load which CPU kernel is the fastest for each layer, and keep that in the cache folder
    #[arg(long)]
    pub tune: bool,
    /// Say more (-vv: everything)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

pub fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let parts = text.split_once(['x', 'X']).and_then(|(w, h)| Some([w.parse().ok()?, h.parse().ok()?]));
    match parts {
        Some([w, h]) if (1..=16384).contains(&w) && (1..=16384).contains(&h) => Ok([w, h]),
        _ => Err("expected WIDTHxHEIGHT in pixels, e.g. 640x480".into()),
    }
}

impl Common {
    /// The model as reports name it.
    pub fn model_name(&self) -> String {
        self.model.as_deref().map_or_else(|| self.embedded().name().to_string(), |path| path.display().to_string())
    }

    /// Which of the detectors inside, where no file is named.
    pub fn embedded(&self) -> Embedded {
        if self.large { Embedded::Large } else { Embedded::Small }
    }

    pub fn import_options(&self) -> ImportOptions {
        ImportOptions { size_px: self.size, ..ImportOptions::default() }
    }

    pub fn load_model(&self) -> Result<Model, CliError> {
        self.load_model_with(&self.import_options())
    }

    pub fn load_model_with(&self, options: &ImportOptions) -> Result<Model, CliError> {
        if self.large && self.model.is_some() {
            return Err(CliError::Usage("--large names a detector inside the program, and a file is named too".into()));
        }
        Ok(match &self.model {
            Some(path) => Model::load(path, self.weights.as_deref(), options)?,
            None if IS_EMBEDDED => Model::embedded(self.embedded(), options)?,
            None => Model::embedded(self.embedded(), options).map_err(|e| CliError::Usage(e.to_string()))?,
        })
    }

    pub fn session_options(&self) -> SessionOptions {
        SessionOptions {
            backend: match self.backend {
                BackendArg::Auto => Backend::Auto,
                BackendArg::Gpu => Backend::Gpu,
                BackendArg::Cpu => Backend::Cpu,
            },
            gpu_api: self.gpu_api.map(|api| match api {
                GpuApiArg::Vulkan => GpuApi::Vulkan,
                GpuApiArg::Metal => GpuApi::Metal,
                GpuApiArg::Gles => GpuApi::Gles,
            }),
            adapter: self.adapter.clone(),
            threads: self.threads.map(usize::from),
            precision: self.precision.map(|p| match p {
                PrecisionArg::F32 => Precision::F32,
                PrecisionArg::F16 => Precision::F16,
            }),
            tune: self.tune,
        }
    }
}
