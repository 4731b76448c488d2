//! The commands of the documentation are run. Those of `sh` blocks are the README's, in order (`readme.rs`). Here are the
//! `console` blocks of all pages: what is behind `$ ` is typed by a reader whose proxy runs the README's configuration,
//! and what follows is what it must print. Commands in the middle of a line are for people who work on the project,
//! and most take long: that what they name is there is all that is looked at.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use redis_testkit::Server;
use tokio::process::Command;

use crate::beside::{block_of, free_port};
use crate::readme::{blocks, install, pages, with_ports};
use crate::support::origin::Origin;
use crate::support::program::{Lines, Program, parts, signal};
use crate::support::soon;

/// Who looks at a block of a language. No block may have another: a command must not hide in it.
const LANGUAGES: [(&str, &str); 9] = [
    ("sh", "readme.rs runs them, those of the README; other pages have none"),
    ("console", "run here"),
    ("yaml", "configurations of ours, loaded by readme.rs"),
    ("yml", "for Envoy (envoy.rs), Traefik (beside.rs) and collectors of OpenTelemetry (otlp.rs)"),
    ("nginx", "beside.rs gives it to nginx; that of moving.md is what a reader comes from"),
    ("caddyfile", "Caddy is not to be had for a test; beside.rs sends what it sends"),
    ("text", "what the command before it prints, or what a reader comes from"),
    ("rust", "doc tests of ratelimit-core"),
    ("toml", "dependencies, which examples have too"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All there is to read, with its path.
fn documentation() -> Vec<(PathBuf, String)> {
    let places = ["docs", "deploy", "benches", "fuzz"];
    let pages = places.iter().flat_map(|place| pages(&root().join(place)));
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md"];
    let all = pages.chain(top.map(|page| root().join(page)));
    all.map(|page| (page.clone(), fs::read_to_string(&page).unwrap())).collect()
}

/// What is typed, and what is printed then.
fn typed(block: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push((command.to_owned(), String::new())),
            (None, Some((command, printed))) if printed.is_empty() && command.ends_with('\\') => {
                command.push_str(&format!("\n{line}"));
            }
            (None, Some((_, printed))) => printed.push_str(&format!("{line}\n")),
            (None, None) => panic!("a block of `console` begins with `$ `: {block}"),
        }
    }
    all
}

/// A reader at a terminal, in a directory of their own.
struct Reader {
    home: tempfile::TempDir,
    programs: tempfile::TempDir,
    ports: BTreeMap<&'static str, u16>,
    _redis: Server,
    _origin: Origin,
    proxy: Program,
}

impl Reader {
    async fn sits_down() -> Self {
        let (home, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (origin, redis) = (Origin::hello().await, Server::start());
        let ports = BTreeMap::from([
            ("9000", origin.address.port()),
            ("6379", redis.port()),
            ("8080", free_port()),
            ("9090", free_port()),
        ]);
        let file = home.path().join("limits.yaml");
        fs::write(&file, with_ports(&block_of("README.md", "limits.yaml"), &ports)).unwrap();
        let proxy = Program::configured(&file).await;
        // Programs that are started besides have other ports.
        install(programs.path(), &BTreeMap::from([("8080", 0), ("9090", 0)]));
        // An answer that says no is a failure.
        let curl = programs.path().join("curl");
        fs::write(
            &curl,
            "#!/bin/sh\nPATH=${PATH#*:}\nexec curl --silent --show-error --fail-with-body --max-time 30 \"$@\"\n",
        )
        .unwrap();
        fs::set_permissions(curl, fs::Permissions::from_mode(0o755)).unwrap();
        Self { home, programs, ports, _redis: redis, _origin: origin, proxy }
    }

    /// Types it; what must come of it, with `printed`.
    async fn types(&self, command: &str, printed: &str) {
        // The year that ends in an example has begun for a reader; and nobody waits here for a profile.
        let command = with_ports(command, &self.ports).replace("2026-12-31", "2099-12-31");
        let command = command.replace("seconds=5", "seconds=1");
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("set -euo pipefail\n{command}")]).current_dir(self.home.path());
        let path = format!("{}:{}", self.programs.path().display(), std::env::var("PATH").unwrap());
        shell.env("PATH", path).stdin(Stdio::null()).kill_on_drop(true);
        if command.starts_with("ratelimit-proxy --") {
            // It serves until it is told to stop.
            let mut child = shell.stderr(Stdio::piped()).spawn().unwrap();
            let mut log = Lines::of(child.stderr.take().unwrap());
            log.line(&["administration"]).await;
            signal(&child, "TERM").await;
            let status = soon("the program to end", child.wait()).await.unwrap();
            assert!(status.success(), "{command}\n{}", log.now());
            return;
        }
        let output = soon("the command", shell.output()).await.unwrap();
        let (code, out, err) = parts(&output);
        assert_eq!(code, 0, "{command}\n{out}{err}\n{}", self.proxy.log.now());
        if !printed.is_empty() {
            assert_eq!(out.trim_end(), with_ports(printed, &self.ports).trim_end(), "{command}");
        }
    }
}

#[tokio::test]
async fn every_command_in_the_documentation_works() {
    let mut commands = 0;
    for (page, text) in documentation() {
        let blocks = blocks(&text);
        for block in &blocks {
            let known = LANGUAGES.iter().any(|(language, _)| *language == block.language);
            assert!(known, "{}: nobody looks at\n{}", page.display(), block.text);
            let elsewhere = block.language == "sh" && !page.ends_with("README.md");
            assert!(!elsewhere, "{}: `console`, for it to be run:\n{}", page.display(), block.text);
        }
        let typed: Vec<_> = blocks
            .iter()
            .filter(|block| block.language == "console")
            .flat_map(|block| typed(&block.text))
            .collect();
        if typed.is_empty() {
            continue;
        }
        let reader = Reader::sits_down().await;
        for (command, printed) in &typed {
            reader.types(command, printed).await;
            commands += 1;
        }
    }
    assert!(commands >= 9, "{commands}");
}

/// The commands in code of a line.
fn in_line(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    let code = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    code.flat_map(|code| code.split("&&")).map(str::trim)
}

/// The file of a test, a program or an example of that package.
fn target(package: &Path, kind: &str, name: &str) -> Option<PathBuf> {
    let place = match kind {
        "--test" => "tests",
        "--bin" => "src/bin",
        "--bench" => "benches",
        "--example" => "examples",
        _ => return None,
    };
    let place = package.join(place);
    let found = [place.join(format!("{name}.rs")), place.join(name).join("main.rs")];
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    let named = || manifest.contains(&format!("name = \"{name}\"")).then(|| package.to_owned());
    found.into_iter().find(|file| file.exists()).or_else(named)
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let inside = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    entries.flat_map(inside).filter(|path| path.extension().is_some_and(|kind| kind == "rs")).collect()
}

#[test]
fn what_commands_in_a_line_name_is_there() {
    let (mut packages, mut targets, mut tests, mut scripts) = (0, 0, 0, 0);
    for (page, text) in documentation() {
        let page = page.strip_prefix(root()).unwrap().display();
        for code in in_line(&text) {
            let words: Vec<&str> = code.split_whitespace().collect();
            for script in words
                .iter()
                .filter(|word| word.starts_with("./") || word.ends_with(".py") && word.contains('/'))
            {
                assert!(root().join(script).exists(), "{page}: `{code}`");
                scripts += 1;
            }
            let Some(cargo) = words.iter().position(|word| *word == "cargo") else { continue };
            let words = &words[cargo..];
            let split = words.iter().position(|word| *word == "--").unwrap_or(words.len());
            let (before, after) = words.split_at(split);
            let Some(at) = before.iter().position(|word| *word == "-p") else { continue };
            let package = root().join(before[at + 1]);
            assert!(package.join("Cargo.toml").exists(), "{page}: `{code}`");
            packages += 1;
            for pair in before
                .windows(2)
                .filter(|pair| ["--test", "--bin", "--bench", "--example"].contains(&pair[0]))
            {
                assert!(target(&package, pair[0], pair[1]).is_some(), "{page}: `{code}`");
                targets += 1;
            }
            // A filter that fits no test would run none, and succeed.
            let filters = after.iter().skip(1).filter(|word| !word.starts_with('-'));
            for filter in filters.filter(|_| before.contains(&"test")) {
                let found = sources(&package).iter().any(|file| {
                    let text = fs::read_to_string(file).unwrap();
                    let mut names =
                        text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
                    names.any(|name| name.contains(filter.trim_matches('\'')))
                });
                assert!(found, "{page}: no test is called `{filter}`: `{code}`");
                tests += 1;
            }
        }
    }
    assert!(
        packages > 8 && targets > 8 && tests > 3 && scripts > 5,
        "{packages} {targets} {tests} {scripts}"
    );
}
