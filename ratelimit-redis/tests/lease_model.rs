//! The lease protocol under a model checker: every order of arrivals, deliveries, losses, repetitions, crashes,
//! failovers and clock steps, on a small bucket. The replicas run the real [`Lease`]; the store is a bucket that
//! may grant *any* number of units it has, so that the result holds whatever the sizes of leases are.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

use std::time::Duration;

use ratelimit_core::Nanos;
use ratelimit_redis::lease::{
    Answer, Arrivals, Ask, Given, Kind, Lease, PerMicro, Policy, Reply, Step, Terms, Ticks,
};
use stateright::{Checker, Expectation, Model, Property};

/// T, and the length of a step of time.
const SECOND: u64 = 1_000_000;
/// The store's clock at the beginning, in units.
const ORIGIN: i32 = 1000;
const BURST: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Ask { replica: u8, flight: u64 },
    Reply { replica: u8, flight: u64, at: i32, given: Option<(u32, u32)> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    time: u8,
    /// The store's: time at which the bucket is full, in units, and what it was one and two operations ago.
    tat: i32,
    before: [i32; 2],
    offset: i32,
    replicas: Vec<Lease>,
    /// Sorted; what is lost is never delivered.
    network: Vec<Message>,
    /// The judge: max over all intervals that end now of (units admitted - what comes back in it).
    admitted: u32,
    /// What the store's own faults may have added.
    extra: u32,
    /// Units that were admitted out of leases.
    leased: bool,
    copies: u8,
    faults: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Arrive(usize),
    /// A strict charge by somebody, anywhere.
    Strict,
    /// Delivers a message; the store gives so many units. Kept, it comes again.
    Deliver {
        message: usize,
        units: u32,
        kept: bool,
    },
    GiveUp(usize),
    Crash(usize),
    /// The store forgets its last operations.
    Rollback(usize),
    Step(i32),
}

fn reply(at: i32, given: Option<(u32, u32)>) -> Reply {
    let given = match given {
        Some((units, used)) => {
            Given::Units { units, used: Ticks::from_micros(u64::from(used) * SECOND), lapses: None }
        }
        None => Given::Refused(Nanos::from_secs(1)),
    };
    Reply { at: u64::try_from(at).unwrap() * SECOND, given }
}

struct Replicas {
    count: usize,
    policy: Policy,
    /// Steps of time that are looked at.
    steps: u8,
    /// Questions each may ask.
    asks: u64,
    copies: u8,
    faults: u8,
}

fn terms() -> Terms {
    Terms {
        kind: Kind::Bucket,
        unit: Ticks::from_micros(SECOND),
        capacity: BURST,
        span: SECOND * u64::from(BURST),
        lapses: SECOND * u64::from(BURST),
        rate: None,
    }
}

/// So many come that the key stays hot.
fn often() -> Arrivals {
    Arrivals::beginning(Nanos::ZERO, PerMicro::of(1 << 30, Nanos::from_secs(1)))
}

fn busy() -> Lease {
    Lease::new(terms(), often())
}

impl State {
    fn local(&self) -> Nanos {
        Nanos::from_secs(u64::from(self.time))
    }

    fn store_now(&self) -> i32 {
        ORIGIN + i32::from(self.time) + self.offset
    }

    /// Units that the bucket is short of full.
    fn used(&self) -> u32 {
        u32::try_from(self.tat - self.store_now()).unwrap_or(0).min(BURST)
    }

    fn admit(&mut self, units: u32) {
        self.admitted += units;
    }

    fn charge(&mut self, units: u32) {
        self.before = [self.tat, self.before[0]];
        self.tat = self.store_now() + (self.used() + units) as i32;
    }

    fn send(&mut self, message: Message) {
        if let Err(place) = self.network.binary_search(&message) {
            self.network.insert(place, message);
        }
    }

    fn follow(&mut self, replica: usize, step: Step) {
        match step {
            Step::Spent(_) => {
                self.leased = true;
                self.admit(1);
            }
            Step::Ask(Ask { flight, .. }) => self.send(Message::Ask { replica: replica as u8, flight }),
            _ => {}
        }
    }

    fn hear(&mut self, replica: usize, flight: u64, at: i32, given: Option<(u32, u32)>) {
        let now = self.local();
        self.replicas[replica].answered(flight, now, reply(at, given));
    }

    /// Makes equal what makes no difference to anybody.
    fn normal(mut self, model: &Replicas) -> Self {
        let now = self.local();
        // What belongs to a question that is over is ignored whenever it comes, which is tried right here. A
        // question that comes to the store so late charges something for nobody, which only takes room.
        let (replicas, network) = (&self.replicas, &mut self.network);
        network.retain(|message| {
            let (Message::Ask { replica, flight } | Message::Reply { replica, flight, .. }) = *message;
            let mut lease = replicas[usize::from(replica)].clone();
            if lease.asking().is_some_and(|ask| ask.flight == flight) {
                return true;
            }
            if let Message::Reply { at, given, .. } = *message {
                let before = lease.clone();
                assert_eq!(lease.answered(flight, now, reply(at, given)), Answer::Ignored);
                assert_eq!(lease, before, "an answer that is ignored changed something");
            }
            false
        });
        if !model.policy.is_broken() {
            self.replicas.iter_mut().for_each(|lease| lease.simplify(now, often()));
        }
        if self.faults == model.faults {
            self.before = [0; 2];
        }
        self
    }
}

impl Model for Replicas {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Full, and as good as empty.
        [0, ORIGIN + 2]
            .map(|tat| State {
                time: 0,
                tat,
                before: [tat; 2],
                offset: 0,
                replicas: vec![busy(); self.count],
                network: Vec::new(),
                admitted: 0,
                extra: 0,
                leased: false,
                copies: 0,
                faults: 0,
            })
            .to_vec()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.time + 1 < self.steps {
            actions.push(Action::Tick);
        }
        actions.push(Action::Strict);
        actions.extend((0..self.count).map(Action::Arrive));
        for (message, what) in state.network.iter().enumerate() {
            let units = match what {
                // Whatever the grant's policy: the least, all, and something between.
                Message::Ask { .. } => vec![1, (BURST - state.used()).max(2)],
                Message::Reply { .. } => vec![0],
            };
            for units in units {
                actions.push(Action::Deliver { message, units, kept: false });
                if state.copies < self.copies {
                    actions.push(Action::Deliver { message, units, kept: true });
                }
            }
        }
        actions.extend(
            (0..self.count).filter(|&replica| state.replicas[replica].asking().is_some()).map(Action::GiveUp),
        );
        if state.faults < self.faults {
            actions.extend((0..self.count).map(Action::Crash));
            actions.extend([Action::Rollback(0), Action::Rollback(1)]);
            actions.extend([-2, -1, 1, 2].map(Action::Step));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => {
                state.time += 1;
                state.admitted = state.admitted.saturating_sub(1);
            }
            Action::Arrive(replica) => {
                let now = state.local();
                let step = state.replicas[replica].arrive(now, 1, &terms(), &self.policy);
                if matches!(step, Step::Ask(ask) if ask.flight > self.asks) {
                    return None;
                }
                state.follow(replica, step);
            }
            Action::Strict => {
                if state.used() + 1 > BURST {
                    return None;
                }
                state.charge(1);
                state.admit(1);
            }
            Action::Deliver { message, units, kept } => {
                let what = state.network[message].clone();
                if kept {
                    state.copies += 1;
                } else {
                    state.network.remove(message);
                }
                match what {
                    Message::Ask { replica, flight } => {
                        let granted = (units > 0 && state.used() + units <= BURST).then(|| {
                            state.charge(units);
                            // The request that waits is decided here and now; if it hears of it or not.
                            state.admit(1);
                            (units, state.used())
                        });
                        let at = state.store_now();
                        state.send(Message::Reply { replica, flight, at, given: granted });
                    }
                    Message::Reply { replica, flight, at, given } => {
                        state.hear(usize::from(replica), flight, at, given);
                    }
                }
            }
            Action::GiveUp(replica) => {
                let flight = state.replicas[replica].asking()?.flight;
                state.replicas[replica].unanswered(flight);
            }
            Action::Crash(replica) => {
                state.faults += 1;
                // What is on its way to its former life goes to nobody: connections end with the process.
                state.network.retain(|message| match message {
                    Message::Ask { replica: of, .. } | Message::Reply { replica: of, .. } => {
                        usize::from(*of) != replica
                    }
                });
                state.replicas[replica] = busy();
            }
            Action::Rollback(operations) => {
                state.faults += 1;
                let tat = state.before[operations];
                let now = state.store_now();
                state.extra += u32::try_from(state.tat - tat.max(now)).unwrap_or(0).min(BURST);
                state.tat = tat;
                state.before = [tat; 2];
            }
            Action::Step(units) => {
                state.faults += 1;
                state.offset += units;
                state.extra += u32::try_from(units).unwrap_or(0);
            }
        }
        let state = state.normal(self);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property {
                name: "bound",
                expectation: Expectation::Always,
                condition: |_, state| state.admitted <= BURST + state.extra,
            },
            Property {
                name: "a lease is spent",
                expectation: Expectation::Sometimes,
                condition: |_, state| state.leased,
            },
        ]
    }
}

/// Whether the bound was broken, after everything there is was looked at.
fn is_broken(model: Replicas) -> bool {
    let checker = model.checker().threads(2).timeout(Duration::from_secs(300)).spawn_bfs().join();
    let broken = checker.discovery("bound");
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    assert!(checker.discovery("a lease is spent").is_some() && (broken.is_some() || checker.is_done()));
    if let Some(path) = &broken {
        println!("{:?}", path.clone().into_actions());
    }
    broken.is_some()
}

#[test]
fn two_replicas_keep_the_bound() {
    assert!(!is_broken(Replicas { count: 2, policy: policy(), steps: 4, asks: 2, copies: 1, faults: 0 }));
}

#[test]
fn two_replicas_keep_the_bound_through_faults() {
    assert!(!is_broken(Replicas { count: 2, policy: policy(), steps: 3, asks: 1, copies: 0, faults: 2 }));
}

#[test]
fn three_replicas_keep_the_bound() {
    assert!(!is_broken(Replicas { count: 3, policy: policy(), steps: 3, asks: 1, copies: 1, faults: 0 }));
}

/// The checker can fail: slots that are spent after their time are found.
#[test]
fn slots_spent_late_are_found() {
    let policy = policy().spending_after_its_time();
    assert!(is_broken(Replicas { count: 2, policy, steps: 4, asks: 1, copies: 0, faults: 0 }));
}

fn policy() -> Policy {
    Policy::horizon_of(512)
}
