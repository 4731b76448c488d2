#!/usr/bin/env python3
"""Instructions our proxy and nginx take for a request, user space only, counted under callgrind.

    cargo build --release -p ratelimit-proxy
    benches/proxy/instructions.py [--seconds 5] [--work allowed,denied,two] [--json FILE] [COMMAND ...]

The same origin, works and load as in compare.py, from 16 connections, and these (not unless asked for):

    unused    as allowed, with everything else that the configuration knows switched on, and nothing of it used by a request:
              other listeners, upstreams, limits, trusted proxies, verified tokens, Envoy's questions, checks of overload
    plain     as allowed, with a path and a field of the next
    keys      as plain, by two limits with keys of a field and of the path

Counts of two runs agree within some 2 %: how many
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
UNUSED = """
listen:
  - 127.0.0.1:{port}
  - {{address: 127.0.0.1:0, proxy_protocol: required}}
admin: 127.0.0.1:{admin}
rls: 127.0.0.1:{rls}
server: {{threads: 1, max_connections_per_client: 10000, new_connections_per_client: 100000/s, max_memory: 4GiB}}
client_ip: {{trusted_proxies: [10.0.0.0/8], header: x-forwarded-for, ipv6_prefix: 64}}
jwt: {{secret_env: BENCH_SECRET}}
exempt: [{{client_ip: [10.1.0.0/16]}}, {{path: /healthz}}]
log: {{requests: denied, doubts: 5m}}
upstreams:
  - match: {{path: /elsewhere/**}}
    servers: ["http://127.0.0.1:{origin}"]
    balance: {{hash: header.x-user}}
  - servers: ["http://127.0.0.1:{origin}"]
    balance: least_requests
    health_check: {{path: /, interval: 5s}}
    timeout: {{connect: 1s, response: 30s}}
    retries: 1
limits:
  - 1000000/s by client.ip
  - {{name: login, match: {{path: /login, methods: [POST]}}, key: client.ip, rate: 5/min, count: {{status: [401]}}}}
  - {{name: reports, match: {{path: /reports/**}}, key: jwt.sub, concurrency: 4}}
  - name: plan
    match: {{path: "/v1/{{resource}}/**", headers: {{x-api-key: "*"}}}}
    key: [header.x-api-key, path.resource]
    rate: 10000/day
    algorithm: fixed_window
    overrides: [{{key: [gold-key, "*"], unlimited: true}}]
  - name: tokens
    match: {{path: /v1/chat/**, not: {{jwt: {{role: admin}}}}}}
    key: {{first: [jwt.sub, cookie.session, basic.user]}}
    tiers: {{by: jwt.plan, free: {{rate: 10000/day}}, pro: {{rate: 1000000/day}}, default: free}}
    cost: {{reserve: header.x-max-tokens, default: 500, actual: {{response_header: x-tokens-used}}}}
"""
CONFIG = """
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
server: {{threads: 1}}
upstream: http://127.0.0.1:{origin}
limits:
"""
KEYS = """
  - {{name: plan, match: {{path: "/v1/{{resource}}/**"}}, key: [header.x-api-key, path.resource], rate: 1000000/s}}
  - {{name: all, match: {{path: "/v1/{{resource}}/**"}}, key: path.resource, rate: 1000000/s}}
"""
PATH = "/v1/invoices/7"
CONFIGS = {
    "unused": ("/", UNUSED),
    "plain": (PATH, CONFIG + "  - 1000000/s by client.ip\n"),
    "keys": (PATH, CONFIG + KEYS),
}
HEADER = 'wrk.headers["x-api-key"] = "0123456789abcdef"\n'


def count(programs, who, command, origin, work, seconds):
    out = os.path.join(programs.directory, f"callgrind.{who}.{work}")
    traced = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
    script = None
    if work in CONFIGS:
        path, text = CONFIGS[work]
        port, pid = start(programs, traced + command, text, origin)
        script = os.path.join(programs.directory, "header.lua") if work != "unused" else None
    elif who == "ours":
        path, limits = compare.WORKS[work]
        port, pid = compare.start_ours(programs, traced + command, origin, "", limits)
    else:
        path, port = compare.WORKS[work][0], compare.free_port()
        config = programs.written("nginx.conf", port=port, origin=origin)
        traced += compare.command_of("nginx", programs.directory, config) + ["-g", "master_process off;"]
        pid = programs.start(traced, f"http://127.0.0.1:{port}/")
    url = f"http://127.0.0.1:{port}{path}"
    compare.load(url, 1, CONNECTIONS, script)
    control("-z", pid)
    requests = compare.load(url, seconds, CONNECTIONS, script)["requests"]
    control("-d", pid)
    programs.running[-1].terminate()
    with open(f"{out}.1") as dump:
        totals = re.search(r"^totals: (\d+)", dump.read(), re.MULTILINE)
    if not totals:
        sys.exit(f"callgrind counted nothing; see {out}.1")
    return requests, int(totals.group(1)) / requests


def start(programs, command, text, origin):
    """The program with a configuration of its own."""
    ports = {name: compare.free_port() for name in ("port", "admin", "rls")}
    config = os.path.join(programs.directory, f"ours-{ports['port']}.yaml")
    with open(config, "w") as file:
        file.write(text.format(origin=origin, **ports))
    return ports["port"], programs.start(command + ["--config", config], f"http://127.0.0.1:{ports['port']}/")


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
        with open(os.path.join(programs.directory, "header.lua"), "w") as file:
            file.write(HEADER)
        os.environ["BENCH_SECRET"] = "0123456789abcdef0123456789abcdef"
        origin = compare.free_port()
        config = programs.written("origin.conf", port=origin)
        programs.start(["nginx", "-p", programs.directory, "-c", config], f"http://127.0.0.1:{origin}/")
        print(f"profiles in {programs.directory}\n\n| work | | requests | instructions each |\n|---|---|---|---|")
        for work in args.work.split(","):
            for who in ("ours",) if work in CONFIGS else ("ours", "nginx"):
                requests, each = count(programs, who, command, origin, work, args.seconds)
                print(f"| {work} | {who} | {requests:.0f} | {each:.0f} |", flush=True)
                figures.add(work, who, "instructions", [each])
        figures.write(args.json)
    finally:
        programs.end()


if __name__ == "__main__":
    main()
