//! What the programs have in common: `--json FILE`, medians with their quartiles, errors told in one line.
//!
//! The file holds figures, each with what it is of (`case`), whose it is (`who`) and what was measured (`what`), as
//! `benches/measured.py` writes them too. `benches/run` adds the machine, the day and the commit.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

/// What goes wrong in a measurement.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Figures of one run.
#[derive(Default)]
pub struct Report {
    file: Option<PathBuf>,
    figures: Vec<Value>,
}

impl Report {
    /// Takes `--json FILE` out of the program's arguments; the others come with it.
    ///
    /// # Errors
    /// When the file is not named.
    pub fn from_arguments() -> Result<(Self, Vec<String>)> {
        let (mut report, mut others) = (Self::default(), Vec::new());
        let mut arguments = std::env::args().skip(1);
        while let Some(word) = arguments.next() {
            if word == "--json" {
                report.file = Some(arguments.next().ok_or("--json needs a file")?.into());
            } else {
                others.push(word);
            }
        }
        Ok((report, others))
    }

    /// Notes a figure.
    pub fn add(&mut self, case: &str, who: &str, what: &str, spread: Spread) {
        // Six digits are more than any of these means.
        let [low, median, high] = spread.quartiles.map(|value| (value * 1e6).round() / 1e6);
        let samples = spread.samples;
        self.figures.push(json!({
            "case": case, "who": who, "what": what, "median": median, "low": low, "high": high, "samples": samples,
        }));
    }

    /// Writes the file, if one was asked for.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(self) -> Result<()> {
        if let Some(file) = self.file {
            let text = serde_json::to_string_pretty(&Value::Array(self.figures))?;
            std::fs::write(&file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(())
    }
}

/// The median of some samples and their quartiles.
#[derive(Clone, Copy)]
pub struct Spread {
    quartiles: [f64; 3],
    samples: usize,
}

impl Spread {
    /// Of those.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |quarter: usize| samples.get(samples.len() * quarter / 4).copied().unwrap_or(f64::NAN);
        Self { quartiles: [at(1), at(2), at(3)], samples: samples.len() }
    }

    /// The median.
    #[must_use]
    pub const fn median(&self) -> f64 {
        self.quartiles[1]
    }
}

impl From<f64> for Spread {
    fn from(only: f64) -> Self {
        Self::of(vec![only])
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let [low, median, high] = self.quartiles;
        write!(f, "{median:.digits$} ({low:.digits$}–{high:.digits$})")
    }
}

/// The program's end: what went wrong in one line, and a status that says so.
#[must_use]
pub fn ended(with: Result<()>) -> ExitCode {
    match with {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// That a program is there to be started.
///
/// # Errors
/// When it is not, with the Debian package that brings it.
pub fn needs(program: &str, package: &str) -> Result<()> {
    let found = std::process::Command::new(program)
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    match found {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{program}: {error}; Debian's {package} brings it").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_samples() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!(format!("{spread:.0}"), "3 (2–4)");
        assert!(Spread::of(Vec::new()).median().is_nan());
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let error = needs("no-such-program", "some-package").unwrap_err();
        assert!(error.to_string().contains("no-such-program") && error.to_string().contains("some-package"));
    }
}
