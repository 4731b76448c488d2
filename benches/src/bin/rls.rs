//! What a question of Envoy's costs: processor time of `ratelimit-proxy`, counters in memory, while a client asks over
//! one connection, many questions at a time as Envoy does. Prints microseconds a question.
//!
//! `--json FILE` writes them there, too.
//!
//! `cargo build --release -p ratelimit-proxy && cargo run --release -p benches --bin rls`

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};

use benches::report::{Report, Result, Spread, ended};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::Channel;

/// Questions of a round, and how many of them are under way at once.
const ROUND: (u32, u32) = (40_000, 32);
const ROUNDS: usize = 5;

const CONFIGURATION: &str = "\
listen: 127.0.0.1:0
admin: off
upstream: http://127.0.0.1:9
rls: 127.0.0.1:0
limits:
  - {name: user, match: {domain: edge, descriptors: [{user: '*'}]}, key: descriptor.user, rate: 1000000/s}
  - {name: service, match: {domain: edge, descriptors: [{service: auth}, {user: '*'}]}, key: descriptor.user, rate: 1/h}
";

struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of a process so far, in microseconds.
fn processor_time(id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) * 10_000.0)
}

fn question(number: u32, denied: bool) -> RateLimitRequest {
    let entry = |key: &str, value: String| Entry { key: key.to_owned(), value };
    let user = entry("user", format!("user-{:08}", number % 1000));
    let entries = if denied { vec![entry("service", "auth".to_owned()), user] } else { vec![user] };
    let descriptors = vec![RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }];
    RateLimitRequest { domain: "edge".to_owned(), descriptors, hits_addend: 0 }
}

async fn round(client: &RateLimitServiceClient<Channel>, denied: bool) -> Result<()> {
    let mut askers = tokio::task::JoinSet::new();
    for asker in 0..ROUND.1 {
        let mut client = client.clone();
        askers.spawn(async move {
            for number in (asker..ROUND.0).step_by(ROUND.1 as usize) {
                client.should_rate_limit(question(number, denied)).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    while let Some(asked) = askers.join_next().await {
        asked??;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    ended(measure().await)
}

async fn measure() -> Result<()> {
    let (mut report, arguments) = Report::from_arguments()?;
    let file = std::env::temp_dir().join(format!("bench-rls-{}.yaml", std::process::id()));
    std::fs::write(&file, CONFIGURATION)?;
    let program = arguments.first().map_or("target/release/ratelimit-proxy", String::as_str);
    let child = Command::new(program).arg("--config").arg(&file).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("{program}: {error}"))?;
    let log = child.stderr.take().ok_or("no log")?;
    let proxy = Proxy(child);
    let mut lines = BufReader::new(log).lines();
    let address = lines.by_ref().map_while(std::result::Result::ok).find_map(|line| {
        let (_, rest) = line.contains("rate-limit service").then(|| line.split_once("http://"))??;
        Some(format!("http://{}", rest.split_whitespace().next()?))
    });
    std::thread::spawn(move || lines.for_each(drop));
    let _ = std::fs::remove_file(&file);
    let client = RateLimitServiceClient::connect(address.ok_or("it does not serve")?).await?;
    for (name, denied) in [("allowed", false), ("denied", true)] {
        round(&client, denied).await?;
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            let before = processor_time(proxy.0.id())?;
            round(&client, denied).await?;
            costs.push((processor_time(proxy.0.id())? - before) / f64::from(ROUND.0));
        }
        let costs = Spread::of(costs);
        println!("{name:8} {costs:.1} µs of CPU a question");
        report.add(name, "ours", "CPU µs a question", costs);
    }
    report.write()
}
