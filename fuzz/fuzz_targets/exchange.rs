//! Whatever a client sends over HTTP/1.1 to a whole proxy: what reaches the upstream keeps the strict grammar, is at most
//! what another, short reader finds in the same bytes, in that order, with those bodies; answers keep the grammar too,
//! are the contract's, and no more than there were requests.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ratelimit_fuzz::Rig;
use ratelimit_fuzz::strict;

const CONFIG: &str = "
server: {timeouts: {head: 2s, idle: 2s, body: 2s, write: 2s}}
limits:
  - {name: all, rate: 10000000/s}
  - {name: key, key: header.x-api-key, rate: 10000000/s}
  - {name: path, match: {path: /login}, rate: 10000000/s}
";

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(CONFIG, false));

const STATUSES: [&[u8]; 16] = [
    b"100", b"200", b"400", b"404", b"405", b"408", b"413", b"414", b"421", b"429", b"431", b"501", b"502",
    b"503", b"504", b"505",
];

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        return;
    }
    let (asked, next) = strict::requests(bytes);
    let due = |answer: &[u8]| strict::responses(answer, &asked, next, |_| {}).0 >= asked.len();
    let (client, answer) = RIG.send(bytes, Duration::from_millis(100), due);
    let arrived = RIG.arrived(client);
    RIG.forget(client);
    let mut wanted = asked.iter();
    for request in &arrived {
        let found = wanted.find(|asked| asked.line[0] == request.line[0] && asked.body == request.body);
        assert!(found.is_some(), "nobody asked for {request:?}, or not in this order: {asked:?}");
    }
    let known =
        |response: &strict::Message| assert!(STATUSES.contains(&&response.line[1][..]), "{response:?}");
    let (answered, rest, wrong) = strict::responses(&answer, &asked, next, known);
    assert!(wrong.is_none() && rest.is_empty(), "{wrong:?}: {:?}", String::from_utf8_lossy(rest));
    assert!(answered <= asked.len() + 1, "{answered} answers to {}", asked.len());
});
