//! `eyas bench --worker`: times inferences on request, one JSON object a line, so that a harness can interleave eyas with
//! other engines.
//!
//! After load and the first inference: `{"ev":"ready","import_ms":…,"load_ms":…,"first_ms":…,"version":"…","note":"…"}`, or
//! `{"ev":"error","msg":"…"}` and exit code 1. Then, for each line on stdin:
//! - `run N` → `{"ev":"run","ms":[N numbers]}`
//! - `dump DIR` → writes DIR/out0.f32, ...; `{"ev":"dump","outputs":[{"file":…,"shape":[…],"name":…}]}`
//! - `rss` → `{"ev":"rss","peak_rss_kb":…,"rss_kb":…}`
//! - `quit`

use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use eyas::{Session, Tensor};
use serde_json::{Value, json};

use super::CliError;
use super::options::Common;
use super::report::{milliseconds, peak_rss_bytes, rss_bytes};

#[derive(clap::Args, Debug)]
pub struct WorkerArgs {
    /// Time inferences on request: one JSON object a line, commands on stdin (run N, dump DIR, rss, quit)
    #[arg(long, requires = "input")]
    pub worker: bool,
    /// With --worker: the input as raw little-endian float32
    #[arg(long, value_name = "X.f32", requires = "shape")]
    pub input: Option<PathBuf>,
    /// With --worker: the input's shape, e.g. 1,3,640,640
    #[arg(long, value_name = "SHAPE", value_delimiter = ',')]
    pub shape: Vec<usize>,
    /// With --worker: accepted for the harness's sake; nothing is cached
    #[arg(long, value_name = "DIR", hide = true)]
    pub cache: Option<PathBuf>,
}

fn say(value: &Value) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}

/// Reads bit by bit: a picture is no small part of what a small network needs.
fn read_input(path: &Path, shape: &[usize]) -> Result<Tensor, CliError> {
    let bad = |e: String| CliError::Runtime(format!("cannot read {}: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| bad(e.to_string()))?;
    let len = file.metadata().map_err(|e| bad(e.to_string()))?.len();
    let mut reader = BufReader::new(file);
    let mut values = Vec::with_capacity(usize::try_from(len / 4).unwrap_or(0).min(1 << 28));
    let mut word = [0; 4];
    for _ in 0..len / 4 {
        reader.read_exact(&mut word).map_err(|e| bad(e.to_string()))?;
        values.push(f32::from_le_bytes(word));
    }
    Tensor::from_f32(shape, values).map_err(|e| CliError::Runtime(format!("{}: {e}", path.display())))
}

fn start(common: &Common, args: &WorkerArgs) -> Result<(Session, Value), CliError> {
    let path = args.input.as_deref().ok_or_else(|| CliError::Usage("--worker needs --input".into()))?;
    let begin = Instant::now();
    let model = common.load_model()?;
    let import_ms = milliseconds(begin);
    let mut session = Session::of(model, &common.session_options())?;
    let load_ms = milliseconds(begin);
    let name = match session.plan().inputs.as_slice() {
        [(name, _)] => name.clone(),
        inputs => return Err(CliError::Runtime(format!("the network has {} inputs, not 1", inputs.len()))),
    };
    let input = read_input(path, &args.shape)?;
    let begin = Instant::now();
    session.set_input(&name, &input)?;
    drop(input);
    session.infer()?;
    session.outputs()?;
    let ready = json!({
        "ev": "ready",
        "import_ms": import_ms,
        "load_ms": load_ms,
        "first_ms": milliseconds(begin),
        "version": env!("CARGO_PKG_VERSION"),
        "note": format!("{} on {}", session.backend(), session.adapter()),
    });
    Ok((session, ready))
}

fn dump(session: &mut Session, dir: &Path) -> Result<Value, CliError> {
    let mut list = Vec::new();
    std::fs::create_dir_all(dir).map_err(|e| CliError::Runtime(format!("cannot make {}: {e}", dir.display())))?;
    for (i, (name, tensor)) in session.outputs()?.into_iter().enumerate() {
        let file = dir.join(format!("out{i}.f32"));
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::new(std::fs::File::create(&file)?);
            tensor.f32_values().iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))?;
            out.flush()
        };
        write().map_err(|e| CliError::Runtime(format!("cannot write {}: {e}", file.display())))?;
        list.push(json!({"file": file.display().to_string(), "shape": tensor.shape(), "name": name}));
    }
    Ok(json!({"ev": "dump", "outputs": list}))
}

/// Serves until `quit` or the end of stdin.
pub fn run(common: &Common, args: &WorkerArgs) -> Result<(), CliError> {
    let mut session = match start(common, args) {
        Ok((session, ready)) => {
            say(&ready)?;
            session
        }
        Err(e) => {
            say(&json!({"ev": "error", "msg": e.to_string()}))?;
            return Err(e);
        }
    };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (command, argument) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match command {
            "run" => {
                let count: usize =
                    argument.parse().map_err(|_| CliError::Runtime(format!("'{line}': expected run N")))?;
                let mut times_ms = Vec::with_capacity(count.min(1 << 20));
                for _ in 0..count {
                    let begin = Instant::now();
                    session.infer()?;
                    times_ms.push(milliseconds(begin));
                }
                say(&json!({"ev": "run", "ms": times_ms}))?;
            }
            "dump" => say(&dump(&mut session, Path::new(argument))?)?,
            "rss" => {
                let kib = |bytes: Option<u64>| bytes.map(|b| b / 1024);
                say(&json!({"ev": "rss", "peak_rss_kb": kib(peak_rss_bytes()), "rss_kb": kib(rss_bytes())}))?;
            }
            "quit" => break,
            "" => {}
            _ => return Err(CliError::Runtime(format!("unknown command '{line}'"))),
        }
    }
    Ok(())
}
