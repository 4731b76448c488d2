#!/usr/bin/env python3
"""What a request takes of the processor with one thread and with two, which says how the proxy scales.

    cargo build --release -p ratelimit-proxy
    benches/proxy/threads.py [--rounds 5] [--seconds 2] [--work allowed,denied] [COMMAND ...]

The works and the origin are those of compare.py, with 64 connections a thread. With two processors and the load and the origin on the same
machine, requests a second can't show it: two threads have no second processor to themselves. Their CPU microseconds a
request can: two threads serve 2 / r times what one serves, where r is what a request takes with two threads over what it
takes with one, as long as each has a processor. Both run in one round, one after the other; the ratio is the median of the
rounds'. What the threads share shows in it (counters, the metrics, the allocator, the kernel's socket tables); so does that
a processor's caches serve the load as well, which is why the ratio errs to the bad side.

Needs Debian's wrk and nginx-light.
"""
import argparse
import os
import statistics
import tempfile

import compare
from compare import cpu_seconds, family, free_port

CONFIG = """upstream: http://127.0.0.1:{origin}
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
server: {{ threads: {threads} }}
limits: ["{limit}"]
"""


def start(programs, command, origin, threads, limit):
    port, admin = free_port(), free_port()
    config = os.path.join(programs.directory, f"ours-{port}.yaml")
    with open(config, "w") as file:
        file.write(CONFIG.format(origin=origin, port=port, admin=admin, threads=threads, limit=limit))
    return threads, port, family(programs.start(command + ["--config", config], f"http://127.0.0.1:{port}/"))


def measure(threads, port, pids, path, seconds):
    before = cpu_seconds(pids)
    done = compare.load(f"http://127.0.0.1:{port}{path}", seconds, 64 * threads, None)["requests"]
    return 1e6 * (cpu_seconds(pids) - before) / done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--work", default="allowed,denied")
    parser.add_argument("command", nargs="*", default=[os.path.join(compare.ROOT, "target/release/ratelimit-proxy")])
    args = parser.parse_args()
    command = [os.path.abspath(args.command[0])] + args.command[1:]
    programs = compare.Programs(tempfile.mkdtemp(prefix="ratelimit-bench-"))
    try:
        compare.prepare(programs.directory)
        origin = free_port()
        config = programs.written("origin.conf", port=origin)
        programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")
        print("| work | one thread, CPU µs a request | two threads | ratio | so two serve, times what one does |")
        print("|---|---|---|---|---|")
        for work in args.work.split(","):
            path, (limit, *_) = compare.WORKS[work]
            proxies = [start(programs, command, origin, threads, limit) for threads in (1, 2)]
            rounds = [
                [measure(threads, port, pids, path, args.seconds) for threads, port, pids in proxies] for _ in range(args.rounds)
            ]
            one, two = (statistics.median(samples) for samples in zip(*rounds))
            ratio = statistics.median(two / one for one, two in rounds)
            print(f"| {work} | {one:.2f} | {two:.2f} | {ratio:.2f} | {2 / ratio:.2f} |", flush=True)
    finally:
        programs.end()


if __name__ == "__main__":
    main()
