//! An explanation for people: the request, then a line for each limit.

use std::fmt;

use super::{Effect, Explained, ExplainedPart, Explanation, FROM_LIMIT, Leases};
use crate::policy::RuleMode;

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Counts => "counts",
            Self::NoMatch => "no match",
            Self::Off => "off",
            Self::Exempt => "exempt",
            Self::Skips => "skips",
            Self::Unlimited => "unlimited",
            Self::Denies => "denies",
            Self::BadCost => "bad cost",
            Self::Ambiguous => "ambiguous",
            Self::Never => "never",
        })
    }
}

impl fmt::Display for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, units, capacity, milliseconds } = self;
        let seconds = milliseconds.div_ceil(1000);
        write!(
            f,
            "leases of {} other replica{} may hold back {units} of {capacity} at most, {seconds} s at most",
            replicas.saturating_sub(1),
            if *replicas == 2 { "" } else { "s" }
        )
    }
}

impl fmt::Display for ExplainedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(_) => write!(f, "{} = {}", self.source, self.shown),
            None => write!(f, "{} missing", self.source),
        }
    }
}

/// The words behind a limit's name and effect.
impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.why.iter().cloned().collect();
        let counts = matches!(self.effect, Effect::Counts | Effect::Never);
        if let (true, Some(quota), Some(from)) = (counts, &self.quota, &self.quota_from) {
            let by = if from == FROM_LIMIT { String::new() } else { format!(" ({from})") };
            words.push(format!("quota {quota}{by}"));
        }
        // A key of one part that is missing has been named as the reason.
        let is_named = self.why.is_some() && matches!(&*self.key, [part] if part.value.is_none());
        if self.key.is_empty() || is_named {
            words.extend(counts.then(|| "one bucket for all".to_owned()));
        } else {
            let parts: Vec<_> = self.key.iter().map(ToString::to_string).collect();
            words.push(format!("key {}", parts.join(", ")));
        }
        words.extend(self.cost.map(|cost| format!("cost {cost}")));
        words.extend(self.settled.clone());
        words.extend(self.leases.map(|leases| leases.to_string()));
        let says_no = counts || matches!(self.effect, Effect::Denies | Effect::BadCost | Effect::Ambiguous);
        if self.mode == RuleMode::Shadow && says_no {
            words.push("shadow, so it never denies".to_owned());
        }
        f.write_str(&words.join("; "))
    }
}

/// The request, then a line for each limit, names and effects in columns.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(question) = &self.question {
            write!(f, "domain {}", question.domain.escape_debug())?;
            for (name, value) in &question.entries {
                write!(f, ", {}={}", name.escape_debug(), value.escape_debug())?;
            }
        } else {
            write!(f, "{} {}", self.method, self.path.escape_debug())?;
            if let Some(host) = &self.host {
                write!(f, ", host {host}")?;
            }
            write!(f, ", client {}", self.client)?;
        }
        if let Some(exempt) = &self.exempt {
            return write!(f, "\nexempt, so no limit counts it: {exempt}");
        }
        if self.limits.is_empty() {
            return f.write_str("\nthere are no limits");
        }
        let width = self.limits.iter().map(|limit| limit.limit.len()).max().unwrap_or_default();
        for limit in &self.limits {
            write!(f, "\n{:width$}  {:9}  {limit}", limit.limit, limit.effect)?;
        }
        Ok(())
    }
}
