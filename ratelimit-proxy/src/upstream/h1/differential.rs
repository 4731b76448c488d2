//! The same responses to hyper's client: what is accepted here means there the same. The reverse does not hold;
//! what hyper accepts and this refuses is listed.

use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::Instant;

use super::Connection;
use super::connection::tests::{any_response, corpus};
use super::scripted::{End, Outcome, Script, read};

/// What hyper makes of it.
async fn theirs(response: &[u8], method: Method) -> Option<Outcome> {
    let (near, mut far) = duplex(1 << 20);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(near)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::new()).unwrap();
    let answer = async {
        far.read_u8().await.unwrap();
        far.write_all(response).await.unwrap();
        drop(far);
    };
    let (response, ()) = tokio::join!(sender.send_request(request), answer);
    let (head, mut body) = response.ok()?.into_parts();
    let mut outcome = Outcome {
        status: head.status,
        fields: without_persistence(head.headers),
        body: Vec::new(),
        trailers: None,
        complete: true,
    };
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => outcome.body.extend_from_slice(&data),
            Ok(Err(frame)) => outcome.trailers = frame.into_trailers().ok(),
            Err(_) => {
                outcome.complete = false;
                break;
            }
        }
    }
    drop(sender);
    let _ = connection.await;
    Some(outcome)
}

/// Lines about persistence alone are taken out on reading.
fn without_persistence(mut fields: HeaderMap) -> HeaderMap {
    if fields.get_all("connection").iter().all(|line| line == "close" || line == "keep-alive") {
        fields.remove("connection");
    }
    fields
}

fn ours(response: &[u8], method: Method) -> Option<Outcome> {
    let head =
        Request::builder().method(method).uri("/").header("host", "a").body(()).unwrap().into_parts().0;
    read(&mut Connection::new(Script::new([response.to_vec()], End::Closes), Instant::now()), &head).ok()
}

#[tokio::test]
async fn the_corpus_means_the_same_to_hyper() {
    for response in corpus() {
        for method in [Method::GET, Method::HEAD] {
            let (ours, theirs) = (ours(&response, method.clone()), theirs(&response, method.clone()).await);
            // A wrong length is wrong even where no body comes.
            let stricter = method == Method::HEAD && ours.is_none() && theirs.is_some();
            assert!(ours == theirs || stricter, "{method} {}\n{ours:?}\n{theirs:?}", response.escape_ascii());
        }
    }
}

/// On purpose: hyper takes off `chunked` and passes the rest on without the name of its coding, reads a message
/// of unknown coding to the end of the connection, and lets lengths be wrong where no body comes.
#[tokio::test]
async fn what_hyper_accepts_and_this_does_not() {
    for response in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: 1\n\r\n",
    ] {
        let bytes = response.as_bytes();
        let refused = ours(bytes, Method::GET).is_none_or(|ours| !ours.complete);
        let accepted = theirs(bytes, Method::GET).await.is_some();
        assert!(refused && accepted, "{response:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_accepted_means_the_same_to_hyper(response in any_response(), is_head in any::<bool>()) {
        let method = if is_head { Method::HEAD } else { Method::GET };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if let Some(ours) = ours(&response, method.clone()) {
            let theirs = runtime.block_on(theirs(&response, method));
            if ours.complete {
                prop_assert_eq!(Some(ours), theirs);
            } else if let Some(theirs) = theirs {
                prop_assert_eq!((ours.status, ours.fields), (theirs.status, theirs.fields));
            }
        }
    }
}

/// Only there so that the corpus is not empty of what matters.
#[test]
fn the_corpus_has_good_and_bad() {
    let good = corpus().iter().filter(|bytes| ours(bytes, Method::GET).is_some_and(|o| o.complete)).count();
    assert!(good > 10 && corpus().len() - good > 10, "{good} of {}", corpus().len());
    let empty = HeaderMap::new();
    assert!(ours(b"HTTP/1.1 204 No Content\r\n\r\n", Method::GET).is_some_and(|o| o.fields == empty));
}
