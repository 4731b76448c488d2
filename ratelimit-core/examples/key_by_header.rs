//! Counting by a header, with quotas by plan: no server, only the service that one would serve.
//!
//! `cargo run -p ratelimit-core --example key_by_header`

use std::convert::Infallible;

use http::{HeaderName, Request, Response, StatusCode};
use ratelimit_core::tower::{KeyError, RateLimitLayer};
use ratelimit_core::{Limit, Limiter, MemoryStore};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

    let free = Limit::new("plan", "2/min".parse()?);
    // The same name, so the same counter: a customer who upgrades keeps what was used.
    let gold = free.with_quota("5/min".parse()?, None)?;

    let app = ServiceBuilder::new()
        .layer(
            RateLimitLayer::new(Limiter::new(MemoryStore::default()), free)
                // Without a key there is no service: 400. An `Option` would count them all together instead.
                .key(|req: &Request<_>| {
                    req.headers().get(API_KEY).cloned().ok_or(KeyError::MissingHeader(API_KEY))
                })
                .quota(move |req| {
                    req.headers().get(API_KEY)?.as_bytes().starts_with(b"gold-").then(|| gold.clone())
                }),
        )
        .service(service_fn(async |_: Request<String>| {
            Ok::<_, Infallible>(Response::new("served".to_owned()))
        }));

    for (key, served) in [("ann", 2), ("bob", 2), ("gold-cleo", 5)] {
        let mut answered = 0;
        for _ in 0..8 {
            let request = Request::builder().header(API_KEY, key).body(String::new())?;
            let response = app.clone().oneshot(request).await?;
            answered += u32::from(response.status() == StatusCode::OK);
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                println!("{key}: denied, {}", response.headers()["ratelimit"].to_str()?);
                break;
            }
            println!("{key}: served, {}", response.headers()["ratelimit"].to_str()?);
        }
        assert_eq!(answered, served);
    }

    let anonymous = app.oneshot(Request::new(String::new())).await?;
    println!("nobody: {}", anonymous.status());
    assert_eq!(anonymous.status(), StatusCode::BAD_REQUEST);
    Ok(())
}
