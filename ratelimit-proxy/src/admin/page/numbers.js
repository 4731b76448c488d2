// Numbers for people, and rates and quantiles from counters.

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });

const count = value => (value < 100_000 ? grouped.format(value) : compact.format(value));
const rate = value => {
  if (!value) return '0';
  if (value < 0.05) return '<0.1';
  if (value < 10) return value.toFixed(1);
  return count(Math.round(value));
};
const percent = share => {
  if (!share) return '0 %';
  if (share < 0.001) return '<0.1 %';
  if (share < 0.1) return `${(share * 100).toFixed(1)} %`;
  return `${Math.min(share < 1 ? 99 : 100, Math.round(share * 100))} %`;
};
// Seconds as a number and its unit.
const length = seconds => {
  if (seconds === null || !Number.isFinite(seconds)) return ['–', ''];
  if (seconds < 0.001) return [String(Math.max(1, Math.round(seconds * 1e6))), 'µs'];
  if (seconds < 0.1) return [(seconds * 1e3).toFixed(1), 'ms'];
  if (seconds < 1) return [String(Math.round(seconds * 1e3)), 'ms'];
  return [seconds.toFixed(1), 's'];
};
const lasting = seconds => {
  if (!(seconds > 0)) return '0 s';
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds < 10 && seconds % 1 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
};
const bytes = value => (value === null || value === undefined ? '–' : `${(value / 2 ** 20).toFixed(1)} MiB`);
const words = text => String(text).replaceAll('_', ' ');

const sum = values => values.reduce((all, value) => all + value, 0);
const passed = ({ allowed = 0, local = 0, failed_open = 0 }) => allowed + local + failed_open;
const refused = ({ denied = 0, failed_closed = 0 }) => denied + failed_closed;
const total = decisions => sum(Object.values(decisions));

// Of what was counted between two looks, in seconds; null if nothing was. Within a class of sizes, lengths are taken
// to be spread evenly; the last class has no end, so that its beginning is told.
const quantile = (share, bounds, counts, before) => {
  const sizes = counts.map((n, place) => Math.max(0, n - (before?.[place] ?? 0)));
  const all = sum(sizes);
  if (!all) return null;
  let rest = share * all;
  for (const [place, size] of sizes.entries()) {
    if (rest <= size && size) {
      const from = place ? bounds[place - 1] : 0;
      const to = place < bounds.length ? bounds[place] : from;
      return from + (to - from) * (rest / size);
    }
    rest -= size;
  }
  return bounds.at(-1);
};
