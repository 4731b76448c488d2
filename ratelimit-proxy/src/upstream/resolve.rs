//! Where names lead: each is looked up in the background, and again when its time to live is over. Requests never wait
//! for a name server, but for the first answer ever.
//!
//! * All addresses count, IPv4 and IPv6, except those that this machine has no route to.
//! * What is known stays known while there is no other answer: name servers that are away, or in trouble, change
//!   nothing. That a name has no addresses any more is believed when it was said for [`GONE`] without a break.
//! * The system's own files have the last word, and are read anew each time: `/etc/hosts`, and the name servers, the
//!   search domains and the options of `/etc/resolv.conf`.
//! * `localhost` is this machine and is never looked up (RFC 6761): `target.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name as DnsName, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver, lookup::Lookup, system_conf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::names::{Known, Name};

/// How long an answer is good, at least and at most, whatever it says.
const GOOD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long what a file of this machine says is good.
const FILE: Duration = Duration::from_secs(5);
/// The first and the longest pause after there was no answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long it must be said that a name has no addresses any more.
const GONE: Duration = Duration::from_secs(30);
/// Addresses of one name that are used.
const MOST: usize = 64;

/// Looks `name` up until nobody wants that any more, and tells `changes` of what is new.
pub(super) async fn keep_resolving(name: Arc<Name>, changes: Arc<Notify>) {
    let mut standing = Standing::of(&name.known());
    loop {
        let answer = ask(&name.host, &name.dns, standing.is_found()).await;
        let (known, pause) = standing.take(answer, Instant::now(), &name.host);
        if name.learn(known.clone()) {
            if let Known::At(addresses) = &known {
                tracing::info!(name = &*name.host, ?addresses, "the name has addresses");
            }
            changes.notify_one();
        }
        // Replicas do not ask in step.
        sleep(pause.mul_f64(1.0 + 0.1 * fastrand::f64())).await;
    }
}

/// What was said of one family of addresses.
#[derive(Debug)]
enum Family {
    Found(Vec<IpAddr>),
    /// There are none, says who should know.
    Nothing,
    /// Nobody said anything that counts.
    Failed(Arc<str>),
}

/// What was said of a name.
#[derive(Debug)]
struct Answer {
    v4: Family,
    v6: Family,
    /// How long it is good.
    good: Duration,
}

/// What is known of a name, and since when what is said of it is another thing.
#[derive(Debug, Default)]
struct Standing {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// Since when it is said without a break that it has no addresses.
    gone: Option<Instant>,
    /// Answers in a row that were none.
    failures: u32,
}

impl Standing {
    fn of(known: &Known) -> Self {
        let Known::At(addresses) = known else { return Self::default() };
        let (v4, v6) = addresses.iter().partition(|address| address.is_ipv4());
        Self { v4, v6, ..Self::default() }
    }

    fn is_found(&self) -> bool {
        !self.v4.is_empty() || !self.v6.is_empty()
    }

    /// Takes an answer. Returns what is known now, and how long to wait before the next question.
    fn take(&mut self, answer: Answer, now: Instant, host: &str) -> (Known, Duration) {
        let is_whole = !matches!((&answer.v4, &answer.v6), (Family::Failed(_), _) | (_, Family::Failed(_)));
        let pause = match (answer.v4, answer.v6) {
            (Family::Nothing, Family::Nothing) => return self.nothing(now, host),
            // One of them failed, and the other says nothing.
            (Family::Failed(why), Family::Failed(_) | Family::Nothing)
            | (Family::Nothing, Family::Failed(why)) => {
                return self.failed(why, host);
            }
            (v4, v6) => {
                for (last, family) in [(&mut self.v4, v4), (&mut self.v6, v6)] {
                    match family {
                        Family::Found(addresses) => *last = addresses,
                        Family::Nothing => last.clear(),
                        Family::Failed(_) => {}
                    }
                }
                answer.good.clamp(GOOD.0, GOOD.1)
            }
        };
        self.gone = None;
        if self.failures > 0 {
            tracing::info!(name = host, "the name is found again");
        }
        self.failures = 0;
        // Half an answer is asked for again soon.
        (self.known(), if is_whole { pause } else { pause.min(PAUSE.1) })
    }

    fn nothing(&mut self, now: Instant, host: &str) -> (Known, Duration) {
        let since = *self.gone.get_or_insert(now);
        if self.is_found() && now.saturating_duration_since(since) >= GONE {
            tracing::warn!(name = host, "the name has no addresses any more");
            (self.v4, self.v6) = (Vec::new(), Vec::new());
        } else if self.failures == 0 {
            tracing::warn!(name = host, meanwhile = self.meanwhile(), "the name has no addresses");
        }
        let known =
            if self.is_found() { self.known() } else { Known::Nowhere("the name has no addresses".into()) };
        (known, self.pause())
    }

    fn failed(&mut self, why: Arc<str>, host: &str) -> (Known, Duration) {
        self.gone = None;
        if self.failures == 0 {
            tracing::warn!(name = host, %why, meanwhile = self.meanwhile(), "the name can't be looked up");
        }
        let known = if self.is_found() { self.known() } else { Known::Nowhere(why) };
        (known, self.pause())
    }

    fn meanwhile(&self) -> &'static str {
        if self.is_found() { "its last addresses are used" } else { "requests for it are answered 502" }
    }

    fn known(&self) -> Known {
        let all = self.v4.iter().chain(&self.v6).copied().collect();
        Known::At(usable(all, has_route).into())
    }

    /// Before the next question, when there was no answer.
    fn pause(&mut self) -> Duration {
        let pause = PAUSE.0.saturating_mul(1 << self.failures.min(16)).min(PAUSE.1);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

/// Those that can be connected to, in order and once each: of a name with addresses of both families, many machines can
/// reach one family only. All of them where none can be reached, since that is no fault of the name.
fn usable(mut addresses: Vec<IpAddr>, has_route: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.iter().any(&has_route) {
        addresses.retain(has_route);
    }
    addresses.truncate(MOST);
    addresses
}

/// Whether this machine would know where to send something; nothing is sent.
fn has_route(address: &IpAddr) -> bool {
    let own: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((own, 0)).and_then(|socket| socket.connect((*address, 9))).is_ok()
}

/// What is said of `host` now. `strict`: a name that was found is not sought elsewhere while who should know does not
/// answer.
async fn ask(host: &str, dns: &[SocketAddr], strict: bool) -> Answer {
    let failed = |error: &dyn ToString| {
        let why: Arc<str> = error.to_string().into();
        Answer { v4: Family::Failed(Arc::clone(&why)), v6: Family::Failed(why), good: Duration::ZERO }
    };
    let name = match DnsName::from_str_relaxed(host) {
        Ok(name) => name,
        Err(error) => return failed(&error),
    };
    if let Some(answer) = Hosts::from_system().ok().and_then(|hosts| said_in(&hosts, &name)) {
        return answer;
    }
    let (config, options) = configuration(dns);
    let candidates = candidates(&name, &config, options.ndots);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    match builder.build() {
        Ok(resolver) => search(&resolver, candidates, strict).await,
        Err(error) => failed(&error),
    }
}

/// The first of these names that has addresses.
async fn search(resolver: &TokioResolver, candidates: Vec<DnsName>, strict: bool) -> Answer {
    let mut failure = None;
    for name in candidates {
        let asked = Instant::now();
        let (v4, v6) =
            join(resolver.lookup(name.clone(), RecordType::A), resolver.lookup(name, RecordType::AAAA)).await;
        let until = [&v4, &v6].into_iter().flatten().map(Lookup::valid_until).min();
        let good =
            until.map_or(Duration::ZERO, |until| Instant::from_std(until).saturating_duration_since(asked));
        let answer = Answer { v4: family(v4), v6: family(v6), good };
        match (&answer.v4, &answer.v6) {
            (Family::Found(_), _) | (_, Family::Found(_)) => return answer,
            (Family::Nothing, Family::Nothing) => {}
            _ if strict => return answer,
            _ => failure = failure.or(Some(answer)),
        }
    }
    failure.unwrap_or(Answer { v4: Family::Nothing, v6: Family::Nothing, good: Duration::ZERO })
}

fn family(answer: Result<Lookup, NetError>) -> Family {
    match answer {
        Ok(lookup) => found(&lookup),
        Err(error) if error.is_no_records_found() => Family::Nothing,
        Err(error) => Family::Failed(error.to_string().into()),
    }
}

fn found(lookup: &Lookup) -> Family {
    let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
    // Some servers say 0.0.0.0 for "no", and to connect there would lead to this machine.
    let addresses: Vec<_> =
        addresses.filter(|address| !address.is_unspecified() && !address.is_multicast()).collect();
    if addresses.is_empty() { Family::Nothing } else { Family::Found(addresses) }
}

/// What a file such as `/etc/hosts` says. A name that stands there is nowhere else, whatever the family.
fn said_in(hosts: &Hosts, name: &DnsName) -> Option<Answer> {
    let say = |kind| hosts.lookup_static_host(&Query::query(name.to_lowercase(), kind));
    let (v4, v6) = (say(RecordType::A), say(RecordType::AAAA));
    if v4.is_none() && v6.is_none() {
        return None;
    }
    let family = |lookup: Option<Lookup>| lookup.map_or(Family::Nothing, |lookup| found(&lookup));
    Some(Answer { v4: family(v4), v6: family(v6), good: FILE })
}

/// Who is asked, and how.
fn configuration(dns: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    let server = |server: &SocketAddr| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        config.connections.iter_mut().for_each(|connection| connection.port = server.port());
        config
    };
    let own = || {
        // What resolv.conf(5) says of a machine that names none.
        let here = [SocketAddr::from((Ipv4Addr::LOCALHOST, 53))];
        let servers = if dns.is_empty() { &here[..] } else { dns };
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        (config, ResolverOpts::default())
    };
    let system = if dns.is_empty() { system_conf::read_system_conf().ok() } else { None };
    let (config, mut options) = system.unwrap_or_else(own);
    // Each question is one that has to be asked, and the hosts were looked at.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    (config, options)
}

/// What a name may stand for, in the order of resolv.conf(5).
fn candidates(name: &DnsName, config: &ResolverConfig, ndots: usize) -> Vec<DnsName> {
    let mut whole = name.clone();
    whole.set_fqdn(true);
    if name.is_fqdn() {
        return vec![whole];
    }
    let domain = config.domain().filter(|_| config.search().is_empty());
    let domains = config.search().iter().chain(domain);
    let mut candidates: Vec<_> =
        domains.filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
    let first = usize::from(name.num_labels()) > ndots;
    candidates.insert(if first { 0 } else { candidates.len() }, whole);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    const HERE: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn found(addresses: &[IpAddr]) -> Family {
        Family::Found(addresses.to_vec())
    }

    fn failed() -> Family {
        Family::Failed("away".into())
    }

    fn at(addresses: &[IpAddr]) -> Known {
        Known::At(addresses.into())
    }

    /// What is known after each of these answers, and the pause; the answers come at those seconds.
    fn run(answers: Vec<(u64, Family, Family, u64)>) -> Vec<(Known, Duration)> {
        let (mut standing, start) = (Standing::default(), Instant::now());
        let take = |(second, v4, v6, good)| {
            let answer = Answer { v4, v6, good: Duration::from_secs(good) };
            standing.take(answer, start + Duration::from_secs(second), "test")
        };
        answers.into_iter().map(take).collect()
    }

    #[test]
    fn answers_are_good_for_as_long_as_they_say_within_bounds() {
        let known = run(vec![
            (0, found(&[ip(2), ip(1), ip(2)]), Family::Nothing, 60),
            (60, found(&[ip(2)]), found(&[HERE]), 0),
            (61, Family::Nothing, found(&[HERE]), 86_400),
        ]);
        let seconds = Duration::from_secs;
        assert_eq!(
            known,
            [
                (at(&[ip(1), ip(2)]), seconds(60)),
                (at(&[ip(2), HERE]), seconds(1)),
                (at(&[HERE]), seconds(300)),
            ]
        );
    }

    #[test]
    fn what_is_known_stays_while_nobody_answers_and_each_family_for_itself() {
        let known = run(vec![
            (0, found(&[ip(1)]), found(&[HERE]), 60),
            (60, failed(), found(&[HERE]), 60),
            (61, failed(), Family::Nothing, 60),
            (62, Family::Nothing, failed(), 60),
            (90_000, failed(), failed(), 60),
        ]);
        assert!(known.iter().all(|(known, _)| *known == at(&[ip(1), HERE])), "{known:?}");
        let pauses: Vec<_> = known.iter().map(|(_, pause)| pause.as_millis()).collect();
        assert_eq!(pauses, [60_000, 5000, 500, 1000, 2000]);
    }

    #[test]
    fn that_a_name_is_gone_is_believed_when_it_is_said_for_long() {
        let gone = |second| (second, Family::Nothing, Family::Nothing, 60);
        let known = run(vec![
            (0, found(&[ip(1)]), Family::Nothing, 1),
            gone(1),
            gone(30),
            // Somebody has trouble: that is no "no".
            (31, failed(), failed(), 0),
            gone(32),
            gone(61),
            gone(62),
            (63, failed(), failed(), 0),
            (64, found(&[ip(2)]), Family::Nothing, 1),
        ]);
        let addresses: Vec<_> = known
            .iter()
            .map(|(known, _)| if let Known::At(addresses) = known { addresses.to_vec() } else { Vec::new() })
            .collect();
        let one = || vec![ip(1)];
        let none = Vec::new;
        assert_eq!(addresses, [one(), one(), one(), one(), one(), one(), none(), none(), vec![ip(2)]]);
    }

    #[test]
    fn a_name_that_was_never_found_leads_nowhere_at_once_and_is_asked_for_often() {
        let known = run(vec![(0, failed(), failed(), 0), (1, Family::Nothing, Family::Nothing, 600)]);
        assert_eq!(known[0].0, Known::Nowhere("away".into()));
        assert_eq!(known[1].0, Known::Nowhere("the name has no addresses".into()));
        assert!(known.iter().all(|(_, pause)| *pause <= PAUSE.1));
    }

    #[test]
    fn addresses_without_a_route_are_left_out_where_there_are_others() {
        let all = vec![ip(1), HERE];
        assert_eq!(usable(all.clone(), IpAddr::is_ipv4), [ip(1)]);
        assert_eq!(usable(all.clone(), |_| false), all);
        assert_eq!(usable((0..=255).map(ip).collect(), |_| true).len(), MOST);
        assert!(has_route(&ip(1)));
    }

    #[test]
    fn what_stands_in_the_file_of_hosts_is_nowhere_else() {
        let mut hosts = Hosts::default();
        hosts
            .read_hosts_conf(&b"127.0.0.1 App.test app # a comment\n127.0.0.2 app.test\n::1 six\n"[..])
            .unwrap();
        let said = |name: &str| {
            let answer = said_in(&hosts, &DnsName::from_str_relaxed(name).unwrap())?;
            Some(Standing::default().take(answer, Instant::now(), name))
        };
        assert_eq!(said("APP.test"), Some((at(&[ip(1), ip(2)]), FILE)));
        assert_eq!(said("app"), Some((at(&[ip(1)]), FILE)));
        assert_eq!(said("six"), Some((at(&[HERE]), FILE)));
        assert_eq!(said("test"), None);
    }

    #[test]
    fn search_domains_are_used_as_the_system_says() {
        let name = |name: &str| DnsName::from_str_relaxed(name).unwrap();
        let domains = |domains: &[&str]| {
            ResolverConfig::from_parts(
                Some(name("own.test")),
                domains.iter().map(|domain| name(domain)).collect(),
                Vec::new(),
            )
        };
        let tried = |host: &str, config: &ResolverConfig, ndots| -> Vec<String> {
            candidates(&name(host), config, ndots).iter().map(ToString::to_string).collect()
        };
        let cluster = domains(&["a.svc", "svc"]);
        assert_eq!(tried("app", &cluster, 1), ["app.a.svc.", "app.svc.", "app."]);
        assert_eq!(tried("app.b", &cluster, 1), ["app.b.", "app.b.a.svc.", "app.b.svc."]);
        assert_eq!(tried("app.b", &cluster, 5), ["app.b.a.svc.", "app.b.svc.", "app.b."]);
        assert_eq!(tried("app.b.", &cluster, 5), ["app.b."]);
        assert_eq!(tried("app", &domains(&[]), 1), ["app.own.test.", "app."]);
        assert_eq!(tried("my_app", &domains(&["x"]), 0), ["my_app.", "my_app.x."]);
    }
}
