"""The plots of benches/plot.py: SVG, the same bytes for the same figures and the same matplotlib.

Whose a bar or a line is, is said by its pattern or its mark as well as by its colour. Text and paper change with the
reader's light or dark scheme; both are drawn, so that a page of the other kind does no harm.
"""
import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import EngFormatter, ScalarFormatter  # noqa: E402

import tables  # noqa: E402
from tables import OURS, PEER, TITLES, figure  # noqa: E402

PAPER, INK, FAINT = "#ffffff", "#1f2328", "#d1d9e0"
DARK = {PAPER: "#0d1117", INK: "#e6edf3", FAINT: "#3d444d"}
# Colour, pattern, mark, line.
STYLES = {
    "ours": ("#2f81f7", "", "o", "-"),
    "nginx": ("#8c959f", "//", "s", "--"),
    "governor": ("#8c959f", "//", "s", "--"),
    "HAProxy": ("#bf8700", "..", "^", "-."),
    "dashmap": ("#bf8700", "..", "^", "-."),
    "Envoy": ("#a371f7", "xx", "D", ":"),
    "mutex": ("#a371f7", "xx", "D", ":"),
}


def settings(digest):
    return {
        "svg.hashsalt": digest, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "hatch.linewidth": 0.6,
        "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.edgecolor": FAINT, "text.color": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": FAINT, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False,
    }


def save(plot, path, digest):
    plot.savefig(path, format="svg", metadata={"Date": None, "Creator": f"benches/plot.py, figures {digest}"}, bbox_inches="tight")
    pyplot.close(plot)
    with open(path) as file:
        text = file.read()
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}' for light, dark in DARK.items() for what in ("fill", "stroke")
    )
    style = f'<style type="text/css">@media (prefers-color-scheme: dark){{{rules}}}</style>'
    at = text.index(">", text.index("<svg ")) + 1
    with open(path, "w") as file:
        file.write(text[:at] + "\n " + style + text[at:])


def bars(groups, title, unit, log=False):
    """Groups of (label, [(whose, figure)]), from top to bottom; the line on a bar is from quartile to quartile."""
    groups = [(label, [(whose, one) for whose, one in bars if one]) for label, bars in groups]
    groups = [(label, bars) for label, bars in groups if bars]
    count = sum(len(bars) for _, bars in groups) + 0.6 * len(groups)
    plot, axes = pyplot.subplots(figsize=(7.6, 0.9 + 0.21 * count))
    at, ticks, seen = 0.0, [], {}
    for label, bars in groups:
        ticks.append((at + (len(bars) - 1) / 2, label))
        for whose, one in bars:
            colour, pattern, _, _ = STYLES[whose]
            bar = axes.barh(at, one["median"], 0.84, color=colour, hatch=pattern, edgecolor=PAPER, linewidth=0)
            seen.setdefault(whose, bar)
            if one["samples"] > 1:
                axes.plot([one["low"], one["high"]], [at, at], color=INK, linewidth=1.2, solid_capstyle="butt")
            axes.annotate(tables.number(one["median"]), (max(one["median"], one["high"]), at), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=8)
            at += 1
        at += 0.6
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.margins(x=0.12)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(seen.values(), seen.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.4, handleheight=1.2)
    return plot


def lines(curves, title, across, up, ticks=None, log_y=False):
    """Curves of (whose, [(x, figure)]); at each x is a tick unless others are given."""
    plot, axes = pyplot.subplots(figsize=(7.6, 3.2))
    for whose, points in curves:
        points = [(x, one) for x, one in points if one]
        if not points:
            continue
        colour, _, mark, line = STYLES[whose]
        places, medians = [x for x, _ in points], [one["median"] for _, one in points]
        axes.plot(places, medians, color=colour, marker=mark, linestyle=line, label=whose, markersize=5)
        axes.vlines(places, [one["low"] for _, one in points], [one["high"] for _, one in points], color=colour, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xticks(ticks or [x for x, _ in curves[0][1]])
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.minorticks_off()
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.set_ylim(0, 1.1 * max(one["high"] for _, points in curves for _, one in points if one))
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, loc="left", fontsize=10)
    if len(curves) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    return plot


def decision():
    whose = ((OURS, "ours"), (PEER, "governor"))
    groups = [(case, [(name, figure("decision", case, who, "ns")) for who, name in whose]) for case in tables.DECISIONS]
    return bars(groups, "A decision in memory, beside governor", "ns a decision, logarithmic", log=True)


def limits():
    def curve(who):
        cases = {count: f"10 k keys, {count} limit{'s' * (count > 1)}, 1 thread" for count in tables.LIMITS}
        return [(count, figure("decision", case, who, "ns")) for count, case in cases.items()]

    return lines([("ours", curve(OURS)), ("governor", curve(PEER))], "Limits in one decision", "limits", "ns a decision", log_y=True)


def growth():
    points = [(int(one["case"].split()[0]), one) for one in tables.result("growth")["figures"] if one["what"] == "bytes a key"]
    return lines([("ours", points)], "Memory while a table grows", "keys", "bytes a key", [1e5, 1e6, 5e6])


def redis():
    cases = []
    for one in tables.result("redis")["figures"]:
        if one["case"] not in cases:
            cases.append(one["case"])
    groups = []
    for case in cases:
        whose = "ours" if case.startswith("ours") else "nginx"
        groups.append((case.removeprefix("ours, "), [(whose, figure("redis", case, "ratelimit-redis", "server µs"))]))
    plot = bars(groups, "A decision in Redis", "CPU µs of the server a decision")
    legend = plot.axes[0].get_legend()
    for text in legend.get_texts():
        text.set_text({"nginx": "to compare"}.get(text.get_text(), text.get_text()))
    return plot


def proxied(part, works):
    return [(title, [(name, figure(part, case, who, "CPU µs")) for who, name in TITLES.items()]) for case, title in works.items()]


def proxy():
    groups = proxied("proxy", tables.WORKS)
    for case in ("HTTP/2", "HTTP/2 over TLS"):
        groups.append((case, [(TITLES[who], figure("http2", case, who, "CPU µs a request")) for who in TITLES]))
    return bars(groups, "A request through the proxy", "CPU µs of the proxy a request")


def bodies():
    return bars(proxied("bodies", tables.BODIES), "Bodies", "CPU µs of the proxy a request, logarithmic", log=True)


def connections():
    def curve(who):
        return [(count, figure("proxy" if count == 64 else "connections", case, who, "CPU µs"))
                for count, case in tables.CONNECTIONS.items()]

    curves = [(name, curve(who)) for who, name in TITLES.items()]
    return lines(curves, "Connections", "keep-alive connections", "CPU µs of the proxy a request")


def latency():
    groups = []
    for work in ("allowed", "denied"):
        for what in ("p50", "p99", "p99.9"):
            for share in tables.SHARES:
                case = f"{work}, {share} %"
                label = f"{work}, {what}, {share} % load"
                groups.append((label, [(who, figure("latency", case, who, f"{what} µs")) for who in ("ours", "nginx")]))
    return bars(groups, "Time to an answer, open-loop load", "µs from when the request was due, logarithmic", log=True)


def draw(name, path, digest):
    make = {"decision": decision, "limits": limits, "growth": growth, "redis": redis, "proxy": proxy, "bodies": bodies,
            "connections": connections, "latency": latency}[name]
    with matplotlib.rc_context(settings(digest)):
        save(make(), path, digest)
