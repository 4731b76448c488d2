//! gRPC through the proxy, all four kinds of calls: tonic's client and codec, and Python's grpcio.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::Request as HttpRequest;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::support::http2::{
    Connection, DATA, END_HEADERS, Frames, GOAWAY, HEADERS, RST_STREAM, fields, frame,
};
use crate::support::proxy::Proxy;
use crate::support::raw_client::get;
use crate::support::secure_origin::{SecureOrigin, Speaks};
use crate::support::{soon, until};

#[derive(Clone, PartialEq, Message)]
struct Word {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint32, tag = "2")]
    number: u32,
}

fn word(text: &str, number: u32) -> Word {
    Word { text: text.to_owned(), number }
}

type Words = BoxStream<'static, Result<Word, Status>>;
type Answering<T> = std::pin::Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// One word for another; `fail` with the code of its number, `hang` for ever.
struct Echo;

impl tonic::server::UnaryService<Word> for Echo {
    type Response = Word;
    type Future = Answering<Word>;

    fn call(&mut self, request: Request<Word>) -> Self::Future {
        Box::pin(async move {
            let word = request.into_inner();
            match word.text.as_str() {
                "fail" => Err(Status::new(Code::from(word.number as i32), "as you wish")),
                "hang" => std::future::pending().await,
                _ => Ok(Response::new(word)),
            }
        })
    }
}

/// As many words as its number, then `text` as the message of an error if there is one.
struct Count;

impl tonic::server::ServerStreamingService<Word> for Count {
    type Response = Word;
    type ResponseStream = Words;
    type Future = Answering<Words>;

    fn call(&mut self, request: Request<Word>) -> Self::Future {
        let Word { text, number } = request.into_inner();
        let error = (!text.is_empty()).then(|| Err(Status::data_loss(text)));
        let words = (0..number).map(|number| Ok(word("", number))).chain(error);
        Box::pin(async move { Ok(Response::new(stream::iter(words.collect::<Vec<_>>()).boxed())) })
    }
}

/// The sum of all numbers.
struct Sum;

impl tonic::server::ClientStreamingService<Word> for Sum {
    type Response = Word;
    type Future = Answering<Word>;

    fn call(&mut self, request: Request<Streaming<Word>>) -> Self::Future {
        Box::pin(async move {
            let (mut words, mut sum) = (request.into_inner(), 0);
            while let Some(word) = words.message().await? {
                sum += word.number;
            }
            Ok(Response::new(word("", sum)))
        })
    }
}

/// Each word as it comes.
struct Talk;

impl tonic::server::StreamingService<Word> for Talk {
    type Response = Word;
    type ResponseStream = Words;
    type Future = Answering<Words>;

    fn call(&mut self, request: Request<Streaming<Word>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner().boxed())) })
    }
}

async fn answer(request: HttpRequest<Incoming>) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Word, Word>::default());
    Ok(match path.as_str() {
        "/test.Words/Echo" => grpc.unary(Echo, request).await,
        "/test.Words/Count" => grpc.server_streaming(Count, request).await,
        "/test.Words/Sum" => grpc.client_streaming(Sum, request).await,
        "/test.Words/Talk" => grpc.streaming(Talk, request).await,
        // For what is no gRPC.
        "/hang" => std::future::pending().await,
        _ => Status::unimplemented(path).into_http(),
    })
}

/// A server of all that.
struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let server = http2::Builder::new(TokioExecutor::new());
                connections.spawn(server.serve_connection(TokioIo::new(socket), service_fn(answer)));
            }
        });
        Self { address, task }
    }

    /// A proxy in front of it. `rest` is more of the upstream.
    fn behind(&self, limits: &str, rest: &str) -> Proxy {
        Proxy::of(&self.configuration(limits, rest))
    }

    /// The same, patient with nobody but who calls.
    fn behind_the_impatient(&self, rest: &str) -> Proxy {
        Proxy::changed(&self.configuration("limits: []", rest), |config| {
            let timeouts = &mut config.server.timeouts;
            let short = Duration::from_millis(300);
            (timeouts.body, timeouts.write, timeouts.response) = (short, short, short);
        })
    }

    fn configuration(&self, limits: &str, rest: &str) -> String {
        format!("{limits}\nupstreams: [{{servers: 'h2c://{}'{rest}}}]", self.address)
    }
}

struct Client(tonic::client::Grpc<Channel>);

impl Client {
    async fn of(proxy: &Proxy) -> Self {
        let endpoint = Channel::from_shared(format!("http://{}", proxy.address)).unwrap();
        Self(tonic::client::Grpc::new(soon("a connection", endpoint.connect()).await.unwrap()))
    }

    async fn ready(&mut self) -> ProstCodec<Word, Word> {
        soon("room for a call", self.0.ready()).await.unwrap();
        ProstCodec::default()
    }

    async fn echo(&mut self, text: &str, number: u32) -> Result<Word, Status> {
        let codec = self.ready().await;
        let path = PathAndQuery::from_static("/test.Words/Echo");
        let call = self.0.unary(Request::new(word(text, number)), path, codec);
        soon("an answer", call).await.map(Response::into_inner)
    }

    async fn count(&mut self, text: &str, number: u32) -> Result<Streaming<Word>, Status> {
        let codec = self.ready().await;
        let path = PathAndQuery::from_static("/test.Words/Count");
        let call = self.0.server_streaming(Request::new(word(text, number)), path, codec);
        soon("an answer", call).await.map(Response::into_inner)
    }

    async fn sum(&mut self, numbers: &[u32]) -> Result<Word, Status> {
        let codec = self.ready().await;
        let words: Vec<_> = numbers.iter().map(|number| word("", *number)).collect();
        let path = PathAndQuery::from_static("/test.Words/Sum");
        let call = self.0.client_streaming(Request::new(stream::iter(words)), path, codec);
        soon("an answer", call).await.map(Response::into_inner)
    }

    /// A conversation: what is said, and what comes back.
    async fn talk(&mut self) -> Result<(mpsc::UnboundedSender<Word>, Streaming<Word>), Status> {
        let codec = self.ready().await;
        let (sender, receiver) = mpsc::unbounded_channel();
        let said = stream::unfold(receiver, async |mut receiver: mpsc::UnboundedReceiver<Word>| {
            receiver.recv().await.map(|word| (word, receiver))
        });
        let path = PathAndQuery::from_static("/test.Words/Talk");
        let call = self.0.streaming(Request::new(said), path, codec);
        Ok((sender, soon("an answer", call).await?.into_inner()))
    }
}

async fn next(words: &mut Streaming<Word>) -> Result<Option<Word>, Status> {
    soon("a word", words.message()).await
}

#[tokio::test]
async fn calls_of_all_four_kinds_with_their_statuses() {
    let server = Server::start().await;
    let proxy = server.behind("limits: [1000/s by client.ip]", "");
    let mut client = Client::of(&proxy).await;
    assert_eq!(client.echo("hello", 7).await.unwrap(), word("hello", 7));
    let failed = client.echo("fail", 9).await.unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::FailedPrecondition, "as you wish"));
    let large = "x".repeat(1_000_000);
    assert_eq!(client.echo(&large, 0).await.unwrap().text, large);
    // Words, and then a status in the trailers: a good one and a bad one.
    for (text, code) in [("", None), ("it broke", Some(Code::DataLoss))] {
        let mut words = client.count(text, 100).await.unwrap();
        for number in 0..100 {
            assert_eq!(next(&mut words).await.unwrap(), Some(word("", number)));
        }
        let end = next(&mut words).await;
        assert_eq!(end.as_ref().err().map(Status::code), code);
        assert_eq!(end.map_or_else(|status| status.message().to_owned(), |_| String::new()), text);
    }
    assert_eq!(client.sum(&[1, 2, 3, 4]).await.unwrap().number, 10);
    let (say, mut heard) = client.talk().await.unwrap();
    for number in 0..20 {
        // The answer to a word comes before the next is said: nothing waits for more.
        say.send(word("again", number)).unwrap();
        assert_eq!(next(&mut heard).await.unwrap(), Some(word("again", number)));
    }
    drop(say);
    assert_eq!(next(&mut heard).await.unwrap(), None);
    // What the server does not know, it says itself.
    let codec = client.ready().await;
    let call =
        client.0.unary(Request::new(word("", 0)), PathAndQuery::from_static("/test.Words/None"), codec);
    let status = call.await.map(|_: Response<Word>| ()).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn calls_count_by_their_status_and_a_denial_is_resource_exhausted() {
    let server = Server::start().await;
    let proxy = server.behind("limits: [{name: failed, rate: 2/week, count: {grpc_status: [16]}}]", "");
    let mut client = Client::of(&proxy).await;
    for _ in 0..5 {
        assert!(client.echo("fine", 0).await.is_ok());
        assert_eq!(client.echo("fail", 5).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.sum(&[1]).await.unwrap().number, 1);
    }
    for _ in 0..2 {
        assert_eq!(client.echo("fail", 16).await.unwrap_err().code(), Code::Unauthenticated);
    }
    let denied = client.echo("fine", 0).await.unwrap_err();
    assert_eq!(denied.code(), Code::ResourceExhausted);
    assert!(denied.metadata().get("retry-after").is_some(), "{denied:?}");
    assert_eq!(client.count("", 1).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(client.sum(&[1, 2]).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(client.talk().await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_call_holds_its_permit_until_it_ends() {
    let server = Server::start().await;
    let proxy = server.behind("limits: [{name: calls, concurrency: 1}]", "");
    let mut client = Client::of(&proxy).await;
    let (say, mut heard) = client.talk().await.unwrap();
    say.send(word("", 1)).unwrap();
    assert!(next(&mut heard).await.unwrap().is_some());
    assert_eq!(client.echo("", 0).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(say);
    assert_eq!(next(&mut heard).await.unwrap(), None);
    until("the permit", async || client.echo("", 0).await.is_ok()).await;
    // However it ends: here the client takes it back.
    let call = client.talk().await.unwrap();
    assert_eq!(client.echo("", 0).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(call);
    until("the permit", async || client.echo("", 0).await.is_ok()).await;
}

/// Others time out meanwhile, three times as long as that takes.
#[tokio::test]
async fn a_silent_conversation_is_not_cut() {
    let server = Server::start().await;
    let proxy = server.behind_the_impatient("");
    let mut client = Client::of(&proxy).await;
    let (say, mut heard) = client.talk().await.unwrap();
    let mut other = Client::of(&proxy).await;
    let hanging = tokio::spawn(async move { other.echo("hang", 0).await.map(drop) });
    for round in 0..3 {
        say.send(word("still there", round)).unwrap();
        assert_eq!(next(&mut heard).await.unwrap(), Some(word("still there", round)));
        assert_eq!(get(proxy.address, "/hang").await.status, 504);
    }
    assert!(!hanging.is_finished());
    hanging.abort();
}

#[tokio::test]
async fn how_long_a_call_may_be_silent_can_be_said() {
    let server = Server::start().await;
    for rest in [", timeout: {stream: 300ms}", ", timeout: {response: 300ms}"] {
        let proxy = server.behind("limits: []", rest);
        let mut client = Client::of(&proxy).await;
        let late = client.echo("hang", 0).await.unwrap_err();
        // It is told as gRPC tells it, and counted as what it is.
        assert_eq!(late.code(), Code::Unavailable, "{rest}: {late:?}");
        assert!(late.message().contains("in time"), "{late:?}");
        let (_say, mut heard) = client.talk().await.unwrap();
        assert!(next(&mut heard).await.is_err(), "{rest}");
        assert!(client.echo("fine", 0).await.is_ok());
    }
    let proxy = server.behind("limits: []", ", timeout: {stream: 1h, response: 300ms}");
    let mut client = Client::of(&proxy).await;
    let (say, mut heard) = client.talk().await.unwrap();
    assert_eq!(get(proxy.address, "/hang").await.status, 504);
    say.send(word("", 1)).unwrap();
    assert!(next(&mut heard).await.unwrap().is_some());
}

/// Row 45: patience with silence is none with who does not read.
#[tokio::test]
async fn who_does_not_read_its_words_is_cut() {
    let origin = SecureOrigin::start(Speaks::H2c).await;
    let yaml = format!("limits: []\nupstreams: [{{servers: 'h2c://{}'}}]", origin.address);
    let proxy = Proxy::changed(&yaml, |config| config.server.timeouts.write = Duration::from_millis(300));
    // A window of nothing.
    let mut frames = Frames::open(proxy.address, &[(4, 0)]).await;
    let head = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/echo"),
        ("content-type", "application/grpc"),
    ]);
    frames.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
    frames.send(&frame(DATA, 0, 1, b"\0\0\0\0\x05hello")).await;
    let reset = frames.find(|frame| frame.kind == RST_STREAM || frame.kind == GOAWAY).await.unwrap();
    assert_eq!((reset.kind, reset.stream), (RST_STREAM, 1));
}

/// Row 34, over HTTP/2: trailers of a request arrive, but nothing that would speak for somebody else.
#[tokio::test]
async fn trailers_of_requests_pass_to_servers_that_speak_http_2() {
    let origin = SecureOrigin::start(Speaks::H2c).await;
    let key = "limits: [{name: a, rate: 100/s, key: header.x-api-key}]";
    let proxy = Proxy::of(&format!("{key}\nupstreams: [{{servers: 'h2c://{}'}}]", origin.address));
    let connection = Connection::open(proxy.address).await;
    let mut send = connection.send.clone().ready().await.unwrap();
    let request = HttpRequest::post("http://test/echo").body(()).unwrap();
    let (response, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data("hello".into(), false).unwrap();
    let mut trailers = http::HeaderMap::new();
    for name in ["x-checksum", "x-forwarded-for", "x_real_ip", "x-api-key", "authorization", "content-length"]
    {
        trailers.insert(name, http::HeaderValue::from_static("1"));
    }
    stream.send_trailers(trailers).unwrap();
    let mut body = soon("an answer", response).await.unwrap().into_body();
    assert_eq!(soon("a body", body.data()).await.unwrap().unwrap(), "hello");
    assert!(soon("the end", body.data()).await.is_none());
    let came = soon("trailers", body.trailers()).await.unwrap().unwrap();
    assert_eq!(came.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-checksum"]);
}

/// A client and a server that were not written here.
#[tokio::test]
async fn grpc_of_python() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/support/grpc_words.py");
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    };
    let mut server = python(&["server"]).spawn().expect("python3 with grpcio, which ./test installs");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port =
        soon("the server's port", lines.next_line()).await.unwrap().expect("grpcio, which ./test installs");
    let limits = "limits: [{name: denied, match: {path: /test.Words/Denied}, rate: 1/week}]";
    let proxy = Proxy::of(&format!("{limits}\nupstreams: [{{servers: 'h2c://127.0.0.1:{port}'}}]"));
    let client = python(&["client", &proxy.address.to_string()]).output();
    let output = soon("the client to end", client).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.ends_with("all as expected\n"), "{said}");
}
