//! One request and its response. [`exchange`] is the table of contents; each step is a file.

mod body;
mod forward;
mod hop;
mod inbound;
mod tail;
mod upgrade;

use std::rc::Rc;

use http::request::Parts;
use http::{HeaderValue, Response, Version, header};
use http_body::Body as _;

pub(crate) use body::{Body, Broken, RequestBody};
pub(crate) use inbound::admit;

use self::forward::Answer;
use self::tail::Tail;
use crate::answer::is_grpc;
use crate::call::Call;
use crate::decide::{Admission, Ruling, decide, refuse};
use crate::facts::Facts;
use crate::fault::{Fault, Side};
use crate::identity::token::LazyClaims;
use crate::rules::Adopted;
use crate::server::ClientBody;
use crate::state::Client;
use crate::telemetry::log;
use crate::telemetry::metrics::ProtocolError;
use crate::telemetry::trace::Trace;

/// Answers one request: from the upstream if the limits allow it, ourselves if not.
///
/// Both heads are boxed, because they are handed on from step to step, and each would copy them.
pub(crate) async fn exchange(
    call: &Rc<Call>,
    head: Box<Parts>,
    mut body: Option<ClientBody>,
) -> Box<Response<Body>> {
    let mut tail = Tail::new(call);
    let expects_continue = has_body(body.as_ref()) && head.headers.contains_key(header::EXPECT);
    let client = &*call.client;
    let rules = call.begin();
    let noted = rules.log.note(&head, client.peer);
    tail.trace = Trace::begin(client, &rules, &head);
    let is_call = head.version == Version::HTTP_2 && is_grpc(&head.headers);
    let mut fault_status = None;
    let mut response = match attempt(call, &rules, head, &mut body, &mut tail).await {
        Ok(response) => response,
        Err(fault) => {
            note(client, fault);
            fault_status = Some(fault.status());
            if is_call { rules.answers.fault_of_grpc(fault) } else { rules.answers.fault(fault) }
        }
    };
    if body.is_some_and(|unread| call.set_aside(unread, expects_continue)) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let status = fault_status.unwrap_or(response.status());
    noted.inspect(|entry| rules.log.answered(entry, status));
    tail.answered(status);
    response.body_mut().set_tail(tail);
    response
}

async fn attempt(
    call: &Rc<Call>,
    rules: &Adopted,
    mut head: Box<Parts>,
    body: &mut Option<ClientBody>,
    tail: &mut Tail,
) -> Result<Box<Response<Body>>, Fault> {
    let client = &*call.client;
    if client.worker.sheds() {
        return Err(Fault::Overloaded);
    }
    let shared = &*client.worker.shared;
    if head.version == Version::HTTP_2 {
        hop::join_cookies(&mut head.headers);
    }
    let mut keys = client.keys.take();
    keys.clear();
    let (selected, route, outbound) = {
        let inbound = inbound::admit(&head, rules.policy.path_scoped())?;
        inbound.suits(&head, client.scheme())?;
        if client.session.as_ref().is_some_and(|session| session.is_misdirected(&inbound.host)) {
            return Err(Fault::Misdirected);
        }
        let print = client.certificate().map(|certificate| &certificate.fingerprint);
        let claims = rules.tokens.as_deref().map(|tokens| LazyClaims::new(tokens, &head.headers, print));
        let facts = Facts {
            claims: claims.as_ref(),
            tls_client: client.certificate().and_then(|certificate| certificate.subject.as_deref()),
            ..inbound.facts(&head, &rules.policy, client.peer)
        };
        let now = call.deadlines.now();
        client.worker.surveyor.look(&shared.doubts, rules, &facts, client.peer, now);
        let selected = rules.policy.select(&facts, &mut keys);
        (selected, rules.policy.route(&facts, &mut keys), inbound.outbound(&head.uri)?)
    };
    tail.trace.deciding();
    let ruling = match &selected {
        Ok(selection) => decide(&shared.store, selection, &keys, &client.worker.metrics).await,
        Err(refusal) => refuse(refusal, &client.worker.metrics)?,
    };
    tail.trace.decided(&ruling);
    log::ruled(&ruling, rules, &head, client.peer, selected.as_ref().ok(), &keys);
    client.keys.set(keys);
    let Admission { decision, holds } = match ruling {
        Ruling::Admit(admission) => admission,
        Ruling::Deny(decision) => {
            let told = &mut client.told.borrow_mut();
            return Ok(rules.answers.denied(&decision, told, &mut head, shared.utc(rules)));
        }
        Ruling::Never(decision) => return Ok(rules.answers.never(&decision, &head, shared.utc(rules))),
        Ruling::Undecided => return Err(Fault::Undecided),
    };
    tail.hold(holds);
    // A request for nowhere counts like any other, or asking for nowhere would be free.
    let upstream = route.and_then(|route| Some((rules.local().group(route)?, route.hash)));
    let (upstream, hash) = upstream.ok_or(Fault::NoUpstream)?;
    let may_upgrade = upgrade::may_begin(&head, body.as_ref());
    let onward = outbound.apply(&mut head, client, rules, upstream, may_upgrade);
    tail.trace.forwarding(&mut head.headers);
    let Answer { mut head, link, switched } =
        forward::forward(call, rules, upstream, hash, head, onward, body.take()).await?;
    tail.trace.heard(link.to().server().target.authority(), head.status);
    tail.hear(&head.headers);
    head.version = Version::HTTP_11;
    hop::strip_response(&mut head.headers, link.size_hint().exact());
    if let Some(protocol) = switched {
        head.headers.insert(header::UPGRADE, protocol);
    }
    hop::add_via(&mut head.headers, Version::HTTP_11);
    if let Some(decision) = decision {
        let told = &mut client.told.borrow_mut();
        rules.answers.tell(&decision, told, shared.utc(rules), &mut head.headers);
    }
    Ok(Box::new(Response::from_parts(head, Body::upstream(link, call))))
}

fn has_body(body: Option<&ClientBody>) -> bool {
    body.is_some_and(|body| !body.is_end_stream())
}

/// Counts what clients do wrong; what upstreams and stores do is noted where it is noticed.
fn note(client: &Client, fault: Fault) {
    let kind = match fault {
        Fault::BadBody => ProtocolError::Body,
        Fault::SlowBody => ProtocolError::Timeout,
        Fault::Gone => ProtocolError::Other,
        _ if fault.side() == Side::Client => ProtocolError::Head,
        _ => return,
    };
    client.worker.metrics.protocol_error(kind);
}
