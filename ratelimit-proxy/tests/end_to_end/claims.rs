//! Limits by who a request says it is from: claims of verified tokens, users of Basic and Digest, tiers. Through
//! real sockets.

use std::net::SocketAddr;

use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::raw_client::Client;
use crate::support::tokens::{Issuer, SECRET, Signer, jwks};
use serde_json::json;

/// The status of a request with those fields.
async fn status(proxy: SocketAddr, fields: &[&str]) -> u16 {
    let mut client = Client::connect(proxy).await;
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    client.send(format!("GET / HTTP/1.1\r\nhost: test\r\n{fields}\r\n")).await;
    client.response().await.status
}

fn bearer(claims: serde_json::Value) -> String {
    format!("authorization: Bearer {}", Signer::Secret(SECRET.to_vec()).token(None, claims))
}

#[tokio::test]
async fn a_claim_of_a_verified_token_is_a_key_and_a_forged_one_is_missing() {
    let origin = Origin::hello().await;
    let setup = Setup::yaml(
        "jwt: {secret_env: SECRET}\nlimits:\n  - {name: a, rate: 1/h, key: jwt.realm.user, missing: deny}",
    );
    let running = setup.start(origin.address);
    let proxy = running.address;
    let (alice, bob) = (json!({"realm": {"user": "alice"}}), json!({"realm": {"user": "bob"}}));
    assert_eq!(status(proxy, &[&bearer(alice.clone())]).await, 200);
    // Another token of the same user is the same key.
    assert_eq!(status(proxy, &[&bearer(json!({"realm": {"user": "alice"}, "jti": 2}))]).await, 429);
    assert_eq!(status(proxy, &[&bearer(bob)]).await, 200);
    let forged = Signer::Secret(vec![7; 32]).token(None, json!({"realm": {"user": "carol"}}));
    assert_eq!(status(proxy, &[&format!("authorization: Bearer {forged}")]).await, 429);
    assert_eq!(status(proxy, &[]).await, 429);
    let carol = bearer(json!({"realm": {"user": "carol"}}));
    assert_eq!(status(proxy, &[&carol, &carol]).await, 429, "two fields are none");
    // A key can't be nominated away: the upstream sees what was judged.
    assert_eq!(status(proxy, &["connection: authorization", &carol]).await, 200);
    assert!(origin.seen().last().unwrap().field("authorization").is_some());
    assert_eq!(status(proxy, &[&carol]).await, 429);
}

#[tokio::test]
async fn the_first_identity_there_is() {
    let origin = Origin::hello().await;
    let setup = Setup::yaml(
        "jwt: {secret_env: SECRET}\nlimits:\n  - {name: a, rate: 1/h, key: {first: [jwt.sub, client.ip]}}",
    );
    let running = setup.start(origin.address);
    let proxy = running.address;
    assert_eq!(status(proxy, &[&bearer(json!({"sub": "127.0.0.1"}))]).await, 200);
    assert_eq!(status(proxy, &[]).await, 200, "an address is not a subject of the same text");
    assert_eq!(status(proxy, &["authorization: Bearer junk"]).await, 429, "junk is no identity of its own");
    assert_eq!(status(proxy, &[&bearer(json!({"sub": "x"}))]).await, 200);
}

#[tokio::test]
async fn claims_choose_the_limit_and_exempt() {
    let origin = Origin::hello().await;
    let setup = Setup::yaml(
        "jwt: {secret_env: SECRET}\nexempt: [{jwt: {role: root}}]\nlimits:\n  \
         - {name: a, rate: 1/h, match: {not: {jwt: {role: adm*}}}}\n  \
         - {name: b, rate: 1/h, match: {jwt: {plan: free}}, key: jwt.sub}",
    );
    let running = setup.start(origin.address);
    let proxy = running.address;
    let admin = bearer(json!({"role": ["user", "admin"], "sub": "a"}));
    for _ in 0..3 {
        assert_eq!(status(proxy, &[&admin]).await, 200, "an item of a list");
        assert_eq!(status(proxy, &[&bearer(json!({"role": "root", "plan": "free"}))]).await, 200);
    }
    assert_eq!(status(proxy, &[&bearer(json!({"role": "user"}))]).await, 200);
    assert_eq!(status(proxy, &[&bearer(json!({"role": "user"}))]).await, 429);
    let forged = Signer::Secret(vec![7; 32]).token(None, json!({"role": "admin"}));
    assert_eq!(status(proxy, &[&format!("authorization: Bearer {forged}")]).await, 429);
    let free = bearer(json!({"role": "admin", "plan": "free", "sub": "b"}));
    assert_eq!(status(proxy, &[&free]).await, 200);
    assert_eq!(status(proxy, &[&free]).await, 429);
}

#[tokio::test]
async fn tiers_give_each_plan_its_quota() {
    let origin = Origin::hello().await;
    let setup = Setup::yaml(
        "jwt: {secret_env: SECRET}\nlimits:\n  - name: a\n    key: jwt.sub\n    \
         tiers: {by: jwt.plan, free: {rate: 1/h}, pro: {rate: 3/h}, ultra: {unlimited: true}, banned: {deny: true}, default: free}\n    \
         overrides: [{key: vip, rate: 2/h}]",
    );
    let running = setup.start(origin.address);
    let proxy = running.address;
    for (user, plan, admitted) in [
        ("a", "free", 1),
        ("b", "pro", 3),
        ("c", "ultra", 5),
        ("d", "banned", 0),
        ("e", "other", 1),
        ("vip", "pro", 2),
    ] {
        let mut passed = 0;
        for _ in 0..5 {
            passed += usize::from(status(proxy, &[&bearer(json!({"sub": user, "plan": plan}))]).await == 200);
        }
        assert_eq!(passed, admitted, "{user} {plan}");
    }
}

#[tokio::test]
async fn users_of_basic_and_digest() {
    let origin = Origin::hello().await;
    let setup = Setup::yaml(
        "limits:\n  - {name: b, rate: 1/h, key: basic.user, missing: skip}\n  - {name: d, rate: 1/h, key: digest.user, missing: skip}",
    );
    let running = setup.start(origin.address);
    let proxy = running.address;
    assert_eq!(status(proxy, &["authorization: Basic YTox"]).await, 200);
    assert_eq!(status(proxy, &["authorization: basic YToy"]).await, 429, "another password of the same user");
    assert_eq!(status(proxy, &["authorization: Basic YjoxMg=="]).await, 200);
    assert_eq!(status(proxy, &["authorization: Digest username=\"a\", realm=\"x\""]).await, 200);
    assert_eq!(status(proxy, &["authorization: Digest realm=\"y\", username=a"]).await, 429);
    assert_eq!(status(proxy, &[]).await, 200);
}

#[tokio::test]
async fn keys_come_from_an_issuer_while_requests_do_not_wait() {
    let origin = Origin::hello().await;
    let signer = Signer::p256();
    let issuer = Issuer::start(jwks(&[("k", &signer)])).await;
    let setup = Setup::yaml(&format!(
        "jwt: {{issuer: \"{}\"}}\nlimits:\n  - {{name: a, rate: 1000/h, key: jwt.sub, missing: deny}}",
        issuer.name()
    ));
    let proxy = setup.start(origin.address);
    let token = signer.token(Some("k"), json!({"sub": "a", "iss": issuer.name()}));
    let field = format!("authorization: Bearer {token}");
    let come = async {
        while status(proxy.address, &[&field]).await != 200 {
            tokio::task::yield_now().await;
        }
    };
    crate::support::soon("the issuer's keys", come).await;
    let tokens = proxy.shared.tokens().unwrap();
    let checked = tokens.checked();
    for _ in 0..10 {
        assert_eq!(status(proxy.address, &[&field]).await, 200);
    }
    assert_eq!((tokens.checked(), checked), (1, 1), "one signature for all of them");
}
