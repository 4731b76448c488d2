//! What passes through, in both directions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

mod support;

use support::origin::{Origin, Reply};
use support::proxy::Proxy;
use support::raw_client::{Client, get};

#[tokio::test]
async fn a_request_and_its_response() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    let response = get(proxy.address, "/a/b?c=d").await;
    assert_eq!((response.status, response.text()), (200, "hello"));
    let seen = origin.only();
    assert_eq!(seen.line(), "GET /a/b?c=d HTTP/1.1");
    assert_eq!(seen.field("host"), Some("test"));
}
