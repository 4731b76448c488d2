//! The command line. [`main`] reads it, does what it says and gives the code to exit with; each command is a
//! file. Errors go to stderr, one line each.

mod arguments;
mod check;
mod demo;
mod explain;
mod generated;
mod replay;
mod run;
mod schema;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use self::arguments::{Arguments, Command};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well. Also after a signal, when every connection could finish.
    Fine = 0,
    /// It failed while running, or connections had to be cut when it was stopped.
    Failed = 1,
    /// It was asked for what can't be done: the command line or the configuration is wrong.
    Usage = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for can't be done; one line for each reason.
    Usage(Vec<String>),
    /// It failed.
    Failed(String),
    /// Nobody reads what it writes any more.
    BrokenPipe,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// Does what the command line says.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let done = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => execute(arguments),
        Err(error) => explain_usage(&error),
    };
    match done {
        Ok(exit) => exit,
        Err(Failure::BrokenPipe) => Exit::Fine,
        Err(Failure::Usage(faults)) => {
            faults.iter().for_each(complain);
            Exit::Usage
        }
        Err(Failure::Failed(fault)) => {
            complain(&fault);
            Exit::Failed
        }
    }
}

fn execute(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, run, log } = arguments;
    if command.is_some() && !run.is_empty() {
        let fault = "options of `run` stand behind the command, such as `run --config FILE`";
        return Err(Failure::Usage(vec![fault.to_owned()]));
    }
    match command {
        None => run::run(run, log),
        Some(Command::Run(run)) => run::run(run, log),
        Some(Command::Demo(demo)) => demo::demo(&demo, log),
        Some(Command::Check(check)) => check::check(&check),
        Some(Command::Explain(explain)) => explain::explain(&explain),
        Some(Command::Replay(replay)) => replay::replay(&replay),
        Some(Command::Schema) => schema::schema(),
        Some(Command::Completions { shell }) => generated::completions(shell),
        Some(Command::Man) => generated::man(),
    }
}

/// Help and version as clap writes them; its complaints, which take several lines, in one.
fn explain_usage(error: &clap::Error) -> Result<Exit, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            error.print()?;
            Ok(Exit::Fine)
        }
        _ => {
            let text = error.to_string();
            let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
            let words: Vec<_> = lines.filter(|line| !line.starts_with("For more")).collect();
            let line = words.join(" ");
            let line = line.strip_prefix("error: ").unwrap_or(&line).replace("  ", "; ");
            Err(Failure::Usage(vec![format!("{} (--help shows what there is)", line.trim())]))
        }
    }
}

fn complain(fault: impl Display) {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    // If even that can't be written, the exit code has to do.
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {fault}");
}

/// Writes to stdout.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    let mut out = anstream::stdout();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}
