//! Whatever stands in an Authorization field: no panic, and no token of somebody without the secret is believed.
#![no_main]

use std::sync::LazyLock;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use ratelimit_core::SystemClock;
use ratelimit_proxy::identity::token::{JwtConfig, KeySource, TokenVerifier, basic_user, digest_user};

static VERIFIER: LazyLock<TokenVerifier> = LazyLock::new(|| {
    let source = KeySource::Secret(b"nobody outside of this file knows".to_vec());
    TokenVerifier::new(JwtConfig::new(source), SystemClock::default()).expect("a secret of 32 bytes")
});

fuzz_target!(|value: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value.clone());
    assert!(VERIFIER.verify(&headers, None).is_err());
    let (basic, digest) = (basic_user(&headers), digest_user(&headers));
    assert!(basic.is_none() || digest.is_none(), "one field has one scheme");
    if let Some(user) = basic {
        assert!(!user.contains(&b':'));
    }
    headers.append(AUTHORIZATION, value);
    assert!(basic_user(&headers).is_none() && digest_user(&headers).is_none());
});
