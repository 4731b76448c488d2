#!/usr/bin/env python3
"""What operators who look cost the traffic: CPU of the threads that serve it, for each request, while a dashboard is open
in a browser and while none is, in alternating rounds of one run; and what `/metrics` takes with a thousand limits.

    cargo build --release -p ratelimit-proxy && benches/proxy/dashboard.py [--rounds 4] [--seconds 3] [--json FILE] [PROGRAM]

The browser is played: what the page asks for, as often as it asks (`src/admin/page/live.js`: /api/stats once a second,
the keys of up to twelve limits every other). Requests are denied ones, which cost the traffic least, so that
a disturbance would show most. Load comes from Debian's wrk, pinned to processor 0; the proxy to processor 1, its
administration with it, so that what the dashboard takes is taken from the traffic.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

import compare
from compare import Figures

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--rounds", type=int, default=4)
PARSER.add_argument("--seconds", type=int, default=3)
PARSER.add_argument("--json")
PARSER.add_argument("program", nargs="?", default=os.path.join(compare.ROOT, "target/release/ratelimit-proxy"))
ARGS = PARSER.parse_args()
PROGRAM = compare.runnable([ARGS.program])[0]
ROUNDS, SECONDS = ARGS.rounds, ARGS.seconds


def configuration(limits):
    lines = ["listen: 127.0.0.1:0", "admin: 127.0.0.1:0", "upstream: http://127.0.0.1:9", "log: {requests: off}"]
    lines += ["server: {threads: 1}", "limits:", "  - {name: all, key: client.ip, rate: 1/h}"]
    lines += [f"  - {{name: limit-{i}, match: {{path: /{i}/**}}, key: client.ip, rate: 1/s}}" for i in range(limits - 1)]
    return "\n".join(lines) + "\n"


class Proxy:
    def __init__(self, limits):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
        self.file.write(configuration(limits))
        self.file.flush()
        argv = ["taskset", "-c", "1", PROGRAM, "--config", self.file.name, "--log", "json"]
        self.child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        found = {}
        for line in self.child.stderr:
            told = json.loads(line)
            if told.get("message") in ("listening", "administration"):
                found[told["message"]] = told["address"]
            if len(found) == 2:
                break
        self.url, self.admin = found["listening"], found["administration"]
        threading.Thread(target=lambda: [None for _ in self.child.stderr], daemon=True).start()

    def get(self, path):
        with urllib.request.urlopen(self.admin + path) as answer:
            return answer.read()

    def threads(self):
        """Milliseconds of CPU by the name of the thread."""
        used = {}
        tasks = f"/proc/{self.child.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/comm") as name, open(f"{tasks}/{task}/schedstat") as stat:
                name = re.sub(r"-\d+$", "", name.read().strip())
                used[name] = used.get(name, 0) + int(stat.read().split()[0]) / 1e6
        return used

    def stop(self):
        self.child.terminate()
        self.child.wait()


def looks(proxy, stop):
    """As the page does."""
    names = [limit["name"] for limit in json.loads(proxy.get("/api/limits"))["limits"]][:12]
    beat = 0
    while not stop.wait(1):
        proxy.get("/api/stats")
        if beat % 2 == 0:
            for name in names:
                proxy.get(f"/api/limits/{name}/keys?by=denied&top=8")
        beat += 1


def load(proxy):
    argv = ["taskset", "-c", "0", "wrk", "-t1", "-c32", f"-d{SECONDS}s", proxy.url + "/"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"(\d+) requests in", said)[1])


def round_of(proxy, looked_at):
    stop = threading.Event()
    looker = threading.Thread(target=looks, args=(proxy, stop))
    if looked_at:
        looker.start()
    before = proxy.threads()
    requests = load(proxy)
    after = proxy.threads()
    stop.set()
    if looked_at:
        looker.join()
    used = {name: after[name] - before.get(name, 0) for name in after}
    admin = used.pop("admin", 0)
    return sum(used.values()) * 1e3 / requests, admin / SECONDS, requests / SECONDS


def main():
    compare.need(wrk=compare.PACKAGES["wrk"])
    figures = Figures()
    for limits in (4, 100):
        proxy = Proxy(limits)
        round_of(proxy, False)
        rounds = {False: [], True: []}
        for number in range(ROUNDS * 2):
            rounds[number % 2 == 1].append(round_of(proxy, number % 2 == 1))
        for looked_at, name in ((False, "alone"), (True, "dashboard open")):
            figures.add(f"{limits} limits", name, "CPU µs", [used for used, _, _ in rounds[looked_at]])
            figures.add(f"{limits} limits", name, "admin ms/s", [admin for _, admin, _ in rounds[looked_at]])
        alone, open_ = ([statistics.median(one[at] for one in rounds[kind]) for at in range(3)] for kind in (False, True))
        print(
            f"{limits} limits: {alone[0]:.2f} µs of CPU a request alone, {open_[0]:.2f} with a dashboard open "
            f"({100 * (open_[0] / alone[0] - 1):+.1f} %); the dashboard itself {open_[1]:.2f} ms of CPU a second; "
            f"requests a second {alone[2]:.0f} and {open_[2]:.0f} ({100 * (open_[2] / alone[2] - 1):+.1f} %)"
        )
        proxy.stop()
    proxy = Proxy(1000)
    proxy.get("/metrics")
    times, before = [], proxy.threads()
    for _ in range(41):
        began = time.perf_counter()
        page = proxy.get("/metrics")
        times.append((time.perf_counter() - began) * 1e3)
    after = proxy.threads()
    used = {name: (after[name] - before.get(name, 0)) / 41 for name in after}
    admin = used.pop("admin", 0)
    print(
        f"/metrics with 1000 limits: {statistics.median(times):.2f} ms, {len(page)} bytes; CPU {admin:.2f} ms on the thread "
        f"of the administration, {sum(used.values()):.3f} ms on all others"
    )
    for what, value in (("ms", times), ("bytes", [len(page)]), ("admin CPU ms", [admin]), ("other CPU ms", [sum(used.values())])):
        figures.add("1000 limits", "/metrics", what, value)
    proxy.stop()
    figures.write(ARGS.json)


if __name__ == "__main__":
    main()
