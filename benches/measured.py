"""What the scripts have in common: figures with their quartiles, written with `--json FILE`, as the programs in
benches/src do (report.rs), and what they need named where it is missing.

A figure says what it is of (`case`), whose it is (`who`) and what was measured (`what`).
"""
import json
import shutil
import sys


def quartiles(samples):
    """The lower quartile, the median and the upper one: samples, none between two."""
    ordered = sorted(samples)
    return [ordered[len(ordered) * quarter // 4] for quarter in (1, 2, 3)]


class Figures:
    def __init__(self):
        self.figures = []

    def add(self, case, who, what, samples):
        low, median, high = (round(value, 6) for value in quartiles(samples))
        spread = {"median": median, "low": low, "high": high, "samples": len(samples)}
        self.figures.append({"case": case, "who": who, "what": what, **spread})

    def ratio(self, case, who, what, samples, base):
        """Round by round, so that it is taken between neighbours."""
        self.add(case, who, what, [mine / theirs for mine, theirs in zip(samples, base)])

    def write(self, path):
        if path:
            with open(path, "w") as file:
                json.dump(self.figures, file, indent=2, ensure_ascii=False)
                file.write("\n")


def spread(samples, digits=2):
    low, median, high = quartiles(samples)
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def need(**packages):
    """Ends where a program is missing. Each with the package that brings it; `_` stands for `-`."""
    missing = []
    for program, package in packages.items():
        program = program.replace("_", "-")
        if not shutil.which(program):
            missing.append(f"{program} ({package})")
    if missing:
        sys.exit(f"error: not on the path: {', '.join(missing)}")
