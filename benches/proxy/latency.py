#!/usr/bin/env python3
"""What answers take beside nginx at a quarter, half and three quarters of what nginx can serve: open-loop load.

    cargo build --release -p ratelimit-proxy -p benches
    benches/proxy/latency.py [--rounds 5] [--seconds 5] [--work allowed,denied] [--connections 64] [--json FILE] [COMMAND ...]

wrk finds out how many requests a second nginx answers at most, for each of the works; then both get the same shares of
that, in alternating rounds, from benches/src/bin/openloop.rs: on a fixed schedule, each answer's time counted from when
its request was due. The generator and the origin are pinned to processor 0, the proxies to processor 1: the works and the
configurations are those of compare.py. What the generator was late by itself stands in the last column; it is part of
the times of both.

Needs Debian's wrk and nginx-light.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import compare
from compare import Figures, cpu_seconds, family, pin, spread

SHARES = (25, 50, 75)
WHAT = ("p50 µs", "p99 µs", "p99.9 µs")
STATUS = {"denied": "429"}


def open_loop(program, url, rate, args, status):
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        argv = ["taskset", "-c", "0", program, url, f"{rate:.0f}", str(args.seconds), str(args.connections), status]
        run = subprocess.run(argv + ["--json", file.name], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"error: {url} at {rate:.0f} requests a second: {run.stderr.strip()}")
        return {figure["what"]: figure["median"] for figure in json.load(file)}


def measure(args, programs, command, generator):
    compare.prepare(programs.directory)
    origin = compare.free_port()
    config = programs.written("origin.conf", port=origin)
    pid = programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")
    pin(family(pid), 0)
    nginx_port, nginx_pid = compare.start_peer(programs, "nginx", origin)
    figures = Figures()
    for work in args.work.split(","):
        path, limits = compare.WORKS[work]
        port, pid = compare.start_ours(programs, command, origin, "", limits)
        proxies = {"ours": (port, family(pid)), "nginx": (nginx_port, family(nginx_pid))}
        urls = {}
        for name, (port, pids) in proxies.items():
            pin(pids, 1)
            urls[name] = f"http://127.0.0.1:{port}{path}"
            # The first request of a work that is denied is not.
            compare.load(urls[name], 1, args.connections, None)
        most = statistics.median(
            compare.load(urls["nginx"], max(args.seconds // 2, 1), args.connections, None)["rps"] for _ in range(3)
        )
        figures.add(work, "nginx", "requests/s at most", [most])
        print(f"\n{work}: nginx answers {most:.0f} requests a second at most\n")
        print("| share | | " + " | ".join(WHAT) + " | CPU of the proxy | p99 of the generator's own |\n|---|---|---|---|---|---|---|")
        for share in SHARES:
            samples = {name: [] for name in proxies}
            for _ in range(args.rounds):
                for name, (_, pids) in proxies.items():
                    before = cpu_seconds(pids)
                    took = open_loop(generator, urls[name], most * share / 100, args, STATUS.get(work, "200"))
                    took["CPU"] = 100 * (cpu_seconds(pids) - before) / (args.seconds + 1)
                    samples[name].append(took)
            case = f"{work}, {share} %"
            for name, rounds in samples.items():
                by = {what: [took[what] for took in rounds] for what in (*WHAT, "CPU", "p99 late µs")}
                for what, values in by.items():
                    figures.add(case, name, what, values)
                for what in WHAT:
                    figures.ratio(case, name, f"ratio of {what}", by[what], [took[what] for took in samples["nginx"]])
                cells = [spread(by[what], 0) for what in WHAT]
                cells += [f"{statistics.median(by['CPU']):.0f} %", f"{statistics.median(by['p99 late µs']):.0f}"]
                print(f"| {share} % | {name} | " + " | ".join(cells) + " |", flush=True)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--work", default="allowed,denied")
    parser.add_argument("--json")
    parser.add_argument("command", nargs="*", default=[os.path.join(compare.ROOT, "target/release/ratelimit-proxy")])
    args = parser.parse_args()
    compare.need(wrk=compare.PACKAGES["wrk"], nginx=compare.PACKAGES["nginx"])
    generator = compare.runnable([os.path.join(compare.ROOT, "target/release/openloop")], "benches")[0]
    programs = compare.Programs(tempfile.mkdtemp(prefix="ratelimit-latency-"))
    try:
        measure(args, programs, compare.runnable(args.command), generator).write(args.json)
    finally:
        programs.end()


if __name__ == "__main__":
    main()
