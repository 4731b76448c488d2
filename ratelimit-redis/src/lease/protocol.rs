//! [`Lease`]: what a replica knows of one key, and what it does next. No clock, no network, no locks: what
//! happens comes in with its time, what is to be done goes out.
//!
//! # The way of a request
//! 1. What the replica holds admits it: spent here, no call.
//! 2. A denial is known that still lasts: denied here, no call.
//! 3. A question about the key is under way: wait for its answer, then begin again.
//! 4. The key is cold: a strict charge of what the request costs, so that rare keys never take more than they use.
//! 5. The key is hot: ask for a lease.
//!
//! # What holds
//! * Nothing is spent that was not granted, nor after its time (`segment.rs`, `holding.rs`).
//! * An answer counts once: it belongs to the one question under way, or is ignored. So lost, late, repeated and
//!   reordered answers cost units and never add any.
//! * What is held is dropped when its terms change, when the store's clock was set back, when the machine slept,
//!   and when a key is reset. Dropping is always safe.

use ratelimit_core::Nanos;

use super::holding::{Holding, Spent};
use super::{Anchor, Answer, Arrivals, Ask, Given, Kind, Policy, Reply, Step, Terms, Ticks};

/// A denial that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Known {
    /// What was denied; more is denied too.
    units: u32,
    /// Until when nobody asks again.
    until: Nanos,
    /// When it can pass.
    free: Nanos,
}

/// What a replica knows of one key of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    terms: Terms,
    holding: Holding,
    anchor: Option<Anchor>,
    known: Option<Known>,
    arrivals: Arrivals,
    /// The question under way.
    flight: Option<Ask>,
    flights: u64,
    /// Whether the store has refused since it last had enough.
    starved: bool,
    /// Since when the store has had little left. What is exhausted by a burst is given to the last unit; what
    /// stays exhausted is given in batches.
    low: Option<Nanos>,
    /// Counts how often what was held was dropped; what was spent before is not put back after.
    epoch: u32,
    /// What the store's level was: until when the bucket fills, or units counted.
    level: Ticks,
    /// When the window, or the cell, that was charged last ends.
    ends: Ticks,
}

impl Lease {
    /// Nothing is known but when the key was first asked for, or how often it came so far. The request at hand
    /// is the beginning, not the first to be counted.
    #[must_use]
    pub fn new(terms: Terms, arrivals: Arrivals) -> Self {
        Self {
            terms,
            holding: Holding::none(terms.kind),
            anchor: None,
            known: None,
            arrivals,
            flight: None,
            flights: 0,
            starved: false,
            low: None,
            epoch: 0,
            level: Ticks::ZERO,
            ends: Ticks::ZERO,
        }
    }

    /// A request of `units` comes in.
    pub fn arrive(&mut self, now: Nanos, units: u32, terms: &Terms, policy: &Policy) -> Step {
        self.arrivals.count(units);
        self.again(now, units, terms, policy)
    }

    /// A request that waited begins again; it is not counted as another arrival.
    pub fn again(&mut self, now: Nanos, units: u32, terms: &Terms, policy: &Policy) -> Step {
        if let Some(step) = self.at_once(now, units, terms, policy) {
            return step;
        }
        if self.flight.is_some() {
            return Step::Wait;
        }
        match self.ask(now, units, policy) {
            Some(ask) => Step::Ask(ask),
            None => Step::Strict,
        }
    }

    /// Admits or denies where that needs no call. Counts no arrival.
    pub fn at_once(&mut self, now: Nanos, units: u32, terms: &Terms, policy: &Policy) -> Option<Step> {
        if self.terms != *terms {
            self.change_terms(*terms);
        }
        self.under_the_same_terms(now, units, policy)
    }

    /// [`Lease::at_once`] for a limit whose terms are known to be what they were.
    pub fn under_the_same_terms(&mut self, now: Nanos, units: u32, policy: &Policy) -> Option<Step> {
        if let Some(anchor) = self.anchor {
            let time = anchor.at(now);
            let spent = match policy.spends_after_its_time {
                false => self.holding.spend(time, units, &self.terms),
                true => self.holding.spend_after_its_time(units, &self.terms),
            };
            if let Some(spent) = spent {
                return Some(Step::Spent(spent));
            }
        }
        if self.flight.is_some() {
            return None;
        }
        let known = self.known.filter(|known| now < known.until && units >= known.units)?;
        Some(Step::Denied(known.free.saturating_sub(now)))
    }

    /// The question to send now, off any request's way, so that the next piece is here before this one ends.
    pub fn refresh(&mut self, now: Nanos, policy: &Policy) -> Option<Ask> {
        if self.flight.is_some() || self.known.is_some_and(|known| now < known.until) {
            return None;
        }
        let anchor = self.anchor?;
        let time = anchor.at(now);
        if !self.holding.is_low(time) {
            return None;
        }
        // Two round trips, and two requests, since only requests bring us here.
        let rate = self.arrivals.rate();
        let trips = anchor.round_trip().get().saturating_mul(2);
        let ahead = Nanos::new(trips.saturating_add(rate.micros_for(2).saturating_mul(1000)));
        let taken = u32::try_from(rate.in_micros(trips / 500)).unwrap_or(u32::MAX).saturating_add(2);
        if !self.holding.ends_within(time, Ticks::at_most(ahead), taken, &self.terms) {
            return None;
        }
        self.ask(now, 0, policy)
    }

    /// The question for a hot key; `None` for a cold one.
    fn ask(&mut self, now: Nanos, units: u32, policy: &Policy) -> Option<Ask> {
        let (shortest, quiet) = policy.measuring(&self.terms);
        // In as long as the bucket takes to fill, it may have.
        let long_ago = now.saturating_sub(self.arrivals.since()).get() / 1000 >= self.terms.span;
        let rate = self.arrivals.measure(now, shortest, quiet);
        let horizon = policy.horizon(&self.terms, rate);
        if rate.in_micros(horizon) < Policy::HOT {
            return None;
        }
        let stays_low = self.low.is_some_and(|since| now.saturating_sub(since).get() / 1000 >= horizon);
        let patient = (self.starved || stays_low) && !long_ago && self.terms.kind == Kind::Bucket;
        self.flights = self.flights.wrapping_add(1);
        let ask = Ask { flight: self.flights, sent: now, units, rate, horizon, patient };
        self.flight = Some(ask);
        Some(ask)
    }

    /// The store answered.
    pub fn answered(&mut self, flight: u64, now: Nanos, reply: Reply) -> Answer {
        let Some(ask) = self.flight.take_if(|ask| ask.flight == flight) else {
            return Answer::Ignored;
        };
        match reply.given {
            Given::Refused(wait) => {
                // A batch is waited for, and not asked for again at once.
                let wait = if ask.patient { wait.max(Policy::SHORTEST_DENIAL) } else { wait };
                Answer::Denied(self.refused(ask.sent, now, ask.units.max(1), wait))
            }
            Given::Units { units, used, lapses } => {
                Answer::Admitted(self.granted(&ask, now, reply.at, units, used, lapses))
            }
        }
    }

    fn granted(
        &mut self,
        ask: &Ask,
        now: Nanos,
        at: u64,
        units: u32,
        used: Ticks,
        lapses: Option<Ticks>,
    ) -> Ticks {
        let anchor = Anchor::new(at, ask.sent, now);
        if self.anchor.is_some_and(|before| before.is_ahead_of(&anchor, now)) {
            // Set back: what is held lies elsewhere on the new time line.
            self.drop_held();
        }
        self.anchor = Some(anchor);
        self.known = None;
        let wanted = u32::try_from(ask.rate.in_micros(ask.horizon)).unwrap_or(u32::MAX);
        let little = self.terms.unit.times(wanted.min(self.terms.capacity / 4));
        if self.terms.cap().minus(used) < little {
            self.low = self.low.or(Some(now));
        } else {
            self.low = None;
            self.starved = false;
        }
        let end = lapses.unwrap_or_else(|| Ticks::from_micros(at).plus(used));
        self.level = if lapses.is_some() { used } else { end };
        self.ends = lapses.unwrap_or_default();
        // The request that waited was decided in the store, at the store's time; its units are the first.
        let rest = units.saturating_sub(ask.units);
        if rest > 0 {
            self.holding.add(rest, end, anchor.at(now), &self.terms);
        }
        lapses.unwrap_or_else(|| end.minus(self.terms.unit.times(rest)))
    }

    /// That question becomes another one, which is sent now and no request waits for; if it is still under way.
    pub fn ask_for_nobody(&mut self, ask: &Ask, now: Nanos) -> Option<Ask> {
        let flight = self.flight.as_mut().filter(|flight| flight.flight == ask.flight)?;
        self.flights = self.flights.wrapping_add(1);
        *flight = Ask { flight: self.flights, sent: now, units: 0, ..*flight };
        Some(*flight)
    }

    /// The question got no answer. Whatever it may have been granted lapses by itself. Whether it was under way.
    pub fn unanswered(&mut self, flight: u64) -> bool {
        self.flight.take_if(|ask| ask.flight == flight).is_some()
    }

    /// A strict charge of `units`, sent at `sent`, was refused for that long. Says for how long it is from now on.
    pub fn refused(&mut self, sent: Nanos, now: Nanos, units: u32, wait: Nanos) -> Nanos {
        self.starved = true;
        // It is believed from sending on, so for too short rather than too long; and a second at most, since others
        // may reset the key or change its quota. What is told counts from now: whoever waits so long is not early.
        let until = sent.saturating_add(wait.min(Policy::LONGEST_DENIAL));
        let free = now.saturating_add(wait);
        self.known = Some(Known { units, until, free });
        wait
    }

    /// A request that was spent is not admitted after all. What it took is there again, until its time.
    /// `epoch` is that of when it was spent.
    pub fn put_back(&mut self, spent: Spent, epoch: u32, now: Nanos) {
        if let Some(anchor) = self.anchor.filter(|_| epoch == self.epoch) {
            self.holding.put_back(spent, anchor.at(now));
        }
    }

    /// The request is counted elsewhere, or comes again.
    pub const fn uncount(&mut self, units: u32) {
        self.arrivals.uncount(units);
    }

    /// Forgets what can be told from outside by nothing but the size of leases, and sets how often the key comes:
    /// for a model checker, to which equal behaviour should look equal.
    #[doc(hidden)]
    pub fn simplify(&mut self, now: Nanos, arrivals: Arrivals) {
        self.arrivals = arrivals;
        (self.starved, self.low, self.level, self.ends) = (false, None, Ticks::ZERO, Ticks::ZERO);
        self.known = self.known.filter(|known| now < known.until);
        if self.anchor.is_some_and(|anchor| self.holding.is_empty(anchor.at(now))) {
            self.holding = Holding::none(self.terms.kind);
            self.anchor = None;
        }
    }

    /// So many units came.
    pub const fn count(&mut self, units: u32) {
        self.arrivals.count(units);
    }

    /// Gives back up to `units` of a charge by its mark, once for each charge: those are this replica's then. Only
    /// what time has not given back. Says whether anything was.
    pub fn give_back(&mut self, mark: Ticks, units: u32, now: Nanos) -> bool {
        let given = self
            .anchor
            .is_some_and(|anchor| self.holding.give_back(mark, units, anchor.at(now), &self.terms));
        if given {
            self.known = None;
        }
        given
    }

    /// Drops everything that is held and known: the key was reset, or this machine slept. An answer that is
    /// under way is not taken any more.
    pub fn forget(&mut self) {
        self.drop_held();
        self.anchor = None;
        self.known = None;
        self.flight = None;
        self.starved = false;
        self.low = None;
    }

    fn drop_held(&mut self) {
        self.holding = Holding::none(self.terms.kind);
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Of what was spent now, for when it is put or given back.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Drops what is known of denials: something was given back.
    pub const fn forget_denial(&mut self) {
        self.known = None;
    }

    fn change_terms(&mut self, terms: Terms) {
        self.terms = terms;
        self.forget();
    }

    /// What the key is decided by.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Units held at `now`.
    #[must_use]
    pub fn held(&self, now: Nanos) -> u32 {
        self.anchor.map_or(0, |anchor| self.holding.units(anchor.at(now), &self.terms))
    }

    /// Most units that a single request could have of what is held.
    #[must_use]
    pub fn most(&self, now: Nanos) -> u32 {
        self.anchor.map_or(0, |anchor| self.holding.most(anchor.at(now), &self.terms))
    }

    /// What clients are told at `now`, as far as is known here: the units that are left for this replica, which are
    /// those it holds and those that the store had, and the time until the key has fully recovered.
    #[must_use]
    pub fn left(&self, now: Nanos) -> (u32, Nanos) {
        let (span, cell) = (Ticks::from_micros(self.terms.span), Ticks::from_micros(self.terms.lapses));
        let Some(anchor) = self.anchor else {
            let most = if self.terms.slides() { span.plus(cell) } else { span };
            return (0, most.to_nanos());
        };
        let time = anchor.at(now);
        let (used, recovered) = match self.terms.kind {
            Kind::Bucket => {
                let used = self.level.minus(time);
                (used, used)
            }
            // Others may have charged the cell that it is now.
            Kind::Window if self.terms.slides() => (self.level, span.plus(time.until_next(cell))),
            Kind::Window if self.ends > time => (self.level, self.ends.minus(time)),
            Kind::Window => (self.level, span),
        };
        let there = self.terms.cap().minus(used).units(self.terms.unit);
        let held = self.holding.units(time, &self.terms);
        // By a round trip this replica's time may be ahead of the store's, and nobody should come too early.
        let recovered = recovered.to_nanos().saturating_add(anchor.round_trip());
        (there.saturating_add(held).min(self.terms.capacity), recovered)
    }

    /// The question under way.
    #[must_use]
    pub const fn asking(&self) -> Option<&Ask> {
        self.flight.as_ref()
    }

    /// Whether nothing would be lost by dropping this: nothing held, asked or known, and no traffic lately.
    #[must_use]
    pub fn is_idle(&self, now: Nanos, policy: &Policy) -> bool {
        let (_, quiet) = policy.measuring(&self.terms);
        self.flight.is_none()
            && self.known.is_none_or(|known| now >= known.until)
            && self.anchor.is_none_or(|anchor| self.holding.is_empty(anchor.at(now)))
            && now.saturating_sub(self.arrivals.since()) > quiet
    }
}
