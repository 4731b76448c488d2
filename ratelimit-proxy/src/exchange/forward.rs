//! Sends a request to the upstream and waits for the head of its answer.
//!
//! Always HTTP/1.1, whatever the client speaks. One retry, and only where it can't do anything twice: the
//! method is idempotent, there is no body, the connection had been idle, and nothing came back on it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::RequestBody;
use super::hop;
use crate::deadlines::Wait;
use crate::fault::Fault;
use crate::state::Client;
use crate::upstream::link::{Link, poll_response};

/// The upstream's answer up to its body, and the connection that brings the body.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) link: Box<Link>,
}

/// Sends the request; its head must be fit for the upstream already.
pub(super) async fn forward(
    client: &Rc<Client>,
    mut head: Box<Parts>,
    body: Option<Incoming>,
) -> Result<Answer, Fault> {
    let fault = Rc::new(Cell::new(None));
    let body = RequestBody::new(body, client, &fault);
    frame(&mut head, &body);
    let pooled = client.worker.pool.take(client.deadlines.now());
    let spare =
        (pooled.is_some() && body.is_end_stream() && head.method.is_idempotent()).then(|| Spare::of(&head));
    let mut link = match pooled {
        Some(link) => link,
        None => connect(client).await?,
    };
    // Sent here and not behind the await: a request is large, and each future it passes through copies it.
    let response = link.send(Request::from_parts(*head, body));
    let failure = match receive(client, link, response, &fault).await {
        Ok(answer) => return Ok(answer),
        Err(failure) => failure,
    };
    match spare {
        Some(spare) if failure.fault == Fault::BadAnswer && failure.retry => {
            let mut link = connect(client).await?;
            let response = link.send(spare.into_request());
            receive(client, link, response, &fault).await.map_err(|failure| failure.fault)
        }
        _ => Err(failure.fault),
    }
}

/// What it takes to send a request without a body again.
struct Spare(Method, Uri, HeaderMap);

impl Spare {
    fn of(head: &Parts) -> Self {
        Self(head.method.clone(), head.uri.clone(), head.headers.clone())
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::EMPTY);
        *request.method_mut() = self.0;
        *request.uri_mut() = self.1;
        *request.headers_mut() = self.2;
        request
    }
}

/// Says how long the body is in the one way that can't be misread: what the client wrote is not copied.
fn frame(head: &mut Parts, body: &RequestBody) {
    head.version = Version::HTTP_11;
    head.extensions.clear();
    match body.size_hint().exact() {
        Some(length) => hop::canonical_length(&mut head.headers, Some(length)),
        // Said here, because hyper would send a GET without its body otherwise.
        None => {
            head.headers.remove(header::CONTENT_LENGTH);
            head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

async fn connect(client: &Client) -> Result<Box<Link>, Fault> {
    let deadlines = &client.deadlines;
    deadlines.arm(Wait::Upstream, client.timeouts().connect);
    let mut connecting = pin!(client.worker.shared.upstream.connect());
    let socket = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(Ok(socket)) => Poll::Ready(Ok(socket)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Fault::Unreachable)),
        Poll::Pending if deadlines.expired(Wait::Upstream) => Poll::Ready(Err(Fault::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await;
    deadlines.disarm(Wait::Upstream);
    Link::new(socket?, deadlines.now()).await.map_err(|_| Fault::BadAnswer)
}

/// Why there is no answer.
struct Failure {
    fault: Fault,
    /// Whether the connection had been used before and was closed without a word, as it is when the upstream
    /// gave it up at the moment the request was sent.
    retry: bool,
}

/// Waits for the head of the answer to what was just sent on `link`.
async fn receive(
    client: &Client,
    mut link: Box<Link>,
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
    fault: &Cell<Option<Fault>>,
) -> Result<Answer, Failure> {
    let deadlines = &client.deadlines;
    let started = deadlines.now();
    deadlines.arm(Wait::Upstream, client.timeouts().response);
    let mut response = pin!(response);
    let answered = poll_fn(|cx| {
        link.poll(cx);
        match poll_response(response.as_mut()) {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending if deadlines.expired(Wait::Upstream) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    deadlines.disarm(Wait::Upstream);
    let response = match answered {
        Some(Ok(response)) => response,
        Some(Err(error)) => {
            let silent = error.is_canceled() || error.is_incomplete_message() || is_reset(&error);
            let retry = link.reused && silent;
            return Err(Failure { fault: fault.get().unwrap_or(Fault::BadAnswer), retry });
        }
        None => return Err(Failure { fault: Fault::AnswerTimeout, retry: false }),
    };
    client.worker.metrics.upstream(deadlines.now().saturating_duration_since(started));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for that.
        return Err(Failure { fault: Fault::BadAnswer, retry: false });
    }
    Ok(Answer { response, link })
}

/// Whether the connection was reset or broken, rather than anything understood or misunderstood on it.
fn is_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionReset))
}
