#!/usr/bin/env python3
"""Makes the tables and the plots from benches/results, so that text and figures cannot part.

    benches/plot.py            writes the tables of README.md and benches/README.md, and benches/plots/*.svg
    benches/plot.py --tables   writes the tables only, which needs nothing but Python
    benches/plot.py --check    fails where a table is not what the results give, or a plot was made from others

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`. Plots need PyPI's matplotlib; --check does not: each
plot says which figures it was made from.
"""
import argparse
import os
import re
import sys

import tables

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TEXTS = [os.path.join(ROOT, "README.md"), os.path.join(HERE, "README.md")]
PLOTS = os.path.join(HERE, "plots")
MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text, path):
    plots = os.path.relpath(PLOTS, os.path.dirname(path))
    return MARKED.sub(lambda found: f"{found[1]}\n{tables.table(found[2], plots)}\n\n{found[3]}", text)


def check():
    wrong = []
    for path in TEXTS:
        with open(path) as file:
            text = file.read()
        # Each by itself, so that the one that differs is named.
        for found in MARKED.finditer(text):
            if with_tables(found[0], path) != found[0]:
                wrong.append(f"{os.path.relpath(path, ROOT)}: the table {found[2]}")
    wanted = {f"{name}.svg": tables.digest(*parts) for name, parts in tables.PLOTS.items() if tables.there(*parts)}
    made = {}
    for name in os.listdir(PLOTS) if os.path.isdir(PLOTS) else []:
        with open(os.path.join(PLOTS, name)) as file:
            found = re.search(r"figures ([0-9a-f]{16})", file.read())
        made[name] = found and found[1]
    wrong += [f"benches/plots/{name}" for name in sorted(wanted.keys() | made) if wanted.get(name) != made.get(name)]
    if wrong:
        sys.exit("error: not what benches/results gives:\n  " + "\n  ".join(wrong) + "\nbenches/plot.py writes them anew")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if args.check:
        return check()
    for path in TEXTS:
        with open(path) as file:
            text = file.read()
        with open(path, "w") as file:
            file.write(with_tables(text, path))
    if args.tables:
        return
    try:
        import pictures
    except ImportError as error:
        sys.exit(f"error: {error}; PyPI's matplotlib draws the plots, and the tables are written")

    os.makedirs(PLOTS, exist_ok=True)
    for name, parts in tables.PLOTS.items():
        path = os.path.join(PLOTS, f"{name}.svg")
        if tables.there(*parts):
            pictures.draw(name, path, tables.digest(*parts))
        elif os.path.exists(path):
            os.unlink(path)


if __name__ == "__main__":
    main()
