//! What is made of the command line's own description: completions for shells and the manual page.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::arguments::Arguments;
use super::{Exit, Failure};

pub(super) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ratelimit-proxy", &mut script);
    write(&script)
}

/// One page for the program and all its commands.
pub(super) fn man() -> Result<Exit, Failure> {
    let mut page = Vec::new();
    let mut command = Arguments::command();
    command.build();
    let main = clap_mangen::Man::new(command.clone());
    main.render_title(&mut page)?;
    main.render_name_section(&mut page)?;
    main.render_synopsis_section(&mut page)?;
    main.render_description_section(&mut page)?;
    main.render_options_section(&mut page)?;
    for sub in command.get_subcommands() {
        writeln!(page, ".SH \"{}\"", sub.get_name().to_uppercase())?;
        let sub = clap_mangen::Man::new(sub.clone());
        let mut part = Vec::new();
        sub.render_description_section(&mut part)?;
        sub.render_options_section(&mut part)?;
        // Sections of a page of its own become subsections of this one.
        page.extend_from_slice(String::from_utf8_lossy(&part).replace(".SH", ".SS").as_bytes());
    }
    main.render_extra_section(&mut page)?;
    main.render_version_section(&mut page)?;
    write(&page)
}

fn write(bytes: &[u8]) -> Result<Exit, Failure> {
    let mut out = std::io::stdout();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(Exit::Fine)
}
