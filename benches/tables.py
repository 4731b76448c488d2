"""What the tables of the READMEs say, from benches/results: [`table`] gives one by its name."""
import functools
import hashlib
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, "results")
# Each plot with the parts that it shows.
PLOTS = {
    "decision": ["decision"],
    "limits": ["decision"],
    "growth": ["growth"],
    "redis": ["redis"],
    "proxy": ["proxy", "http2"],
    "bodies": ["bodies"],
    "connections": ["proxy", "connections"],
    "latency": ["latency"],
}
# Above which table each stands, and what it shows.
ALTERNATIVES = {
    "decision": "Nanoseconds a decision beside governor, by keys and threads",
    "limits": "Nanoseconds a decision over 1, 2, 8 and 32 limits, beside governor",
    "growth": "Bytes a key while a table grows to five million",
    "redis": "CPU of Redis a decision: ours, one EVALSHA each, INCR",
    "proxy": "CPU a request of ours, nginx, HAProxy and Envoy: allowed, denied, two limits, HTTP/2, TLS",
    "bodies": "CPU a request with bodies: ours, nginx, HAProxy, Envoy",
    "connections": "CPU a request by the number of connections: ours, nginx, HAProxy, Envoy",
    "latency": "p50, p99 and p99.9 at 25, 50 and 75 % of what nginx answers at most, ours and nginx",
}
SHORT = ("proxy", "decision", "latency")
OURS, PEER = "ratelimit-core", "governor"
PEERS = ("nginx", "haproxy", "envoy")
TITLES = {"ours": "ours", "nginx": "nginx", "haproxy": "HAProxy", "envoy": "Envoy"}
DECISIONS = [f"{keys}, {threads}" for threads in ("1 thread", "2 threads")
             for keys in ("1 key", "1 key, denied", "10 k keys", "1 M keys", "5 M keys")]
LIMITS = [1, 2, 8, 32]
WORKS = {"allowed": "allowed", "denied": "denied", "two": "two limits"}
BODIES = {"large": "an answer of 10 kB", "huge": "an answer of 1 MB", "upload": "an upload of 10 kB"}
H2 = {
    "HTTP/2": ("HTTP/2, 8 connections with 32 streams", "CPU µs a request"),
    "HTTP/2 over TLS": ("the same over TLS", "CPU µs a request"),
    "TLS handshakes": ("TLS handshakes, ECDSA P-256, none resumed", "CPU µs each"),
}
CONNECTIONS = {1: "allowed, 1 connections", 64: "allowed", 1000: "allowed, 1000 connections", 9000: "allowed, 9000 connections"}
SHARES = (25, 50, 75)


def path(part):
    return os.path.join(RESULTS, f"{part}.json")


def there(*parts):
    return all(os.path.exists(path(part)) for part in parts)


@functools.cache
def result(part):
    if not there(part):
        return None
    with open(path(part)) as file:
        return json.load(file)


def digest(*parts):
    """Of the figures, and of how they are shown."""
    told = hashlib.sha256()
    for part in parts:
        told.update(json.dumps([result(part)[key] for key in ("date", "commit", "figures")]).encode())
    for name in ("tables.py", "pictures.py"):
        with open(os.path.join(HERE, name), "rb") as file:
            told.update(file.read())
    return told.hexdigest()[:16]


def figure(part, case, who, what):
    for one in (result(part) or {}).get("figures", []):
        if (one["case"], one["who"], one["what"]) == (case, who, what):
            return one
    return None


def number(value):
    """Three digits, or all before the point."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def cell(part, case, who, what, spread=True):
    one = figure(part, case, who, what)
    if one is None:
        return "–"
    if not spread or one["samples"] == 1:
        return number(one["median"])
    return f"{number(one['median'])} ({number(one['low'])}–{number(one['high'])})"


def over(mine, theirs):
    """The ratio of two medians of one run."""
    return f"{mine['median'] / theirs['median']:.2f}" if mine and theirs else "–"


def grid(header, rows):
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    lines = [header, ["---"] * len(header)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if rows else ""


def taken(*parts):
    """When and on what, under a table."""
    known = [result(part) for part in parts if result(part)]
    if not known:
        return "Not taken yet."
    seen = []
    for one in known:
        machine = one["machine"]
        text = f"{one['date']}, commit {one['commit']}, {machine['cores']} × {machine['processor']}, Linux {machine['kernel']}"
        text += f": `{one['command']}`"
        if text not in seen:
            seen.append(text)
    return "\n\n" + "; ".join(seen) + "."


def decisions(cases, name=str):
    rows = []
    for case in cases:
        row = [name(case), cell("decision", case, OURS, "ns"), cell("decision", case, PEER, "ns")]
        row += [cell("decision", case, OURS, "times as fast")]
        rows.append(row + [cell("decision", case, raw, "ns", False) for raw in ("dashmap", "mutex")])
    return grid(["", f"{OURS} ns", f"{PEER} ns", "times as fast", "dashmap ns", "mutex ns"], rows) + taken("decision")


def decision():
    return decisions(DECISIONS)


def limits():
    return decisions([f"10 k keys, {count} limit{'s' * (count > 1)}, 1 thread" for count in LIMITS])


def growth():
    rows = [
        ["bytes a key at most, 100 k to 5 M keys", cell("growth", "all", OURS, "bytes a key at most")],
        ["processor time of the slowest call of five million, µs", cell("growth", "all", OURS, "µs of the slowest call")],
        ["churn: each key new, recovered after a second, ns a key", cell("growth", "churn", OURS, "ns a key")],
    ]
    return grid(["", "measured"], rows) + taken("growth")


def redis():
    cases = []
    for one in (result("redis") or {}).get("figures", []):
        if one["case"] not in cases:
            cases.append(one["case"])
    whats = ("a call", "server µs", "× one EVALSHA", "client µs")
    rows = [[case] + [cell("redis", case, "ratelimit-redis", what, what == "server µs") for what in whats] for case in cases]
    header = ["", "decisions a call", "CPU of Redis, µs a decision", "× one `EVALSHA`", "CPU of the client, µs"]
    mine, bare = (figure("redis", "alone", who, "µs") for who in ("ratelimit-redis", "a bare EVALSHA"))
    told = ""
    if mine and bare:
        most = [cell("redis", "alone", who, "p99 µs") for who in ("ratelimit-redis", "a bare EVALSHA")]
        told = f"\n\nA decision that is alone takes {number(mine['median'])} µs, at p99 {most[0]}; a bare `EVALSHA` over a connection of its "
        told += f"own {number(bare['median'])} and {most[1]}."
    return grid(header, rows) + told + taken("redis")


def redis_instructions():
    columns = {"again": "keys that are there", "new": "new keys", "denied": "denied", "two": "two limits", "two denied": "two, denied"}
    part, rows = "redis-instructions", []
    for script in ("takes.lua", "decide.lua"):
        row = [f"`{script}`"]
        for case in columns:
            count, ratio = (figure(part, case, script, what) for what in ("instructions", "× one EVALSHA"))
            row.append(f"{count['median'] / 1e3:.1f} k, {ratio['median']:.2f}" if count else "–")
        rows.append(row)
    base = figure(part, "one EVALSHA a decision", "naive", "instructions")
    told = f"\n\nOne `EVALSHA` a decision: {base['median'] / 1e3:.1f} k." if base else ""
    return grid(["", *columns.values()], rows) + told + taken(part)


def leased():
    whats = (("memory", "ns"), ("leased", "ns"), ("leased", "ratio"), ("leased", "waited, of a thousand"))
    rows = [[case] + [cell("leased", case, *what) for what in whats] for case in ("1 keys", "100 keys")]
    return grid(["", "memory ns", "leased ns", "ratio", "waited for the store, of a thousand"], rows) + taken("leased")


def proxies(part, works, peers=PEERS):
    rows = []
    for case, title in works.items():
        row = [title] + [cell(part, case, who, "CPU µs") for who in ("ours", *peers)]
        row += [cell(part, case, "ours", "ratio", False)]
        rows.append(row + [over(figure(part, case, "ours", "CPU µs"), figure(part, case, "envoy", "CPU µs"))])
    header = ["CPU µs a request"] + [TITLES[who] for who in ("ours", *peers)] + ["ours / nginx", "ours / Envoy"]
    return grid(header, rows) + taken(part)


def proxy():
    return proxies("proxy", WORKS)


def bodies():
    return proxies("bodies", BODIES)


def memory():
    rows = [[title] + [cell("proxy", case, who, "RSS KiB") for who in TITLES] for case, title in WORKS.items()]
    return grid(["resident KiB at most", *TITLES.values()], rows) + taken("proxy")


def stores():
    rows = []
    for who in ("ours", "ours, Redis", "ours, leased"):
        row = [{"ours": "memory", "ours, Redis": "strict", "ours, leased": "leased"}[who]]
        rows.append(row + [cell("stores", "allowed", who, what) for what in ("CPU µs", "ratio", "Redis µs", "× one EVALSHA")])
    return grid(["store", "CPU µs a request", "ratio to memory", "CPU of Redis, µs a request", "× one `EVALSHA` a decision"], rows) + taken("stores")


def connections():
    rows = []
    for count, case in CONNECTIONS.items():
        part = "proxy" if count == 64 else "connections"
        row = [f"{count}"]
        for who in TITLES:
            refused = figure(part, case, who, "% not 2xx")
            failed = f", {refused['median']:.1f} % failed" if refused and refused["median"] >= 0.05 else ""
            row.append(cell(part, case, who, "CPU µs") + failed)
        row.append(cell(part, case, "ours", "ratio", False))
        rows.append(row + [cell(part, case, who, "RSS KiB") for who in ("ours", "nginx")])
    header = ["connections", *(f"{title}, CPU µs" for title in TITLES.values()), "ours / nginx", "ours, KiB", "nginx, KiB"]
    return grid(header, rows) + taken("proxy", "connections")


def latency():
    rows = []
    for work in ("allowed", "denied"):
        most = figure("latency", work, "nginx", "requests/s at most")
        for share in SHARES:
            for who in ("ours", "nginx"):
                case = f"{work}, {share} %"
                row = [f"{case} of {most['median']:.0f}/s" if most else case, TITLES[who]]
                row += [cell("latency", case, who, f"{what} µs") for what in ("p50", "p99", "p99.9")]
                rows.append(row + [cell("latency", case, who, "CPU", False), cell("latency", case, who, "p99 late µs", False)])
    rows = [row for row in rows if row[2] != "–"]
    header = ["load", "", "p50 µs", "p99 µs", "p99.9 µs", "% of its processor", "p99 of what the generator was late, µs"]
    return grid(header, rows) + taken("latency")


def system_calls():
    rows = [[work] + [cell("system-calls", work, who, "system calls") for who in ("ours", "nginx")] for work in ("allowed", "denied")]
    return grid(["system calls a request", "ours", "nginx"], rows) + taken("system-calls")


def proxy_instructions():
    rows = []
    for case, title in WORKS.items():
        both = [figure("proxy-instructions", case, who, "instructions") for who in ("ours", "nginx")]
        rows.append([title] + [f"{one['median'] / 1e3:.1f} k" if one else "–" for one in both] + [over(*both)])
    return grid(["instructions a request, user space", "ours", "nginx", "ratio"], rows) + taken("proxy-instructions")


def http2():
    rows = [[title] + [cell("http2", case, who, unit) for who in TITLES] + [cell("http2", case, "ours", "ratio", False)]
            for case, (title, unit) in H2.items()]
    for version in ("HTTP/1.1", "HTTP/2"):
        case = next((one["case"] for one in (result("http2") or {}).get("figures", [])
                     if one["case"].endswith(f"idle connections, {version}")), None)
        if case:
            rows.append([f"an idle connection of {version} that had an answer, KiB"]
                        + [cell("http2", case, who, "KiB each") for who in TITLES] + ["–"])
    return grid(["CPU µs a request or handshake", *TITLES.values(), "ours / nginx"], rows) + taken("http2")


def rls():
    rows = [[case, cell("rls", case, "ours", "CPU µs a question")] for case in ("allowed", "denied")]
    return grid(["", "CPU µs a question"], rows) + taken("rls")


def dashboard():
    rows = []
    for case in ("4 limits", "100 limits"):
        row = [f"{case}, CPU µs a request of the threads of traffic"]
        row += [cell("dashboard", case, who, "CPU µs") for who in ("alone", "dashboard open")]
        rows.append(row + [cell("dashboard", case, "dashboard open", "admin ms/s")])
    page = {what: figure("dashboard", "1000 limits", "/metrics", what) for what in ("ms", "bytes", "admin CPU ms", "other CPU ms")}
    told = ""
    if page["ms"]:
        told = f"\n\n`/metrics` with 1000 limits, {page['bytes']['median'] / 1e3:.0f} kB: {page['ms']['median']:.1f} ms, of which "
        told += f"{page['admin CPU ms']['median']:.1f} ms are CPU of the administration's thread and "
        told += f"{page['other CPU ms']['median']:.2f} ms of others."
    header = ["", "alone", "with a dashboard open", "what the dashboard takes, ms of CPU a second"]
    return grid(header, rows) + told + taken("dashboard")


def instructions():
    path = os.path.join(HERE, "instructions.json")
    if not os.path.exists(path):
        return "Not there yet."
    with open(path) as file:
        baseline = json.load(file)
    rows = [[case, str(count)] for case, count in baseline["instructions"].items()]
    told = ", ".join(f"{name} {value}" for name, value in baseline["with"].items())
    return grid(["", "instructions"], rows) + f"\n\nCounted with {told}."


# What was aimed at: title, part, case, ours, what, peer, least or most, aim.
GOALS = [
    ("proxy, allowed, beside nginx", "proxy", "allowed", "ours", "CPU µs", "nginx", 0.8),
    ("proxy, two limits, beside nginx", "proxy", "two", "ours", "CPU µs", "nginx", 0.8),
    ("proxy, two limits, beside Envoy", "proxy", "two", "ours", "CPU µs", "envoy", 0.25),
    ("proxy, denied, beside nginx", "proxy", "denied", "ours", "CPU µs", "nginx", 0.8),
    ("proxy, leased, beside memory", "stores", "allowed", "ours, leased", "CPU µs", "ours", 1.1),
    ("a decision, 1 key, beside governor", "decision", "1 key, 1 thread", PEER, "ns", OURS, -2.0),
    ("10 k keys", "decision", "10 k keys, 1 thread", PEER, "ns", OURS, -1.6),
    ("1 M keys", "decision", "1 M keys, 1 thread", PEER, "ns", OURS, -2.8),
    ("1 key, two threads", "decision", "1 key, 2 threads", PEER, "ns", OURS, -2.7),
    ("1 key, denied, two threads", "decision", "1 key, denied, 2 threads", PEER, "ns", OURS, -5.0),
    ("1 M keys, two threads", "decision", "1 M keys, 2 threads", PEER, "ns", OURS, -3.5),
    ("p99 at half load, allowed, beside nginx", "latency", "allowed, 50 %", "ours", "p99 µs", "nginx", 1.0),
    ("p99 at half load, denied, beside nginx", "latency", "denied, 50 %", "ours", "p99 µs", "nginx", 1.0),
    ("system calls of an allowed request, beside nginx", "system-calls", "allowed", "ours", "system calls", "nginx", None),
]


def goals():
    rows = []
    for title, part, case, above, what, below, aim in GOALS:
        mine, theirs = figure(part, case, above, what), figure(part, case, below, what)
        if not (mine and theirs):
            continue
        # Of decisions the ratio is how many times as fast ours is.
        ours, peer = (mine, theirs) if aim is None or aim > 0 else (theirs, mine)
        paired = {"decision": "times as fast", "latency": f"ratio of {what}", "proxy": "ratio", "stores": "ratio"}.get(part)
        told = figure(part, case, above if part != "decision" else OURS, paired) if below != "envoy" else None
        ratio = told["median"] if told else mine["median"] / theirs["median"]
        if aim is None:
            wanted, reached = "≤ 5 calls", ours["median"] <= 5
        elif aim > 0:
            wanted, reached = f"≤ {aim:g}", ratio <= aim
        else:
            wanted, reached = f"≥ {-aim:g}", ratio >= -aim
        row = [title, number(ours["median"]), number(peer["median"]), f"{ratio:.2f}", wanted, "yes" if reached else "no"]
        rows.append(row + [f"`benches/run {part}`"])
    redis = figure("redis", "ours, one limit", "ratelimit-redis", "× one EVALSHA")
    if redis:
        mine, theirs = (figure("redis", case, "ratelimit-redis", "server µs")
                        for case in ("ours, one limit", "one EVALSHA a decision, pipelined"))
        rows.append(["CPU of Redis a decision, beside one `EVALSHA` each", number(mine["median"]), number(theirs["median"]),
                     f"{redis['median']:.2f}", "≤ 0.38", "yes" if redis["median"] <= 0.38 else "no", "`benches/run redis`"])
    return grid(["", "ours", "the other", "ratio", "aim", "reached", "command"], rows) or "Not taken yet."


def short():
    """For the front page."""
    rows = []
    for case in ("1 key, 1 thread", "1 M keys, 1 thread", "1 M keys, 2 threads"):
        ratio = figure("decision", case, OURS, "times as fast")
        if not ratio:
            continue
        rows.append([f"a decision in memory, {case}, ns", cell("decision", case, OURS, "ns", False), "governor",
                     cell("decision", case, PEER, "ns", False), f"{ratio['median']:.2f} × as fast"])
    works = [("proxy", "allowed", "CPU µs", "a proxied request, CPU µs"), ("proxy", "denied", "CPU µs", "a denied request, CPU µs"),
             ("http2", "HTTP/2 over TLS", "CPU µs a request", "a request of HTTP/2 over TLS, CPU µs")]
    for part, case, what, title in works:
        for peer in ("nginx", "envoy"):
            mine, theirs = figure(part, case, "ours", what), figure(part, case, peer, what)
            if mine and theirs:
                told = figure(part, case, "ours", "ratio") if peer == "nginx" else None
                ratio = f"{told['median']:.2f}" if told else over(mine, theirs)
                rows.append([title, number(mine["median"]), TITLES[peer], number(theirs["median"]), f"{ratio} × the CPU"])
    mine, theirs = (figure("redis", case, "ratelimit-redis", "server µs")
                    for case in ("ours, one limit", "one EVALSHA a decision, pipelined"))
    if mine and theirs:
        rows.append(["a decision in Redis, CPU µs of the server", number(mine["median"]), "one `EVALSHA` a decision",
                     number(theirs["median"]), f"{over(mine, theirs)} × the CPU"])
    lines = grid(["", "ours", "", "theirs", "ratio"], rows)
    known = [result(part) for part in ("decision", "proxy", "http2", "redis") if result(part)]
    if not known:
        return "Not taken yet."
    days = ", ".join(sorted({one["date"] for one in known}))
    machine = known[0]["machine"]
    return f"{lines}\n\nTaken {days}, on {machine['cores']} × {machine['processor']}, each line in one run."


def table(name, plots):
    """With its plots, which lie in that directory, beneath each other."""
    shown = SHORT if name == "short" else [name] if name in PLOTS else []
    images = [f"![{ALTERNATIVES[plot]}]({plots}/{plot}.svg)" for plot in shown if there(*PLOTS[plot])]
    return "\n\n".join(images + [bare(name)])


def bare(name):
    try:
        make = {
            "bodies": bodies, "connections": connections, "dashboard": dashboard, "decision": decision, "goals": goals,
            "growth": growth, "http2": http2, "latency": latency, "leased": leased, "limits": limits, "memory": memory,
            "instructions": instructions, "proxy": proxy, "proxy-instructions": proxy_instructions, "redis": redis, "redis-instructions": redis_instructions,
            "rls": rls, "short": short, "stores": stores, "system-calls": system_calls,
        }[name]
    except KeyError:
        raise SystemExit(f"error: there is no table {name}") from None
    return make()
