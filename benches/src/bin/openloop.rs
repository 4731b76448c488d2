//! Load that comes when it comes: requests on a fixed schedule, whether or not those before have been answered. What a
//! request took counts from when it was due, so that one slow answer is felt by all that were due meanwhile
//! (coordinated omission, as wrk2's author calls the mistake of not counting so).
//!
//!     cargo run --release -p benches --bin openloop -- URL RATE SECONDS [CONNECTIONS [STATUS]] [--json FILE]
//!
//! Requests are `GET`, over keep-alive connections (64 unless said otherwise), one at a time on each; where all wait,
//! those that are due wait too, and that counts. The first second does not. Over one answer in a hundred of another status
//! than STATUS (200) is an error; a limit of one a second lets one pass.
//! One thread, which sleeps between events and wakes within microseconds: tokio's timers, and those of the
//! generators that Debian and crates.io have, keep milliseconds, which is longer than most answers take.

#![expect(clippy::disallowed_methods, reason = "a load generator keeps real time")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::report::{Report, Result, ended};
use benches::served::complete;
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

const WARM_UP: Duration = Duration::from_secs(1);
/// What is not answered by then after the last was due is an error.
const PATIENCE: Duration = Duration::from_secs(5);

struct Plan {
    host: String,
    path: String,
    /// Between two requests.
    interval: Duration,
    length: Duration,
    connections: usize,
    status: u16,
}

impl Plan {
    fn of(words: &[String]) -> Result<Self> {
        let [url, rate, seconds, rest @ ..] = words else {
            return Err("wanted are URL RATE SECONDS [CONNECTIONS [STATUS]]".into());
        };
        let address = url.strip_prefix("http://").ok_or("the URL has to begin with http://")?;
        let (host, path) = address.split_once('/').unwrap_or((address, ""));
        let rate: f64 = rate.parse()?;
        if !(rate > 0.0 && rate <= 1e6) {
            return Err("the rate has to be above 0 and at most a million a second".into());
        }
        Ok(Self {
            host: host.to_owned(),
            path: format!("/{path}"),
            interval: Duration::from_secs_f64(1.0 / rate),
            length: Duration::from_secs(seconds.parse()?),
            connections: rest.first().map_or(Ok(64), |word| word.parse())?,
            status: rest.get(1).map_or(Ok(200), |word| word.parse())?,
        })
    }
}

struct Connection {
    stream: TcpStream,
    /// When the request that waits for its answer was due.
    due: Option<Instant>,
    came: Vec<u8>,
}

impl Connection {
    /// Reads what is there: the status, if an answer is complete.
    fn read(&mut self) -> Result<Option<u16>> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("a connection was closed".into()),
                Ok(length) => {
                    self.came.extend_from_slice(chunk.get(..length).unwrap_or_default());
                    if length < chunk.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let status = complete(&self.came)?;
        if status.is_some() {
            self.came.clear();
        }
        Ok(status)
    }
}

/// What came of it, in microseconds, and how late requests were sent.
struct Outcome {
    latencies: Histogram<u64>,
    behind: Histogram<u64>,
    /// Answers of another status than was wanted.
    others: u64,
}

fn run(plan: &Plan) -> Result<Outcome> {
    let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", plan.path, plan.host);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(plan.connections);
    for number in 0..plan.connections {
        let stream = TcpStream::connect(&plan.host).map_err(|error| format!("{}: {error}", plan.host))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let token = epoll::EventData::new_u64(number as u64);
        epoll::add(&poll, &stream, token, epoll::EventFlags::IN)?;
        connections.push(Connection { stream, due: None, came: Vec::new() });
    }
    let mut free: VecDeque<usize> = (0..connections.len()).collect();
    let microseconds = || Histogram::<u64>::new_with_bounds(1, 60_000_000, 3);
    let mut outcome = Outcome { latencies: microseconds()?, behind: microseconds()?, others: 0 };
    let mut events = Vec::with_capacity(256);
    let start = Instant::now();
    let (counts, end) = (start + WARM_UP, start + WARM_UP + plan.length);
    let (mut next, mut waiting) = (start, 0_usize);
    loop {
        let mut now = Instant::now();
        while next <= now && next < end {
            let Some(number) = free.pop_front() else { break };
            let Some(connection) = connections.get_mut(number) else { break };
            connection.stream.write_all(request.as_bytes())?;
            connection.due = Some(next);
            waiting += 1;
            if next >= counts {
                outcome.behind.saturating_record(micros(now - next));
            }
            next += plan.interval;
            now = Instant::now();
        }
        if next >= end && waiting == 0 {
            return Ok(outcome);
        }
        if now > end + PATIENCE {
            return Err(format!("{waiting} requests have no answer {PATIENCE:?} after the end").into());
        }
        let until =
            if free.is_empty() || next >= end { PATIENCE } else { next.saturating_duration_since(now) };
        let seconds = i64::try_from(until.as_secs())?;
        let until = Timespec { tv_sec: seconds, tv_nsec: until.subsec_nanos().into() };
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&until))?;
        for event in &events {
            let number = usize::try_from(event.data.u64())?;
            let Some(connection) = connections.get_mut(number) else { continue };
            let Some(status) = connection.read()? else { continue };
            let due = connection.due.take().ok_or("an answer that nobody asked for")?;
            outcome.others += u64::from(status != plan.status);
            if due >= counts {
                outcome.latencies.saturating_record(micros(due.elapsed()));
            }
            free.push_back(number);
            waiting -= 1;
        }
    }
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

fn main() -> ExitCode {
    ended(measure())
}

fn measure() -> Result<()> {
    let (mut report, words) = Report::from_arguments()?;
    let plan = Plan::of(&words)?;
    // The kernel may add 50 µs to each sleep unless told not to.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let outcome = run(&plan)?;
    if outcome.others * 100 > outcome.latencies.len() {
        return Err(format!("{} answers were not of status {}", outcome.others, plan.status).into());
    }
    println!(
        "| requests | p50 µs | p99 µs | p99.9 µs | most | p99 of being sent late |\n|---|---|---|---|---|---|"
    );
    let (took, behind) = (&outcome.latencies, &outcome.behind);
    let [half, most, nearly] = [0.5, 0.99, 0.999].map(|share| took.value_at_quantile(share));
    let late = behind.value_at_quantile(0.99);
    println!("| {} | {half} | {most} | {nearly} | {} | {late} |", took.len(), took.max());
    let figures = [
        ("p50 µs", half),
        ("p99 µs", most),
        ("p99.9 µs", nearly),
        ("requests", took.len()),
        ("p99 late µs", late),
    ];
    for (what, value) in figures {
        report.add("", "", what, (value as f64).into());
    }
    report.write()
}
