#!/usr/bin/env python3
"""Proves by SMT that no number in src/algorithm overflows, at full width, and what a single step promises.

Each function below is a transcription. `says(...)` names the lines it transcribes, and fails if the source no longer has
them: then the transcription has to follow. tests/ run the source itself, exhaustively for small numbers; here the numbers
are all there are. Two proofs are of a lemma that the others use: the product of what is at most a and at most b is at
most a · b.

    proofs/arithmetic.py            all proofs
    proofs/arithmetic.py --broken   each with a fault built in, which has to be found

Needs the PyPI package z3-solver.
"""

import pathlib
import sys

from z3 import And, If, Implies, Int, Not, Or, Solver, sat, unsat

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "src" / "algorithm"
U32, U64, U128 = 2**32, 2**64, 2**128
TICKS = 1 << 10
HORIZON = 1 << 70
LAST_NANO = (1 << 60) - 1
HELD_UP = 10**9
BROKEN = "--broken" in sys.argv[1:]

results = []


def says(file, *lines):
    text = " ".join((SOURCE / file).read_text().split())
    for line in lines:
        if " ".join(line.split()) not in text:
            sys.exit(f"{file} does not say any more: {line}\nthe transcription in {__file__} has to follow it")


def prove(name, given, claim, breaks=None):
    """Shows that nothing given contradicts the claim; and that some does once `breaks` is claimed instead."""
    solver = Solver()
    solver.set("timeout", 60_000)
    solver.add(*given)
    solver.add(Not(claim if not BROKEN or breaks is None else breaks))
    found = solver.check()
    expected = sat if BROKEN and breaks is not None else unsat
    results.append(found == expected)
    word = {"unsat": "holds", "sat": "counterexample"}.get(str(found), "unknown")
    print(f"{'ok' if found == expected else 'FAILED'}  {name}: {word}")
    if found == sat and expected == unsat:
        print(f"    {solver.model()}")


def least(a, b):
    return If(a <= b, a, b)


def most(a, b):
    return If(a >= b, a, b)


def minus(a, b):
    """saturating_sub"""
    return If(a >= b, a - b, 0)


def nat(name, below):
    value = Int(name)
    return value, And(value >= 0, value < below)


def nanos(name, ticks):
    """to_nanos: divided, rounded up. Gives the quotient and what defines it."""
    quotient = Int(name)
    return quotient, And(quotient * TICKS >= ticks, quotient * TICKS < ticks + TICKS)


# ---------------------------------------------------------------------------------------------------------------- gcra

says(
    "gcra.rs",
    "const TICK_BITS: u32 = 10;",
    "const HORIZON: u128 = 1 << 70;",
    "const LAST_NANO: u64 = (1 << 60) - 1;",
    "let interval = (u128::from(period.get()) << TICK_BITS).div_ceil(u128::from(count));",
    "let tolerance = interval * u128::from(burst);",
    "let debt = interval * u128::from(debt);",
    "(tolerance + debt < HORIZON)",
    "let full = now + self.tolerance;",
    "let most = full + self.debt;",
    "let cut = tat > most + to_ticks(HELD_UP);",
    "let base = if cut { most } else { tat.max(now) };",
    "if units > self.burst {",
    "let after = base + self.interval * u128::from(units); if after > full {",
    "Some(to_nanos(after - full))",
    "let after = (base + self.interval * u128::from(units)).min(most).max(base);",
    "let credit = receipt.map_or(gross, |charge| gross.min(charge.mark().saturating_sub(now)));",
    "let after = base.saturating_sub(credit).max(now);",
    "let used = u128::from(to_nanos(tat.saturating_sub(now)).get());",
    "let used = if from == 0 { used } else { (used * to).div_ceil(from) };",
    "let after = if tat > now { (now + (used.min(HORIZON) << TICK_BITS)).min(most) } else { tat };",
    "u128::from(time.get().min(LAST_NANO)) << TICK_BITS",
    "ticks.div_ceil(1 << TICK_BITS)",
    "let room = (now + self.tolerance).saturating_sub(level);",
)
says("mod.rs", "pub const HELD_UP: Nanos = Nanos::from_secs(1);")

a, b, x, y = Int("a"), Int("b"), Int("x"), Int("y")
prove(
    "a product is at most that of the bounds",
    [0 <= a, a <= x, 0 <= b, b <= y],
    a * b <= x * y,
)

count, is_count = nat("count", U32)
period, is_period = nat("period", U64)
burst, is_burst = nat("burst", U32)
owed, is_owed = nat("debt units", U32)
interval = Int("interval")
# div_ceil, and that a quotient by at least one is at most what was divided.
is_interval = And(
    interval * count >= period * TICKS, (interval - 1) * count < period * TICKS, interval >= 1, interval <= period * TICKS
)
prove(
    "gcra: what div_ceil gives is at most what it divides",
    [is_count, is_period, count >= 1, period >= 1, interval * count < period * TICKS + count],
    interval <= period * TICKS,
)
tolerance, debt = Int("tolerance"), Int("debt")
products = And(tolerance <= (U64 * TICKS) * U32, debt <= (U64 * TICKS) * U32, tolerance >= interval, debt >= 0)
prove("gcra: new does not overflow", [is_interval, is_period, products], And(period * TICKS < U128, tolerance + debt < U128))

accepted = And(interval >= 1, tolerance >= interval, debt >= 0, tolerance + debt < HORIZON)


def ticks_of(name):
    time, is_time = nat(name, U64)
    return time, least(time, LAST_NANO) * TICKS, is_time


class Step:
    """The numbers of one step of one bucket."""

    def __init__(self, tag=""):
        self.time, self.now, is_time = ticks_of("time" + tag)
        self.tat, is_tat = nat("tat" + tag, 1 << 71)
        self.charge = Int("charge" + tag)
        self.full = self.now + tolerance
        self.most = self.full + debt
        self.cut = self.tat > self.most + HELD_UP * TICKS
        self.base = If(self.cut, self.most, most(self.tat, self.now))
        self.after = self.base + self.charge
        self.admitted = self.after <= self.full
        # units ≤ burst, and so units · interval ≤ tolerance; and a charge is none, or a unit at least.
        self.given = [accepted, is_time, is_tat, Or(self.charge == 0, self.charge >= interval), self.charge <= tolerance]


s = Step()
prove("gcra: take and peek do not overflow", s.given, And(s.after < U128, s.most + HELD_UP * TICKS < U128))
prove("gcra: a state never exceeds the 71 bits it is kept in", s.given, Implies(s.admitted, s.after < 1 << 71), Implies(s.admitted, s.after < 1 << 70))
prove(
    "gcra: what is admitted has a piece of the time line of its own, not before now, that ends by now + tolerance",
    s.given,
    Implies(And(s.admitted, Not(s.cut)), And(s.base >= s.now, s.base >= s.tat, s.after <= s.now + tolerance, s.after - s.base == s.charge)),
    Implies(And(s.admitted, Not(s.cut)), s.after < s.now + tolerance),
)
prove(
    "gcra: a cut admits nothing that costs anything",
    s.given,
    Implies(And(s.cut, s.charge > 0), Not(s.admitted)),
    Implies(s.cut, Not(s.admitted)),
)
prove("gcra: a recovered state equals an absent one", s.given, Implies(s.tat <= s.now, s.base == s.now), Implies(s.tat <= s.now + 1, s.base == s.now))
prove("gcra: nobody is locked out for longer than the bucket takes to fill, and a second", s.given, s.base <= s.now + tolerance + debt + HELD_UP * TICKS, s.base <= s.now + tolerance)

wait, is_wait = nanos("wait", s.after - s.full)
later = least(s.time + wait, LAST_NANO) * TICKS
refused = [*s.given, is_wait, Not(s.admitted), Not(s.cut), s.time + wait <= LAST_NANO]
prove("gcra: after retry_after it is admitted", refused, most(s.tat, later) + s.charge <= later + tolerance)
sooner = (s.time + wait - 1) * TICKS
prove(
    "gcra: a nanosecond sooner it is not",
    [*refused, s.tat >= s.now],
    most(s.tat, sooner) + s.charge > sooner + tolerance,
    most(s.tat, sooner) + s.charge > sooner + tolerance + TICKS,
)
prove("gcra: a wait fits in 64 bits", refused, wait < U64)

t = Step("2")
prove(
    "gcra: waiting never hurts, but for a charge of nothing to what was cut",
    [*s.given, *t.given, t.tat == s.tat, t.charge == s.charge, t.time >= s.time],
    Implies(And(s.admitted, Not(And(s.cut, s.charge == 0))), t.admitted),
    Implies(t.admitted, s.admitted),
)

debited = Int("debited")
after_debit = most(least(s.base + debited, s.most), s.base)
debits = [*s.given, debited >= 0, debited <= HORIZON * U32]
prove("gcra: a debit does not overflow", debits, And(s.base + debited < U128, after_debit < 1 << 71))
prove("gcra: a debit never lowers a level", debits, after_debit >= s.base, after_debit > s.base)
prove("gcra: debts are bounded", debits, after_debit <= most(s.most, s.tat))

credit, mark = Int("gross"), Int("mark")
given_back = least(credit, minus(mark, s.now))
after_refund = most(minus(s.base, given_back), s.now)
refunds = [*s.given, credit >= 0, mark >= 0, mark < U128]
prove("gcra: a refund by receipt takes off at most what lies ahead of now", refunds, And(after_refund >= s.now, s.base - after_refund <= credit, Implies(mark <= s.now, after_refund == s.base)), after_refund >= s.base)

used, is_used = nanos("used", minus(s.tat, s.now))
to, is_to = nanos("to", tolerance)
scaled = Int("scaled")
scales = [*s.given, is_used, is_to, scaled >= 0, scaled < (1 << 61) * ((1 << 60) + 1) + 1]
after_scale = If(s.tat > s.now, least(s.now + least(scaled, HORIZON) * TICKS, s.most), s.tat)
prove("gcra: factors of a rescale have 61 and 60 bits", scales, And(used <= 1 << 61, to <= 1 << 60))
prove("gcra: a rescale does not overflow", scales, And(used * 1 < U128, least(scaled, HORIZON) * TICKS + s.now < U128), scaled * TICKS + s.now < U128)
prove("gcra: a rescaled level is within the new quota's, or lies behind", scales, Or(after_scale <= s.most, after_scale <= s.now))
prove("gcra: a rescaled state has 71 bits", scales, after_scale < 1 << 71)

# ------------------------------------------------------------------------------------------------------ sliding window

says(
    "sliding_window.rs",
    "pub const CELLS: usize = 11;",
    "let cell = window.get().div_ceil(SPAN - 1);",
    "let index = now.get() / self.cell;",
    "let wanted = used + u64::from(units);",
    "beginning = beginning.saturating_add(1);",
    "ring.index.saturating_add(newest).saturating_mul(self.cell)",
    "if ring.index > now.saturating_add(HELD_UP).get() / self.cell {",
    "ring.advance(index);",
)

cells = [nat(f"cell{number}", U32) for number in range(11)]
total = sum(value for value, _ in cells)
units, is_units = nat("units", U32)
limit, is_limit = nat("limit", U32)
ring = [condition for _, condition in cells]
prove("sliding window: sums of eleven counts and a charge fit in 64 bits", [*ring, is_units], total + units < U64, total + units < U32)
prove("sliding window: what was admitted still fits a cell", [*ring, is_units, is_limit, total + units <= limit], cells[10][0] + units < U32)

window, is_window = nat("window", U64)
cell, index, time = Int("cell"), Int("index"), Int("time at")
divided = And(cell * 10 >= window, (cell - 1) * 10 < window)
prove("sliding window: ten cells are at least a window", [is_window, window >= 1, divided], And(cell >= 1, 10 * cell >= window, 10 * cell < window + 10), 9 * cell >= window)
first, second = Int("first"), Int("second")
cell_of_first, cell_of_second = Int("cell of first"), Int("cell of second")
prove(
    "sliding window: an interval of a window meets at most eleven cells, which the ring has",
    [
        window >= 1, divided, cell >= 1, first >= 0, second >= first, second - first < window,
        cell_of_first * cell <= first, first < (cell_of_first + 1) * cell,
        cell_of_second * cell <= second, second < (cell_of_second + 1) * cell,
    ],
    cell_of_second - cell_of_first <= 10,
    cell_of_second - cell_of_first <= 9,
)

# -------------------------------------------------------------------------------------------------------- fixed window

says(
    "fixed_window.rs",
    "const COUNT_BITS: u32 = 37;",
    "const LAST_SECOND: u64 = (1 << 34) - 1;",
    "const LENGTH_BITS: u32 = 30;",
    "let utc = utc.min(Nanos::from_secs(LAST_SECOND - 1));",
    "let wanted = used + u64::from(units);",
    "become_((used + u64::from(units)).min(limit + u64::from(self.debt)).max(used))",
    "let start = origin + since / length * length;",
    "end: start.saturating_add(length).min(LAST_SECOND)",
    "(window.start << LENGTH_BITS) | length",
)

counted, is_counted = nat("counted", 1 << 37)
owing, is_owing = nat("owing", U32)
fixed = [is_counted, is_units, is_limit, is_owing]
debit = most(least(counted + units, limit + owing), counted)
prove("fixed window: a count and a charge fit in 64 bits", fixed, counted + units < U64)
prove("fixed window: a count stays in its 37 bits", fixed, And(Implies(counted + units <= limit, counted + units < 1 << 37), debit < 1 << 37), counted + units < 1 << 37)

now_s, is_now_s = nat("second", (1 << 34) - 1)
length, is_length = nat("length", U32)
since, origin, start = Int("since"), Int("origin"), Int("start")
aligned = And(
    is_now_s, is_length, length >= 1, Or(origin == 0, origin == 4 * 86_400), now_s >= origin,
    start <= now_s, now_s < start + length, start >= origin,
)
end = least(start + length, (1 << 34) - 1)
prove("fixed window: its window holds the second, and fits what it is packed into", [aligned], And(end > now_s, end < 1 << 34, start * (1 << 30) + (1 << 30) - 1 < U64), end == start + length)

# --------------------------------------------------------------------------------------------------------- concurrency

says("concurrency.rs", "} else if permits > left || held > self.limit {", "let left = self.limit.saturating_sub(held);")
held, is_held = nat("held", U32)
free = minus(limit, held)
prove("concurrency: what is held stays within the limit, and in 32 bits", [is_held, is_units, is_limit, units <= free, held <= limit], And(held + units <= limit, held + units < U32), held + units < limit)

sys.exit(0 if all(results) else 1)
