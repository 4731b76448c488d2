//! `replay`: what the limits would have said to recorded traffic.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::arguments::Replay;
use super::{Exit, Failure, print, run};
use crate::replay::{EntryError, Judge, Reader, Report, page};

/// Bytes of the longest line that is read.
const LONGEST: u64 = 64 << 10;

pub(super) fn replay(arguments: &Replay) -> Result<Exit, Failure> {
    let config = run::load(&arguments.config)?.config;
    // All of them before the first is read: hours of reading should not end at a name that is misspelt.
    let (inputs, faults): (Vec<_>, Vec<_>) =
        arguments.logs.iter().map(|path| Input::open(path)).partition(Result::is_ok);
    let faults: Vec<String> = faults.into_iter().filter_map(Result::err).collect();
    if !faults.is_empty() {
        return Err(Failure::Usage(faults));
    }
    let inputs: Vec<Input> = inputs.into_iter().flatten().collect();
    let bar = bar(inputs.iter().map(|input| input.size).sum::<Option<u64>>());
    let mut judge = Judge::new(&config);
    let mut reader = Reader::default();
    for input in inputs {
        input.read(&bar, &mut reader, &mut judge)?;
    }
    judge.end();
    bar.finish_and_clear();

    let report = Report::new(&judge, arguments.top);
    if let Some(path) = &arguments.html {
        let told = |error| Failure::Failed(format!("{}: {error}", path.display()));
        std::fs::write(path, page(&report)).map_err(told)?;
    }
    if arguments.json {
        let json = serde_json::to_string_pretty(&report);
        print(json.map_err(|error| Failure::Failed(error.to_string()))?)?;
    } else {
        print(&report)?;
        if let Some(path) = &arguments.html {
            print(format_args!("\nwith plots: {}", path.display()))?;
        }
    }
    Ok(Exit::Fine)
}

/// Shown on a terminal only, and on stderr, so that the report can be piped.
fn bar(size: Option<u64>) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let (template, length) = match size {
        Some(size) => ("{bar:40} {percent:>3} %  {bytes_per_sec}  {eta} left", Some(size)),
        None => ("{spinner} {bytes}  {bytes_per_sec}", None),
    };
    let bar = ProgressBar::with_draw_target(length, target);
    ProgressStyle::with_template(template).map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}

/// One log.
struct Input {
    name: String,
    source: Box<dyn Read>,
    /// Bytes on disk.
    size: Option<u64>,
}

impl Input {
    /// A file, or standard input where the name is `-`.
    fn open(path: &Path) -> Result<Self, String> {
        if path.as_os_str() == "-" {
            return Ok(Self { name: "standard input".to_owned(), source: Box::new(io::stdin()), size: None });
        }
        let name = path.display().to_string();
        let told = |error: io::Error| format!("{name}: {error}");
        let file = File::open(path).map_err(told)?;
        let about = file.metadata().map_err(told)?;
        if about.is_dir() {
            return Err(format!("{name}: this is a directory; name the logs in it"));
        }
        let size = about.is_file().then_some(about.len());
        Ok(Self { name, source: Box::new(file), size })
    }

    fn read(self, bar: &ProgressBar, reader: &mut Reader, judge: &mut Judge) -> Result<(), Failure> {
        let Self { name, source, .. } = self;
        let told = |error: io::Error| Failure::Failed(format!("{name}: {error}"));
        let mut raw = BufReader::with_capacity(1 << 18, bar.wrap_read(source));
        // Whatever the name says: gzip begins with these.
        if raw.fill_buf().map_err(told)?.starts_with(&[0x1f, 0x8b]) {
            lines(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(raw)), reader, judge).map_err(told)
        } else {
            lines(raw, reader, judge).map_err(told)
        }
    }
}

fn lines(mut log: impl BufRead, reader: &mut Reader, judge: &mut Judge) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if (&mut log).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') && line.len() as u64 >= LONGEST {
            judge.broken(number, &line, EntryError::Long);
            log.skip_until(b'\n')?;
            continue;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match reader.read(&line) {
            Ok(entry) => judge.entry(entry),
            Err(error) => judge.broken(number, &line, error),
        }
    }
    Ok(())
}
