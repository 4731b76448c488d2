//! What `deploy/` offers, judged by the programs that it is for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::program::{command, parts, run};
use crate::support::soon;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ratelimit-proxy");

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

/// What a program that succeeds says.
async fn says(command: &mut Command) -> String {
    let output = soon("the program", command.kill_on_drop(true).output()).await.unwrap();
    let (code, out, err) = parts(&output);
    assert_eq!(code, 0, "{out}\n{err}");
    format!("{out}{err}")
}

async fn check(name: &str, configuration: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ratelimit.yaml");
    fs::write(&file, configuration).unwrap();
    let mut check = command(&["check", "--config", file.to_str().unwrap()]);
    let said = says(check.env("RATELIMIT_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef")).await;
    assert!(said.contains("fine"), "{name}: {said}");
}

#[tokio::test]
async fn kubernetes_takes_the_manifests_and_the_proxy_their_configurations() {
    for name in ["gateway.yaml", "sidecar.yaml"] {
        let file = deploy().join("kubernetes").join(name);
        says(Command::new("kubernetes-validate").arg(&file)).await;
        let manifest = fs::read_to_string(&file).unwrap();
        let (_, behind) = manifest.split_once("ratelimit.yaml: |\n").unwrap();
        let lines: Vec<_> = behind.lines().map_while(|line| line.strip_prefix("    ")).collect();
        assert!(lines.len() > 4, "{name}");
        check(name, &lines.join("\n")).await;
    }
}

#[tokio::test]
async fn compose_takes_the_file_and_the_proxy_its_configuration() {
    let compose = deploy().join("compose");
    let mut config = Command::new("docker-compose");
    config.arg("-f").arg(compose.join("compose.yaml")).arg("config");
    let said = says(config.env("RATELIMIT_ADMIN_TOKEN", "x")).await;
    assert!(said.contains("replicas: 2"), "{said}");
    check("compose", &fs::read_to_string(compose.join("ratelimit.yaml")).unwrap()).await;
}

/// It is not built here: that takes an optimized build of everything, and an image to begin from. What it says has to fit
/// the workspace, and what the files beside it expect.
#[test]
fn the_container_file_fits_the_workspace_and_those_who_run_it() {
    let read = |file: &str| fs::read_to_string(deploy().join(file)).unwrap();
    let (container, toolchain) = (read("Containerfile"), read("../rust-toolchain.toml"));
    let after = |text: &str, words: &str| {
        let (_, behind) = text.split_once(words).unwrap_or_else(|| panic!("no {words}"));
        behind.split(['"', '\n', '-']).next().unwrap().to_owned()
    };
    let (image, channel) = (after(&container, "rust:"), after(&toolchain, "channel = \""));
    assert!(channel.starts_with(&format!("{image}.")), "the image has Rust {image}, the workspace {channel}");
    // Of the workspace everything is copied but what is built.
    assert!(container.contains("\nCOPY . .\n"));
    for ignored in [".containerignore", ".dockerignore"] {
        let ignored = read(&format!("../{ignored}"));
        assert!(ignored.lines().any(|line| line.trim_matches('/') == "target"), "{ignored}");
    }
    for used in ["../Cargo.lock", "../ratelimit-proxy/Cargo.toml"] {
        assert!(deploy().join(used).exists(), "{used}");
    }
    // One user and one place for the configuration, everywhere.
    let (user, config) = (after(&container, "\nUSER "), after(&container, "\"--config\", \""));
    let (user, _) = user.split_once(':').unwrap();
    assert!(user.parse::<u32>().unwrap() > 0);
    let place = Path::new(&config).parent().unwrap().to_str().unwrap();
    for file in ["compose/compose.yaml", "kubernetes/gateway.yaml", "kubernetes/sidecar.yaml"] {
        let text = read(file);
        assert!(text.contains(place), "{file} has no {place}");
        let other = text.lines().find(|line| line.contains("runAsUser:") && !line.contains(user));
        assert_eq!(other, None, "{file}: the image is run by {user}");
    }
}

/// As installed, but for the program's place.
#[tokio::test]
async fn systemd_takes_the_unit_and_finds_it_well_locked() {
    let directory = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(deploy().join("systemd/ratelimit-proxy.service")).unwrap();
    let unit = unit.replace("/usr/local/bin/ratelimit-proxy", PROGRAM).replace("Documentation=man", "#");
    let file = directory.path().join("ratelimit-proxy.service");
    fs::write(&file, unit).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let said = says(Command::new("systemd-analyze").arg("verify").arg(&file)).await;
    assert!(!said.contains("ratelimit-proxy.service:"), "{said}");
    let said = says(Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&file)).await;
    let (_, level) = said.rsplit_once("exposure level for ratelimit-proxy.service: ").unwrap();
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level < 2.0, "{level}");
}

#[tokio::test]
async fn ansible_takes_the_role() {
    let playbook = deploy().join("ansible/playbook.yaml");
    let mut ansible = Command::new("ansible-playbook");
    ansible.args(["--syntax-check", "-i", "localhost,"]).arg(playbook);
    says(ansible.env("ANSIBLE_LOCALHOST_WARNING", "False")).await;
}

#[tokio::test]
async fn shells_take_the_completions_and_man_the_page() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]).await;
        let (code, out, err) = parts(&output);
        assert!(code == 0 && out.contains("replay") && out.contains("config"), "{shell}: {out}{err}");
    }
    let output = run(&["completions", "bash"]).await;
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("completions.bash");
    fs::write(&script, output.stdout).unwrap();
    let ask = r#"source "$1"; COMP_WORDS=(ratelimit-proxy expl); COMP_CWORD=1
        "$(complete -p ratelimit-proxy | grep -o -- '-F [^ ]*' | cut -c4-)" ratelimit-proxy expl ratelimit-proxy
        echo "${COMPREPLY[@]}""#;
    let said = says(Command::new("bash").args(["-c", ask, "bash"]).arg(&script)).await;
    assert_eq!(said.trim(), "explain");
    let output = run(&["man"]).await;
    let (code, page, _) = parts(&output);
    assert_eq!(code, 0);
    for part in [".TH ratelimit-proxy", ".SH NAME", ".SH \"EXPLAIN\"", "\\-\\-limit", ".SH EXTRA"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}
