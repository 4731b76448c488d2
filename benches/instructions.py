#!/usr/bin/env python3
"""Instructions of small things, counted under callgrind and compared with the committed baseline.

    benches/instructions.py             fails if something takes over 5 % more than benches/instructions.json says
    benches/instructions.py --accept    writes that file anew, and the README's table
    benches/instructions.py --program P counts what another build does, such as one in another target directory

Counts don't depend on what else the machine does, nor on the directory. They do depend on the compiler, on the C library
and on which instructions the processor has (copies of memory choose by them): where those are not the baseline's, that is
said and nothing is compared. By less than 1 % they depend on where keys happen to fall in a table. An exchange is a request
over loopback to the proxy in the same process, with the few instructions of the client and of the service behind it and
without the kernel's; both wait before they send, until whom they send to sleeps. A decision reads the clock, which is one instruction here and
a third of the time: time is measured by `cargo run --release -p benches --bin decision`.

Needs Debian's valgrind.
"""
import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile

from measured import need

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BASELINE = os.path.join(HERE, "instructions.json")
# More than that is a failure.
TOLERANCE = 0.05
TIMES = 20_000
EXCHANGES = 500
# What the processor has, of what code in the C library or in ours chooses by.
FEATURES = ("sse4_2", "avx", "avx2", "avx512f", "avx512vl", "avx512bw", "bmi1", "bmi2", "erms", "fsrm", "movbe", "rtm")
CASES = [
    "decision",
    "decision, denied",
    "decision, 2 limits",
    "decision, 2 limits, denied",
    "decision, 8 limits",
    "fields",
    "key of a tuple",
    "path, normal",
    "path, escaped",
    "policy, by client",
    "policy, 2 limits by header and path",
    "exchange, allowed",
    "exchange, denied",
]


def circumstances():
    with open("/proc/cpuinfo") as info:
        flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info.read(), re.MULTILINE)
    has = set(flags[1].split()) if flags else set()

    def said(*argv):
        return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()

    return {
        "rustc": said("rustc", "--version"),
        "libc": " ".join(platform.libc_ver()),
        "valgrind": said("valgrind", "--version"),
        "processor": " ".join([platform.machine()] + [name for name in FEATURES if name in has]),
    }


def build():
    argv = ["cargo", "build", "-q", "--release", "-p", "benches", "--bin", "instructions"]
    # Even an empty RUSTFLAGS would take the place of what .cargo/config.toml says.
    environment = {name: value for name, value in os.environ.items() if name != "RUSTFLAGS"}
    subprocess.run(argv, cwd=ROOT, env=environment, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "release", "instructions")


def callgrind(program, case, times, *options):
    with tempfile.TemporaryDirectory() as directory:
        argv = ["valgrind", "--tool=callgrind", *options, f"--callgrind-out-file={directory}/out"]
        run = subprocess.run(argv + [program, case, str(times)], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"error: {case}: {run.stderr}")
        # A dump on the way is what is wanted; what comes after it, at the end, is not.
        dumps = [path for path in (f"{directory}/out.1", f"{directory}/out") if os.path.exists(path)]
        with open(dumps[0]) as out:
            found = re.search(r"^totals: (\d+)", out.read(), re.MULTILINE)
    if not found or not int(found.group(1)):
        sys.exit(f"error: {case}: nothing was counted\n{run.stderr}")
    return int(found.group(1))


def count(program, case):
    """Instructions of one repetition."""
    if case.startswith("exchange"):
        # The work is on several threads, all of which count, from when the first request has been answered: what starting
        # takes depends on the time, as clocks are calibrated.
        options = ["--fair-sched=yes", "--zero-before=*measured*", "--dump-after=*measured*"]
        return callgrind(program, case, EXCHANGES, *options) / EXCHANGES
    return callgrind(program, case, TIMES, "--collect-atstart=no", "--toggle-collect=*measured*") / TIMES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="take what is counted as the new baseline")
    parser.add_argument("--program", help="a build of benches' instructions; it is built unless given")
    args = parser.parse_args()
    need(valgrind="Debian's valgrind")
    known = {"with": {}, "instructions": {}}
    if os.path.exists(BASELINE):
        with open(BASELINE) as file:
            known = json.load(file)
    here = circumstances()
    other = [f"{name} is {now}, was {known['with'].get(name)}" for name, now in here.items() if known["with"].get(name) != now]
    if other and known["with"] and not args.accept:
        print("NOT COMPARED: what counts depend on is not what it was for benches/instructions.json:", *other, sep="\n  ")
        print("Whoever changed it accepts what is counted with it: benches/instructions.py --accept")
        return
    program = args.program or build()
    making = count(program, "keys")
    counted, slower = {}, []
    print("| work | instructions | baseline | change |\n|---|---|---|---|")
    for case in CASES:
        each = count(program, case)
        # What making the key takes is the measurement's.
        counted[case] = round(each - making if case.startswith("decision") else each)
        before = known["instructions"].get(case)
        change = f"{counted[case] / before - 1:+.1%}" if before else "–"
        print(f"| {case} | {counted[case]} | {before or '–'} | {change} |", flush=True)
        if not before or counted[case] > before * (1 + TOLERANCE):
            slower.append(case)
    if args.accept:
        with open(BASELINE, "w") as file:
            json.dump({"with": here, "instructions": counted}, file, indent=2)
            file.write("\n")
        subprocess.run([os.path.join(HERE, "plot.py"), "--tables"], check=True)
    elif slower:
        sys.exit(
            f"\nover {TOLERANCE:.0%} more instructions than benches/instructions.json says, or not there: "
            f"{'; '.join(slower)}.\nIf that is worth it, say why in the commit, and accept the new baseline with"
            "\n    benches/instructions.py --accept"
        )


if __name__ == "__main__":
    main()
