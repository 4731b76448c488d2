//! Who a request is counted for: the peer, or the client that a trusted proxy names. Through sockets, with peers of
//! several addresses (all of 127.0.0.0/8 is this machine).

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::raw_client::{Client, Response};

/// The proxy that is trusted, if any is; any other address of the machine is a stranger's.
const TRUSTED: &str = "127.0.0.1";
const STRANGER: &str = "127.0.0.9";

/// A proxy that allows one request a day to each client, and the upstream behind it.
struct Scene {
    origin: Origin,
    proxy: Proxy,
}

impl Scene {
    async fn new(client_ip: &str) -> Self {
        let origin = Origin::hello().await;
        let yaml = format!(
            "client_ip: {{{client_ip}}}\nlimits: [{{name: one, key: client.ip, rate: 1/day, \
             overrides: [{{key: 9.9.9.9, unlimited: true}}]}}]"
        );
        let proxy = Proxy::from_yaml(&yaml, origin.address);
        Self { origin, proxy }
    }

    async fn ask(&self, peer: &str, fields: &str) -> Response {
        let mut client = Client::connect_from(peer.parse().unwrap(), self.proxy.address).await;
        let lines: String = fields.lines().flat_map(|line| [line, "\r\n"]).collect();
        client.send(format!("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{lines}\r\n")).await;
        client.response().await
    }

    /// In turn from that peer, with these fields: the status of each.
    async fn expect(&self, steps: &[(&str, &str, u16)]) {
        for (number, (peer, fields, status)) in steps.iter().enumerate() {
            assert_eq!(self.ask(peer, fields).await.status, *status, "step {number}: {peer} with {fields}");
        }
    }
}

/// Row 119, "XFF spoof with and without trusted proxy": without one, no effect.
#[tokio::test]
async fn nobodys_word_is_taken_by_default() {
    let scene = Scene::new("header: x-forwarded-for").await;
    scene
        .expect(&[
            (TRUSTED, "", 200),
            (TRUSTED, "x-forwarded-for: 1.1.1.1", 429),
            (TRUSTED, "forwarded: for=1.1.1.1", 429),
            (TRUSTED, "x-real-ip: 1.1.1.1\ncf-connecting-ip: 1.1.1.1\ntrue-client-ip: 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9", 429),
            (STRANGER, "x-forwarded-for: 1.1.1.1", 200),
            (STRANGER, "x-forwarded-for: 2.2.2.2", 429),
        ])
        .await;
    // The upstream is told who it was, and nothing of what the client says.
    let seen = scene.origin.seen();
    assert_eq!(seen[1].fields("x-forwarded-for"), ["127.0.0.9"]);
}

/// An upstream that reads the client from any of these fields must not read what a stranger wrote there.
#[tokio::test]
async fn what_strangers_say_of_themselves_does_not_reach_the_upstream() {
    const SPOOFED: &str = "x-forwarded-for: 6.6.6.6\nforwarded: for=6.6.6.6\nx-real-ip: 6.6.6.6\n\
                           x-forwarded-proto: https\nx-forwarded-host: evil\ncf-connecting-ip: 6.6.6.6\nx-mine: 1";
    let scene = Scene::new("trusted_proxies: [127.0.0.1], header: cf-connecting-ip").await;
    scene.expect(&[(STRANGER, SPOOFED, 200), (STRANGER, "cf-connecting-ip: 6.6.6.6", 429)]).await;
    let seen = scene.origin.only();
    for (name, lines) in [
        ("x-forwarded-for", &["127.0.0.9"][..]),
        ("forwarded", &["for=127.0.0.9;host=\"test\";proto=http"]),
        ("x-forwarded-proto", &["http"]),
        ("x-forwarded-host", &["test"]),
        ("x-real-ip", &[]),
        ("cf-connecting-ip", &[]),
        ("x-mine", &["1"]),
    ] {
        assert_eq!(seen.fields(name), lines, "{name}");
    }
    // A trusted proxy's word stands, with the proxy behind it in the lists.
    let scene = Scene::new("trusted_proxies: [127.0.0.1], header: cf-connecting-ip").await;
    scene.expect(&[(TRUSTED, SPOOFED, 200)]).await;
    let seen = scene.origin.only();
    for (name, lines) in [
        ("x-forwarded-for", &["6.6.6.6, 127.0.0.1"][..]),
        ("forwarded", &["for=6.6.6.6, for=127.0.0.1;host=\"test\";proto=http"]),
        ("x-forwarded-proto", &["https"]),
        ("x-real-ip", &["6.6.6.6"]),
        ("cf-connecting-ip", &["6.6.6.6"]),
    ] {
        assert_eq!(seen.fields(name), lines, "{name}");
    }
}

/// Row 119, "XFF spoof": with a trusted proxy, the right hop. Row 38, "duplicate `X-Forwarded-For` lines, garbage,
/// `unknown`, ports, brackets, zone id": the walk goes from right to left and ends at the last trusted hop.
#[tokio::test]
async fn the_client_is_the_last_that_a_trusted_proxy_names() {
    let scene = Scene::new("trusted_proxies: [127.0.0.1, 10.0.0.0/8, '2001:db8:f::/48']").await;
    scene
        .expect(&[
            (TRUSTED, "x-forwarded-for: 1.1.1.1", 200),
            (TRUSTED, "x-forwarded-for: 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: 1.1.1.2", 200),
            // What the client wrote before the proxy's word changes nothing.
            (TRUSTED, "x-forwarded-for: 6.6.6.6, 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9\nx-forwarded-for: 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: 10.0.0.1, 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: \"6.6.6.6, 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: 1.1.1.1,\nx-forwarded-for: , ,", 429),
            (TRUSTED, "x-forwarded-for: 1.1.1.1:4711", 429),
            // Behind more proxies that are trusted.
            (TRUSTED, "x-forwarded-for: 9.9.9.9, 1.1.1.1, 10.0.0.1", 429),
            (TRUSTED, "x-forwarded-for: 1.1.1.1\nx-forwarded-for: 10.0.0.1, [2001:db8:f::1]:80", 429),
            (TRUSTED, "x-forwarded-for: 1.1.1.1, ::ffff:10.0.0.1", 429),
            // A stranger's word is not taken, whoever it names.
            (STRANGER, "x-forwarded-for: 9.9.9.9", 200),
            (STRANGER, "x-forwarded-for: 9.9.9.9", 429),
            (STRANGER, "x-forwarded-for: 9.9.9.9, 127.0.0.1", 429),
            // Other fields are not the one that was asked for.
            (TRUSTED, "x-real-ip: 9.9.9.9\nx-forwarded-for: 1.1.1.1", 429),
            (TRUSTED, "forwarded: for=9.9.9.9\nx-forwarded-for: 1.1.1.1", 429),
            // No address: the last good hop, here the proxy itself.
            (TRUSTED, "", 200),
            (TRUSTED, "x-forwarded-for: 2.2.2.2, unknown", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, _hidden", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, 1.2.3", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, 01.2.3.4", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, evil.example", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9 1.2.3.4", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, \u{661}.1.1.1", 429),
            (TRUSTED, "x-forwarded-for:", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, x, 10.0.0.7", 200),
            (TRUSTED, "x-forwarded-for: 10.0.0.7", 429),
            // A zone belongs to the machine that wrote it.
            (TRUSTED, "x-forwarded-for: fe80::1%eth0", 200),
            (TRUSTED, "x-forwarded-for: fe80::1%eth1", 429),
        ])
        .await;
}

/// Row 38, "10 000 entries": capped, and what counts is still the right end.
#[tokio::test]
async fn ten_thousand_entries_change_nothing() {
    let scene = Scene::new("trusted_proxies: [127.0.0.1, 10.0.0.0/8]").await;
    let entries = |entry: &str, count: usize| vec![entry; count].join(",");
    let list = entries("6.6.6", 10_000);
    assert!(list.len() > 50_000);
    scene
        .expect(&[
            (TRUSTED, &format!("x-forwarded-for: {list}, 1.1.1.1"), 200),
            (TRUSTED, "x-forwarded-for: 1.1.1.1", 429),
            (TRUSTED, &format!("x-forwarded-for: {}, 1.1.1.1", entries("9.9.9.9", 7_000)), 429),
            // Through sixty-four proxies of ours, no further.
            (TRUSTED, &format!("x-forwarded-for: 9.9.9.9,{}", entries("10.0.0.1", 5_000)), 200),
            (TRUSTED, "x-forwarded-for: 10.0.0.1", 429),
            (TRUSTED, &format!("x-forwarded-for: {}1.1.1.1", ",".repeat(60_000)), 429),
        ])
        .await;
    let lines = vec!["x-forwarded-for: 6.6.6.6, 7.7.7.7"; 90].join("\n");
    scene.expect(&[(TRUSTED, &format!("{lines}\nx-forwarded-for: 1.1.1.1"), 429)]).await;
}

/// Row 119 with hops: so many entries from the right are the proxies', and no more.
#[tokio::test]
async fn hops_count_from_the_right() {
    let scene = Scene::new("hops: 2").await;
    scene
        .expect(&[
            (TRUSTED, "x-forwarded-for: 1.1.1.1, 10.0.0.1", 200),
            (STRANGER, "x-forwarded-for: 1.1.1.1, 10.0.0.2", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, 6.6.6.6, 1.1.1.1, 10.0.0.1", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, 1.1.1.1\nx-forwarded-for: 10.0.0.1", 429),
            (TRUSTED, "x-forwarded-for: 1.1.1.1", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, unknown, 3.3.3.3", 200),
            (TRUSTED, "x-forwarded-for: 3.3.3.3", 429),
            (TRUSTED, "", 200),
            (TRUSTED, "x-forwarded-for: 9.9.9.9, unknown", 429),
        ])
        .await;
    let scene = Scene::new("hops: 1, header: Forwarded").await;
    scene
        .expect(&[
            (TRUSTED, "forwarded: for=9.9.9.9, for=1.1.1.1", 200),
            (TRUSTED, "forwarded: for=1.1.1.1;proto=https", 429),
        ])
        .await;
}

/// Rows 38 and 119 for `Forwarded` (RFC 7239): a quote that a client left open swallows nothing.
#[tokio::test]
async fn forwarded_is_read_as_the_standard_says() {
    let scene = Scene::new("trusted_proxies: [127.0.0.1, 10.0.0.0/8], header: forwarded").await;
    scene
        .expect(&[
            (TRUSTED, "forwarded: for=1.1.1.1", 200),
            (TRUSTED, "forwarded: For=\"1.1.1.1:4711\";by=10.0.0.1;proto=https", 429),
            (TRUSTED, "forwarded: for=9.9.9.9, for=1.1.1.1", 429),
            (TRUSTED, "forwarded: for=9.9.9.9\nforwarded: for=1.1.1.1, for=10.0.0.1;host=\"a,b\"", 429),
            (TRUSTED, "forwarded: for=\"9.9.9.9, for=1.1.1.1", 429),
            (TRUSTED, "forwarded: for=9.9.9.9;x=\"\\, for=1.1.1.1", 429),
            (TRUSTED, "forwarded: host=\"a\\\"b, for=9.9.9.9\", for=1.1.1.1", 429),
            (TRUSTED, "forwarded: for=\"[::ffff:1.1.1.1]:80\"", 429),
            (TRUSTED, "forwarded: for=\"\\1.1.1.1\"", 429),
            (TRUSTED, "x-forwarded-for: 9.9.9.9\nforwarded: for=1.1.1.1", 429),
            (TRUSTED, "", 200),
            (TRUSTED, "forwarded: for=9.9.9.9;for=9.9.9.9", 429),
            (TRUSTED, "forwarded: for=unknown", 429),
            (TRUSTED, "forwarded: for=_x", 429),
            (TRUSTED, "forwarded: proto=https", 429),
            (TRUSTED, "forwarded: 9.9.9.9", 429),
            (TRUSTED, "forwarded: for=\"9.9.9.9", 429),
            (STRANGER, "forwarded: for=9.9.9.9", 200),
            (STRANGER, "forwarded: for=9.9.9.9", 429),
        ])
        .await;
}

/// Row 119 for fields that hold one address.
#[tokio::test]
async fn other_fields_hold_one_address() {
    for header in ["X-Real-IP", "cf-connecting-ip", "X-My-Client"] {
        let scene = Scene::new(&format!("trusted_proxies: [127.0.0.1, 10.0.0.0/8], header: {header}")).await;
        let field = |value: &str| format!("{header}: {value}");
        scene
            .expect(&[
                (TRUSTED, &field("1.1.1.1"), 200),
                (TRUSTED, &field("1.1.1.1:80"), 429),
                (TRUSTED, &format!("{}\n{}", field("9.9.9.9"), field("1.1.1.1")), 429),
                (TRUSTED, &field("9.9.9.9, 1.1.1.1"), 429),
                // A client may stand in a trusted network itself.
                (TRUSTED, &field("9.9.9.9, 10.0.0.5"), 200),
                (TRUSTED, &field("10.0.0.5"), 429),
                (TRUSTED, &format!("x-forwarded-for: 9.9.9.9\n{}", field("1.1.1.1")), 429),
                (TRUSTED, &field("garbage"), 200),
                (TRUSTED, "", 429),
                (STRANGER, &field("9.9.9.9"), 200),
                (STRANGER, &field("9.9.9.9"), 429),
            ])
            .await;
    }
}

/// Row 118, "IPv6 /64 sweep; IPv4-mapped in 4 notations; 6to4/NAT64": one bucket for a /64, and an IPv4 address
/// inside IPv6 is the IPv4 address, not a bucket for everybody (CVE-2026-30827).
#[tokio::test]
async fn an_ipv6_client_is_its_network() {
    let scene = Scene::new("trusted_proxies: [127.0.0.1]").await;
    let field = |address: &str| format!("x-forwarded-for: {address}");
    scene.expect(&[(TRUSTED, &field("2001:db8:1:2::1"), 200)]).await;
    for low in [0_u64, 2, 0xffff, 1 << 32, u64::MAX, 0x0102_0304] {
        let address = std::net::Ipv6Addr::from_bits((0x2001_0db8_0001_0002_u128 << 64) | u128::from(low));
        scene.expect(&[(TRUSTED, &field(&address.to_string()), 429)]).await;
    }
    scene
        .expect(&[
            (TRUSTED, &field("[2001:DB8:1:2:0::9]:443"), 429),
            (TRUSTED, &field("2001:db8:1:3::1"), 200),
            (TRUSTED, &field("2001:db8:1:2:3::1.2.3.4"), 429),
            // IPv4 in IPv6, four notations.
            (TRUSTED, &field("1.2.3.4"), 200),
            (TRUSTED, &field("::ffff:1.2.3.4"), 429),
            (TRUSTED, &field("::ffff:102:304"), 429),
            (TRUSTED, &field("0:0:0:0:0:FFFF:0102:0304"), 429),
            (TRUSTED, &field("[::ffff:1.2.3.4]:80"), 429),
            (TRUSTED, &field("::ffff:1.2.3.5"), 200),
            (TRUSTED, &field("::ffff:9.9.9.9"), 200),
            (TRUSTED, &field("::ffff:9.9.9.9"), 200),
            // NAT64 and 6to4 are networks like others; `::a.b.c.d` is no IPv4 address any more.
            (TRUSTED, &field("64:ff9b::1.2.3.4"), 200),
            (TRUSTED, &field("64:ff9b::1.2.3.5"), 429),
            (TRUSTED, &field("2002:102:304::1"), 200),
            (TRUSTED, &field("2002:102:304::2"), 429),
            (TRUSTED, &field("2002:102:305::1"), 200),
            (TRUSTED, &field("::1.2.3.4"), 200),
            (TRUSTED, &field("::1.2.3.5"), 429),
        ])
        .await;
    for (prefix, within, beyond) in [
        (48, "2001:db8:1:ffff::1", "2001:db8:2::1"),
        (56, "2001:db8:1:ff::1", "2001:db8:1:100::1"),
        (128, "2001:db8:1:0::1", "2001:db8:1::2"),
    ] {
        let scene = Scene::new(&format!("trusted_proxies: [127.0.0.1], ipv6_prefix: {prefix}")).await;
        scene
            .expect(&[
                (TRUSTED, &field("2001:db8:1::1"), 200),
                (TRUSTED, &field(within), 429),
                (TRUSTED, &field(beyond), 200),
                (TRUSTED, &field("1.2.3.4"), 200),
                (TRUSTED, &field("1.2.3.5"), 200),
            ])
            .await;
    }
}

/// Matches see the whole address of the client, not the masked one, and not the peer's.
#[tokio::test]
async fn matches_ask_for_the_client_not_the_peer() {
    let origin = Origin::hello().await;
    let yaml = "
client_ip: {trusted_proxies: [127.0.0.1]}
exempt: [{client_ip: ['2001:db8::7', 10.0.0.0/8]}]
limits: [{name: one, match: {not: {client_ip: [127.0.0.1]}}, rate: 1/day}]
";
    let scene = Scene { proxy: Proxy::from_yaml(yaml, origin.address), origin };
    scene
        .expect(&[
            (TRUSTED, "", 200),
            (TRUSTED, "", 200),
            (TRUSTED, "x-forwarded-for: 10.1.1.1", 200),
            (TRUSTED, "x-forwarded-for: 2001:db8::7", 200),
            (TRUSTED, "x-forwarded-for: 2001:db8::8", 200),
            (TRUSTED, "x-forwarded-for: 2001:db8::8", 429),
            (TRUSTED, "x-forwarded-for: 10.1.1.1, 1.1.1.1", 429),
            (STRANGER, "x-forwarded-for: 10.1.1.1", 429),
            (STRANGER, "x-forwarded-for: 127.0.0.1", 429),
            (TRUSTED, "x-forwarded-for: ::ffff:10.1.1.1", 200),
        ])
        .await;
}
