//! [`Report`]: what a replay comes to, as data and as tables for people.

use std::fmt;

use comfy_table::{CellAlignment, Table, TableStyle};
use jiff::Timestamp;
use ratelimit_core::Nanos;
use serde::Serialize;

use super::judge::{Judge, SeenKey, SeenLimit};
use super::series::{Series, Step};
use crate::policy::{Rule, RuleMode};

/// What a replay comes to.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Requests that were understood.
    pub(crate) requests: u64,
    /// Let pass by the limits they met.
    pub(crate) allowed: u64,
    /// Denied by a limit: 429.
    pub(crate) denied: u64,
    /// Cost more than a limit can ever hold: 413.
    pub(crate) too_costly: u64,
    /// Could be read in more than one way, or not at all: 400 and its kin.
    pub(crate) refused: u64,
    /// Let off by `exempt`.
    pub(crate) exempt: u64,
    /// Met no limit.
    pub(crate) unlimited: u64,
    /// Time of the first request and of the last.
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
    /// Lines that are no requests.
    pub(crate) broken_lines: u64,
    pub(crate) limits: Vec<LimitReport>,
    /// What the reader should know before believing it.
    pub(crate) notes: Vec<String>,
    pub(crate) series: Steps,
}

/// What one limit did.
#[derive(Debug, Serialize)]
pub(crate) struct LimitReport {
    pub(crate) limit: String,
    pub(crate) mode: RuleMode,
    pub(crate) quota: String,
    /// Requests that it counted or denied.
    pub(crate) matched: u64,
    pub(crate) denied: u64,
    /// In shadow mode: what it would have denied.
    pub(crate) shadow_denied: u64,
    pub(crate) keys: u64,
    pub(crate) keys_denied: u64,
    /// The keys that were denied most.
    pub(crate) top: Vec<KeyReport>,
}

/// What became of one key.
#[derive(Debug, Serialize)]
pub(crate) struct KeyReport {
    pub(crate) key: String,
    pub(crate) requests: u64,
    pub(crate) denied: u64,
    /// The smallest quota under which nothing of it would have been denied.
    pub(crate) needs: String,
}

/// What happened when.
#[derive(Debug, Serialize)]
pub(crate) struct Steps {
    /// Seconds a step.
    pub(crate) seconds: u64,
    pub(crate) steps: Vec<At>,
}

/// One step, and when it began.
#[derive(Debug, Serialize)]
pub(crate) struct At {
    pub(crate) from: Timestamp,
    #[serde(flatten)]
    pub(crate) step: Step,
}

impl Report {
    /// Of what a judge has seen, with so many keys for each limit.
    pub(crate) fn new(judge: &Judge, top: usize) -> Self {
        let seen = &judge.seen;
        let any = seen.requests > 0;
        let limits = judge.policy().rules().iter().zip(&seen.limits);
        Self {
            requests: seen.requests,
            allowed: seen.allowed,
            denied: seen.denied,
            too_costly: seen.never,
            refused: seen.refused,
            exempt: seen.exempt,
            unlimited: seen.free,
            from: any.then(|| timestamp(seen.first)),
            to: any.then(|| timestamp(seen.last)),
            broken_lines: seen.broken.values().sum(),
            limits: limits.map(|(rule, seen)| LimitReport::new(rule, seen, top)).collect(),
            notes: notes(judge),
            series: Steps::new(&seen.series),
        }
    }
}

impl LimitReport {
    fn new(rule: &Rule, seen: &SeenLimit, top: usize) -> Self {
        let mut denied: Vec<&SeenKey> = seen.keys.values().filter(|key| key.denied > 0).collect();
        let keys_denied = denied.len() as u64;
        denied.sort_by(|a, b| (b.denied, &a.shown).cmp(&(a.denied, &b.shown)));
        denied.truncate(top);
        Self {
            limit: rule.limit.name().to_owned(),
            mode: rule.mode(),
            quota: quota(rule),
            matched: seen.matched,
            denied: seen.denied,
            shadow_denied: seen.shadow,
            keys: seen.keys.len() as u64,
            keys_denied,
            top: denied.into_iter().map(KeyReport::new).collect(),
        }
    }

    /// What it said no to, whether that counted or not.
    pub(super) const fn no(&self) -> u64 {
        self.denied + self.shadow_denied
    }
}

impl KeyReport {
    fn new(seen: &SeenKey) -> Self {
        let SeenKey { shown, requests, denied, need, limit } = seen;
        Self { key: shown.clone(), requests: *requests, denied: *denied, needs: need.words(limit) }
    }
}

impl Steps {
    fn new(series: &Series) -> Self {
        let at = |(second, step): (u64, &Step)| At {
            from: timestamp(Nanos::from_secs(second)),
            step: step.clone(),
        };
        Self { seconds: series.width(), steps: series.steps().map(at).collect() }
    }
}

fn quota(rule: &Rule) -> String {
    let spec = rule.limit.spec();
    match (spec.rate, spec.permits) {
        (Some(rate), _) if u64::from(rate.count()) == u64::from(rule.limit.capacity()) => rate.to_string(),
        (Some(rate), _) => format!("{rate}, burst {}", rule.limit.capacity()),
        (None, permits) => format!("{} at once", permits.unwrap_or_default()),
    }
}

/// To the second: more is not worth reading.
fn timestamp(time: Nanos) -> Timestamp {
    i64::try_from(time.whole_secs())
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok())
        .unwrap_or_default()
}

fn notes(judge: &Judge) -> Vec<String> {
    let seen = &judge.seen;
    let mut notes = Vec::new();
    for (error, count) in &seen.broken {
        notes.push(format!("{count} lines are no requests: {error}"));
    }
    for (number, line) in &seen.examples {
        notes.push(format!("line {number}: {line}"));
    }
    if seen.backwards > 0 {
        notes.push(format!(
            "{} requests stand behind later ones; they were taken as coming then",
            seen.backwards
        ));
    }
    for (rule, limit) in judge.policy().rules().iter().zip(&seen.limits) {
        let name = rule.limit.name();
        if limit.matched == 0 {
            continue;
        }
        let key = rule.key().to_string();
        if key.contains("jwt.") {
            notes.push(format!("{name}: a log holds no tokens, so {key} is missing in every request"));
        }
        if rule.limit.spec().permits.is_some() && seen.without_duration > 0 {
            let count = seen.without_duration;
            notes.push(format!(
                "{name}: {count} requests have no duration in the log, and held their permits for no time"
            ));
        }
    }
    notes
}

fn share(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a tenth of a percent")]
    let percent = 100.0 * part as f64 / whole.max(1) as f64;
    format!("{percent:.1} %")
}

/// A table whose first columns are words and whose others are numbers.
fn table(head: &[&str], words: usize) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(head.iter().copied());
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if number >= words {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table's lines, and that many of its first ones left out.
fn lines(table: &Table, skipped: usize) -> String {
    let lines = table.lines().skip(skipped).map(|line| format!("  {}", line.trim_end()));
    lines.collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (Some(from), Some(to)) => writeln!(f, "{} requests, {from} to {to}", self.requests)?,
            _ => writeln!(f, "no requests")?,
        }
        f.write_str(&lines(&self.outcomes(), 1))?;
        for table in [self.by_limit(), self.by_key()] {
            if table.row_count() > 0 {
                write!(f, "\n\n{}", lines(&table, 0))?;
            }
        }
        if !self.notes.is_empty() {
            f.write_str("\n")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

impl Report {
    fn outcomes(&self) -> Table {
        let mut outcomes = table(&["", "", ""], 1);
        for (what, count, always) in [
            ("allowed", self.allowed, true),
            ("denied", self.denied, true),
            ("too costly (413)", self.too_costly, false),
            ("malformed (400)", self.refused, false),
            ("exempt", self.exempt, false),
            ("met no limit", self.unlimited, false),
        ] {
            if always || count > 0 {
                outcomes.add_row([what.to_owned(), count.to_string(), share(count, self.requests)]);
            }
        }
        outcomes
    }

    fn by_limit(&self) -> Table {
        let mut limits = table(&["limit", "quota", "matched", "denied", "share", "keys", "keys denied"], 2);
        for limit in &self.limits {
            let name = match limit.mode {
                RuleMode::Enforce => limit.limit.clone(),
                RuleMode::Shadow => format!("{} (shadow)", limit.limit),
                RuleMode::Off => format!("{} (off)", limit.limit),
            };
            limits.add_row([
                name,
                limit.quota.clone(),
                limit.matched.to_string(),
                limit.no().to_string(),
                share(limit.no(), limit.matched),
                limit.keys.to_string(),
                limit.keys_denied.to_string(),
            ]);
        }
        limits
    }

    fn by_key(&self) -> Table {
        let mut keys = table(&["limit", "key denied most", "needs", "requests", "denied"], 3);
        for limit in &self.limits {
            for key in &limit.top {
                let words = [&limit.limit, &key.key, &key.needs].map(Clone::clone);
                keys.add_row(words.into_iter().chain([key.requests.to_string(), key.denied.to_string()]));
            }
        }
        keys
    }
}
