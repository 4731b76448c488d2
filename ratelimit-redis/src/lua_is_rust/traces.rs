//! Traces of the lease model (`tests/lease_model.rs`, `proofs/Lease.tla`), with the real script as the store: questions and
//! answers that are lost, repeated, late and overtake each other, strict charges between them, replicas that give up and
//! that begin anew. Whatever happens, no interval holds more than burst + W / T.

use ratelimit_core::algorithm::Op;
use ratelimit_core::{KeyBuf, Limit, Nanos, Rate};
use redis_testkit::Server;
use smallvec::smallvec;

use super::{ORIGIN, Subject, subject};
use crate::batch::{Request, Said};
use crate::keys::Digest;
use crate::lease::{Answer, Arrivals, Ask, Given, Lease, PerMicro, Policy, Reply, Step, Terms};
use crate::shape::Shape;
use crate::wire::{Part, What};

enum Message {
    Ask(usize, Ask),
    Answer(usize, u64, Reply),
}

impl Message {
    fn replica(&self) -> usize {
        match self {
            Self::Ask(replica, _) | Self::Answer(replica, ..) => *replica,
        }
    }
}

/// The worst interval: units in it, less the burst and what comes back in its time, in microseconds of refill.
fn excess(admitted: &[u64], unit: u64, burst: u32) -> i128 {
    let (unit, mut start, mut worst) = (i128::from(unit), i128::MIN, 0);
    for (before, &at) in (0_i128..).zip(admitted) {
        start = start.max(i128::from(at) - before * unit);
        worst = worst.max((before + 1 - i128::from(burst)) * unit - i128::from(at) + start);
    }
    worst
}

struct Trace<'s> {
    subject: &'s mut Subject,
    random: fastrand::Rng,
    limit: Limit,
    digest: Digest,
    policy: Policy,
    replicas: Vec<Lease>,
    network: Vec<Message>,
    micros: u64,
    admitted: Vec<u64>,
    leased: u32,
}

impl Trace<'_> {
    fn begins(&self) -> Lease {
        // So many come that the key stays hot.
        let often = Arrivals::beginning(Nanos::ZERO, PerMicro::of(1 << 30, Nanos::from_secs(1)));
        Lease::new(Terms::of(&self.limit).unwrap(), often)
    }

    fn now(&self) -> Nanos {
        Nanos::new(self.micros * 1000)
    }

    /// What the script says.
    fn store(&mut self, what: What) -> Said {
        let (limit, shape) = (self.limit.clone(), Shape::of(&self.limit));
        let parts = smallvec![Part { digest: self.digest, limit, shape, what }];
        let request = Request { parts, answer: None, again: false, alone: false };
        self.subject.run(vec![request], ORIGIN + self.micros).1.remove(0)
    }

    fn act(&mut self) {
        let replica = self.random.usize(..self.replicas.len());
        let message = (!self.network.is_empty()).then(|| self.random.usize(..self.network.len()));
        match (self.random.u8(..16), message) {
            (0..4, _) => self.micros += [1, 200_000, 500_000, 1_000_000][self.random.usize(..4)],
            (4..8, _) => {
                let (now, policy, terms) = (self.now(), self.policy, Terms::of(&self.limit).unwrap());
                match self.replicas[replica].arrive(now, 1, &terms, &policy) {
                    Step::Spent(_) => {
                        self.leased += 1;
                        self.admitted.push(self.micros);
                    }
                    Step::Ask(ask) => self.network.push(Message::Ask(replica, ask)),
                    _ => {}
                }
            }
            (8, _) => {
                let Said::Verdict(verdict) = self.store(What::Do(Op::Take(1))) else { unreachable!() };
                if verdict.admitted {
                    self.admitted.push(self.micros);
                }
            }
            (9..14, Some(message)) => self.deliver(message),
            (14, Some(message)) => drop(self.network.swap_remove(message)),
            (15, _) if self.random.bool() => {
                self.network.retain(|message| message.replica() != replica);
                self.replicas[replica] = self.begins();
            }
            (15, _) => {
                if let Some(flight) = self.replicas[replica].asking().map(|ask| ask.flight) {
                    self.replicas[replica].unanswered(flight);
                }
            }
            _ => {}
        }
    }

    fn deliver(&mut self, message: usize) {
        let kept = self.random.u8(..4) == 0;
        match self.network[message] {
            Message::Ask(replica, ask) => {
                let Said::Lease(reply) = self.store(What::Lease(ask.wish())) else { unreachable!() };
                if ask.units > 0 && matches!(reply.given, Given::Units { .. }) {
                    // The request that waits is decided in the store; if it hears of it or not.
                    self.admitted.push(self.micros);
                }
                self.network.push(Message::Answer(replica, ask.flight, reply));
            }
            Message::Answer(replica, flight, reply) => {
                let now = self.now();
                if self.replicas[replica].answered(flight, now, reply) != Answer::Ignored {
                    let policy = self.policy;
                    let ask = self.replicas[replica].refresh(now, &policy);
                    self.network.extend(ask.map(|ask| Message::Ask(replica, ask)));
                }
            }
        }
        if !kept {
            self.network.swap_remove(message);
        }
    }
}

/// Runs one, and says by how much its worst interval is over, and how many units leases gave.
fn trace(subject: &mut Subject, seed: u64, policy: Policy) -> (i128, u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let burst = random.u32(2..12);
    let limit = Limit::new("traced", Rate::per_second(1)).burst(burst);
    let mut key = KeyBuf::new();
    key.push_u64(seed);
    let digest = Digest::of(&limit, key.key());
    let (replicas, network, admitted) = (Vec::new(), Vec::new(), Vec::new());
    let micros = 90_000_000_000_000;
    let mut trace =
        Trace { subject, random, limit, digest, policy, replicas, network, micros, admitted, leased: 0 };
    trace.replicas = (0..3).map(|_| trace.begins()).collect();
    for _ in 0..120 {
        trace.act();
    }
    let unit = 1_000_000;
    (excess(&trace.admitted, unit, burst), trace.leased)
}

#[test]
fn traces_of_the_model_keep_the_bound_on_the_real_script() {
    let server = Server::start();
    let mut subject = subject(&server);
    let mut leased = 0;
    for seed in 0..150 {
        let (over, of_leases) = trace(&mut subject, seed, Policy::horizon_of(512));
        assert_eq!(over, 0, "seed {seed}: over by {over} µs");
        leased += of_leases;
    }
    assert!(leased > 200, "only {leased} units came out of leases");
    let broken = Policy::horizon_of(512).spending_after_its_time();
    assert!(
        (0..150).any(|seed| trace(&mut subject, 1000 + seed, broken).0 > 0),
        "what is spent late is found"
    );
}
