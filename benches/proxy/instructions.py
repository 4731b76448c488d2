#!/usr/bin/env python3
"""Instructions our proxy and nginx take for a request, user space only, counted under callgrind.

    cargo build --release -p ratelimit-proxy
    benches/proxy/instructions.py [--seconds 5] [--work allowed,denied,two] [--json FILE] [COMMAND ...]

The same origin, works and load as in compare.py, from 16 connections. Counts of two runs agree within some 2 %: how many
requests one turn of the event loop finds ready is up to the machine. The profiles stay in the directory that is printed;
`callgrind_annotate` shows them.

Needs Debian's valgrind, wrk and nginx-light.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

import compare

CONNECTIONS = 16


def count(programs, who, command, origin, work, seconds):
    out = os.path.join(programs.directory, f"callgrind.{who}.{work}")
    traced = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
    path, limits = compare.WORKS[work]
    if who == "ours":
        port, pid = compare.start_ours(programs, traced + command, origin, "", limits)
    else:
        port = compare.free_port()
        config = programs.written("nginx.conf", port=port, origin=origin)
        traced += compare.command_of("nginx", programs.directory, config) + ["-g", "master_process off;"]
        pid = programs.start(traced, f"http://127.0.0.1:{port}/")
    url = f"http://127.0.0.1:{port}{path}"
    compare.load(url, 1, CONNECTIONS, None)
    control("-z", pid)
    requests = compare.load(url, seconds, CONNECTIONS, None)["requests"]
    control("-d", pid)
    programs.running[-1].terminate()
    with open(f"{out}.1") as dump:
        totals = re.search(r"^totals: (\d+)", dump.read(), re.MULTILINE)
    if not totals:
        sys.exit(f"callgrind counted nothing; see {out}.1")
    return requests, int(totals.group(1)) / requests


def control(what, pid):
    argv = ["callgrind_control", what, str(pid)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--work", default=",".join(compare.USUAL))
    parser.add_argument("--json")
    parser.add_argument("command", nargs="*", default=[os.path.join(compare.ROOT, "target/release/ratelimit-proxy")])
    args = parser.parse_args()
    compare.need(valgrind="Debian's valgrind", wrk=compare.PACKAGES["wrk"], nginx=compare.PACKAGES["nginx"])
    command = compare.runnable(args.command)
    figures = compare.Figures()
    programs = compare.Programs(tempfile.mkdtemp(prefix="ratelimit-instructions-"))
    try:
        compare.prepare(programs.directory)
        origin = compare.free_port()
        config = programs.written("origin.conf", port=origin)
        programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")
        print(f"profiles in {programs.directory}\n\n| work | | requests | instructions each |\n|---|---|---|---|")
        for work in args.work.split(","):
            for who in ("ours", "nginx"):
                requests, each = count(programs, who, command, origin, work, args.seconds)
                print(f"| {work} | {who} | {requests:.0f} | {each:.0f} |", flush=True)
                figures.add(work, who, "instructions", [each])
        figures.write(args.json)
    finally:
        programs.end()


if __name__ == "__main__":
    main()
