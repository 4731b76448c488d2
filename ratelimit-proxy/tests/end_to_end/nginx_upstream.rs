//! A server that was not written here: nginx, over HTTP/1.1 and HTTP/2, with TLS and without.

use std::process::Stdio;

use redis_testkit::Certificates;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::support::proxy::Proxy;
use crate::support::raw_client::{Client, get};
use crate::support::until;

struct Nginx {
    _child: Child,
    _directory: tempfile::TempDir,
    ports: [u16; 4],
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn nginx(certificates: &Certificates) -> Nginx {
    let directory = tempfile::tempdir().unwrap();
    let ports = [free_port().await, free_port().await, free_port().await, free_port().await];
    let [http, h2c, https, h2] = ports;
    let (cert, key) = (certificates.certificate(), certificates.key());
    let (cert, key) = (cert.display(), key.display());
    let config = format!(
        "daemon off; master_process off; user root; worker_processes 1; pid nginx.pid; error_log error.log;
events {{ worker_connections 200; }}
http {{
  access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  ssl_certificate {cert}; ssl_certificate_key {key};
  server {{
    listen 127.0.0.1:{http}; listen 127.0.0.1:{h2c} http2; listen 127.0.0.1:{https} ssl;
    location / {{ return 200 \"$server_protocol $scheme $host $request_uri\"; }}
    location = /file {{ root .; }}
  }}
  server {{
    listen 127.0.0.1:{h2} ssl http2;
    location / {{ return 200 \"$server_protocol $scheme $host $request_uri\"; }}
    location = /file {{ root .; }}
  }}
}}"
    );
    std::fs::write(directory.path().join("nginx.conf"), config).unwrap();
    std::fs::write(directory.path().join("file"), vec![b'f'; 3_000_000]).unwrap();
    let child = Command::new("nginx")
        .args(["-p", directory.path().to_str().unwrap(), "-c", "nginx.conf"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nginx, which ./test installs");
    for port in ports {
        until("nginx", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    }
    Nginx { _child: child, _directory: directory, ports }
}

#[tokio::test]
async fn nginx_over_every_protocol_it_speaks() {
    let certificates = Certificates::new();
    let nginx = nginx(&certificates).await;
    let [http, h2c, https, h2] = nginx.ports;
    let tls = format!(", tls: {{ca: {}}}", certificates.authority().display());
    for (url, rest, answer) in [
        (format!("http://127.0.0.1:{http}"), "", "HTTP/1.1 http test /a?b"),
        (format!("h2c://127.0.0.1:{h2c}"), "", "HTTP/2.0 http test /a?b"),
        (format!("https://127.0.0.1:{https}"), &*tls, "HTTP/1.1 https test /a?b"),
        (format!("https://127.0.0.1:{h2}"), &*tls, "HTTP/2.0 https test /a?b"),
    ] {
        let proxy = Proxy::of(&format!("limits: []\nupstreams: [{{servers: \"{url}\"{rest}}}]"));
        let mut client = Client::connect(proxy.address).await;
        // More often than nginx keeps a connection: it goes away in between, and nobody notices.
        for _ in 0..1100 {
            let response = client.get("/a?b").await;
            assert_eq!((response.status, response.text()), (200, answer), "{url}");
        }
        client.send("POST /a?b HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n").await;
        client.send(vec![b'x'; 100_000]).await;
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (200, answer), "{url}");
        let file = get(proxy.address, "/file").await;
        assert_eq!((file.status, file.body.len()), (200, 3_000_000), "{url}");
        // nginx answers before it has the body, and the connection of such a client ends.
        let mut client = Client::connect(proxy.address).await;
        client.send("HEAD /file HTTP/1.1\r\nhost: test\r\n\r\n").await;
        let head = client.response_to("HEAD").await.unwrap();
        assert_eq!(head.field("content-length"), Some("3000000"), "{url}");
    }
}
