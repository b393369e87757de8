//! The program's commands, one file each. Exit codes: 0 done, 1 a run-time error (message on stderr), 2 wrong usage.

mod bench;
mod check;
mod detect;
mod doctor;
mod eval;
mod info;
mod live;
mod npy;
mod options;
mod report;
mod run;
mod worker;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Library(#[from] eyas::Error),
    /// The arguments do not go together; exit code 2.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Runtime(String),
    /// Results differ from what they should be.
    #[error("{0}")]
    Parted(String),
    /// The reader of our output went away; nothing to report.
    #[error("output closed")]
    OutputClosed,
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> CliError {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            CliError::OutputClosed
        } else {
            CliError::Runtime(format!("cannot write the output: {error}"))
        }
    }
}

/// Finds objects in pictures with a detector that somebody already trained.
#[derive(Parser, Debug)]
#[command(name = "eyas", version, about, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Find objects in pictures or directories of pictures; write annotated pictures, a table, or JSON
    Detect(detect::Args),
    /// Show a live picture with boxes in a window, or draw the same frames offscreen
    Live(live::Args),
    /// Run a network on raw tensors (.npy in, .npy out)
    Run(run::Args),
    /// Time a network, GPU beside CPU
    Bench(bench::Args),
    /// Check a network node by node, on both backends, against plain arithmetic or given tensors
    Check(check::Args),
    /// Show what a model file holds, and what eyas makes of it
    Info(info::Args),
    /// Measure a detector on labelled pictures: AP50 and AP50:95
    Eval(eval::Args),
    /// Show what this machine offers and what eyas would choose
    Doctor(doctor::Args),
}

impl Command {
    fn common(&self) -> &options::Common {
        match self {
            Command::Detect(a) => &a.common,
            Command::Live(a) => &a.common,
            Command::Run(a) => &a.common,
            Command::Bench(a) => &a.common,
            Command::Check(a) => &a.common,
            Command::Info(a) => &a.common,
            Command::Eval(a) => &a.common,
            Command::Doctor(a) => &a.common,
        }
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.command.common().verbose);
    let result = match &cli.command {
        Command::Detect(a) => detect::run(a),
        Command::Live(a) => live::run(a),
        Command::Run(a) => run::run(a),
        Command::Bench(a) => bench::run(a),
        Command::Check(a) => check::run(a),
        Command::Info(a) => info::run(a),
        Command::Eval(a) => eval::run(a),
        Command::Doctor(a) => doctor::run(a),
    };
    match result {
        Ok(()) | Err(CliError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            let _ = writeln!(anstream::stderr(), "{style}error{style:#}: {error}");
            ExitCode::from(if matches!(error, CliError::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// `RUST_LOG` wins; else warnings, with `-v` also what eyas does, with `-vv` everything of ours.
fn start_log(verbose: u8) {
    let filter = match verbose {
        0 => "error,eyas=warn",
        1 => "error,eyas=info",
        _ => "warn,eyas=trace",
    };
    let env = env_logger::Env::default().default_filter_or(filter);
    env_logger::Builder::from_env(env).format_timestamp(None).format_target(false).init();
}
