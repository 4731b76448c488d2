//! Requests over two partitions of a Cluster under a model checker: every order in which charges, answers and
//! undoes arrive or get lost, with requests that are given up and processes that end in between. What is proven is
//! the bound of `reserve.rs`: whatever happens, neither partition's limit admits more than its own bound.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use stateright::{Checker, Expectation, Model, Property};

/// Units that the buckets hold; one comes back with every step of time.
const BURST: [u8; 2] = [1, 2];
const PARTITIONS: usize = BURST.len();

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Charge {
        request: usize,
        partition: usize,
    },
    /// With a yes, where on the time line the charge ended: its receipt.
    Answer {
        request: usize,
        partition: usize,
        end: Option<u8>,
    },
    Undo {
        partition: usize,
        end: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    New,
    Asking,
    Admitted,
    Denied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    fate: Fate,
    answers: [Option<Option<u8>>; PARTITIONS],
    /// For the judge: when each partition charged it.
    charged: [Option<u8>; PARTITIONS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    /// Of each partition: when its bucket is full.
    full: [u8; PARTITIONS],
    requests: Vec<Request>,
    /// Sorted, and delivered in any order.
    network: Vec<Message>,
    denied_by_a_reservation: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Begin(usize),
    /// A message that is lost is one that is never delivered; a process that ends gets no more answers.
    Deliver(usize),
    /// The deadline, or the client is gone.
    GiveUp(usize),
}

/// What somebody might get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// Gives back what time has given back already.
    UndoWithoutReceipt,
    /// A lost undo is sent again, which nobody knows to be lost.
    UndoTwice,
    /// The first yes is enough.
    AdmitEarly,
    /// What was not answered is undone as well.
    UndoUnanswered,
}

struct Cluster {
    requests: usize,
    steps: u8,
    mistake: Mistake,
}

impl State {
    fn send(&mut self, message: Message) {
        let place = self.network.binary_search(&message).unwrap_or_else(|place| place);
        self.network.insert(place, message);
    }
}

impl Cluster {
    /// A no, or nobody waits any more: undoes what is known to be charged.
    fn undo(&self, state: &mut State, request: usize) {
        for partition in 0..PARTITIONS {
            let end = match state.requests[request].answers[partition] {
                Some(Some(end)) => end,
                None if self.mistake == Mistake::UndoUnanswered => state.now + 1,
                _ => continue,
            };
            let times = if self.mistake == Mistake::UndoTwice { 2 } else { 1 };
            (0..times).for_each(|_| state.send(Message::Undo { partition, end }));
        }
    }

    fn deliver(&self, state: &mut State, message: Message) {
        match message {
            Message::Charge { request, partition } => {
                let level = state.full[partition].saturating_sub(state.now);
                let end = (level < BURST[partition]).then_some(state.now + level + 1);
                match end {
                    Some(end) => {
                        state.full[partition] = end;
                        state.requests[request].charged[partition] = Some(state.now);
                    }
                    None => {
                        let gone = |other: &Request| other.fate != Fate::Admitted;
                        let charged = |other: &&Request| other.charged[partition] == Some(state.now);
                        state.denied_by_a_reservation |= state.requests.iter().filter(charged).any(gone);
                    }
                }
                state.send(Message::Answer { request, partition, end });
            }
            Message::Answer { request, partition, end } => {
                if state.requests[request].fate != Fate::Asking {
                    return;
                }
                state.requests[request].answers[partition] = Some(end);
                let answers = state.requests[request].answers;
                let yes = |answer: &Option<Option<u8>>| matches!(answer, Some(Some(_)));
                let enough = if self.mistake == Mistake::AdmitEarly { 1 } else { PARTITIONS };
                if answers.iter().filter(|answer| yes(answer)).count() >= enough {
                    state.requests[request].fate = Fate::Admitted;
                } else if answers.iter().all(Option::is_some) {
                    state.requests[request].fate = Fate::Denied;
                    self.undo(state, request);
                }
            }
            Message::Undo { partition, end } => {
                let (now, full) = (state.now, &mut state.full[partition]);
                let ahead = end.saturating_sub(now);
                let credit = if self.mistake == Mistake::UndoWithoutReceipt { 1 } else { ahead.min(1) };
                *full = full.saturating_sub(credit).max(now.min(*full));
            }
        }
    }

    /// Whether somewhere more was admitted in an interval than fits into the bucket and comes back meanwhile.
    fn exceeds(state: &State, partition: usize) -> bool {
        let admitted = state.requests.iter().filter(|request| request.fate == Fate::Admitted);
        // One that was never charged is counted when it is noticed.
        let times: Vec<u8> =
            admitted.map(|request| request.charged[partition].unwrap_or(state.now)).collect();
        times.iter().any(|&first| {
            times.iter().filter(|&&last| last >= first).any(|&last| {
                let within = times.iter().filter(|&&time| (first..=last).contains(&time)).count();
                within > usize::from(BURST[partition] + last - first)
            })
        })
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let request = Request { fate: Fate::New, answers: [None; 2], charged: [None; 2] };
        let requests = vec![request; self.requests];
        vec![State { now: 0, full: [0; 2], requests, network: Vec::new(), denied_by_a_reservation: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < self.steps {
            actions.push(Action::Tick);
        }
        // Requests are alike until they begin.
        if let Some(next) = state.requests.iter().position(|request| request.fate == Fate::New) {
            actions.push(Action::Begin(next));
        }
        for message in 0..state.network.len() {
            actions.push(Action::Deliver(message));
        }
        for (number, request) in state.requests.iter().enumerate() {
            if request.fate == Fate::Asking {
                actions.push(Action::GiveUp(number));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Tick => state.now += 1,
            Action::Begin(request) => {
                state.requests[request].fate = Fate::Asking;
                (0..PARTITIONS).for_each(|partition| state.send(Message::Charge { request, partition }));
            }
            Action::Deliver(message) => {
                let message = state.network.remove(message);
                self.deliver(&mut state, message);
            }
            Action::GiveUp(request) => {
                state.requests[request].fate = Fate::Denied;
                self.undo(&mut state, request);
            }
        }
        // What makes no difference to anybody any more.
        for request in &mut state.requests {
            if !matches!(request.fate, Fate::New | Fate::Asking) {
                request.answers = [None; PARTITIONS];
            }
        }
        let asking = |request: usize| state.requests[request].fate == Fate::Asking;
        let matters = |message: &Message| match message {
            Message::Answer { request, .. } => asking(*request),
            _ => true,
        };
        let network = std::mem::take(&mut state.network);
        state.network = network.into_iter().filter(matters).collect();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never more than the bound", |_, state: &State| {
                (0..PARTITIONS).all(|partition| !Self::exceeds(state, partition))
            }),
            Property::sometimes("two are admitted", |_, state: &State| {
                state.requests.iter().filter(|request| request.fate == Fate::Admitted).count() >= 2
            }),
            Property::sometimes("a reservation denies a competitor", |_, state: &State| {
                state.denied_by_a_reservation
            }),
        ]
    }
}

fn check(mistake: Mistake, requests: usize, steps: u8) -> Vec<&'static str> {
    let model = Cluster { requests, steps, mistake };
    let checker = model.checker().threads(2).timeout(Duration::from_secs(300)).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    assert!(checker.is_done() || mistake != Mistake::None);
    let properties = checker.model().properties();
    let discovered = |property: &&Property<Cluster>| checker.discovery(property.name).is_some();
    let wrong = |property: &&Property<Cluster>| match property.expectation {
        Expectation::Sometimes => !discovered(property),
        _ => discovered(property),
    };
    properties.iter().filter(wrong).map(|property| property.name).collect()
}

#[test]
fn no_interleaving_admits_more_than_the_bound() {
    for (requests, steps) in [(3, 1), (2, 3)] {
        assert_eq!(check(Mistake::None, requests, steps), Vec::<&str>::new());
    }
}

/// The model sees what it is there to see.
#[test]
fn every_mistake_is_found() {
    let bound = "never more than the bound";
    let mistakes =
        [Mistake::UndoWithoutReceipt, Mistake::UndoTwice, Mistake::AdmitEarly, Mistake::UndoUnanswered];
    for mistake in mistakes {
        assert!(check(mistake, 3, 1).contains(&bound), "{mistake:?}");
    }
}
