// Reads the limits once a second and shows them. Everything is set as text, never as markup.
'use strict';

const body = document.getElementById('limits');
const state = document.getElementById('state');
let last = null;

const cell = (text, className) => {
  const td = document.createElement('td');
  td.textContent = text;
  if (className) td.className = className;
  return td;
};

const asked = limit => Object.values(limit.decisions).reduce((sum, count) => sum + count, 0);

const row = (limit, seconds, before) => {
  const { allowed, denied, local, failed_open, shadow_denied } = limit.decisions;
  const tr = document.createElement('tr');
  const rate = before && seconds > 0 ? ((asked(limit) - asked(before)) / seconds).toFixed(1) : '';
  const quota = limit.rate ? `${limit.rate}, at most ${limit.capacity} at once` : `${limit.capacity} at a time`;
  tr.append(
    cell(limit.name), cell(quota), cell(limit.key.join(', ') || 'all together'), cell(limit.mode),
    cell((allowed + local + failed_open).toLocaleString(), 'n'),
    cell(denied.toLocaleString(), denied ? 'n no' : 'n'),
    cell(shadow_denied.toLocaleString(), 'n'), cell(rate, 'n'), cell(limit.keys === undefined ? '' : limit.keys.toLocaleString(), 'n'),
  );
  return tr;
};

const refresh = async () => {
  try {
    const response = await fetch('/api/limits');
    const { limits } = await response.json();
    const now = performance.now();
    const before = name => last && last.limits.find(limit => limit.name === name);
    const seconds = last ? (now - last.at) / 1000 : 0;
    body.replaceChildren(...limits.map(limit => row(limit, seconds, before(limit.name))));
    last = { at: now, limits };
    state.textContent = limits.length ? 'live' : 'no limits are configured';
  } catch {
    state.textContent = 'the proxy does not answer';
  }
  setTimeout(refresh, 1000);
};

refresh();
