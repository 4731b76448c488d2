//! The store as it is run for real: a Cluster, a master that Sentinels name, a server behind TLS and a password.

use std::collections::HashMap;

use crate::support::origin::Origin;
use crate::support::program::{Program, metric};
use crate::support::raw_client::Client;
use crate::support::until;
use redis_testkit::{Certificates, Cluster, Sentinels, Server};
use tempfile::NamedTempFile;

/// A proxy with that limit and that `store` section, which it has found.
async fn with_store(origin: &Origin, limits: &str, store: &str) -> (Program, NamedTempFile) {
    let file = NamedTempFile::with_suffix(".yaml").unwrap();
    let upstream = origin.address;
    let text = format!("upstream: http://{upstream}\nlimits: [{limits}]\nstore: {{{store}}}\n");
    std::fs::write(file.path(), text).unwrap();
    let proxy = Program::run(&["--config", file.path().to_str().unwrap()]).await;
    until_up(&proxy, true).await;
    (proxy, file)
}

async fn until_up(proxy: &Program, up: bool) {
    let up = if up { 1.0 } else { 0.0 };
    until("the store's state", async || metric(proxy, "ratelimit_store_up").await == Some(up)).await;
}

/// So many requests of each user to each proxy; how many of each user's were allowed. All others are denials.
async fn flood(proxies: &[&Program], users: usize, each: usize) -> HashMap<usize, usize> {
    let mut tasks = Vec::new();
    for user in 0..users {
        for proxy in proxies {
            let address = proxy.proxy;
            tasks.push(tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut allowed = 0;
                for _ in 0..each {
                    client.send(&format!("GET / HTTP/1.1\r\nHost: test\r\nX-User: {user}\r\n\r\n")).await;
                    let response = client.response().await;
                    assert!(matches!(response.status, 200 | 429), "{response:?}");
                    allowed += usize::from(response.status == 200);
                }
                (user, allowed)
            }));
        }
    }
    let mut allowed = HashMap::new();
    for task in tasks {
        let (user, more) = task.await.unwrap();
        *allowed.entry(user).or_default() += more;
    }
    allowed
}

fn nodes(urls: &[String]) -> String {
    let urls: Vec<String> = urls.iter().map(|url| format!("'{url}'")).collect();
    format!("[{}]", urls.join(", "))
}

/// Two proxies, six nodes; one limit a user and one for all, which lies on another node than most users. Then a
/// master dies, and its replica takes over.
#[tokio::test]
async fn over_a_cluster() {
    let mut cluster = tokio::task::spawn_blocking(|| Cluster::start(1)).await.unwrap();
    let origin = Origin::hello().await;
    let store = format!("redis: {}, deadline: 1s, replicas: 2", nodes(&cluster.urls()));
    let limits = "30/day by header.x-user, 1000/day";
    let (one, _one) = with_store(&origin, limits, &store).await;
    let (two, _two) = with_store(&origin, limits, &store).await;
    let before = flood(&[&one, &two], 12, 25).await;
    assert!(before.values().all(|allowed| *allowed == 30), "{before:?}");

    let master = cluster.master_of("rl:v1:{10}:x");
    cluster.kill(master);
    // Every node refuses while the Cluster has a slot that nobody serves.
    until("the loss to be noticed", async || {
        flood(&[&one, &two], 12, 1).await;
        metric(&one, "ratelimit_store_up").await == Some(0.0)
    })
    .await;
    until_up(&one, true).await;
    until_up(&two, true).await;
    let after = flood(&[&one, &two], 12, 25).await;
    // A user whose charges were not replicated has one burst more; the others have none.
    assert!(after.values().all(|allowed| *allowed <= 30), "{after:?}");
    assert!(after.values().filter(|allowed| **allowed == 0).count() >= 6, "{after:?}");
}

/// Row 97: the master dies while traffic runs, and Sentinels name another one: every request has an answer, and
/// what is allowed in all is one burst more at most than without the failover.
#[tokio::test]
async fn row_97_over_sentinels_with_a_failover_under_traffic() {
    let mut sentinels = tokio::task::spawn_blocking(Sentinels::start).await.unwrap();
    let origin = Origin::hello().await;
    let (urls, master) = (nodes(&sentinels.urls()), sentinels.master_name());
    let store = format!("redis: {{sentinels: {urls}, master: {master}}}, deadline: 200ms, replicas: 2");
    let (one, _one) = with_store(&origin, "40/day by header.x-user", &store).await;
    let (two, _two) = with_store(&origin, "40/day by header.x-user", &store).await;
    let before = flood(&[&one, &two], 1, 5).await[&0];
    assert_eq!(before, 10);
    sentinels.kill_master();
    let mut during = 0;
    until("the loss to be noticed", async || {
        during += flood(&[&one, &two], 1, 1).await[&0];
        metric(&one, "ratelimit_store_up").await == Some(0.0)
    })
    .await;
    until("the new master", async || {
        during += flood(&[&one, &two], 1, 1).await[&0];
        metric(&one, "ratelimit_store_up").await == Some(1.0)
            && metric(&two, "ratelimit_store_up").await == Some(1.0)
    })
    .await;
    let after = flood(&[&one, &two], 1, 50).await[&0];
    let in_all = before + during + after;
    assert!((38..=80).contains(&in_all), "{before} before, {during} during, {after} after");
    let log = one.log.now();
    assert_eq!((log.matches("the store is gone").count(), log.matches("the store answers").count()), (1, 2));
}

/// A user with a password from a file, over TLS with certificates of both sides; then the password changes.
#[tokio::test]
async fn over_tls_with_a_password_that_changes() {
    let certificates = Certificates::new();
    let redis = Server::start_tls(&certificates);
    redis.command(&["ACL", "SETUSER", "limits", "on", ">old-secret", "~rl:*", "+@all"]).unwrap();
    let password = NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "old-secret\n").unwrap();
    let origin = Origin::hello().await;
    let path = |path: std::path::PathBuf| path.display().to_string();
    let store = format!(
        "redis: '{}', username: limits, password_file: '{}', tls: {{ca: '{}', cert: '{}', key: '{}'}}, deadline: 1s",
        redis.tls_url(),
        password.path().display(),
        path(certificates.authority()),
        path(certificates.certificate()),
        path(certificates.key())
    );
    let (proxy, _file) = with_store(&origin, "10/day by header.x-user", &store).await;
    assert_eq!(flood(&[&proxy], 2, 20).await, HashMap::from([(0, 10), (1, 10)]));

    std::fs::write(password.path(), "new-secret\n").unwrap();
    redis.command(&["ACL", "SETUSER", "limits", "resetpass", ">new-secret"]).unwrap();
    redis.command(&["CLIENT", "KILL", "USER", "limits"]).unwrap();
    until("the new password to be used", async || {
        flood(&[&proxy], 1, 1).await;
        let clients = redis.command(&["CLIENT", "LIST"]).unwrap();
        redis::from_redis_value::<String>(clients).unwrap().contains("user=limits")
    })
    .await;
    until_up(&proxy, true).await;
    assert_eq!(flood(&[&proxy], 2, 20).await, HashMap::from([(0, 0), (1, 0)]), "the same counters");
    let log = proxy.log.now();
    assert!(!log.contains("secret"), "{log}");
}
