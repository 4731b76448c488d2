#!/usr/bin/env python3
"""What large bodies cost our proxy in memory while they pass through it.

    cargo build --release -p ratelimit-proxy
    benches/proxy/memory.py [--rounds 3] [--transfers 16] [--megabytes 20] [COMMAND ...]

    download  so many at a time, each read as fast as it comes
    slow      the same, by clients that read at 4 MB a second, so that the upstream would be far ahead of them
    upload    so many at a time, sent as fast as they are taken

Over HTTP/1.1, with one thread, in front of an origin that answers from a file and throws away what it is sent. What is told
is by how much the resident memory was higher at its highest, seen every millisecond, than before, once the proxy has
served as many small requests on as many connections: each connection's own room is not what is asked about
(`http2.py --work idle`). Medians of the rounds.

Needs Debian's nginx-light.
"""
import argparse
import os
import socket
import statistics
import sys
import tempfile
import threading
import time

import compare
from compare import family, free_port, rss_kib

ORIGIN = """worker_processes 1; daemon off; error_log stderr; pid memory-origin.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_max_body_size 0; client_body_buffer_size 1k;
  client_body_temp_path o1; proxy_temp_path o2; fastcgi_temp_path o3; uwsgi_temp_path o4; scgi_temp_path o5;
  server {{
    listen 127.0.0.1:{port};
    location / {{ root data; sendfile on; }}
    location /upload {{ proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://127.0.0.1:{sink}; }}
  }}
}}
"""
PIECE = 64 * 1024


def sink(listener):
    """An origin that takes what comes and says so."""

    def serve(connection):
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                length = 0
                while line not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                    line = stream.readline()
                while length:
                    length -= len(stream.read(min(length, PIECE)))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def read(connection, pace=None):
    """Reads a response to its end; `pace` is bytes a second."""
    came, wanted, started = b"", None, time.monotonic()
    total = 0
    while wanted is None or total < wanted:
        piece = connection.recv(PIECE)
        if not piece:
            sys.exit("a response broke off")
        total += len(piece)
        if wanted is None:
            came += piece
            head, end, _ = came.partition(b"\r\n\r\n")
            if end:
                if not head.startswith(b"HTTP/1.1 200"):
                    sys.exit(f"not a 200: {head!r}")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                wanted = len(head) + 4 + int(lengths[0].partition(b":")[2])
        if pace:
            time.sleep(max(0.0, started + total / pace - time.monotonic()))


def download(connection, size, pace=None):
    connection.sendall(b"GET /body HTTP/1.1\r\nhost: test\r\n\r\n")
    read(connection, pace)


def upload(connection, size):
    connection.sendall(b"POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n" % size)
    piece = bytes(PIECE)
    for start in range(0, size, PIECE):
        connection.sendall(piece[: size - start])
    read(connection)


WORKS = {
    "download": download,
    "slow": lambda connection, size: download(connection, size, 4e6),
    "upload": upload,
}


def growth(port, pids, work, transfers, size):
    """KiB above what was there before, at most."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(transfers)]
    for connection in connections:
        connection.sendall(b"GET /small HTTP/1.1\r\nhost: test\r\n\r\n")
        read(connection)
    before = rss_kib(pids)
    threads = [threading.Thread(target=WORKS[work], args=(connection, size)) for connection in connections]
    for thread in threads:
        thread.start()
    most = before
    while any(thread.is_alive() for thread in threads):
        most = max(most, rss_kib(pids))
        time.sleep(0.001)
    for connection in connections:
        connection.close()
    return most - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transfers", type=int, default=16)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--work", default=",".join(WORKS))
    parser.add_argument("command", nargs="*", default=[os.path.join(compare.ROOT, "target/release/ratelimit-proxy")])
    args = parser.parse_args()
    command = [os.path.abspath(args.command[0])] + args.command[1:]
    size = args.megabytes * 1_000_000

    programs = compare.Programs(tempfile.mkdtemp(prefix="ratelimit-bench-"))
    try:
        compare.prepare(programs.directory)
        for name, length in (("body", size), ("small", 2)):
            with open(os.path.join(programs.directory, "data", name), "wb") as file:
                file.write(bytes(length))
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=sink, args=(listener,), daemon=True).start()
        origin = free_port()
        config = os.path.join(programs.directory, "memory.conf")
        with open(config, "w") as file:
            file.write(ORIGIN.format(port=origin, sink=listener.getsockname()[1]))
        programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/small")
        port, pid = compare.start_ours(programs, command, origin, "", ["1000000/s by client.ip"])
        pids = family(pid)
        print(f"{args.transfers} at a time, {args.megabytes} MB each; {rss_kib(pids)} KiB before\n")
        print("| work | KiB more at most (lowest–highest) |\n|---|---|")
        works = args.work.split(",")
        samples = {work: [] for work in works}
        for _ in range(args.rounds):
            for work in works:
                samples[work].append(growth(port, pids, work, args.transfers, size))
        for work, rounds in samples.items():
            print(f"| {work} | {statistics.median(rounds):.0f} ({min(rounds)}–{max(rounds)}) |")
    finally:
        programs.end()


if __name__ == "__main__":
    main()
