// The table of limits: what each allows, and what it has to say at the moment.

let chosen = null; // the name of the limit that is looked at, or all
let known = new Map(); // limits in force by name, as they are configured
const table = new Map();

const quotaWords = limit => {
  const name = words(limit.algorithm);
  if (!limit.rate) return [`${count(limit.capacity)} at a time`, name];
  const burst = limit.algorithm === 'token_bucket' ? `burst ${count(limit.capacity)}` : name;
  return [limit.rate, burst];
};

const aboutWords = ({ match = {} }) => {
  const parts = [(match.methods || []).join(' '), match.path || ''].filter(Boolean);
  return parts.join(' ') || 'every request';
};

const choose = name => {
  chosen = chosen === name ? null : name;
  for (const [own, row] of table) row.choose(own === chosen);
  $('all-limits').hidden = chosen === null;
  say($('decisions-of'), chosen === null ? 'all limits, a second' : `${chosen}, a second`);
  document.dispatchEvent(new CustomEvent('chosen'));
};

const limitRow = limit => {
  const [quota, burst] = quotaWords(limit);
  const name = h('button', { class: 'name', type: 'button', 'aria-pressed': 'false', title: 'Show this limit alone', onclick: () => choose(limit.name) }, limit.name);
  const spark = sparkline();
  const [denied, near] = [meter('over'), meter('near')];
  const cells = Object.fromEntries(['allowed', 'deniedRate', 'deniedShare', 'nearShare', 'keys'].map(key => [key, h('span')]));
  const node = h('tr', {},
    h('th', { scope: 'row' }, name, limit.mode !== 'enforce' && h('span', { class: `badge ${limit.mode}` }, limit.mode)),
    h('td', { class: 'quota' }, quota, h('small', {}, burst)),
    h('td', { class: 'by', title: aboutWords(limit) }, limit.key.join(', ') || 'all together'),
    h('td', { class: 'sparkcell' }, spark.node),
    h('td', { class: 'n', 'data-label': 'Allowed/s' }, cells.allowed),
    h('td', { class: 'n', 'data-label': 'Denied/s' }, cells.deniedRate),
    h('td', { 'data-label': 'Denied' }, h('span', { class: 'share' }, denied.node, cells.deniedShare)),
    h('td', { 'data-label': 'Near' }, h('span', { class: 'share' }, near.node, cells.nearShare)),
    h('td', { class: 'n', 'data-label': 'Keys' }, cells.keys),
  );
  return {
    node,
    choose: is => {
      node.classList.toggle('chosen', is);
      mark(name, 'aria-pressed', String(is));
    },
    set: ({ yes, no, shadow, decisions, nearLimit, keys, overflowed }) => {
      const would = limit.mode === 'shadow';
      const noes = would ? shadow : no;
      spark.set(yes, noes);
      const all = total(decisions);
      const bad = would ? decisions.shadow_denied : refused(decisions);
      say(cells.allowed, rate(yes.at(-1) ?? 0));
      say(cells.deniedRate, rate(noes.at(-1) ?? 0));
      cells.deniedRate.className = noes.at(-1) ? 'hot' : 'quiet-zero';
      denied.set(all ? bad / all : 0);
      say(cells.deniedShare, percent(all ? bad / all : 0));
      const good = passed(decisions);
      near.set(good ? nearLimit / good : 0);
      say(cells.nearShare, percent(good ? nearLimit / good : 0));
      say(cells.keys, keys === undefined ? '–' : count(keys) + (overflowed ? ` (${count(overflowed)} found no room)` : ''));
    },
  };
};

// The limits in force are others.
const setLimits = limits => {
  known = new Map(limits.map(limit => [limit.name, limit]));
  table.clear();
  for (const limit of limits) table.set(limit.name, limitRow(limit));
  $('limits').replaceChildren(...[...table.values()].map(row => row.node));
  $('no-limits').hidden = limits.length > 0;
  const off = limits.filter(limit => limit.mode === 'off').length;
  say($('limits-of'), `${limits.length - off} in force${off ? `, ${off} off` : ''}`);
  if (chosen !== null && !known.has(chosen)) choose(chosen);
  else if (chosen !== null) table.get(chosen).choose(true);
};

$('all-limits').addEventListener('click', () => choose(chosen));
