//! What bodies cost while they pass: nothing is buffered that the other side has not asked for.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::program::{Program, kib};
use crate::support::soon;

/// How many bodies pass at a time, and how long each is.
const TRANSFERS: usize = 16;
const LENGTH: usize = 20_000_000;

/// KiB that the proxy may take more for all of them together. Measured are 2 MB (`benches/proxy/memory.py`); a machine with
/// other pages or other timing shall not fail for it, and a body that is buffered takes twenty times this.
const ROOM: u64 = 16 * 1024;

async fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte, so that nothing of the body is lost.
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn take(socket: &mut TcpStream, mut length: usize) {
    let mut room = vec![0; 64 * 1024];
    while length > 0 {
        let most = room.len().min(length);
        let read = socket.read(&mut room[..most]).await.unwrap();
        assert!(read > 0, "{length} bytes are missing");
        length -= read;
    }
}

async fn give(socket: &mut TcpStream, mut length: usize) {
    let piece = vec![b'x'; 64 * 1024];
    while length > 0 {
        let most = piece.len().min(length);
        socket.write_all(&piece[..most]).await.unwrap();
        length -= most;
    }
}

/// Answers a GET with a large body, and takes that of a POST.
async fn origin(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            if head(&mut socket).await.starts_with("POST") {
                take(&mut socket, LENGTH).await;
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            } else {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
                socket.write_all(head.as_bytes()).await.unwrap();
                give(&mut socket, LENGTH).await;
            }
        });
    }
}

async fn transfer(program: &Program, method: &str) {
    let mut transfers = JoinSet::new();
    for _ in 0..TRANSFERS {
        let mut socket = TcpStream::connect(program.proxy).await.unwrap();
        let is_upload = method == "POST";
        let length = if is_upload { format!("content-length: {LENGTH}\r\n") } else { String::new() };
        let request = format!("{method} / HTTP/1.1\r\nhost: test\r\n{length}\r\n");
        transfers.spawn(async move {
            socket.write_all(request.as_bytes()).await.unwrap();
            if is_upload {
                give(&mut socket, LENGTH).await;
            }
            let answer = head(&mut socket).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            if !is_upload {
                take(&mut socket, LENGTH).await;
            }
        });
    }
    soon("all transfers", transfers.join_all()).await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways_in_the_memory_of_small_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(origin(listener));
    let program = Program::start(upstream, &["1000/s by client.ip"]).await;
    let before = kib(&program, "VmRSS:");
    for method in ["GET", "POST"] {
        transfer(&program, method).await;
        let most = kib(&program, "VmHWM:");
        assert!(most < before + ROOM, "{method}: {before} KiB before, {most} KiB at the highest");
    }
}
