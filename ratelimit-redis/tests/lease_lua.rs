//! `grant` in `scripts/decide.lua` says what `lease::grant` says, to the bit, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ratelimit_redis::lease::grant::{Grant, Level, Wish, grant};

const SCRIPT: &str = include_str!("../src/scripts/decide.lua");

/// The function in the script.
fn granting() -> &'static str {
    let from = SCRIPT.find("local function grant(").unwrap();
    let length = SCRIPT[from..].find("\nend\n").unwrap() + 5;
    &SCRIPT[from..from + length]
}

/// A server of its own, on a socket in a directory that goes with it.
struct Server {
    child: Child,
    directory: std::path::PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn server() -> Option<(Server, UnixStream)> {
    let directory = std::env::temp_dir().join(format!("lease-lua-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let socket = directory.join("s");
    let child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(&directory)
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    let server = Server { child, directory };
    let start = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(&socket) {
            return Some((server, stream));
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn call(stream: &mut UnixStream, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend(format!("${}\r\n", part.len()).bytes());
        out.extend_from_slice(part);
        out.extend(b"\r\n");
    }
    stream.write_all(&out).unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
    let length = text.strip_prefix('$').unwrap_or_else(|| panic!("{text}")).parse::<usize>().unwrap();
    let mut body = vec![0; length + 2];
    stream.read_exact(&mut body).unwrap();
    body.truncate(length);
    body
}

#[test]
fn the_script_grants_what_the_reference_grants() {
    let Some((_server, mut stream)) = server() else { panic!("redis-server is needed") };
    let script = format!(
        "local PATIENT = 4000000
{}
local A = {{ struct.unpack(ARGV[1], ARGV[2]) }}
local out = {{}}
for i = 1, #A - 1, 9 do
  local lapses = A[i + 3] >= 0 and A[i + 3]
  local granted, missing =
    grant(A[i], A[i + 1], A[i + 2], lapses, A[i + 4], A[i + 5], A[i + 6], A[i + 7], A[i + 8])
  out[#out + 1] = struct.pack('<dd', granted, missing)
end
return table.concat(out)",
        granting()
    );
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let cases: Vec<(Level, Wish)> = (0..50).map(|_| case(&mut rng)).collect();
        let mut packed = Vec::new();
        for (level, wish) in &cases {
            for number in [
                level.used,
                level.cap,
                level.unit,
                level.lapses.unwrap_or(-1.0),
                wish.least,
                wish.rate,
                wish.horizon,
                wish.share,
                wish.patience,
            ] {
                packed.extend(number.to_le_bytes());
            }
        }
        let format = format!("<{}", "d".repeat(cases.len() * 9));
        let said = call(&mut stream, &[b"EVAL", script.as_bytes(), b"0", format.as_bytes(), &packed]);
        for (case, answer) in cases.iter().zip(said.chunks_exact(16)) {
            let number = |part: &[u8]| f64::from_le_bytes(part.try_into().unwrap());
            let (granted, missing) = (number(&answer[..8]), number(&answer[8..]));
            let expected = match grant(case.0, case.1) {
                Grant::Units(units) => (f64::from(units), 0.0),
                Grant::Missing(missing) => (0.0, missing),
            };
            assert_eq!((granted, missing), expected, "{case:?}");
        }
    }
}

/// Quotas and wishes of all sizes.
fn case(rng: &mut fastrand::Rng) -> (Level, Wish) {
    let bucket = rng.bool();
    let grain = if bucket { 1.0 / f64::from(1_u32 << rng.u32(0..=17)) } else { 1.0 };
    let unit = if bucket { f64::from(rng.u32(1..200_000)) * grain } else { 1.0 };
    let burst = f64::from(1_u32 << rng.u32(0..20)) - f64::from(rng.u32(0..2).min(1));
    let cap = burst.max(1.0) * unit;
    let used = (cap * rng.f64() / grain).floor() * grain;
    let lapses = (!bucket).then(|| f64::from(rng.u32(1..100_000_000)));
    let wish = Wish {
        least: f64::from(rng.u32(1..=3)),
        rate: rng.f64() * [0.000_001, 0.001, 1.0][rng.usize(0..3)],
        horizon: f64::from(rng.u32(1..60_000_000)),
        share: 0.25,
        patience: if rng.bool() { 0.25 } else { 0.0 },
    };
    (Level { used: if rng.u8(0..8) == 0 { cap } else { used }, cap, unit, lapses }, wish)
}
