//! What can be written on the command line. The comments here are the help.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use http::{HeaderName, HeaderValue};

use crate::telemetry::log::Style;
use crate::upstream::Target;

const EXAMPLES: &str = "\
Examples:
  ratelimit-proxy demo                                      see it at work, without any setting up
  ratelimit-proxy --upstream http://127.0.0.1:9000 --limit '100/s by client.ip'
  ratelimit-proxy --upstream http://127.0.0.1:9000 --limit '5/min by client.ip on POST /login'
  ratelimit-proxy --config ratelimit.yaml
  ratelimit-proxy check --config ratelimit.yaml
  ratelimit-proxy explain --config ratelimit.yaml 'POST /login' -H 'x-api-key: k'
  ratelimit-proxy replay --config ratelimit.yaml --html report.html access.log

Signals: the first SIGTERM or SIGINT stops accepting and lets requests finish, the second cuts them; SIGHUP reads
the configuration again, as a change of the file does.
Exit codes: 0 fine, 1 failed while running or connections had to be cut, 2 bad usage or configuration.";

/// A reverse proxy that puts exact rate limits in front of any HTTP service.
#[derive(Debug, Parser)]
#[command(name = "ratelimit-proxy", version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) run: Run,
    /// How the log on stderr is written
    #[arg(long, value_enum, default_value_t, value_name = "STYLE", global = true)]
    pub(super) log: Style,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy; the same as without a command
    Run(Run),
    /// Start a sample upstream and the proxy on free local ports, send traffic through and show the decisions
    Demo(Demo),
    /// Check a configuration and report every error in it
    Check(Check),
    /// Show which limits match a request, with which key, quota and cost, and why the others do not
    Explain(Explain),
    /// Run recorded traffic through the limits: who would have been denied, by which limit, and what they would need
    Replay(Replay),
    /// Print the configuration's JSON Schema, for editors
    Schema,
    /// Print completions for a shell, such as `ratelimit-proxy completions bash`
    Completions {
        /// Which one
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for `man`
    Man,
}

/// Options of `run`.
#[derive(Args, Debug, Default)]
pub(super) struct Run {
    /// The configuration, in YAML or JSON
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["upstream", "limit", "redis", "leased"])]
    pub(super) config: Option<PathBuf>,
    /// Where requests go, such as http://127.0.0.1:9000; instead of a configuration
    #[arg(long, value_name = "URL")]
    pub(super) upstream: Option<Target>,
    /// A limit, such as '100/s by client.ip' or '5/min by client.ip on POST /login'; may be repeated
    #[arg(long, value_name = "LIMIT", requires = "upstream")]
    pub(super) limit: Vec<String>,
    /// Where clients connect [default: 0.0.0.0:8080, or what the configuration says]; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(super) listen: Vec<SocketAddr>,
    /// Where operators connect, or `off` [default: 127.0.0.1:9090, or what the configuration says]
    #[arg(long, value_name = "ADDRESS", value_parser = admin)]
    pub(super) admin: Option<AdminAddress>,
    /// Worker threads [default: one a processor, or what the configuration says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    /// Share the counters with other replicas through Redis or Valkey, such as redis://127.0.0.1:6379
    // Read later: what can't be read must not be repeated, because it may hold a password.
    #[arg(long, value_name = "URL")]
    pub(super) redis: Option<String>,
    /// Take pieces of the shared limits from the store and spend them by itself: far fewer calls, no more admitted
    #[arg(long)]
    pub(super) leased: bool,
}

/// Where operators connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminAddress {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

/// Options of `demo`.
#[derive(Args, Debug)]
pub(super) struct Demo {
    /// Stop after that time, such as 10s; until interrupted if not given
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(super) length: Option<Duration>,
}

/// Options of `check`.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// The configuration, in YAML or JSON
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: PathBuf,
}

/// Options of `explain`.
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// The configuration, in YAML or JSON
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Method and target, such as 'POST /login' or 'GET http://example.com/items?page=2'; GET if only a target
    #[arg(value_name = "REQUEST", required_unless_present = "domain", conflicts_with = "domain")]
    pub(super) request: Option<String>,
    /// Instead of a request: the domain that Envoy asks about
    #[arg(long, value_name = "NAME")]
    pub(super) domain: Option<String>,
    /// An entry of Envoy's descriptor, such as user=ann; repeated, in order
    #[arg(long = "descriptor", value_name = "NAME=VALUE", requires = "domain", value_parser = entry)]
    pub(super) descriptor: Vec<(String, String)>,
    /// Subject of the client's certificate, such as 'CN=ann,O=Example'
    #[arg(long, value_name = "SUBJECT")]
    pub(super) tls_client: Option<String>,
    /// A header field of the request; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The address that the request's connection comes from
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(super) client: IpAddr,
    /// For machines
    #[arg(long)]
    pub(super) json: bool,
}

/// Options of `replay`.
#[derive(Args, Debug)]
pub(super) struct Replay {
    /// The configuration, in YAML or JSON
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Access logs, oldest first: combined or common log format, or JSON lines; gzip too; `-` is standard input
    #[arg(value_name = "ACCESS_LOG", required = true)]
    pub(super) logs: Vec<PathBuf>,
    /// Also write the report as a page with plots
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Keys shown for each limit
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) top: usize,
    /// For machines
    #[arg(long)]
    pub(super) json: bool,
}

impl Run {
    /// Whether nothing was given.
    pub(super) fn is_empty(&self) -> bool {
        let Self { config, upstream, limit, listen, admin, threads, redis, leased } = self;
        config.is_none()
            && upstream.is_none()
            && limit.is_empty()
            && listen.is_empty()
            && admin.is_none()
            && threads.is_none()
            && redis.is_none()
            && !leased
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an address and a port, such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

fn admin(text: &str) -> Result<AdminAddress, String> {
    if text == "off" { Ok(AdminAddress::Off) } else { address(text).map(AdminAddress::At) }
}

/// `10s`, `500ms`, `2min`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "write a number and a unit, such as 10s, 500ms, 2min or 1h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis: u64 = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(bad)
}

fn entry(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write an entry as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let bad = || "write a header field as 'name: value'".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    Ok((name.trim().parse().map_err(|_| bad())?, value.trim().parse().map_err(|_| bad())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, millis) in [("10s", 10_000), ("500ms", 500), ("2min", 120_000), ("1m", 60_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1.5s", "18446744073709551615h", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn header_fields() {
        let (name, value) = header("X-Api-Key:  k:1 ").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("x-api-key", &b"k:1"[..]));
        assert!(header("no colon").is_err());
        assert!(header("a b: c").is_err());
    }
}
