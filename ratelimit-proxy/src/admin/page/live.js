// The heartbeat: asks for the numbers once a second while somebody can see them.

const past = []; // looks, oldest first
let last = null;
let paused = false;
let timer = null;
let edition = null;

const showDecisions = decisionsPlot($('decisions'));
const showLatency = latencyPlot($('latency'));

// What changed between two looks, a second.
const between = (now, before) => {
  const seconds = before ? now.time - before.time : 0;
  const earlier = new Map((before?.limits ?? []).map(limit => [limit.name, limit]));
  const rates = new Map(now.limits.map(limit => {
    const old = earlier.get(limit.name);
    const per = read => (old && seconds > 0 ? Math.max(0, read(limit.decisions) - read(old.decisions)) / seconds : 0);
    return [limit.name, { allowed: per(passed), denied: per(refused), shadow: per(d => d.shadow_denied) }];
  }));
  const p = (share, kind) => quantile(share, now.seconds.bounds, kind(now)?.counts ?? [], before && kind(before)?.counts);
  const kinds = [s => s.seconds.request, s => s.seconds.upstream, s => s.store.seconds];
  const requests = before && seconds > 0 ? (total(now.requests) - total(before.requests)) / seconds : 0;
  return { time: now.time, rates, requests, middle: p(0.5, kinds[0]), p99: kinds.map(kind => p(0.99, kind)) };
};

// What was before the page was opened, as if it had looked.
const remember = async now => {
  const told = await ask('/api/history');
  if (told.edition !== now.edition) return;
  const looks = told.looks.filter(one => one.time < now.time).map(one => ({
    time: one.time, requests: { all: one.requests },
    limits: one.limits.map(([allowed, denied, shadow_denied], at) => ({ name: told.limits[at], decisions: { allowed, denied, shadow_denied } })),
    seconds: { bounds: now.seconds.bounds, request: { counts: one.request }, upstream: { counts: one.upstream } },
    store: { seconds: one.store.length ? { counts: one.store } : undefined },
  }));
  for (let at = 1; at < looks.length; at += 1) past.push(between(looks[at], looks[at - 1]));
};

const health = (kind, text) => {
  mark($('health'), 'class', `pill ${kind}`);
  say($('health').querySelector('span'), text);
};

const value = (id, number, unit) => $(id).replaceChildren(String(number), h('small', {}, unit));

const tiles = (now, look) => {
  const all = [...look.rates.values()];
  const [yes, no] = [sum(all.map(one => one.allowed)), sum(all.map(one => one.denied))];
  value('tile-requests', rate(look.requests), 'a second');
  say($('note-requests'), `${count(total(now.requests))} so far${now.requests['5xx'] ? `, ${count(now.requests['5xx'])} failed (5xx)` : ''}`);
  value('tile-denied', rate(no), 'a second');
  say($('note-denied'), `${percent(yes + no ? no / (yes + no) : 0)} of decisions now`);
  value('tile-latency', ...length(look.middle));
  say($('note-latency'), look.p99[0] === null ? 'no requests' : `half of all; 99 of 100 within ${length(look.p99[0]).join(' ')}`);
  value('tile-connections', count(now.connections.open), 'open');
  say($('note-connections'), `room for ${count(now.connections.max)}`);
};

const icon = () => svg('svg', { viewBox: '0 0 20 20', 'aria-hidden': 'true' },
  svg('path', { d: 'M10 2.5l8.2 14.5H1.8z', fill: 'none', stroke: 'currentColor', 'stroke-width': '1.7', 'stroke-linejoin': 'round' }),
  svg('path', { d: 'M10 8v4.4M10 14.6v.2', stroke: 'currentColor', 'stroke-width': '1.9', 'stroke-linecap': 'round' }));
const titles = {
  untrusted_proxy: 'Clients are counted as one', never_matched: 'Never matched', key_missing: 'No value for its key',
  file: 'In the configuration',
};

let warned = '';
const warnings = list => {
  const text = JSON.stringify(list);
  if (text === warned) return;
  warned = text;
  $('warnings').hidden = list.length === 0;
  $('warnings').replaceChildren(...list.map(({ kind, limit, text }) =>
    h('article', { class: 'callout' }, icon(), h('b', {}, [limit, titles[kind] ?? words(kind)].filter(Boolean).join(': ')), h('p', {}, text))));
};

const pill = (up, text) => h('span', { class: `pill ${up ? 'good' : 'bad'}` }, h('i', { 'aria-hidden': 'true' }), h('span', {}, text));

// Where requests go: which of them, if not all, and each server with what is known of it.
const upstreamRows = ({ match, servers }) => [
  match && match !== 'every request' && h('li', { class: 'match' }, match),
  ...servers.map(({ url, state }) => h('li', {}, h('code', {}, url), state && pill(state === 'up', state))),
].filter(Boolean);

const cards = (now, look) => {
  const { store, process } = now;
  const keys = now.limits.some(limit => limit.keys !== undefined) ? sum(now.limits.map(limit => limit.keys ?? 0)) : null;
  $('legend-store').hidden = store.kind === 'memory';
  rows($('store'), store.kind === 'memory'
    ? [['Where', 'memory of this process'], ['Keys', keys === null ? '–' : count(keys)],
      ['Found no room', count(sum(now.limits.map(limit => limit.keys_overflowed ?? 0)))]]
    : [['State', pill(store.up, store.up ? 'up' : 'gone')], ['Mode', store.consistency], ['Replicas', count(store.replicas)],
      ['99 of 100 calls within', length(look.p99[2]).join(' ')], ['Answered', count(store.requests.ok ?? 0)],
      ...Object.entries(store.requests).filter(([how, n]) => how !== 'ok' && n).map(([how, n]) => [words(how), count(n)]),
      store.leased_tokens !== undefined && ['Leased, not spent', count(store.leased_tokens)],
      store.posts_lost ? ['Charges lost', count(store.posts_lost)] : null]);
  $('upstreams').replaceChildren(...now.upstreams.flatMap(upstreamRows));
  rows($('answers'), [['99 of 100 answers within', length(look.p99[1]).join(' ')],
    ...Object.entries(now.requests).filter(([, n]) => n).map(([code, n]) => [code, count(n)])]);
  const cpu = last && process.cpu_seconds !== null ? (process.cpu_seconds - last.process.cpu_seconds) / (now.time - last.time) : null;
  const faults = now.troubles;
  rows($('process'), [['Processor', cpu === null ? '–' : `${Math.max(0, cpu * 100).toFixed(0)} % of a core`], ['Memory', bytes(process.resident_bytes)],
    ['File descriptors', `${count(process.open_fds ?? 0)} of ${count(process.max_fds ?? 0)}`], ['Threads', count(process.threads ?? 0)],
    ['Reloads', `${count(faults.reloads.applied)}${faults.reloads.refused ? `, ${count(faults.reloads.refused)} refused` : ''}`],
    ['Bad messages of clients', count(sum(Object.values(faults.protocol_errors)))],
    faults.requests_shed ? ['Refused for want of memory', count(faults.requests_shed)] : null,
    faults.panics ? ['Panics (bugs)', count(faults.panics)] : null,
    faults.log_lines_lost ? ['Lines of the log lost', count(faults.log_lines_lost)] : null]);
  const up = process.start_seconds ? `, up ${lasting(now.time - process.start_seconds)}` : '';
  $('about').replaceChildren('in front of ', h('b', {}, now.upstreams.flatMap(one => one.servers.map(server => server.url)).join(', ')), up);
  say($('foot'), `ratelimit-proxy ${now.version}, asked once a second while this page is visible`);
};

const draw = () => {
  const times = past.map(look => look.time);
  const names = chosen === null ? null : [chosen];
  const series = kind => past.map(look => sum((names ?? [...look.rates.keys()]).map(name => look.rates.get(name)?.[kind] ?? 0)));
  showDecisions(times, series('allowed'), series('shadow'), series('denied'));
  showLatency(times, ...[0, 1, 2].map(place => past.map(look => look.p99[place])));
};
document.addEventListener('chosen', draw);

const limitsNow = now => {
  for (const limit of now.limits) {
    const of = kind => past.map(look => look.rates.get(limit.name)?.[kind] ?? 0);
    table.get(limit.name)?.set({
      yes: of('allowed'), no: of('denied'), shadow: of('shadow'),
      decisions: limit.decisions, nearLimit: limit.near_limit, keys: limit.keys, overflowed: limit.keys_overflowed,
    });
  }
};

const look = async () => {
  const now = await ask('/api/stats');
  if (edition !== now.edition) {
    setLimits((await ask('/api/limits')).limits);
    setLookup();
    past.length = 0;
    await remember(now);
    edition = now.edition;
  }
  // A counter that went back: another process.
  if (last && total(now.requests) < total(last.requests)) {
    last = null;
    past.length = 0;
  }
  const one = between(now, last);
  if (last) past.push(one);
  while (past.length > KEPT) past.shift();
  health(now.unready ? 'wait' : 'good', now.unready ?? 'ready');
  warnings(now.warnings);
  tiles(now, one);
  cards(now, one);
  limitsNow(now);
  draw();
  last = now;
};

let beats = 0;
let beating = false;
const beat = async () => {
  clearTimeout(timer);
  if (paused || document.hidden || beating) return;
  beating = true;
  const began = performance.now();
  try {
    await look();
    if (beats++ % 2 === 0) await refreshKeys();
  } catch (error) {
    health('bad', error.status ? error.message : 'not answering');
  }
  beating = false;
  timer = setTimeout(beat, Math.max(200, 1000 - (performance.now() - began)));
};

$('pause').addEventListener('click', () => {
  paused = !paused;
  mark($('pause'), 'aria-pressed', String(paused));
  say($('pause'), paused ? 'Resume' : 'Pause');
  if (paused) health('wait', 'paused');
  else beat();
});
document.addEventListener('visibilitychange', beat);
beat();
