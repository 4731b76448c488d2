//! From what was written to what it means: [`Root`] to [`Config`], with the checks that need more than one value.
//! What was refused while it was read is passed over here: its fault is told already.

mod limit;
mod listen;
mod operators;
mod requests;
mod rls;
mod store;
mod token;
mod upstream;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use ratelimit_core::{FieldStyle, Period, Rate, ResetFormat};

use super::decode::{Either, Field};
use super::fault::{Faults, Place, shown, shown_path};
use super::leaf::{Lasting, OrOff};
use super::model::{ClientIp, Config, LimitConfig, LogConfig, LogKeys, LogRequests, ServerConfig, Trust};
use super::raw::{self, BodyWord, HeadersWord, KeysWord, RequestsWord, ResetWord, Root};
use super::source;
use crate::answer::{Answers, DenialBody};

pub(super) use self::limit::limit;

/// Builds a configuration; it means something only if nothing was refused. Files that it names are sought in
/// `base`.
pub(super) fn config(
    root: &Root,
    top: &Place,
    env: &dyn Fn(&str) -> Option<String>,
    base: &Path,
    faults: &mut Faults,
) -> Option<Config> {
    let server = server(&root.server, faults);
    let upstreams = upstream::upstreams(root, top, base, faults);
    let limits = limits(root, top, faults);
    let rls = rls::rls(&root.rls, faults);
    let (listen, admin) = listen::listen(root, base, faults);
    let client_ip = client_ip(&root.client_ip, faults);
    let exempt = requests::exempt(&root.exempt, faults);
    let jwt = token::jwt(&root.jwt, env, base, faults);
    token::needed(root, &exempt, &limits, &upstreams, top, faults);
    listen::needed(root, &listen, &limits, top, faults);
    let answers = answers(&root.response, base, faults);
    let log = log(&root.log, faults);
    let store = store::store(&root.store, base, faults);
    rls::asked(root, &limits, top, faults);
    // Last, so that everything was looked at even where there is no upstream.
    let mut config = Config::new(upstreams.first()?.servers.first()?.clone());
    config.upstreams = upstreams;
    if !listen.is_empty() {
        config.listen = listen;
    }
    config.admin = admin.unwrap_or(config.admin);
    config.operators = operators::operators(root, env, base, faults);
    if let (Field::Absent, Some(listen), Some(admin)) = (&root.admin, root.listen.get(), config.admin)
        && config.listen.iter().any(|listener| listener.address == admin)
    {
        let message = format!("{admin} is where operators connect unless admin says otherwise");
        faults.refuse_with(&listen.place, message, "write another address for admin, or off");
    }
    config.client_ip = client_ip;
    config.exempt = exempt;
    config.jwt = jwt;
    config.limits = limits;
    config.answers = answers;
    config.log = log;
    config.store = store;
    config.rls = rls;
    config.server = server;
    Some(config)
}

/// A time limit, which nothing could keep if it were 0.
fn set(field: &Field<Lasting>, time: &mut Duration, faults: &mut Faults) {
    let Some(given) = field.get() else { return };
    if given.0.is_zero() {
        faults.refuse(&given.place, "nothing is done in no time: write at least 1ms");
    }
    *time = given.0;
}

fn limits(root: &Root, top: &Place, faults: &mut Faults) -> Vec<LimitConfig> {
    if root.limits.is_absent() {
        faults.refuse_with(top, "limits is missing", "write limits: [] where nothing is to be limited");
    }
    let mut limits: Vec<LimitConfig> = Vec::new();
    let mut names = HashMap::new();
    let Some(given) = root.limits.get() else { return limits };
    if given.0.is_empty() {
        faults.warn(&given.place, "there are no limits: nothing is limited");
    }
    for (number, entry) in given.0.iter().enumerate() {
        let raw = match &entry.value {
            Either::Word(short) => &short.0,
            Either::Section(raw) => raw,
        };
        let name = raw.name.get().map(|name| (&name.place, name.value.0.clone()));
        let (place, name) = name.unwrap_or_else(|| (&entry.place, limit::generated(number + 1)));
        if !raw.name.is_broken()
            && let Some(line) = names.insert(name.clone(), place.line)
        {
            let message = format!("{} is the name of the limit in line {line} already", shown(&name));
            faults.refuse_with(place, message, "limits of one name would share their counters");
        }
        limits.extend(limit(raw, number + 1, &entry.place, faults));
    }
    limits
}

fn client_ip(field: &Field<raw::ClientIp>, faults: &mut Faults) -> ClientIp {
    let mut built = ClientIp::default();
    let Some(raw) = field.get() else { return built };
    if let Some(proxies) = raw.trusted_proxies.get() {
        for net in proxies.0.iter().filter(|net| net.0.prefix_len() == 0) {
            let message = "everybody is trusted: any client can claim to be any other";
            faults.warn(&net.place, message);
        }
        if !proxies.0.is_empty() {
            built.trust = Trust::Proxies(proxies.0.iter().map(|net| net.0).collect());
        }
    }
    if let Some(hops) = raw.hops.get() {
        if !raw.trusted_proxies.is_absent() {
            faults.refuse_with(&hops.place, "stands beside trusted_proxies", "write one of them");
        }
        built.trust = Trust::Hops(u8::try_from(hops.0).unwrap_or(u8::MAX));
    }
    if let Some(header) = raw.header.get() {
        if built.trust == Trust::Nobody && raw.trusted_proxies.is_absent() && raw.hops.is_absent() {
            let message = "has no effect: nobody is trusted, so the peer's address is the client's";
            faults.warn(&header.place, message);
        }
        built.header = header.value.clone();
    }
    if let Some(prefix) = raw.ipv6_prefix.get() {
        built.ipv6_prefix = u8::try_from(prefix.0).unwrap_or(128);
    }
    built
}

fn answers(field: &Field<raw::Response>, base: &Path, faults: &mut Faults) -> Answers {
    let mut built = Answers::default();
    let Some(raw) = field.get() else { return built };
    if let Some(status) = raw.status.get() {
        let status = u16::try_from(status.0).ok().and_then(|status| StatusCode::from_u16(status).ok());
        built.status = status.unwrap_or(built.status);
    }
    if let Some(headers) = raw.headers.get() {
        built.fields.style = match headers.value {
            HeadersWord::Ietf => FieldStyle::Ietf,
            HeadersWord::Legacy => FieldStyle::Legacy,
            HeadersWord::Both => FieldStyle::Both,
            HeadersWord::None => FieldStyle::None,
        };
    }
    if let Some(reset) = raw.reset.get() {
        built.fields.reset = match reset.value {
            ResetWord::Delta => ResetFormat::Delta,
            ResetWord::Epoch => ResetFormat::Epoch,
        };
    }
    if let Some(expose) = raw.expose.get() {
        built.fields.expose = expose.value;
    }
    if let Some(share) = raw.retry_jitter.get() {
        built.retry_jitter = share.0;
    }
    match raw.body.get().map(|body| &body.value) {
        Some(Either::Word(BodyWord::Text)) => built.body = DenialBody::Text,
        Some(Either::Section(file)) => built.body = body(file, base, faults).unwrap_or(DenialBody::Problem),
        Some(Either::Word(BodyWord::Problem)) | None => {}
    }
    built
}

fn body(raw: &raw::BodyFile, base: &Path, faults: &mut Faults) -> Option<DenialBody> {
    let content = raw.file.get().and_then(|file| {
        let path = base.join(&file.value.0);
        let message = |error| format!("can't read {}: {error}", shown_path(&path));
        source::read_regular(&path).map_err(|error| faults.refuse(&file.place, message(error))).ok()
    });
    let content_type = raw.content_type.get().and_then(|content_type| {
        let message = || format!("{} is not a content type", shown(&content_type.value.0));
        HeaderValue::from_str(&content_type.value.0)
            .map_err(|_| faults.refuse_with(&content_type.place, message(), "write one such as text/html"))
            .ok()
    });
    Some(DenialBody::File { content: Bytes::from(content?), content_type: content_type? })
}

fn log(field: &Field<raw::Log>, faults: &mut Faults) -> LogConfig {
    let mut built = LogConfig::default();
    let Some(raw) = field.get() else { return built };
    if let Some(requests) = raw.requests.get() {
        built.requests = match requests.value {
            RequestsWord::Off => LogRequests::Off,
            RequestsWord::Denied => LogRequests::Denied,
            RequestsWord::All => LogRequests::All,
        };
    }
    if let Some(sample) = raw.sample.get() {
        built.sample = match &sample.value {
            OrOff::Off => None,
            OrOff::On(rate) => Some(per_second(*rate, &sample.place, faults)),
        };
    }
    if let Some(keys) = raw.keys.get() {
        built.keys = match keys.value {
            KeysWord::Hash => LogKeys::Hash,
            KeysWord::Plain => LogKeys::Plain,
            KeysWord::Off => LogKeys::Off,
        };
    }
    if let Some(doubts) = raw.doubts.get() {
        built.doubts = match &doubts.value {
            OrOff::Off => None,
            OrOff::On(after) => Some(after.0),
        };
    }
    built
}

fn per_second(rate: Rate, place: &Place, faults: &mut Faults) -> u32 {
    if rate.period() != Period::Seconds(1) {
        faults.refuse(place, format!("{rate} is not a number of lines in a second, such as 20/s"));
    }
    rate.count()
}

fn server(field: &Field<raw::Server>, faults: &mut Faults) -> ServerConfig {
    let mut built = ServerConfig::default();
    let Some(raw) = field.get() else { return built };
    built.threads = raw.threads.get().and_then(|threads| usize::try_from(threads.0).ok());
    if let Some(connections) = raw.max_connections.get() {
        built.max_connections = usize::try_from(connections.0).unwrap_or(usize::MAX);
    }
    built.max_connections_per_client = raw.max_connections_per_client.get().map(|most| most.0);
    built.new_connections_per_client = raw.new_connections_per_client.get().map(|rate| rate.value);
    if let Some(memory) = raw.max_memory.get() {
        built.max_memory = Some(memory.0);
    }
    if let Some(drain) = raw.drain.get() {
        built.drain = drain.0;
    }
    if let Some(timeouts) = raw.timeouts.get() {
        set(&timeouts.head, &mut built.timeouts.head, faults);
        set(&timeouts.idle, &mut built.timeouts.idle, faults);
        set(&timeouts.body, &mut built.timeouts.body, faults);
        set(&timeouts.write, &mut built.timeouts.write, faults);
    }
    built
}
