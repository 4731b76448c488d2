//! Servers that are known by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::support::name_server::{NameServer, Says};
use crate::support::origin::{Origin, Reply};
use crate::support::program::{Program, ask as ask_admin};
use crate::support::proxy::Proxy;
use crate::support::raw_client::{Client, ask, get};
use crate::support::until;

/// Servers on the same port of several addresses of this machine, 127.0.7.`last`; each says which one it is.
async fn servers(last: &[u8]) -> (u16, Vec<Origin>) {
    'port: loop {
        let mut origins: Vec<Origin> = Vec::new();
        for last in last {
            let port = origins.first().map_or(0, |origin| origin.address.port());
            let name = last.to_string();
            match Origin::start_at(([127, 0, 7, *last], port).into(), move |_| Reply::ok(&name)).await {
                Ok(origin) => origins.push(origin),
                Err(_taken) => continue 'port,
            }
        }
        return (origins[0].address.port(), origins);
    }
}

fn at(last: &[u8], ttl: u32) -> Says {
    Says::At(last.iter().map(|last| IpAddr::from([127, 0, 7, *last])).collect(), ttl)
}

fn proxy(names: &NameServer, port: u16, rest: &str) -> Proxy {
    Proxy::of(&configuration(names, port, rest))
}

fn configuration(names: &NameServer, port: u16, rest: &str) -> String {
    format!(
        "limits: []\ndns: {}\nupstreams: [{{servers: \"http://App.test:{port}\"{rest}}}]\n",
        names.address
    )
}

/// Who answers six requests.
async fn answering(address: SocketAddr) -> BTreeSet<String> {
    let mut servers = BTreeSet::new();
    for _ in 0..6 {
        let response = get(address, "/").await;
        let is_well = response.status == 200;
        servers.insert(if is_well { response.text().to_owned() } else { response.status.to_string() });
    }
    servers
}

fn set(servers: &[&str]) -> BTreeSet<String> {
    servers.iter().map(|server| (*server).to_owned()).collect()
}

#[tokio::test]
async fn each_address_of_a_name_is_a_server_and_changes_are_followed() {
    let (port, origins) = servers(&[1, 2, 3]).await;
    let names = NameServer::start(&[("app.test", at(&[1, 2], 1))]).await;
    let proxy = proxy(&names, port, "");
    until("both", async || answering(proxy.address).await == set(&["1", "2"])).await;
    // One goes, one comes.
    names.say("app.test", at(&[2, 3], 1));
    until("the change", async || answering(proxy.address).await == set(&["2", "3"])).await;
    // The connections to the one that went are given up, and the one that stayed keeps its own.
    origins[0].until("no connection", |record| record.open == 0).await;
    assert_eq!(origins[1].record().accepted, 1);
}

/// Row 73: name servers that say "no", have trouble, or are away.
#[tokio::test]
async fn the_last_good_answer_stays_while_there_is_no_other() {
    let (port, _origins) = servers(&[1]).await;
    let names = NameServer::start(&[("app.test", at(&[1], 0))]).await;
    let proxy = proxy(&names, port, "");
    until("the server", async || answering(proxy.address).await == set(&["1"])).await;
    for says in [Says::NoSuchName, Says::Trouble, Says::At(Vec::new(), 0), Says::Nothing] {
        let asked = names.asked("app.test");
        names.say("app.test", says.clone());
        until(&format!("questions that get {says:?}"), async || names.asked("app.test") > asked + 2).await;
        assert_eq!(answering(proxy.address).await, set(&["1"]), "{says:?}");
    }
    drop(names);
    assert_eq!(answering(proxy.address).await, set(&["1"]));
}

#[tokio::test]
async fn a_name_is_asked_for_again_when_its_time_is_over_and_no_sooner() {
    let (port, _origins) = servers(&[1]).await;
    let names = NameServer::start(&[("app.test", at(&[1], 60)), ("other.test", at(&[1], 0))]).await;
    let proxy = Proxy::of(&format!(
        "limits: []
dns: [{}]
upstreams:
  - {{match: {{path: /other}}, servers: 'http://other.test:{port}'}}
  - {{servers: ['http://app.test:{port}', 'http://APP.test:{}']}}",
        names.address,
        port ^ 1
    ));
    let begun = std::time::Instant::now();
    until("the name to be asked for again", async || names.asked("other.test") >= 6).await;
    // At once, and then after a second each.
    assert!(begun.elapsed().as_millis() > 1900, "{:?}", begun.elapsed());
    assert_eq!(get(proxy.address, "/").await.status, 200);
    assert_eq!(names.asked("app.test"), 2, "once for each family, however often it is written");
}

#[tokio::test]
async fn requests_wait_for_the_first_answer_and_for_no_other() {
    let (port, _origins) = servers(&[1]).await;
    let names = NameServer::start(&[("app.test", Says::Later)]).await;
    let proxy = proxy(&names, port, ", timeout: {connect: 20s}");
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("the question", async || names.asked("app.test") >= 2).await;
    names.say("app.test", at(&[1], 60));
    assert_eq!(client.response().await.text(), "1");
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_502_at_once_and_found_as_soon_as_it_is_there() {
    let (port, _origins) = servers(&[1]).await;
    let names = NameServer::start(&[]).await;
    let proxy = proxy(&names, port, ", timeout: {connect: 20s}");
    assert_eq!(answering(proxy.address).await, set(&["502"]));
    // Requests do not ask.
    let asked = names.asked("app.test");
    assert_eq!(answering(proxy.address).await, set(&["502"]));
    assert!(names.asked("app.test") <= asked + 4);
    names.say("app.test", at(&[1], 60));
    until("the server", async || answering(proxy.address).await == set(&["1"])).await;
}

/// Nobody listens on the other address, as it is where a service knows one family only.
#[tokio::test]
async fn a_name_with_addresses_of_both_families_is_served_by_the_one_that_works() {
    let (port, _origins) = servers(&[1]).await;
    let both = vec![IpAddr::from([127, 0, 7, 1]), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let names = NameServer::start(&[("app.test", Says::At(both, 60))]).await;
    let proxy = proxy(&names, port, "");
    for _ in 0..5 {
        assert_eq!(answering(proxy.address).await, set(&["1"]));
    }
}

#[tokio::test]
async fn values_stay_with_the_addresses_that_stay() {
    let (port, _origins) = servers(&[1, 2, 3]).await;
    let names = NameServer::start(&[("app.test", at(&[1, 2, 3], 1))]).await;
    let proxy = proxy(&names, port, ", balance: {hash: header.x-user}");
    let of = async || {
        let mut servers = BTreeMap::new();
        for user in 0..40 {
            let response = ask(proxy.address, &format!("GET /\nx-user: {user}")).await;
            servers.insert(user, response.text().to_owned());
        }
        servers
    };
    let found = |servers: &BTreeMap<u32, String>| -> BTreeSet<String> { servers.values().cloned().collect() };
    // The first requests may have come before it was known that there are three.
    until("all three", async || found(&of().await) == set(&["1", "2", "3"])).await;
    let before = of().await;
    names.say("app.test", at(&[3, 1], 1));
    let mut after = BTreeMap::new();
    until("one less", async || {
        after = of().await;
        found(&after) == set(&["1", "3"])
    })
    .await;
    for (user, server) in &before {
        assert!(server == "2" || after[user] == *server, "{user} went from {server} to {}", after[user]);
    }
}

/// What is known of an address stays known when others change, and a reload asks nobody anew.
#[tokio::test]
async fn a_reload_forgets_no_address_and_operators_see_them() {
    let (port, origins) = servers(&[1, 2]).await;
    let names = NameServer::start(&[("app.test", at(&[1, 2, 4], 1))]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let check = ", health_check: {path: /, interval: 1h}";
    std::fs::write(&file, configuration(&names, port, check)).unwrap();
    let program = Program::run(&["--config", file.to_str().unwrap()]).await;
    let states = async || -> Vec<(String, String)> {
        let page = program.admin("/api/upstreams").await;
        let page: serde_json::Value = serde_json::from_str(page.text()).unwrap();
        let servers = page["upstreams"][0]["servers"].as_array().unwrap();
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        assert!(servers.iter().all(|server| word(&server["url"]) == format!("http://App.test:{port}")));
        servers.iter().map(|server| (word(&server["address"]), word(&server["state"]))).collect()
    };
    let are = |states: &[(&str, &str)]| -> Vec<(String, String)> {
        states.iter().map(|(address, state)| ((*address).to_owned(), (*state).to_owned())).collect()
    };
    let three = are(&[("127.0.7.1", "up"), ("127.0.7.2", "up"), ("127.0.7.4", "down")]);
    until("three servers, one of them down", async || states().await == three).await;
    until("checks", async || origins.iter().all(|origin| origin.seen().len() == 1)).await;
    let page = program.admin("/metrics").await;
    assert!(
        page.text()
            .contains(&format!("proxy_upstream_up{{upstream=\"all\",server=\"http://App.test:{port}\"}} 1"))
    );
    // One less; then the name server goes, and another configuration comes, which would ask another.
    names.say("app.test", at(&[1, 4], 1));
    let two = are(&[("127.0.7.1", "up"), ("127.0.7.4", "down")]);
    until("two servers", async || states().await == two).await;
    let away = NameServer::start(&[("app.test", Says::Nothing)]).await;
    std::fs::write(&file, configuration(&away, port, &format!("{check}, retries: 2"))).unwrap();
    assert_eq!(ask_admin(program.admin, "POST", "/api/reload", "").await.status, 200);
    until("the other to be asked", async || away.asked("app.test") > 0).await;
    assert_eq!(states().await, two);
    assert_eq!(answering(program.proxy).await, set(&["1"]));
    let checks = origins[0].seen().iter().filter(|seen| seen.head.contains("health check")).count();
    assert_eq!(checks, 1, "it was checked anew");
}

/// Names of this machine are known without a name server, and either family will do.
#[tokio::test]
async fn localhost_is_here() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let origin = Origin::start_at(host.parse().unwrap(), |_| Reply::ok("here")).await.unwrap();
        let port = origin.address.port();
        let proxy = Proxy::of(&format!("limits: []\ndns: 127.0.0.1:1\nupstream: http://localhost:{port}"));
        assert_eq!(answering(proxy.address).await, set(&["here"]));
    }
}
