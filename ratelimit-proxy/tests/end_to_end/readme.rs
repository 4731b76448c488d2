//! The README is run: its configurations are loaded, its commands executed in order as a reader would, and where
//! it shows what they print, that is compared. (Its Rust is run as doc tests of `ratelimit-core`.)
//!
//! What a reader has and a test has not is put in its place: free ports for the ones that are named, the program
//! that was built for `cargo install` and `cargo run`, an upstream for "your own service".

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::beside::free_port;
use crate::support::origin::Origin;

const README: &str = include_str!("../../../README.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_ratelimit-proxy");

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
}

pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(Block { language: language.to_owned(), text: text.join("\n") + "\n" });
    }
    blocks
}

/// The README's ports, by those the test may use.
pub(crate) fn with_ports(text: &str, ports: &BTreeMap<&str, u16>) -> String {
    // Number by number, once each: a free port may have the digits of a named one in it.
    let numbers = text.split_inclusive(|c: char| !c.is_ascii_digit());
    let replaced = numbers.map(|part| {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        match ports.get(digits) {
            Some(free) => format!("{free}{}", &part[digits.len()..]),
            None => part.to_owned(),
        }
    });
    replaced.collect()
}

/// What a reader types, as the test runs it.
fn runnable(line: &str) -> Option<String> {
    if line.starts_with("./test") || line.starts_with("cargo install") || line.starts_with("git clone") {
        // This test is part of the one; the other's result is PROGRAM.
        return None;
    }
    if line.contains("--example") {
        // Examples are run by ./test.
        return None;
    }
    let line = line.replace("cargo run --release -p ratelimit-proxy --", "ratelimit-proxy");
    Some(if line.trim_end().ends_with("ratelimit-proxy demo") { format!("{line} --for 2s") } else { line })
}

/// The program under its name. Started with flags alone it would listen on the ports that everybody has.
pub(crate) fn install(directory: &Path, ports: &BTreeMap<&str, u16>) {
    let (listen, admin) = (ports["8080"], ports["9090"]);
    let script = format!(
        "#!/bin/sh\ncase $1 in\n--upstream) exec {PROGRAM} \"$@\" --listen 127.0.0.1:{listen} --admin \
         127.0.0.1:{admin};;\nesac\nexec {PROGRAM} \"$@\"\n"
    );
    let file = directory.join("ratelimit-proxy");
    fs::write(&file, script).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Every file of Markdown in a directory, and in those below it.
pub(crate) fn pages(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let inside = |path: PathBuf| if path.is_dir() { pages(&path) } else { vec![path] };
    entries.flat_map(inside).filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect()
}

#[test]
fn every_configuration_in_the_documentation_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut configurations = 0;
    for page in pages(&root.join("docs")).into_iter().chain([root.join("README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        for block in blocks(&text).iter().filter(|block| block.language == "yaml") {
            configurations += 1;
            let file = directory.path().join("limits.yaml");
            fs::write(&file, &block.text).unwrap();
            let mut check = Command::new(PROGRAM);
            check.arg("check").arg("--config").arg(&file);
            check.env("JWT_SECRET", "0123456789abcdef0123456789abcdef");
            check.env("RATELIMIT_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef");
            let checked = check.output().unwrap();
            let said = String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success(), "{}: {}\n{said}", page.display(), block.text);
        }
    }
    assert!(configurations > 10, "{configurations}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_in_the_readme_does_what_it_says() {
    let upstream = Origin::hello().await;
    let ports =
        BTreeMap::from([("9000", upstream.address.port()), ("8080", free_port()), ("9090", free_port())]);
    let directory = tempfile::tempdir().unwrap();
    let programs = tempfile::tempdir().unwrap();
    install(programs.path(), &ports);
    let mut script = String::from("set -euo pipefail\n");
    let mut shown = Vec::new();
    let blocks = blocks(README);
    for (number, block) in blocks.iter().enumerate() {
        match block.language.as_str() {
            "yaml" => {
                // A block that begins with the name of a file is that file.
                let name =
                    block.text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
                if name.ends_with(".yaml") {
                    fs::write(directory.path().join(name), with_ports(&block.text, &ports)).unwrap();
                }
            }
            "sh" => {
                script.push_str(&format!("exec > out.{number}\n"));
                for line in block.text.lines().filter_map(runnable) {
                    let background = line.trim_end().ends_with('&');
                    script.push_str(&with_ports(&line, &ports));
                    script.push('\n');
                    if background {
                        // The next command is typed when the program has said that it listens.
                        let listen = ports["8080"];
                        script.push_str(&format!(
                            "until curl -s -o /dev/null http://127.0.0.1:{listen}/healthz; do sleep 0.05; done\n"
                        ));
                    }
                }
                // What it shows follows it at once.
                if let Some(text) = blocks.get(number + 1).filter(|next| next.language == "text") {
                    shown.push((number, text.text.as_str()));
                }
            }
            _ => {}
        }
    }
    script.push_str("kill $(jobs -p) 2>/dev/null || true\nwait\n");
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let home = directory.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .current_dir(&home)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(home.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (status, script);
            }
            if began.elapsed() > Duration::from_secs(120) {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
    .await
    .unwrap();
    let stderr = fs::read_to_string(directory.path().join("stderr")).unwrap();
    assert!(output.0.success(), "{}\n{stderr}", output.1);
    assert!(!shown.is_empty());
    for (number, text) in shown {
        let printed = fs::read_to_string(directory.path().join(format!("out.{number}"))).unwrap();
        assert_eq!(
            printed.trim_end(),
            with_ports(text, &ports).trim_end(),
            "after\n{}\n{stderr}",
            blocks[number].text
        );
    }
}
