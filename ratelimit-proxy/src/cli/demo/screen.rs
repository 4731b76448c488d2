//! What the demo shows: where everything is, a line for each decision, and a summary.

use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

use anstyle::{AnsiColor, Effects, Style};
use http::StatusCode;
use tokio::time::Instant;

use super::clients::{Answer, CLIENTS, Client};
use crate::app;
use crate::cli::{Failure, print};
use crate::config::LimitConfig;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().effects(Effects::DIMMED);
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();

/// The lines so far.
pub(super) struct Screen {
    started: Instant,
    scores: [Score; CLIENTS.len()],
    /// Why no more can be shown.
    broken: Option<Failure>,
    noticed: std::rc::Rc<tokio::sync::Notify>,
}

/// What became of a client's requests.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    allowed: u64,
    denied: u64,
    failed: u64,
}

/// Waits until nobody reads any more.
pub(super) async fn unreadable(screen: &RefCell<Screen>) {
    let noticed = std::rc::Rc::clone(&screen.borrow().noticed);
    noticed.notified().await;
}

impl Screen {
    /// Time starts now.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            scores: [Score::default(); CLIENTS.len()],
            broken: None,
            noticed: std::rc::Rc::default(),
        }
    }

    /// Says what is where.
    pub(super) fn open(
        &mut self,
        proxy: SocketAddr,
        admin: Option<SocketAddr>,
        upstream: SocketAddr,
        limits: &[LimitConfig],
    ) -> Result<(), Failure> {
        let mut text =
            format!("{BOLD}A sample upstream, the proxy in front of it, and four clients.{BOLD:#}\n\n");
        let mut put = |name: &str, what: &dyn Display| {
            let _ = writeln!(text, "  {DIM}{name:<10}{DIM:#}{what}");
        };
        put("try", &format_args!("curl -i http://{proxy}/items"));
        if let Some(admin) = admin {
            put("open", &format_args!("http://{admin}/   (also /metrics, /api/limits)"));
        }
        put("upstream", &format_args!("http://{upstream}   (the same without limits)"));
        put("stop", &"Ctrl-C\n");
        for (number, limit) in limits.iter().enumerate() {
            let end = if number + 1 == limits.len() { "\n" } else { "" };
            put(if number == 0 { "limits" } else { "" }, &(describe(limit) + end));
        }
        for (number, client) in CLIENTS.iter().enumerate() {
            let name = if number == 0 { "clients" } else { "" };
            put(name, &format_args!("{BOLD}{:<12}{BOLD:#}{}", client.name, client.about));
        }
        let columns = format!(
            "{:>8}  {:<8} {:<12}  {:<6}  {:<11} left",
            "time", "client", "request", "status", "limit"
        );
        let _ = write!(text, "\n  {DIM}{columns}{DIM:#}");
        self.started = Instant::now();
        print(text)
    }

    /// One request and its answer.
    pub(super) fn line(&mut self, client: &Client, answer: &Result<Answer, String>) {
        let place = CLIENTS.iter().zip(&mut self.scores).find(|(known, _)| known.name == client.name);
        let (colour, status, limit, left) = match answer {
            Ok(answer) => {
                let denied = answer.status == StatusCode::TOO_MANY_REQUESTS;
                if let Some((_, score)) = place {
                    *(if denied { &mut score.denied } else { &mut score.allowed }) += 1;
                }
                let colour = match answer.status {
                    _ if denied => RED,
                    status if status.is_success() => GREEN,
                    _ => YELLOW,
                };
                let (limit, left) = answer.binding().map_or(("-", None), |(limit, left)| (limit, Some(left)));
                let left = match (denied, answer.retry_after(), left) {
                    (true, Some(seconds), _) => format!("none, again in {seconds} s"),
                    (_, _, Some(left)) => match answer.capacity(limit) {
                        Some(capacity) => format!("{left} of {capacity}"),
                        None => left.to_string(),
                    },
                    _ => "-".to_owned(),
                };
                (colour, answer.status.as_str().to_owned(), limit, left)
            }
            Err(error) => {
                if let Some((_, score)) = place {
                    score.failed += 1;
                }
                (RED, "-".to_owned(), "-", error.clone())
            }
        };
        let seconds = self.started.elapsed().as_secs_f64();
        let request = format!("{:<4} {}", client.method, client.path);
        self.show(format_args!(
            "  {DIM}{seconds:>7.2}s{DIM:#}  {BOLD}{:<8}{BOLD:#} {request:<12}  {colour}{status:<6}{colour:#}  {limit:<11} {colour}{left}{colour:#}",
            client.name,
        ));
    }

    /// Sums up. `served`: how many requests reached the upstream, whoever sent them.
    pub(super) fn close(&mut self, served: u64) -> Result<(), Failure> {
        let sum = |of: fn(&Score) -> u64| self.scores.iter().map(of).sum::<u64>();
        let (allowed, denied) = (sum(|score| score.allowed), sum(|score| score.denied));
        let failed = sum(|score| score.failed);
        let mut text = format!(
            "\n{BOLD}{} requests in {:.1} s: {allowed} allowed, {denied} denied{}.{BOLD:#}",
            allowed + denied + failed,
            self.started.elapsed().as_secs_f64(),
            if failed > 0 { format!(", {failed} failed") } else { String::new() },
        );
        let yours = served.saturating_sub(allowed);
        let more = if yours > 0 { format!(", {yours} of them yours") } else { String::new() };
        let _ = writeln!(text, " The upstream saw {served}{more}.\n");
        let _ = write!(text, "  {DIM}{:<8} {:>7} {:>8} {:>7}{DIM:#}", "client", "sent", "allowed", "denied");
        for (client, score) in CLIENTS.iter().zip(&self.scores) {
            let Score { allowed, denied, failed } = score;
            let colour = if *denied > 0 { RED } else { GREEN };
            let _ = write!(
                text,
                "\n  {BOLD}{:<8}{BOLD:#} {:>7} {allowed:>8} {colour}{denied:>7}{colour:#}",
                client.name,
                allowed + denied + failed
            );
        }
        self.show(text);
        self.broken.take().map_or(Ok(()), Err)
    }

    fn show(&mut self, text: impl Display) {
        if self.broken.is_none()
            && let Err(failure) = print(text)
        {
            self.broken = Some(failure);
            self.noticed.notify_one();
        }
    }
}

fn describe(config: &LimitConfig) -> String {
    let limit = &config.limit;
    let rate = limit.spec().rate.map(|rate| format!("{rate}, ")).unwrap_or_default();
    format!(
        "{BOLD}{:<12}{BOLD:#}{rate}at most {} at once, by {}, on {}",
        limit.name(),
        limit.capacity(),
        app::by(config),
        app::on(config)
    )
}
