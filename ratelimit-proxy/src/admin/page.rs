//! The dashboard: one page with all it needs in it, put together once. Its style and its program are named by their
//! hashes, so that a browser runs nothing else, whatever finds its way into the page.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use ring::digest::{SHA256, digest};

/// What stands in the page in place of its style and its program.
const SLOTS: (&str, &str) = ("/* style */", "/* program */");

const STYLE: [&str; 2] = [include_str!("page/vendor/uplot/uPlot.min.css"), include_str!("page/page.css")];

/// In this order: each uses what stands before it.
const PROGRAM: [&str; 8] = [
    include_str!("page/vendor/uplot/uPlot.iife.min.js"),
    include_str!("page/dom.js"),
    include_str!("page/numbers.js"),
    include_str!("page/plots.js"),
    include_str!("page/limits.js"),
    include_str!("page/keys.js"),
    include_str!("page/explain.js"),
    include_str!("page/live.js"),
];

/// A page and what it may do.
pub(super) struct Page {
    pub(super) html: Bytes,
    /// Its Content-Security-Policy.
    pub(super) policy: HeaderValue,
}

/// The dashboard.
pub(super) static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let (style, program) = (STYLE.join("\n"), PROGRAM.join("\n"));
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(&program),
        hash(&style),
    );
    let html = include_str!("page/index.html").replacen(SLOTS.0, &style, 1).replacen(SLOTS.1, &program, 1);
    // A hash in base64 is visible ASCII.
    Page { html: html.into(), policy: HeaderValue::from_str(&policy).unwrap_or(super::reply::NOTHING) }
});

/// As the browser hashes it.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}
