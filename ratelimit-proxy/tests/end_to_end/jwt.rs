//! Verified tokens: every source of keys, every refusal, and issuers that rotate, fail, and go away.

use std::time::Duration;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use ratelimit_core::time::ManualClock;
use ratelimit_core::{Nanos, SystemClock};
use ratelimit_proxy::identity::token::{
    Claims, JwtConfig, KeyError, KeySource, LazyClaims, TokenVerifier, Unverified,
};
use ratelimit_proxy::telemetry::metrics::Metrics;
use serde_json::json;

use crate::support::soon;
use crate::support::tokens::{Issuer, Mood, SECRET, Signer, TempFile, b64, fingerprint, jwks, now};

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    headers
}

fn verify(verifier: &TokenVerifier, token: &str) -> Result<String, Unverified> {
    let subject = |claims: &Claims| claims.text("sub").unwrap_or_default().into_owned();
    verifier.verify(&bearer(token), None).map(|claims| subject(&claims))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, holds).await;
}

/// Asked in short pauses, as a test has no minutes.
fn quick(source: KeySource) -> JwtConfig {
    JwtConfig {
        refresh: Duration::from_millis(100),
        cooldown: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        ..JwtConfig::new(source)
    }
}

fn start(config: JwtConfig) -> TokenVerifier {
    TokenVerifier::start(config, &Metrics::new(&[])).unwrap()
}

fn local(source: KeySource) -> TokenVerifier {
    TokenVerifier::new(JwtConfig::new(source), SystemClock::default()).unwrap()
}

fn secret() -> Signer {
    Signer::Secret(SECRET.to_vec())
}

#[tokio::test]
async fn every_source_and_every_kind_of_key() {
    let signers =
        [("rsa", Signer::rsa()), ("p256", Signer::p256()), ("p384", Signer::p384()), ("ed", Signer::ed())];
    let named: Vec<_> = signers.iter().map(|(id, signer)| (*id, signer)).collect();
    let issuer = Issuer::start(jwks(&named)).await;
    let file = TempFile::new(&jwks(&named));
    let verifiers = [
        start(JwtConfig::new(KeySource::Issuer(issuer.name()))),
        start(JwtConfig::new(KeySource::JwksUrl(format!("{}/keys", issuer.name()).parse().unwrap()))),
        start(JwtConfig::new(KeySource::JwksFile(file.0.clone()))),
    ];
    for verifier in &verifiers {
        until("keys", || verifier.has_keys()).await;
        for (id, signer) in &signers {
            let claims = json!({"sub": id, "iss": issuer.name()});
            assert_eq!(verify(verifier, &signer.token(Some(id), claims.clone())).as_deref(), Ok(*id));
            assert_eq!(verify(verifier, &signer.token(None, claims)).as_deref(), Ok(*id), "without a name");
        }
        for algorithm in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
            let claims = json!({"sub": "x", "iss": issuer.name(), "exp": now() + 60});
            let token = signers[0].1.token_with(&json!({"alg": algorithm, "kid": "rsa"}), &claims);
            assert_eq!(verify(verifier, &token).as_deref(), Ok("x"), "{algorithm}");
        }
    }
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed()] {
        let file = TempFile::new(&signer.pem());
        let verifier = local(KeySource::PublicKeyFile(file.0.clone()));
        let token = signer.token(Some("any"), json!({"sub": "a"}));
        assert_eq!(verify(&verifier, &token).as_deref(), Ok("a"), "{}", signer.algorithm());
    }
    let verifier = local(KeySource::Secret(SECRET.to_vec()));
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = secret().token_with(&json!({"alg": algorithm}), &json!({"sub": "a", "exp": now() + 60}));
        assert_eq!(verify(&verifier, &token).as_deref(), Ok("a"), "{algorithm}");
    }
}

/// Whoever knows a public key could sign with it if it were taken for a secret.
#[test]
fn a_public_key_is_never_a_secret() {
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed()] {
        let pem = signer.pem();
        let der = match &signer {
            Signer::Rsa(key) => key.public().as_ref().to_vec(),
            Signer::P256(key) => ring::signature::KeyPair::public_key(key).as_ref().to_vec(),
            Signer::Ed(key) => ring::signature::KeyPair::public_key(key).as_ref().to_vec(),
            _ => unreachable!(),
        };
        let (pem_file, set) = (TempFile::new(&pem), TempFile::new(&jwks(&[("k", &signer)])));
        let verifiers =
            [local(KeySource::PublicKeyFile(pem_file.0.clone())), local(KeySource::JwksFile(set.0.clone()))];
        for secret in [pem.clone().into_bytes(), pem.trim_end().as_bytes().to_vec(), der] {
            for algorithm in ["HS256", "HS384", "HS512"] {
                let head = json!({"alg": algorithm, "kid": "k"});
                let forged =
                    Signer::Secret(secret.clone()).token_with(&head, &json!({"sub": "a", "exp": now() + 60}));
                for verifier in &verifiers {
                    assert_eq!(verify(verifier, &forged), Err(Unverified::Algorithm));
                }
            }
        }
    }
}

#[test]
fn tokens_that_are_none() {
    let signer = Signer::p256();
    let set = TempFile::new(&jwks(&[("k", &signer), ("ed", &Signer::ed())]));
    let verifier = local(KeySource::JwksFile(set.0.clone()));
    let claims = json!({"sub": "a", "exp": now() + 60});
    let good = signer.token(Some("k"), claims.clone());
    assert!(verify(&verifier, &good).is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let body = b64(claims.to_string());
    let with = |head: serde_json::Value| signer.token_with(&head, &claims);
    for (token, why) in [
        (format!("{}.{body}.", b64(r#"{"alg":"none"}"#)), Unverified::Malformed),
        (format!("{}.{body}.", b64(r#"{"alg":"None","kid":"k"}"#)), Unverified::Malformed),
        (format!("{}.{body}.{signature}", b64(r#"{"alg":"ES256","kid":"k"}"#)), Unverified::Signature),
        (format!("{message}."), Unverified::Signature),
        (message.to_owned(), Unverified::Malformed),
        (format!("{good}.x"), Unverified::Malformed),
        (format!("{good}x"), Unverified::Malformed),
        (with(json!({"alg": "ES384", "kid": "k"})), Unverified::Algorithm),
        (with(json!({"alg": "RS256", "kid": "k"})), Unverified::Algorithm),
        (with(json!({"alg": "EdDSA", "kid": "ed"})), Unverified::Signature),
        (with(json!({"alg": "ES256", "kid": "other"})), Unverified::UnknownKey),
        (with(json!({"alg": "ES256", "kid": "k", "crit": ["exp"]})), Unverified::Malformed),
        (with(json!({"alg": "ES256", "kid": "k", "zip": "DEF"})), Unverified::Malformed),
        (with(json!({"kid": "k"})), Unverified::Malformed),
        (
            signer.token_with(&json!({"alg": "ES256", "kid": "k"}), &json!({"sub": "a"})),
            Unverified::Malformed,
        ),
        (signer.token_with(&json!({"alg": "ES256", "kid": "k"}), &json!([1])), Unverified::Malformed),
        (String::new(), Unverified::Malformed),
        ("..".to_owned(), Unverified::Malformed),
        ("a".repeat(20_000), Unverified::Malformed),
    ] {
        assert_eq!(verify(&verifier, &token), Err(why), "{token}");
    }
    // Whoever brings the key along signs for nobody.
    let thief = Signer::p256();
    let head = json!({"alg": "ES256", "kid": "k", "jwk": thief.jwk(), "jku": "http://127.0.0.1/"});
    assert_eq!(verify(&verifier, &thief.token_with(&head, &claims)), Err(Unverified::Signature));
    // Two fields are none, whatever they say.
    let mut headers = bearer(&good);
    headers.append(AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
    assert_eq!(verifier.verify(&headers, None).err(), Some(Unverified::Several));
    assert_eq!(verifier.verify(&HeaderMap::new(), None).err(), Some(Unverified::NoToken));
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("bEARER   {good}")).unwrap());
    assert!(verifier.verify(&headers, None).is_ok());
}

#[test]
fn a_token_holds_for_its_time_whether_it_is_cached_or_not() {
    let clock = ManualClock::at(Nanos::from_secs(1000));
    let config =
        JwtConfig { leeway: Duration::from_secs(5), ..JwtConfig::new(KeySource::Secret(SECRET.to_vec())) };
    let verifier = TokenVerifier::new(config, clock.clone()).unwrap();
    let token = secret().token(None, json!({"sub": "a", "nbf": 1010, "exp": 1100}));
    for (time, judged) in [
        (1004, Err(Unverified::TooEarly)),
        (1005, Ok("a".to_owned())),
        (1104, Ok("a".to_owned())),
        (1105, Err(Unverified::Expired)),
        (1104, Ok("a".to_owned())),
    ] {
        clock.set_utc(Nanos::from_secs(time));
        assert_eq!(verify(&verifier, &token), judged, "at {time}");
    }
}

#[test]
fn a_token_is_for_somebody_and_from_somebody() {
    let config = JwtConfig {
        issuer: Some("https://issuer".to_owned()),
        audience: vec!["api".to_owned(), "web".to_owned()],
        ..JwtConfig::new(KeySource::Secret(SECRET.to_vec()))
    };
    let verifier = TokenVerifier::new(config, SystemClock::default()).unwrap();
    for (issuer, audience, judged) in [
        (json!("https://issuer"), json!("api"), Ok(())),
        (json!("https://issuer"), json!(["x", "web"]), Ok(())),
        (json!("https://issuer"), json!("other"), Err(Unverified::Audience)),
        (json!("https://issuer"), json!(["x"]), Err(Unverified::Audience)),
        (json!("https://issuer"), json!([]), Err(Unverified::Audience)),
        (json!("https://issuer"), json!(7), Err(Unverified::Audience)),
        (json!("https://issuer"), json!(null), Err(Unverified::Audience)),
        (json!("https://issuer/"), json!("api"), Err(Unverified::Issuer)),
        (json!(null), json!("api"), Err(Unverified::Issuer)),
        (json!({"a": 1}), json!("api"), Err(Unverified::Issuer)),
    ] {
        let token = secret().token(None, json!({"sub": "", "iss": issuer, "aud": audience}));
        assert_eq!(verify(&verifier, &token).map(drop), judged, "{issuer} {audience}");
    }
    // Nobody asked: anybody's.
    let verifier = local(KeySource::Secret(SECRET.to_vec()));
    assert!(verify(&verifier, &secret().token(None, json!({"iss": "x", "aud": "y"}))).is_ok());
}

#[test]
fn a_token_that_comes_again_costs_no_signature() {
    let verifier = local(KeySource::Secret(SECRET.to_vec()));
    let token = secret().token(None, json!({"sub": "a"}));
    for _ in 0..100 {
        assert!(verify(&verifier, &token).is_ok());
    }
    assert_eq!(verifier.checked(), 1);
    // Once a request, even a token that does not hold and is not kept.
    let headers = bearer(&format!("{token}AA"));
    let claims = LazyClaims::new(&verifier, &headers, None);
    assert_eq!(verifier.checked(), 1, "nobody asked yet");
    for _ in 0..3 {
        assert!(claims.verified().is_err());
    }
    assert_eq!(verifier.checked(), 2);
}

#[test]
fn the_room_for_verified_tokens_is_bounded() {
    let config = JwtConfig { cache: 64 << 10, ..JwtConfig::new(KeySource::Secret(SECRET.to_vec())) };
    let verifier = TokenVerifier::new(config, SystemClock::default()).unwrap();
    let tokens: Vec<_> =
        (0..2000).map(|n| secret().token(None, json!({"sub": format!("user-{n}")}))).collect();
    for token in &tokens {
        assert!(verify(&verifier, token).is_ok());
    }
    let before = verifier.checked();
    assert_eq!(before, 2000);
    for token in &tokens {
        assert!(verify(&verifier, token).is_ok());
    }
    assert!(verifier.checked() - before > 1500, "64 KiB do not hold 2000 tokens");
}

#[test]
fn bound_tokens() {
    let (mine, other) = (fingerprint(b"mine"), fingerprint(b"other"));
    let config = JwtConfig { bound: true, ..JwtConfig::new(KeySource::Secret(SECRET.to_vec())) };
    let verifier = TokenVerifier::new(config, SystemClock::default()).unwrap();
    let bound = secret().token(None, json!({"sub": "a", "cnf": {"x5t#S256": b64(mine)}}));
    let judge = |token: &str, certificate| verifier.verify(&bearer(token), certificate).map(drop);
    assert_eq!(judge(&bound, Some(&mine)), Ok(()));
    assert_eq!(judge(&bound, Some(&other)), Err(Unverified::Unbound), "cached, and yet not his");
    assert_eq!(judge(&bound, None), Err(Unverified::Unbound));
    let free = secret().token(None, json!({"sub": "a"}));
    assert_eq!(judge(&free, Some(&mine)), Err(Unverified::Unbound));
    assert_eq!(judge(&free, None), Err(Unverified::Unbound));
    let odd = secret().token(None, json!({"sub": "a", "cnf": {"x5t#S256": "AAAA"}}));
    assert_eq!(judge(&odd, Some(&mine)), Err(Unverified::Malformed));
}

#[test]
fn sources_without_keys_are_refused_at_once() {
    let refused = |source| TokenVerifier::new(JwtConfig::new(source), SystemClock::default()).err();
    assert_eq!(refused(KeySource::Secret(SECRET[1..].to_vec())), Some(KeyError::ShortSecret));
    let file = |text: &str| {
        let file = TempFile::new(text);
        (KeySource::JwksFile(file.0.clone()), KeySource::PublicKeyFile(file.0.clone()), file)
    };
    for text in
        ["", "{}", "[]", "{\"keys\": 1}", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"]
    {
        let (set, pem, _file) = file(text);
        assert_eq!(refused(set), Some(KeyError::NotAKeySet), "{text}");
        assert_eq!(refused(pem), Some(KeyError::NotAPublicKey), "{text}");
    }
    let odd = [
        secret().jwk(),
        json!({"kty": "EC", "crv": "P-256", "x": b64([1; 31]), "y": b64([1; 32])}),
        json!({"kty": "EC", "crv": "secp256k1", "x": b64([1; 32]), "y": b64([1; 32])}),
        json!({"kty": "RSA", "n": b64([255; 128]), "e": "AQAB"}),
        json!({"kty": "OKP", "crv": "X25519", "x": b64([1; 32])}),
        json!({"kty": "new"}),
        json!(7),
    ];
    let mut encrypts = Signer::p256().jwk();
    encrypts["use"] = json!("enc");
    let mut wraps = Signer::p256().jwk();
    wraps["key_ops"] = json!(["wrapKey"]);
    let mut other = Signer::p256().jwk();
    other["alg"] = json!("HS256");
    let all: Vec<_> = odd.into_iter().chain([encrypts, wraps, other]).collect();
    let (set, _, _file) = file(&json!({"keys": all}).to_string());
    assert_eq!(refused(set), Some(KeyError::NoKey));
    let gone = KeySource::JwksFile("/nonexistent/keys.json".into());
    assert!(matches!(refused(gone), Some(KeyError::Unreadable(_))));
}

#[tokio::test]
async fn keys_are_rotated() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let issuer = Issuer::start(jwks(&[("old", &old)])).await;
    let verifier = start(quick(KeySource::Issuer(issuer.name())));
    until("keys", || verifier.has_keys()).await;
    let claims = json!({"sub": "a", "iss": issuer.name()});
    let (before, after) = (old.token(Some("old"), claims.clone()), new.token(Some("new"), claims));
    assert!(verify(&verifier, &before).is_ok());
    assert_eq!(verify(&verifier, &after), Err(Unverified::UnknownKey));
    issuer.serves(jwks(&[("old", &old), ("new", &new)]));
    until("the new key", || verify(&verifier, &after).is_ok()).await;
    assert!(verify(&verifier, &before).is_ok());
    // A key that was taken back takes back what it signed, cached or not.
    issuer.serves(jwks(&[("new", &new)]));
    until("the old key to go", || verify(&verifier, &before).is_err()).await;
    assert!(verify(&verifier, &after).is_ok());
}

#[tokio::test]
async fn an_unknown_key_is_fetched_at_once_but_a_flood_of_them_is_not() {
    let (first, second) = (Signer::p256(), Signer::p256());
    let issuer = Issuer::start(jwks(&[("first", &first)])).await;
    let name = issuer.name();
    // The next regular fetch is an hour away, so only asking brings the second key.
    let hour = Duration::from_secs(3600);
    let eager =
        JwtConfig { refresh: hour, cooldown: Duration::ZERO, ..quick(KeySource::Issuer(name.clone())) };
    let verifier = start(eager.clone());
    until("keys", || verifier.has_keys()).await;
    issuer.serves(jwks(&[("first", &first), ("second", &second)]));
    let token = second.token(Some("second"), json!({"sub": "a", "iss": name}));
    until("the second key", || verify(&verifier, &token).is_ok()).await;
    let calm = start(JwtConfig { cooldown: hour, ..eager });
    until("keys", || calm.has_keys()).await;
    let asked = issuer.asked();
    for number in 0..5000 {
        let token =
            second.token_with(&json!({"alg": "ES256", "kid": format!("k{number}")}), &json!({"exp": 1}));
        assert_eq!(verify(&calm, &token), Err(Unverified::UnknownKey));
    }
    // Whatever was to come would have come meanwhile.
    let other = start(quick(KeySource::Issuer(issuer.name())));
    until("three fetches by somebody else", || other.fetches() >= 3).await;
    assert_eq!(calm.fetches(), 1);
    assert!(issuer.asked() >= asked + 2);
    assert_eq!(calm.checked(), 0, "and no signature was checked for them");
}

#[tokio::test]
async fn keys_stay_while_the_issuer_is_away_and_come_when_it_is_back() {
    let (signer, next) = (Signer::ed(), Signer::ed());
    let issuer = Issuer::start(jwks(&[("k", &signer)])).await;
    let config = JwtConfig { timeout: Duration::from_millis(100), ..quick(KeySource::Issuer(issuer.name())) };
    let verifier = start(config.clone());
    until("keys", || verifier.has_keys()).await;
    let token = signer.token(Some("k"), json!({"sub": "a", "iss": issuer.name()}));
    for mood in [Mood::Garbage, Mood::Failing, Mood::Silent, Mood::Huge, Mood::Foreign] {
        issuer.feels(mood);
        let tried = verifier.fetches();
        until("two tries in vain", || verifier.fetches() >= tried + 2).await;
        assert!(verify(&verifier, &token).is_ok(), "{mood:?}");
        // One that starts now has none: it says no at once, and does not wait.
        let late = start(config.clone());
        until("a try in vain", || late.fetches() >= 2).await;
        assert_eq!(verify(&late, &token), Err(Unverified::NoKeys), "{mood:?}");
    }
    issuer.serves(jwks(&[("k", &signer), ("next", &next)]));
    issuer.feels(Mood::Well);
    let token = next.token(Some("next"), json!({"sub": "a", "iss": issuer.name()}));
    until("the issuer to be heard again", || verify(&verifier, &token).is_ok()).await;
}

#[tokio::test]
async fn files_are_followed_as_they_change() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let file = TempFile::new(&jwks(&[("old", &old)]));
    let verifier = start(JwtConfig::new(KeySource::JwksFile(file.0.clone())));
    let (before, after) = (old.token(None, json!({"sub": "a"})), new.token(None, json!({"sub": "a"})));
    assert!(verify(&verifier, &before).is_ok(), "keys in files are there from the start");
    std::fs::write(&file.0, "half a file").unwrap();
    // A second file shows that the first was looked at.
    let other = TempFile::new(&jwks(&[("old", &old)]));
    let witness = start(JwtConfig::new(KeySource::JwksFile(other.0.clone())));
    std::fs::write(&other.0, jwks(&[("new", &new)])).unwrap();
    until("the other file to be read", || verify(&witness, &after).is_ok()).await;
    assert!(verify(&verifier, &before).is_ok(), "a broken file leaves the old keys");
    // As Kubernetes does: a link that leads elsewhere from one moment to the next.
    let (target, link) = (TempFile::new(&jwks(&[("new", &new)])), file.0.with_extension("link"));
    std::os::unix::fs::symlink(&target.0, &link).unwrap();
    std::fs::rename(&link, &file.0).unwrap();
    until("the swapped link", || verify(&verifier, &after).is_ok()).await;
    assert_eq!(verify(&verifier, &before), Err(Unverified::Signature));
}
