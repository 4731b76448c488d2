//! `/auth`: other proxies ask about each request before they pass it on (nginx `auth_request`, Traefik `forwardAuth`,
//! Caddy `forward_auth`). They tell of it in fields: its target in `X-Original-URI` or `X-Forwarded-Uri`, its method
//! in `X-Original-Method` or `X-Forwarded-Method`, its host in `X-Forwarded-Host` or `Host`, the client's address
//! where `client_ip` says; all others are the request's own. Then it is judged as one that came to us: the proxy
//! that asks is the peer.
//!
//! Each of these proxies sets the fields that it knows and passes the others on as its client wrote them. So a
//! request that is told of in two ways is refused: one of the two may be the client's.
//!
//! Nobody tells how a request ended. Limits on what is under way are not asked; what the end would decide is charged
//! as for a client that went away.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use ratelimit_core::KeyBuf;

use super::ask::{not_allowed, unavailable};
use super::reply::{Reply, problem, response};
use super::routes::Routes;
use crate::decide::{Ruling, decide, refuse};
use crate::exchange::admit;
use crate::facts::Facts;
use crate::fault::Fault;
use crate::identity::token::LazyClaims;
use crate::telemetry::log;
use crate::telemetry::trace::Trace;

static TARGET: [HeaderName; 2] =
    [HeaderName::from_static("x-original-uri"), HeaderName::from_static("x-forwarded-uri")];
static METHOD: [HeaderName; 2] =
    [HeaderName::from_static("x-original-method"), HeaderName::from_static("x-forwarded-method")];
static HOST: [HeaderName; 1] = [HeaderName::from_static("x-forwarded-host")];

/// Whether the limits allow the request that `head` tells of: 200, or 429 with what a client is to be told.
pub(super) async fn auth(routes: &Routes, head: Parts, peer: IpAddr, trace: &mut Trace) -> Reply {
    if ![Method::GET, Method::HEAD, Method::POST].contains(&head.method) {
        return not_allowed("GET, HEAD, POST");
    }
    let shared = routes.view().shared();
    let rules = shared.rules.load();
    let head = match original(head, rules.policy.path_scoped()) {
        Ok(head) => head,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, detail),
    };
    trace.deciding();
    let peer = peer.to_canonical();
    let mut keys = KeyBuf::new();
    let selected = {
        let inbound = match admit(&head, rules.policy.path_scoped()) {
            Ok(inbound) => inbound,
            Err(fault) => return problem(fault.status(), fault.detail()),
        };
        let claims = rules.tokens.as_deref().map(|tokens| LazyClaims::new(tokens, &head.headers, None));
        let facts = Facts { claims: claims.as_ref(), ..inbound.facts(&head, &rules.policy, peer) };
        rules.policy.select(&facts, &mut keys)
    };
    let selected = selected.map(|mut selection| {
        selection.hits.retain(|hit| !hit.holds);
        selection
    });
    let ruling = match &selected {
        Ok(selection) => decide(&shared.store, selection, &keys, routes.counted()).await,
        Err(refusal) => match refuse(refusal, routes.counted()) {
            Ok(ruling) => ruling,
            Err(fault) => return problem(fault.status(), fault.detail()),
        },
    };
    trace.decided(&ruling);
    log::ruled(&ruling, &rules, &head, peer, selected.as_ref().ok(), &keys);
    let utc = shared.utc(&rules);
    match ruling {
        Ruling::Admit(admission) => {
            let mut allowed = response(StatusCode::OK, "text/plain; charset=utf-8", Bytes::new());
            if let Some(decision) = admission.unfollowed(&shared.store) {
                rules.answers.fields.write(&decision, utc, allowed.headers_mut());
            }
            allowed
        }
        Ruling::Deny(decision) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            let (headers, body) = rules.answers.denial(&decision, status, utc);
            let mut denied = Response::new(Full::new(body));
            // As the client will see it: nothing of the administration's own.
            (*denied.status_mut(), *denied.headers_mut()) = (status, headers);
            denied
        }
        Ruling::Never(_) => {
            let detail = "the request costs more than a limit can ever hold";
            problem(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        Ruling::Undecided => unavailable(Fault::Undecided),
    }
}

/// The head of the request that another one tells of. `told`: its target must be told.
fn original(mut head: Parts, told: bool) -> Result<Parts, &'static str> {
    let target = one(&head.headers, &TARGET).map_err(|()| "the request's target is told in two ways")?;
    let method = one(&head.headers, &METHOD).map_err(|()| "the request's method is told in two ways")?;
    let host = one(&head.headers, &HOST).map_err(|()| "the request's host is told in two ways")?;
    if target.is_none() && told {
        return Err("a limit looks at the path: tell it in X-Original-URI or X-Forwarded-Uri");
    }
    let uri = match target {
        None => Uri::from(PathAndQuery::from_static("/")),
        Some(target) => Uri::try_from(target.as_bytes()).map_err(|_| "the request's target is none")?,
    };
    let method = match method {
        None => Method::GET,
        Some(method) => Method::from_bytes(method.as_bytes()).map_err(|_| "the request's method is none")?,
    };
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    for name in TARGET.iter().chain(&METHOD) {
        head.headers.remove(name);
    }
    // Of the question, not of the request.
    head.headers.remove(header::TRANSFER_ENCODING);
    (head.uri, head.method, head.version) = (uri, method, Version::HTTP_11);
    Ok(head)
}

/// The one value that some fields have.
fn one(headers: &HeaderMap, names: &[HeaderName]) -> Result<Option<HeaderValue>, ()> {
    let mut values = names.iter().flat_map(|name| headers.get_all(name));
    let Some(first) = values.next() else { return Ok(None) };
    if values.all(|other| other == first) { Ok(Some(first.clone())) } else { Err(()) }
}
