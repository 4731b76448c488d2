#!/usr/bin/env python3
"""System calls a request takes, of our proxy and of nginx, counted by strace.

    cargo build --release -p ratelimit-proxy
    benches/proxy/syscalls.py [--seconds 3] [--work allowed,denied] [--connections 64] [--json FILE] [COMMAND ...]

The same origin, works and load as in compare.py. strace slows what it counts, so that more requests are ready at each
turn of the event loop than without it; both are slowed alike.

Needs Debian's strace, wrk and nginx-light.
"""
import argparse
import os
import re
import subprocess
import tempfile
import time

import compare
from compare import Figures, family


def count(url, pid, args, out):
    watched = [word for process in family(pid) for word in ("-p", str(process))]
    tracer = subprocess.Popen(["strace", "-f", "-c", "-o", out] + watched, stderr=subprocess.DEVNULL)
    # It is attached when the kernel says who traces.
    while not re.search(r"^TracerPid:\s+[1-9]", open(f"/proc/{family(pid)[-1]}/status").read(), re.MULTILINE):
        if tracer.poll() is not None:
            raise SystemExit("error: strace could not attach")
        time.sleep(0.05)
    requests = compare.load(url, args.seconds, args.connections, None)["requests"]
    tracer.terminate()
    tracer.wait()
    calls = {}
    with open(out) as told:
        for line in told:
            row = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
            if row and row[2] != "total":
                calls[row[2]] = int(row[1]) / requests
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--work", default="allowed,denied")
    parser.add_argument("--json")
    parser.add_argument("command", nargs="*", default=[os.path.join(compare.ROOT, "target/release/ratelimit-proxy")])
    args = parser.parse_args()
    compare.need(strace="Debian's strace", wrk=compare.PACKAGES["wrk"], nginx=compare.PACKAGES["nginx"])
    command = compare.runnable(args.command)
    programs = compare.Programs(tempfile.mkdtemp(prefix="ratelimit-syscalls-"))
    try:
        compare.prepare(programs.directory)
        origin = compare.free_port()
        config = programs.written("origin.conf", port=origin)
        programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")
        nginx = compare.start_peer(programs, "nginx", origin)
        figures = Figures()
        print("| work | | system calls a request | which |\n|---|---|---|---|")
        for work in args.work.split(","):
            path, limits = compare.WORKS[work]
            ours = compare.start_ours(programs, command, origin, "", limits)
            for name, (port, pid) in (("ours", ours), ("nginx", nginx)):
                url = f"http://127.0.0.1:{port}{path}"
                compare.load(url, 1, args.connections, None)
                calls = count(url, pid, args, os.path.join(programs.directory, "strace"))
                figures.add(work, name, "system calls", [sum(calls.values())])
                which = ", ".join(f"{call} {each:.2f}" for call, each in calls.items() if each >= 0.005)
                print(f"| {work} | {name} | {sum(calls.values()):.2f} | {which} |", flush=True)
        figures.write(args.json)
    finally:
        programs.end()


if __name__ == "__main__":
    main()
