#!/usr/bin/env python3
"""What a decision costs Redis, in instructions: time on a shared machine can't tell 10 % from noise, these can.

    benches/redis_instructions.py [--json FILE]

Runs redis-server under callgrind and gives it batches of 32 requests for random keys, as `ratelimit-redis` sends them:
decided by scripts/takes.lua, by scripts/decide.lua (which decides everything else too), and, to compare with, one
EVALSHA a decision in pipelines of 32 (the script in src/bin/redis.rs). A row a script; in each column instructions a
limit, and their ratio to one EVALSHA a decision:

    again    keys that are there already
    new      keys that are not
    denied   keys that are full
    two      two limits a request, keys that are there; two denied: the same, full

Needs Debian's redis-server and valgrind.
"""
import argparse
import base64
import glob
import hashlib
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time

from measured import Figures, need

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.join(HERE, "..", "ratelimit-redis", "src", "scripts")
KEYS, BATCHES = 2000, 80
# A bucket of a hundred days, of which a request takes 100 s; nothing comes back while this runs.
CAPACITY, AMOUNT, FULL = 1e13, 1e8, 1.0
# What keys begin with, so that their expiry reaches far enough for them to be changed in place, as busy ones are.
FIRST = 1e11


class Server:
    def __init__(self, directory):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.out = os.path.join(directory, "out")
        argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.out}", "redis-server", "--save", ""]
        argv += ["--port", str(port), "--dir", directory]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                self.stream = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
                return
            except OSError:
                time.sleep(0.1)
        sys.exit("redis-server does not answer")

    def pipeline(self, commands):
        for words in commands:
            words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            self.stream.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        self.stream.flush()
        return [self.answer() for _ in commands]

    def answer(self):
        line = self.stream.readline()
        if line[:1] == b"-":
            sys.exit(line.decode())
        if line[:1] == b"*":
            return [self.answer() for _ in range(int(line[1:]))]
        return self.stream.read(int(line[1:]) + 2)[:-2] if line[:1] == b"$" else line[1:-2]

    def load(self, text):
        return self.pipeline([["SCRIPT", "LOAD", text]])[0]

    def instructions(self):
        """Since the last time."""
        for old in glob.glob(self.out + ".*"):
            os.unlink(old)
        dump = ["callgrind_control", "-d", str(self.process.pid)]
        subprocess.run(dump, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        while True:
            self.pipeline([["PING"]])
            for new in glob.glob(self.out + ".*"):
                with open(new) as file:
                    total = re.search(r"^totals: (\d+)", file.read(), re.MULTILINE)
                if total:
                    return int(total.group(1))


def name(kind, number):
    digest = hashlib.md5(f"{kind}/{number}".encode()).digest()
    return "rl:v1:{10}:t" + base64.urlsafe_b64encode(digest)[:22].decode()


def some(limits, new=False):
    """Names for 32 requests about so many limits, none twice."""
    numbers = random.sample(range(KEYS), 32)
    salt = random.random() if new else ""
    return [name(f"{limit}{salt}", number) for number in numbers for limit in range(limits)]


def takes(names, limits, capacity, amount=AMOUNT):
    per = [limits] + [capacity, capacity, amount] * limits
    form = "<" + ("B" + "ddd" * limits) * (len(names) // limits)
    return [form, struct.pack(form, *per * (len(names) // limits))]


def decide(names, limits, capacity, amount=AMOUNT):
    form, numbers = "<" + "ddd" * len(names) + "B", [capacity, capacity, 0.0] * len(names) + [0]
    for first in range(0, len(names), limits):
        form += "B" + "Bd" * limits
        numbers.append(limits)
        for key in range(first, first + limits):
            numbers += [key + 1, amount]
    return [form, struct.pack(form, *numbers)]


def source(file):
    with open(os.path.join(HERE, file)) as text:
        return text.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    file = parser.parse_args().json
    need(valgrind="Debian's valgrind", redis_server="Debian's redis-server")
    figures = Figures()
    with tempfile.TemporaryDirectory() as directory:
        server = Server(directory)
        try:
            naive = re.search(r'const NAIVE: &str = r"(.*?)";', source("src/bin/redis.rs"), re.DOTALL).group(1)
            sha = server.load(naive)

            def one_each():
                names = [f"naive:client-{random.randrange(KEYS):020}" for _ in range(32)]
                server.pipeline([["EVALSHA", sha, 1, key, 10_000, 10_000_000_000] for key in names])

            def per_decision(work):
                for _ in range(10):
                    work()
                server.instructions()
                for _ in range(BATCHES):
                    work()
                return server.instructions() / BATCHES / 32

            base = per_decision(one_each)
            figures.add("one EVALSHA a decision", "naive", "instructions", [base])
            print(f"one EVALSHA a decision: {base:.0f} instructions\n")
            print("| | again | new | denied | two | two denied |")
            print("|---|---|---|---|---|---|")
            for script, arguments in [("takes.lua", takes), ("decide.lua", decide)]:
                text = source(os.path.join(SCRIPTS, script))
                sha_of = server.load(text)
                server.pipeline([["FLUSHALL"]])

                def call(names, *what):
                    return ["EVALSHA", sha_of, len(names), *names, *arguments(names, *what)]

                for limit in range(2):
                    for first in range(0, KEYS, 50):
                        names = [name(str(limit), number) for number in range(first, first + 50)]
                        server.pipeline([call(names, 1, CAPACITY, FIRST)])

                def cost(limits, capacity, new=False):
                    # Two under way at once, as the client has them.
                    pair = lambda: server.pipeline([call(some(limits, new), limits, capacity) for _ in range(2)])
                    return per_decision(pair) / 2 / limits

                columns = [(1, CAPACITY), (1, CAPACITY, True), (1, FULL), (2, CAPACITY), (2, FULL)]
                costs = [cost(*column) for column in columns]
                for case, each in zip(("again", "new", "denied", "two", "two denied"), costs):
                    figures.add(case, script, "instructions", [each])
                    figures.add(case, script, "× one EVALSHA", [each / base])
                print(f"| {script} | " + " | ".join(f"{each:.0f}, {each / base:.2f}" for each in costs) + " |")
            figures.write(file)
        finally:
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    main()
