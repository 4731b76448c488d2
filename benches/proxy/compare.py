#!/usr/bin/env python3
"""Our proxy beside nginx (and HAProxy), in one run: CPU a request, requests a second, p99, memory.

    cargo build --release -p ratelimit-proxy
    benches/proxy/compare.py [--rounds 5] [--seconds 4] [--denied] [--binary PATH] [--peers nginx,haproxy]

The origin is an nginx that answers 200 with 34 bytes. Each proxy has one worker and a limit by client address
that no run reaches (with --denied: one that every request but the first few exceeds). Load comes from wrk, one
thread, 64 keep-alive connections. wrk and the origin are pinned to processor 0, the proxies to processor 1;
rounds alternate between the proxies, so that drift of the machine hits all alike.

The figure to compare is CPU microseconds a request (user and system time of the proxy's processes over the
requests answered): unlike requests a second it does not depend on what the load generator takes. Medians and the
ratio of ours to each peer are printed.

Needs Debian's wrk, nginx-light and, for --peers haproxy, haproxy.
"""
import argparse
import os
import re
import signal
import socket
import statistics
import string
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def family(pid):
    found, frontier = [pid], [pid]
    while frontier:
        asked = subprocess.run(["pgrep", "-P", ",".join(map(str, frontier))], capture_output=True, text=True)
        frontier = [int(child) for child in asked.stdout.split()]
        found += frontier
    return found


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def rss_kib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/statm") as statm:
            total += int(statm.read().split()[1]) * 4
    return total


def pin(pids, processor):
    for pid in pids:
        subprocess.run(["taskset", "-acp", str(processor), str(pid)], stdout=subprocess.DEVNULL, check=True)


class Programs:
    """What was started, to be ended whatever happens."""

    def __init__(self, directory):
        self.directory = directory
        self.log = open(os.path.join(directory, "log"), "w")
        self.running = []

    def start(self, argv, url):
        process = subprocess.Popen(argv, stdout=self.log, stderr=self.log, cwd=self.directory)
        self.running.append(process)
        for _ in range(100):
            try:
                urllib.request.urlopen(url, timeout=1)
                return process.pid
            except urllib.error.HTTPError:
                return process.pid
            except OSError:
                if process.poll() is not None:
                    break
                time.sleep(0.1)
        sys.exit(f"{argv[0]} did not answer on {url}; see {self.log.name}")

    def end(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(10)

    def written(self, name, **values):
        """A configuration file from its template."""
        with open(os.path.join(HERE, name)) as template:
            text = string.Template(template.read()).substitute(values)
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path


def load(url, seconds):
    argv = ["taskset", "-c", "0", "wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", url]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {
        "requests": float(re.search(r"(\d+) requests in", out).group(1)),
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)),
        "p99": re.search(r"99%\s+(\S+)", out).group(1),
        "refused": int(refused.group(1)) if refused else 0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--denied", action="store_true")
    parser.add_argument("--peers", default="nginx")
    parser.add_argument("--binary", default=os.path.join(ROOT, "target/release/ratelimit-proxy"))
    args = parser.parse_args()

    programs = Programs(tempfile.mkdtemp(prefix="ratelimit-bench-"))
    try:
        origin = free_port()
        pid = programs.start(
            ["nginx", "-p", programs.directory, "-c", programs.written("origin.conf", port=origin)],
            f"http://127.0.0.1:{origin}/",
        )
        pin(family(pid), 0)
        path = "/deny" if args.denied else "/"
        rows = {}

        port, admin = free_port(), free_port()
        limit = "1/s by client.ip" if args.denied else "1000000/s by client.ip"
        ours = [args.binary, "--upstream", f"http://127.0.0.1:{origin}", "--limit", limit, "--threads", "1"]
        ours += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
        pid = programs.start(ours, f"http://127.0.0.1:{port}/")
        rows["ours"] = (f"http://127.0.0.1:{port}{path}", family(pid))
        print(f"idle: ours {rss_kib(family(pid))} KiB")

        for peer in filter(None, args.peers.split(",")):
            port = free_port()
            config = programs.written(f"{peer}.conf", port=port, origin=origin)
            argv = {
                "nginx": ["nginx", "-p", programs.directory, "-c", config],
                "haproxy": ["haproxy", "-db", "-f", config],
            }[peer]
            pid = programs.start(argv, f"http://127.0.0.1:{port}{path}")
            rows[peer] = (f"http://127.0.0.1:{port}{path}", family(pid))

        for _, pids in rows.values():
            pin(pids, 1)
        samples = {name: [] for name in rows}
        for _ in range(args.rounds):
            for name, (url, pids) in rows.items():
                before = cpu_seconds(pids)
                result = load(url, args.seconds)
                result["us"] = 1e6 * (cpu_seconds(pids) - before) / result["requests"]
                result["rss"] = rss_kib(pids)
                samples[name].append(result)

        median = lambda name, what: statistics.median(sample[what] for sample in samples[name])
        print("| proxy | CPU µs a request | ours / this | requests/s | p99 | RSS KiB | refused |")
        print("|---|---|---|---|---|---|---|")
        for name in rows:
            us = median(name, "us")
            spread = f"{min(s['us'] for s in samples[name]):.2f}–{max(s['us'] for s in samples[name]):.2f}"
            print(
                f"| {name} | {us:.2f} ({spread}) | {median('ours', 'us') / us:.2f} | {median(name, 'rps'):.0f} "
                f"| {samples[name][-1]['p99']} | {median(name, 'rss'):.0f} | {sum(s['refused'] for s in samples[name])} |"
            )
    finally:
        programs.end()


if __name__ == "__main__":
    main()
