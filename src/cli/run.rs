//! `eyas run`: a network on raw tensors.

use std::path::PathBuf;

use eyas::{Session, Tensor};

use super::options::Common;
use super::{CliError, npy};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// An input tensor, once per input, in the file's axis order. Its shape binds what the model leaves open,
    /// the batch too
    #[arg(long = "input", value_name = "NAME=X.npy", required = true, value_parser = parse_tensor)]
    inputs: Vec<(String, PathBuf)>,
    /// Where to write each output as NAME.npy (a '/' in a name becomes '_')
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
}

/// `NAME=FILE.npy`; the name may hold '=' too.
pub fn parse_tensor(text: &str) -> Result<(String, PathBuf), String> {
    match text.rsplit_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_string(), path.into())),
        _ => Err("expected NAME=FILE.npy".into()),
    }
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let mut inputs: Vec<(&str, Tensor)> = Vec::new();
    let mut options = args.common.import_options();
    for (name, path) in &args.inputs {
        let tensor = npy::read(path)?;
        if args.common.size.is_none() {
            options.shapes.insert(name.clone(), tensor.shape().to_vec());
        }
        inputs.push((name, tensor));
    }
    let model = args.common.load_model_with(&options)?;
    let mut session = Session::of(model, &args.common.session_options())?;
    log::info!("{} on {}", session.backend(), session.adapter());
    let outputs = session.run(&inputs)?;
    let dir = &args.output_dir;
    std::fs::create_dir_all(dir).map_err(|e| CliError::Runtime(format!("cannot create {}: {e}", dir.display())))?;
    for (name, tensor) in outputs {
        let file = name.replace(['/', '\\'], "_");
        npy::write(&dir.join(format!("{file}.npy")), &tensor)?;
    }
    Ok(())
}
