//! `run`: the proxy until a signal ends it.

use std::io::Write as _;
use std::path::Path;

use tracing::level_filters::LevelFilter;

use super::arguments::{AdminAddress, Run};
use super::{Exit, Failure};
use crate::app::{App, Signals};
use crate::config::{self, Config, RedisConfig, StoreConfig, StoreUrl, StoreUrlError};
use crate::telemetry::log::{self, Style};

pub(super) fn run(arguments: Run, style: Style) -> Result<Exit, Failure> {
    let config = configuration(arguments)?;
    let _log = log::start(style, LevelFilter::INFO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

/// Reads a file, says what is doubtful about it, and refuses what is wrong.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    let loaded = config::load_file(path).map_err(|faults| {
        let lines = faults.iter().map(ToString::to_string);
        Failure::Usage(lines.collect())
    })?;
    for warning in &loaded.warnings {
        let _ = writeln!(anstream::stderr(), "warning: {warning}");
    }
    Ok(loaded.config)
}

fn configuration(arguments: Run) -> Result<Config, Failure> {
    let Run { config, upstream, limit, listen, admin, threads, redis, leased } = arguments;
    let mut faults = Vec::new();
    let redis = redis.and_then(|url| {
        let hint = |error| faults.push(format!("--redis: {error} ({})", StoreUrlError::HINT));
        url.parse::<StoreUrl>().map_err(hint).ok()
    });
    if leased {
        faults.push("--leased is not available yet".to_owned());
    }
    let mut config = match (config, upstream) {
        (Some(path), _) => Some(load(&path)?),
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
    let Some(mut config) = config.filter(|_| faults.is_empty()) else { return Err(Failure::Usage(faults)) };
    if !listen.is_empty() {
        config.listen = listen;
    }
    if let Some(url) = redis {
        config.store = StoreConfig::Redis(Box::new(RedisConfig::at(url)));
    }
    if threads.is_some() {
        config.server.threads = threads.map(usize::from);
    }
    match admin {
        Some(AdminAddress::Off) => config.admin = None,
        Some(AdminAddress::At(address)) => config.admin = Some(address),
        None => {}
    }
    Ok(config)
}

async fn serve(config: Config) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let app = App::start(config).await?;
    app.announce();
    let signal = signals.next().await;
    tracing::info!(signal, "draining; a second signal cuts what is under way");
    let hurry = async {
        signals.next().await;
    };
    let drained = app.stop(hurry).await?;
    tracing::info!(finished = drained.finished, cut = drained.forced, "stopped");
    Ok(if drained.forced == 0 { Exit::Fine } else { Exit::Failed })
}
