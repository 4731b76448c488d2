//! Requests that wait at the same moment travel in one call of the script. Pure: from requests to the arguments
//! of a call, and from its reply to verdicts.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;
use ratelimit_core::store::Verdict;
use ratelimit_core::{Nanos, StoreError};
use smallvec::SmallVec;

use crate::calendar::Calendars;
use crate::connection::ScriptCall;
use crate::couriers::Asker;
use crate::error::Trouble;
use crate::keys::{Digest, Names};
use crate::lease;
use crate::shape::{Kind, Shape};
use crate::wire::{Arguments, More, Part, Parts, Reply, Unanswered, What};

/// Most requests in a batch: more make a call longer and save little.
pub(crate) const REQUESTS: usize = 64;
/// Most keys, which have one byte as their number.
const KEYS: usize = 255;
/// Most parts a single request may have.
pub(crate) const PARTS: usize = 64;

/// What a caller gets.
pub(crate) type Answer = Result<Said, StoreError>;

/// What the store says to a request. It changes hands several times, and so does the request.
#[derive(Debug)]
pub(crate) enum Said {
    /// To charges.
    Verdict(Box<Verdict>),
    /// To a question for a lease.
    Lease(lease::Reply),
}

impl Said {
    pub(crate) fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Verdict(verdict) => Some(*verdict),
            Self::Lease(_) => None,
        }
    }
}

/// One request on its way to the store.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) parts: Arc<Parts>,
    /// `None`: nobody waits for the answer.
    pub(crate) answer: Option<Asker>,
    /// It was sent before, with calendars that did not cover the store's time.
    pub(crate) again: bool,
    /// It travels alone, because its keys are on their way to another node.
    pub(crate) alone: bool,
}

impl Request {
    /// Whether whoever asked is gone, so that it need not be made.
    pub(crate) fn is_given_up(&self) -> bool {
        self.answer.as_ref().is_some_and(Asker::is_gone)
    }
}

/// What a batch needs to know of where it is sent.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) names: &'a Names,
    /// Eight bytes that name this replica.
    pub(crate) replica: [u8; 8],
    /// Number of the batch, greater than all before.
    pub(crate) sequence: u64,
    /// After which permits lapse.
    pub(crate) expiry: Nanos,
    /// What the store's clock is thought to say, in microseconds.
    pub(crate) time: f64,
}

/// Requests that were put into one call.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) requests: Vec<Request>,
    keys: Vec<Digest>,
    pub(crate) has_permits: bool,
    /// The shorter script decides it.
    pub(crate) is_takes: bool,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) enum Judged {
    /// An answer for each request.
    Answered { answers: Vec<Result<Said, Unanswered>>, held: Vec<SmallVec<[u32; 2]>>, time: f64 },
    /// The calendars did not cover the store's time, which is this; nothing was done.
    WrongCalendar { time: f64 },
}

/// Makes batches; kept for its memory.
#[derive(Debug, Default)]
pub(crate) struct Batcher {
    places: HashMap<Digest, u8>,
    shapes: Vec<Shape>,
    arguments: Arguments,
    calendars: Calendars,
    dates: Vec<(u8, [f64; 4])>,
}

impl Batcher {
    /// Takes as many requests from the front as go into one call; `None` if none is left that anybody waits for.
    pub(crate) fn next(
        &mut self,
        waiting: &mut VecDeque<Request>,
        context: &Context<'_>,
    ) -> Option<(Batch, ScriptCall)> {
        let mut requests = Vec::with_capacity(waiting.len().min(REQUESTS));
        let mut call = ScriptCall { key_length: context.names.length(), ..ScriptCall::default() };
        let mut keys = Vec::new();
        let mut has_permits = false;
        let mut is_takes = true;
        self.places.clear();
        self.shapes.clear();
        self.dates.clear();
        while requests.len() < REQUESTS {
            let Some(request) = waiting.front() else { break };
            if request.is_given_up() {
                waiting.pop_front();
                continue;
            }
            let is_apart = !requests.is_empty() && (request.alone || call.is_patient);
            if is_apart || !self.fits(&request.parts, keys.len()) {
                break;
            }
            call.is_patient = request.alone;
            let Some(request) = waiting.pop_front() else { break };
            is_takes &= request.parts.iter().all(Part::is_bucket_take);
            for part in request.parts.iter() {
                if self.places.contains_key(&part.digest) {
                    is_takes = false;
                    continue;
                }
                let place = u8::try_from(keys.len() + 1).unwrap_or(u8::MAX);
                self.places.insert(part.digest, place);
                self.shapes.push(part.shape);
                keys.push(part.digest);
                context.names.write(&part.limit, &part.digest, &mut call.keys);
                has_permits |= part.is_permits();
                if part.shape.kind == Kind::Calendar {
                    self.dates.push((place, self.calendars.boundaries(&part.limit, context.time)));
                }
            }
            requests.push(request);
        }
        if requests.is_empty() {
            return None;
        }
        if is_takes {
            self.arguments.takes(requests.iter().map(|request| request.parts.as_slice()));
        } else {
            self.put(&requests, has_permits, context);
        }
        let (format, numbers) = self.arguments.finished();
        call.arguments.extend([format.to_vec(), numbers.to_vec()]);
        if has_permits {
            call.arguments.push(context.replica.to_vec());
        }
        Some((Batch { requests, keys, has_permits, is_takes }, call))
    }

    /// Puts requests of any kind into the arguments.
    fn put(&mut self, requests: &[Request], has_permits: bool, context: &Context<'_>) {
        let expiry = context.expiry.get() / 1000;
        let more = More { calendars: &self.dates, sequence: context.sequence, expiry };
        let more = (has_permits || !self.dates.is_empty()).then_some(&more);
        self.arguments.begin(&self.shapes, more);
        for request in requests {
            self.arguments
                .request(&request.parts, |part| self.places.get(&part.digest).copied().unwrap_or(0));
        }
    }

    /// Whether a request's keys have room, and none is in the batch already with another quota.
    fn fits(&self, parts: &[Part], taken: usize) -> bool {
        let shape_of = |place: &u8| self.shapes.get(usize::from(*place).checked_sub(1)?);
        taken + parts.len() <= KEYS
            && parts.iter().all(|part| {
                let known = self.places.get(&part.digest).and_then(shape_of);
                known.is_none_or(|shape| *shape == part.shape)
            })
    }
}

impl Batch {
    /// Whether it is a single request whose keys are on their way to another node.
    pub(crate) fn is_apart(&self) -> bool {
        matches!(&self.requests[..], [request] if request.alone)
    }

    /// Reads the reply.
    pub(crate) fn judge(&self, reply: &[u8]) -> Result<Judged, Trouble> {
        let garbled = |_| Trouble::garbled();
        let mut reply = Reply::new(reply).map_err(garbled)?;
        let time = reply.now;
        if reply.is_only_the_time() {
            return Ok(Judged::WrongCalendar { time });
        }
        let mut answers = Vec::with_capacity(self.requests.len());
        let mut held = Vec::new();
        for request in &self.requests {
            if self.has_permits {
                held.push(reply.held(&request.parts));
            }
            answers.push(match &request.parts[..] {
                [part] if matches!(part.what, What::Lease(_)) => {
                    reply.grant(part).map_err(garbled)?.map(Said::Lease)
                }
                parts => reply.verdict(parts).map_err(garbled)?.map(Box::new).map(Said::Verdict),
            });
        }
        // Keys whose foreign data was noticed only by the write.
        let foreign = reply.foreign_keys().map_err(garbled)?;
        let foreign: SmallVec<[&Digest; 4]> =
            foreign.iter().filter_map(|&key| self.keys.get(usize::from(key).checked_sub(1)?)).collect();
        if !foreign.is_empty() {
            for (request, answer) in self.requests.iter().zip(&mut answers) {
                if request.parts.iter().any(|part| foreign.contains(&&part.digest)) {
                    *answer = Err(Unanswered::Foreign);
                }
            }
        }
        Ok(Judged::Answered { answers, held, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::What;
    use ratelimit_core::algorithm::Op;
    use ratelimit_core::{KeyBuf, Limit, Rate};

    fn request(limit: &Limit, keys: &[u64]) -> Request {
        let parts = keys.iter().map(|&number| {
            let mut key = KeyBuf::new();
            key.push_u64(number);
            let (digest, shape) = (Digest::of(limit, key.key()), Shape::of(limit));
            Part { digest, limit: limit.clone(), shape, what: What::Do(Op::Take(1)) }
        });
        Request { parts: Arc::new(parts.collect()), answer: None, again: false, alone: false }
    }

    fn batch(waiting: &mut VecDeque<Request>) -> Option<Batch> {
        let names = Names::new("rl", "10");
        let context =
            Context { names: &names, replica: [0; 8], sequence: 1, expiry: Nanos::from_secs(10), time: 0.0 };
        let (batch, call) = Batcher::default().next(waiting, &context)?;
        assert_eq!(call.keys.len(), batch.keys.len() * names.length());
        Some(batch)
    }

    fn next(waiting: &mut VecDeque<Request>) -> Option<(usize, usize)> {
        batch(waiting).map(|batch| (batch.requests.len(), batch.keys.len()))
    }

    #[test]
    fn a_batch_has_64_requests_and_255_keys_at_most() {
        let limit = Limit::new("l", Rate::per_second(1));
        let mut waiting: VecDeque<_> = (0..150).map(|number| request(&limit, &[number % 50])).collect();
        assert_eq!([next(&mut waiting), next(&mut waiting)], [Some((64, 50)), Some((64, 50))]);
        assert_eq!([next(&mut waiting), next(&mut waiting)], [Some((22, 22)), None]);
        let wide = |first: u64| (first..first + 60).collect::<Vec<_>>();
        let mut waiting: VecDeque<_> = (0..6).map(|number| request(&limit, &wide(number * 60))).collect();
        assert_eq!([next(&mut waiting), next(&mut waiting)], [Some((4, 240)), Some((2, 120))]);
    }

    #[test]
    fn two_quotas_of_one_key_go_apart() {
        let limit = Limit::new("l", Rate::per_second(1));
        let more = limit.with_quota(Rate::per_second(2), None).unwrap();
        let mut waiting: VecDeque<_> =
            [request(&limit, &[1]), request(&limit, &[2]), request(&more, &[1])].into();
        assert_eq!([next(&mut waiting), next(&mut waiting)], [Some((2, 2)), Some((1, 1))]);
    }

    #[test]
    fn takes_from_different_buckets_have_a_script_of_their_own() {
        let limit = Limit::new("l", Rate::per_second(1));
        let sliding = limit.algorithm(ratelimit_core::Algorithm::SlidingWindow);
        let is_takes = |requests: [Request; 2]| batch(&mut requests.into()).unwrap().is_takes;
        assert!(is_takes([request(&limit, &[1, 2]), request(&limit, &[3])]));
        assert!(!is_takes([request(&limit, &[1, 2]), request(&limit, &[2])]), "one bucket twice");
        assert!(!is_takes([request(&limit, &[1]), request(&sliding, &[2])]));
    }

    #[test]
    fn who_gave_up_is_not_charged() {
        let limit = Limit::new("l", Rate::per_second(1));
        let mut waiting: VecDeque<_> = [request(&limit, &[1]), request(&limit, &[2])].into();
        let (answer, _) = Asker::here();
        waiting[0].answer = Some(answer);
        assert_eq!(next(&mut waiting), Some((1, 1)));
    }
}
