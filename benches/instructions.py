#!/usr/bin/env python3
"""Instructions of small things, counted under callgrind and compared with the committed baseline.

    benches/instructions.py             fails if something takes over 5 % more than benches/instructions.json says
    benches/instructions.py --accept    writes that file anew

Counts don't depend on what else the machine does. They do depend on the compiler, which rust-toolchain.toml names, and
by less than 1 % on where keys happen to fall in a table. A decision reads the clock, which is one instruction here and
a third of the time: time is measured by `cargo run --release -p benches --bin decision`.

Needs Debian's valgrind.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BASELINE = os.path.join(HERE, "instructions.json")
# More than that is a failure.
TOLERANCE = 0.05
TIMES = 20_000
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
]


def build():
    argv = ["cargo", "build", "-q", "--release", "-p", "benches", "--bin", "instructions"]
    # Even an empty RUSTFLAGS would take the place of what .cargo/config.toml says.
    environment = {name: value for name, value in os.environ.items() if name != "RUSTFLAGS"}
    subprocess.run(argv, cwd=ROOT, env=environment, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "release", "instructions")


def count(program, case):
    """Instructions of one repetition."""
    with tempfile.TemporaryDirectory() as directory:
        argv = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured*"]
        argv += [f"--callgrind-out-file={directory}/out", program, case, str(TIMES)]
        run = subprocess.run(argv, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode or not found or not int(found.group(1)):
        sys.exit(f"{case}: nothing was counted\n{run.stderr}")
    return int(found.group(1)) / TIMES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="take what is counted as the new baseline")
    accept = parser.parse_args().accept
    known = {}
    if os.path.exists(BASELINE):
        with open(BASELINE) as file:
            known = json.load(file)
    program = build()
    making = count(program, "keys")
    counted, slower = {}, []
    print("| work | instructions | baseline | change |\n|---|---|---|---|")
    for case in CASES:
        each = count(program, case)
        # What making the key takes is the measurement's.
        counted[case] = round(each - making if case.startswith("decision") else each)
        before = known.get(case)
        change = f"{counted[case] / before - 1:+.1%}" if before else "–"
        print(f"| {case} | {counted[case]} | {before or '–'} | {change} |", flush=True)
        if not before or counted[case] > before * (1 + TOLERANCE):
            slower.append(case)
    if accept:
        with open(BASELINE, "w") as file:
            json.dump(counted, file, indent=2)
            file.write("\n")
    elif slower:
        sys.exit(
            f"\nover {TOLERANCE:.0%} more instructions than benches/instructions.json says, or not there: "
            f"{'; '.join(slower)}.\nIf that is worth it, say why in the commit, and accept the new baseline with"
            "\n    benches/instructions.py --accept"
        )


if __name__ == "__main__":
    main()
