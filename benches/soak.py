#!/usr/bin/env python3
"""A proxy under load for minutes or hours, with keys, connections, quotas and configurations that come and go: does it stay
the same?

    cargo build --release -p ratelimit-proxy && benches/soak.py 60      # minutes; 10 if absent
    benches/soak.py 60 --rate 500 --program target/debug/ratelimit-proxy

Prints a line for each look, and fails unless, after a third of the time as warm-up,
- memory is flat: the trend over the rest is within its own scatter (three standard errors), or less than 1 %;
- descriptors at rest (all clients away for a moment) and threads are what they were, give or take three descriptors;
- no background task died, nothing panicked, no line of the log is an error, and every answer was one there may be.

The memory store holds 20 000 keys here, so that the table is as large as it gets before the warm-up ends. Short runs are
judged by `ratelimit-proxy/tests/end_to_end/soak.rs`, at each run of the tests.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time

PAUSE = 20  # seconds of load between two looks
ALLOWED = {200, 400, 413, 429}


def configuration(origin, number):
    return f"""\
listen: 127.0.0.1:0
admin: 127.0.0.1:0
upstream: http://127.0.0.1:{origin}
log: {{requests: off}}
server: {{threads: 2}}
store: {{memory: {{max_keys: 20000}}}}
limits:
  - {{name: key, key: header.x-key, rate: {1000 + number % 100}/min}}
  - {{name: window, key: header.x-key, rate: 100/min, algorithm: sliding_window}}
  - {{name: once, match: {{path: /once}}, rate: 1/day}}
  - {{name: slow, match: {{path: /slow}}, key: header.x-key, concurrency: 2}}
"""


async def origin(reader, writer):
    """A service that answers everything with two bytes."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if length:
                await reader.readexactly(int(length[1]))
            if b"upgrade: echo" in head.lower():
                writer.write(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
                while data := await reader.read(4096):
                    writer.write(data)
                    await writer.drain()
                return
            if head.startswith(b"GET /slow"):
                await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(reader):
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head.split(b" ", 2)[1]), body


class Soak:
    def __init__(self, port, rate):
        self.port, self.rate = port, rate
        self.file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
        self.write(0)
        self.log, self.found, self.answers = [], {}, {}
        self.requests = self.reloads = self.overrides = self.keys = 0

    def write(self, number):
        self.file.seek(0)
        self.file.truncate()
        self.file.write(configuration(self.port, number))
        self.file.flush()

    async def start(self, program):
        argv = [program, "--config", self.file.name, "--log", "json"]
        self.child = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
        self.listened = asyncio.Event()
        self.reading = asyncio.create_task(self.read())
        await asyncio.wait_for(self.listened.wait(), 10)
        # What it admits is used up: uploads there are denied from now on.
        reader, writer = await self.connect()
        writer.write(b"GET /once HTTP/1.1\r\nHost: soak\r\nx-key: first\r\n\r\n")
        await self.told(reader)
        writer.close()

    async def read(self):
        async for line in self.child.stderr:
            told = json.loads(line)
            if told.get("message") in ("listening", "administration"):
                self.found[told["message"]] = told["address"].rsplit("/", 1)[-1].split(":")
            if told.get("level") in ("ERROR",):
                self.log.append(told)
            if len(self.found) == 2:
                self.listened.set()

    def key(self):
        self.keys += 1
        # A few that come again and again, and ever new ones.
        return f"hot-{self.keys % 50}" if self.keys % 2 else f"key-{self.keys}"

    async def connect(self, which="listening"):
        host, port = self.found[which]
        return await asyncio.open_connection(host, int(port))

    async def told(self, reader):
        status, _ = await answer(reader)
        self.answers[status] = self.answers.get(status, 0) + 1
        self.requests += 1

    async def client(self):
        """One that comes, does one of the things that clients do, and goes."""
        reader, writer = await self.connect()
        try:
            head = lambda line, more="": f"{line} HTTP/1.1\r\nHost: soak\r\nx-key: {self.key()}\r\n{more}\r\n".encode()
            match random.randrange(8):
                case 0:  # half a head
                    writer.write(b"GET / HTTP/1.1\r\nHost: soak\r\n")
                case 1:  # half a body
                    writer.write(head("POST /", "Content-Length: 1000\r\n") + b"half")
                    await writer.drain()
                case 2:  # denied in the middle of an upload
                    writer.write(head("POST /once", "Content-Length: 100000\r\n") + b"half")
                    await self.told(reader)
                case 3:  # no HTTP
                    writer.write(b"nonsense\r\n\r\n")
                    await self.told(reader)
                case 4:  # a tunnel
                    writer.write(head("GET /", "Connection: upgrade\r\nUpgrade: echo\r\n"))
                    status = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).split(b" ", 2)[1]
                    if status == b"101":
                        writer.write(b"there and back")
                        await reader.readexactly(14)
                case 5:  # goes away while its answer is made
                    writer.write(head("GET /slow"))
                    await writer.drain()
                case _:
                    for _ in range(random.randrange(1, 40)):
                        writer.write(head("GET /"))
                        await self.told(reader)
                        await asyncio.sleep(random.expovariate(self.rate / 8))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def clients(self, until):
        while time.monotonic() < until:
            await self.client()

    async def admin(self, method, path, body=b""):
        reader, writer = await self.connect("administration")
        kind = "Content-Type: application/json\r\n" if body else ""
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status, body = await answer(reader)
        writer.close()
        assert status < 300, (method, path, status, body)
        return body.decode()

    async def operator(self, until):
        while time.monotonic() < until:
            path = f"/api/limits/key/overrides/key-{self.keys}"
            await self.admin("PUT", path, b'{"rate": "100/s"}')
            await self.admin("DELETE", path)
            await self.admin("DELETE", "/api/limits/key/keys/hot-1")
            await self.admin("GET", "/api/stats")
            await self.admin("GET", "/api/limits/key/keys?by=denied")
            self.overrides += 1
            if self.overrides % 5 == 0:
                self.reloads += 1
                self.write(self.reloads)
                await self.admin("POST", "/api/reload")
            await asyncio.sleep(0.2)

    def count(self, what):
        return len(os.listdir(f"/proc/{self.child.pid}/{what}"))

    def resident(self):
        with open(f"/proc/{self.child.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def look(self):
        """When all clients are gone."""
        metrics, patience = "", time.monotonic() + 30
        while "\nproxy_connections 0" not in metrics:
            assert time.monotonic() < patience, "connections stay, though all clients are gone"
            await asyncio.sleep(0.1)
            metrics = await self.admin("GET", "/metrics")
        descriptors = 10**9
        for _ in range(20):
            descriptors = min(descriptors, self.count("fd"))
            await asyncio.sleep(0.05)
        number = lambda name: float(re.search(rf"^{name} (\S+)$", metrics, re.M)[1])
        died = number("proxy_panics_total") + number("proxy_task_restarts_total")
        return time.monotonic(), self.resident(), descriptors, self.count("task"), died


def trend(points):
    """Growth from the first point to the last by least squares, and its standard error."""
    times, values = [p[0] for p in points], [p[1] for p in points]
    mean_t, mean_v = statistics.fmean(times), statistics.fmean(values)
    spread = sum((t - mean_t) ** 2 for t in times)
    slope = sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values)) / spread
    left = sum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in zip(times, values))
    error = (left / max(len(points) - 2, 1) / spread) ** 0.5
    length = times[-1] - times[0]
    return slope * length, error * length, mean_v


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("minutes", type=float, nargs="?", default=10)
    arguments.add_argument("--rate", type=float, default=300, help="requests a second, about")
    arguments.add_argument("--program", default="target/release/ratelimit-proxy")
    given = arguments.parse_args()
    server = await asyncio.start_server(origin, "127.0.0.1", 0)
    soak = Soak(server.sockets[0].getsockname()[1], given.rate)
    await soak.start(given.program)
    began, looks = time.monotonic(), []
    while time.monotonic() - began < given.minutes * 60:
        until = time.monotonic() + min(PAUSE, given.minutes * 60 / 12)
        await asyncio.gather(*(soak.clients(until) for _ in range(8)), soak.operator(until))
        looks.append(await soak.look())
        at, memory, descriptors, threads, died = looks[-1]
        print(
            f"{at - began:6.0f} s  {memory:7.2f} MiB  {descriptors} descriptors  {threads} threads  {died:.0f} died  "
            f"{soak.requests} requests, {soak.keys} keys, {soak.overrides} overrides, {soak.reloads} reloads",
            flush=True,
        )
    soak.child.terminate()
    status = await soak.child.wait()
    warm = looks[len(looks) // 3 :]
    grown, error, mean = trend(warm)
    print(f"memory after warm-up: {grown:+.2f} MiB ± {error:.2f} of {mean:.1f} in {(warm[-1][0] - warm[0][0]) / 60:.1f} min; answers {soak.answers}")
    wrong = []
    if grown > max(3 * error, mean / 100):
        wrong.append(f"memory grew by {grown:.2f} MiB, ± {error:.2f}")
    if max(look[2] for look in warm) > warm[0][2] + 3:
        wrong.append(f"descriptors: {[look[2] for look in warm]}")
    if len({look[3] for look in warm}) > 1:
        wrong.append(f"threads: {[look[3] for look in warm]}")
    if looks[-1][4]:
        wrong.append(f"{looks[-1][4]:.0f} panics and background tasks that died")
    if soak.log:
        wrong.append(f"the log has {len(soak.log)} errors, first {soak.log[0]}")
    if unknown := set(soak.answers) - ALLOWED:
        wrong.append(f"answers that there must not be: {unknown}")
    if status:
        wrong.append(f"exit code {status}")
    for line in wrong:
        print("FAILED:", line)
    sys.exit(1 if wrong else 0)


asyncio.run(main())
