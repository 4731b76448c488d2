//! `demo`: a sample upstream, the proxy in front of it and a few clients, all in this process and all speaking
//! HTTP over real sockets. What is shown is what the clients saw.

mod clients;
mod screen;
mod upstream;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ratelimit_core::{Algorithm, Limit, LimitError, LimitSpec, Rate, RateError};
use tokio::sync::watch;
use tracing::level_filters::LevelFilter;

use self::clients::CLIENTS;
use self::screen::Screen;
use self::upstream::Upstream;
use super::arguments::Demo;
use super::{Exit, Failure};
use crate::app::{App, Signals};
use crate::config::words::{KeyPart, Source};
use crate::config::{Config, LimitConfig, LogRequests, Match, Trust};
use crate::telemetry::log::{self, Style};
use crate::upstream::Target;

/// Some free port of this machine.
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(super) fn demo(arguments: &Demo, style: Style) -> Result<Exit, Failure> {
    let _log = log::start(style, LevelFilter::WARN);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(arguments.length))
}

async fn show(length: Option<Duration>) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let upstream = Upstream::start(LOCAL).await?;
    let config = configuration(upstream.address()).map_err(Failure::Failed)?;
    let app = App::start(config, None).await?;
    let Some(proxy) = app.addresses().first().copied() else {
        return Err(Failure::Failed("the proxy listens nowhere".to_owned()));
    };
    let screen = RefCell::new(Screen::new());
    screen.borrow_mut().open(proxy, app.admin(), upstream.address(), &app.view().rules().limits)?;

    let (stop, stopped) = watch::channel(false);
    let over = async {
        tokio::select! {
            _ = signals.next() => {}
            () = sleep(length) => {}
            () = screen::unreadable(&screen) => {}
            never = app.follow() => match never {},
        }
        stop.send_replace(true);
    };
    let playing = CLIENTS.iter().map(|client| client.play(proxy, stopped.clone(), &screen));
    tokio::join!(futures_util::future::join_all(playing), over);
    let closed = screen.borrow_mut().close(upstream.served());
    // Nobody waits for connections of a show that is over.
    app.stop(std::future::ready(())).await?;
    closed.map(|()| Exit::Fine)
}

async fn sleep(length: Option<Duration>) {
    match length {
        Some(length) => tokio::time::sleep(length).await,
        None => std::future::pending().await,
    }
}

/// What a user would write in a file:
///
/// ```yaml
/// client_ip: {trusted_proxies: [127.0.0.0/8]}
/// limits:
///   - {name: per-client, key: {first: [header.x-api-key, client.ip]}, rate: 2/s, burst: 8}
///   - {name: login, match: {path: /login, methods: [POST]}, key: client.ip, rate: 5/min, algorithm: sliding_window}
/// ```
fn configuration(upstream: SocketAddr) -> Result<Config, String> {
    let target: Target = format!("http://{upstream}").parse().map_err(|error| format!("{error}"))?;
    let mut config = Config::new(target);
    config.listen = vec![LOCAL.into()];
    config.admin = Some(LOCAL);
    config.client_ip.trust =
        Trust::Proxies(vec![ipnet::IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8))]);
    config.log.requests = LogRequests::Off;
    config.server.threads = Some(2);
    // Few enough for every machine: a show does not begin with a warning about file descriptors.
    config.server.max_connections = 100;
    config.limits = vec![per_client()?, login()?];
    Ok(config)
}

fn per_client() -> Result<LimitConfig, String> {
    let rate = "2/s".parse().map_err(|error: RateError| error.to_string())?;
    let spec = LimitSpec { burst: Some(8), ..LimitSpec::new("per-client", rate) };
    let name = http::HeaderName::from_static("x-api-key");
    Ok(LimitConfig {
        key: vec![KeyPart::First(vec![Source::Header(name), Source::ClientIp])],
        ..LimitConfig::new(limit(spec)?)
    })
}

fn login() -> Result<LimitConfig, String> {
    let spec =
        LimitSpec { algorithm: Algorithm::SlidingWindow, ..LimitSpec::new("login", Rate::per_minute(5)) };
    let path = "/login".parse().map_err(|error: crate::config::words::PatternError| error.to_string())?;
    let matches = Match { path: Some(path), methods: vec![http::Method::POST], ..Match::default() };
    Ok(LimitConfig { matches, ..LimitConfig::by_client(limit(spec)?) })
}

fn limit(spec: LimitSpec) -> Result<Limit, String> {
    Limit::try_from(spec).map_err(|error: LimitError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_holds() {
        let config = configuration(LOCAL).unwrap();
        assert_eq!(config.limits.len(), 2);
        let Trust::Proxies(networks) = config.client_ip.trust else { panic!() };
        assert_eq!(networks[0].trunc().to_string(), "127.0.0.0/8");
    }
}
