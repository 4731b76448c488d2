//! `run`: the proxy until a signal ends it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use ratelimit_redis::lease::Policy;
use tracing::level_filters::LevelFilter;

use super::arguments::{AdminAddress, Run};
use super::{Exit, Failure};
use crate::app::{App, Signals};
use crate::config::{self, Config, Listener, Loaded, RedisConfig, StoreConfig, StoreUrl, StoreUrlError};
use crate::reload::Source;
use crate::telemetry::log::{self, Style};

pub(super) fn run(arguments: Run, style: Style) -> Result<Exit, Failure> {
    let Configured { config, source, warnings } = configuration(arguments)?;
    let _log = log::start(style, LevelFilter::INFO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, source, warnings))
}

/// Reads a file, says what is doubtful about it, and refuses what is wrong.
pub(super) fn load(path: &Path) -> Result<Loaded, Failure> {
    let loaded = config::load_file(path).map_err(|faults| {
        let lines = faults.iter().map(ToString::to_string);
        Failure::Usage(lines.collect())
    })?;
    for warning in &loaded.warnings {
        let _ = writeln!(anstream::stderr(), "warning: {warning}");
    }
    Ok(loaded)
}

/// A configuration, and the file it is from.
struct Configured {
    config: Config,
    source: Option<Source>,
    /// What is doubtful about the file.
    warnings: Vec<String>,
}

fn configuration(arguments: Run) -> Result<Configured, Failure> {
    let Run { config, upstream, limit, listen, admin, threads, redis, leased } = arguments;
    let mut faults = Vec::new();
    let redis = redis.and_then(|url| {
        let hint = |error| faults.push(format!("--redis: {error} ({})", StoreUrlError::HINT));
        url.parse::<StoreUrl>().map_err(hint).ok()
    });
    let flags = Flags { listen, admin, threads, redis, leased };
    // Made first: a change of the file while it is read is a change.
    let source = config.clone().map(|path| {
        let flags = flags.clone();
        Source::new(path.clone(), move || {
            config::load_file(&path).map(|loaded| Loaded { config: flags.over(loaded.config), ..loaded })
        })
    });
    let mut warnings = Vec::new();
    let mut config = match (config, upstream) {
        (Some(path), _) => {
            let loaded = load(&path)?;
            warnings = loaded.warnings.iter().map(ToString::to_string).collect();
            Some(loaded.config)
        }
        (None, Some(upstream)) => Some(Config::new(upstream)),
        (None, None) => {
            faults.push(
                "nothing to run: give --config FILE, or --upstream URL with --limit; `demo` needs neither"
                    .to_owned(),
            );
            None
        }
    };
    let before = config.as_ref().map_or(0, |config| config.limits.len());
    for (number, text) in limit.iter().enumerate() {
        match (config::limit_from_short(text, before + number + 1), &mut config) {
            (Ok(limit), Some(config)) => {
                let name = limit.limit.name();
                if config.limits.iter().any(|known| known.limit.name() == name) {
                    faults.push(format!(
                        "--limit {text:?}: there is a limit {name} already; name it with `as NAME`"
                    ));
                }
                if limit.needs_token() && config.jwt.is_none() {
                    faults.push(format!(
                        "--limit {text:?}: jwt needs a file that says whose tokens are believed"
                    ));
                }
                config.limits.push(limit);
            }
            (Ok(_), None) => {}
            (Err(fault), _) => faults.push(format!("--limit {text:?}: {fault}")),
        }
    }
    let Some(config) = config.filter(|_| faults.is_empty()) else { return Err(Failure::Usage(faults)) };
    let config = flags.over(config);
    if leased && matches!(config.store, StoreConfig::Memory(_)) {
        return Err(Failure::Usage(vec!["--leased needs a store to lease from: --redis URL".to_owned()]));
    }
    Ok(Configured { config, source, warnings })
}

/// What flags say instead of the file, whenever it is read.
#[derive(Clone)]
struct Flags {
    listen: Vec<SocketAddr>,
    admin: Option<AdminAddress>,
    threads: Option<u16>,
    redis: Option<StoreUrl>,
    leased: bool,
}

impl Flags {
    fn over(&self, mut config: Config) -> Config {
        if !self.listen.is_empty() {
            config.listen = self.listen.iter().copied().map(Listener::from).collect();
        }
        if let Some(url) = &self.redis {
            config.store = StoreConfig::Redis(Box::new(RedisConfig::at(url.clone())));
        }
        if let (true, StoreConfig::Redis(redis)) = (self.leased, &mut config.store) {
            redis.leases = redis.leases.or_else(|| Some(Policy::default()));
        }
        if self.threads.is_some() {
            config.server.threads = self.threads.map(usize::from);
        }
        match self.admin {
            Some(AdminAddress::Off) => config.admin = None,
            Some(AdminAddress::At(address)) => config.admin = Some(address),
            None => {}
        }
        config
    }
}

async fn serve(config: Config, source: Option<Source>, warnings: Vec<String>) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let app = App::start(config, source).await?;
    app.view().shared().doubts.of_file(warnings);
    app.announce();
    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = app.follow() => match never {},
    };
    let hurry = async {
        signals.next().await;
    };
    let stopping = app.stop(hurry);
    tracing::info!(signal, "draining; a second signal cuts what is under way");
    let drained = stopping.await?;
    tracing::info!(finished = drained.finished, cut = drained.forced, "stopped");
    Ok(if drained.forced == 0 { Exit::Fine } else { Exit::Failed })
}
