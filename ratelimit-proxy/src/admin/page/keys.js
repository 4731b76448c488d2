// Keys: those nearest to and over their limits, and one that is asked for.

let order = 'denied';
let looked = null; // what was looked up last: a limit and its key, as written in a path

const SHOWN = 8;
const ASKED = 12; // limits that are asked for their keys at a time

const written = parts => parts.map(encodeURIComponent).join(',');
const spoken = text => {
  try { return text.split(',').map(decodeURIComponent).join(' · '); } catch { return text; }
};
const keyPath = (limit, key) => `/api/limits/${encodeURIComponent(limit)}/keys/${key}`;

// One key as the proxy tells it.
const entry = (limit, told) => {
  const parts = Array.isArray(told.key) ? told.key.map(part => (typeof part === 'string' ? part : part.value ?? `no ${part.source}`)) : [];
  const key = told.path ?? (parts.length ? written(parts) : String(told.key ?? ''));
  const capacity = told.capacity ?? limit.capacity;
  const used = told.used ?? (told.remaining === undefined ? undefined : capacity - told.remaining);
  return { limit: limit.name, key, shown: parts.join(' · ') || spoken(key), capacity, used, denied: told.denied ?? 0 };
};

const keyRow = ({ limit, key, shown, capacity, used, denied }) => {
  const bar = meter(used >= capacity ? 'over' : used * 5 > capacity * 4 ? 'near' : '');
  bar.set(used === undefined ? 0 : used / capacity);
  const usedWords = used === undefined ? '' : `${count(Math.min(used, capacity))} of ${count(capacity)} used`;
  return h('li', {},
    h('button', { type: 'button', title: 'Look it up', onclick: () => { select(limit, key); find(); } }, h('code', {}, shown || 'all together'), h('small', {}, limit)),
    bar.node,
    h('span', { class: 'count' }, h('span', { class: denied ? 'hot' : 'quiet-zero' }, `${count(denied)} denied`), h('small', {}, usedWords)),
  );
};

let keysMissing = false;
const refreshKeys = async () => {
  if (keysMissing) return;
  const names = chosen === null ? [...known.keys()] : [chosen];
  const limits = names.map(name => known.get(name)).filter(limit => limit && limit.mode !== 'off').slice(0, ASKED);
  const asked = limits.map(async limit => {
    const told = await ask(`/api/limits/${encodeURIComponent(limit.name)}/keys?by=${order}&top=${SHOWN}`);
    return (told.keys ?? told).map(one => entry(limit, one));
  });
  const answers = await Promise.allSettled(asked);
  if (answers.length && answers.every(answer => answer.reason?.status === 404)) {
    keysMissing = true;
    say($('no-keys'), 'This proxy keeps no list of keys.');
  }
  const all = answers.flatMap(answer => answer.value ?? []);
  const by = { denied: one => one.denied, used: one => (one.used ?? 0) / one.capacity };
  all.sort((one, other) => by[order](other) - by[order](one));
  const top = all.filter(one => by[order](one) > 0).slice(0, SHOWN);
  $('no-keys').hidden = top.length > 0;
  // A row that has the focus keeps it.
  const held = [...$('keys').querySelectorAll('button')].indexOf(document.activeElement);
  $('keys').replaceChildren(...top.map(keyRow));
  if (held >= 0) $('keys').querySelectorAll('button')[held]?.focus();
};

const sortBy = by => {
  order = by;
  for (const name of ['denied', 'used']) mark($(`by-${name}`), 'aria-pressed', String(name === by));
  refreshKeys();
};
$('by-denied').addEventListener('click', () => sortBy('denied'));
$('by-used').addEventListener('click', () => sortBy('used'));
document.addEventListener('chosen', refreshKeys);

const tell = (...lines) => $('found').replaceChildren(...lines.filter(Boolean));

// The form: one field for each part of the limit's key, and where it is from if there are several sources. Envoy's
// questions have a domain, which is part of the key where the limit names none.
const FIRST = 'first of ';
const inAnyDomain = limit => limit && !limit.match?.domain && (limit.match?.descriptors || limit.key.some(part => part.startsWith('descriptor.')));
const fields = () => {
  const limit = known.get($('lookup-limit').value);
  const domain = inAnyDomain(limit) ? [h('label', { class: 'part domain' }, 'domain', h('input', { spellcheck: 'false', required: true }))] : [];
  const field = part => {
    const input = h('input', { spellcheck: 'false', required: true });
    if (!part.startsWith(FIRST)) return h('label', { class: 'part' }, part, input);
    const sources = part.slice(FIRST.length).split(', ').map(source => h('option', {}, source));
    input.setAttribute('aria-label', 'Value');
    return h('div', { class: 'part from' }, h('label', {}, 'From', h('select', {}, ...sources)), h('label', {}, 'Value', input));
  };
  $('lookup-parts').replaceChildren(...domain, ...(limit?.key ?? []).map(field));
  $('lookup-parts').hidden = !limit?.key.length && !domain.length;
  $('rate-field').hidden = !limit?.rate;
  $('burst-field').hidden = limit?.algorithm !== 'token_bucket';
  $('permits-field').hidden = Boolean(limit?.rate);
  $('change').hidden = true;
  tell();
};
$('lookup-limit').addEventListener('change', fields);

// A key as it stands in a path: parts between commas, each with its source before a `=` if there are several; what is
// encoded is a value.
const parts = () => [...$('lookup-parts').querySelectorAll('.part')].map(part => ({
  input: part.querySelector('input'),
  from: part.querySelector('select') ?? (part.classList.contains('domain') ? { value: 'domain' } : null),
}));
const writeParts = key => {
  const given = key.split(',');
  for (const [at, { input, from }] of parts().entries()) {
    const [source, value] = given[at]?.includes('=') ? given[at].split('=', 2) : [null, given[at] ?? ''];
    if (from && source) from.value = source;
    input.value = spoken(value);
    // A part that was missing can't be said in plain text.
    input.dataset.written = value;
    input.dataset.spoken = input.value;
  }
};
const asked = () => {
  const key = parts().map(({ input, from }) => {
    const same = input.dataset.written && input.value === input.dataset.spoken;
    return `${from ? `${from.value}=` : ''}${same ? input.dataset.written : encodeURIComponent(input.value)}`;
  });
  return { limit: $('lookup-limit').value, key: key.join(',') };
};

const setLookup = () => {
  const before = $('lookup-limit').value;
  const given = asked().key;
  $('lookup-limit').replaceChildren(...[...known.keys()].map(name => h('option', { value: name }, name)));
  if (known.has(before)) $('lookup-limit').value = before;
  fields();
  if (known.has(before)) writeParts(given);
};

const select = (limit, key) => {
  $('lookup-limit').value = limit;
  fields();
  writeParts(key);
};

const wrong = error => tell(h('p', { class: 'problem' }, error.status === 401 || error.status === 403 ? `${error.message}. Is the token right?` : error.message));

// A share of its limit, or what it gets instead.
const leftView = (limit, told) => {
  if (told.unlimited) return [h('p', { class: 'left' }, 'Unlimited')];
  if (told.denied === true) return [h('p', { class: 'left problem' }, '✕ Denied')];
  const capacity = told.capacity ?? known.get(limit)?.capacity ?? 0;
  const remaining = told.remaining ?? 0;
  const bar = meter(remaining === 0 ? 'over' : remaining * 5 < capacity ? 'near' : '');
  bar.set(capacity ? 1 - remaining / capacity : 0);
  return [h('p', { class: 'left' }, count(remaining), h('small', {}, ` of ${count(capacity)} left`)), bar.node];
};

const keyView = (limit, told) => {
  const until = told.override?.until;
  const from = told.quota_from && told.quota_from !== 'limit' ? ` (${told.quota_from})` : '';
  const facts = [
    told.quota && `Quota ${told.quota}${from}`,
    until && `until ${new Date(until).toLocaleString()}`,
    told.retry_after ? `the next in ${lasting(told.retry_after)}` : null,
    told.reset_after ? `all back in ${lasting(told.reset_after)}` : null,
    told.remaining !== undefined && told.remaining === told.capacity ? 'nothing is used' : null,
    told.mode === 'shadow' ? 'in shadow mode: never denied' : null,
  ];
  return [...leftView(limit, told), h('p', {}, facts.filter(Boolean).join(', '))];
};

const find = async done => {
  looked = asked();
  try {
    const told = await ask(keyPath(looked.limit, looked.key));
    tell(...keyView(looked.limit, told), done && h('p', { class: 'done' }, `✓ ${done}`));
    $('change').hidden = false;
  } catch (error) {
    $('change').hidden = true;
    wrong(error);
  }
};

const change = async (method, path, body, done) => {
  try {
    await ask(path, { method, body });
    await find(done);
    refreshKeys();
  } catch (error) {
    wrong(error);
  }
};
const overridePath = () => `/api/limits/${encodeURIComponent(looked.limit)}/overrides/${looked.key}`;
const lastingUntil = () => {
  const seconds = Number($('until').value);
  return seconds ? { until: new Date(Date.now() + seconds * 1000).toISOString().replace(/\.\d+Z/, 'Z') } : {};
};
const override = (quota, done) => change('PUT', overridePath(), { ...quota, ...lastingUntil() }, done);

$('lookup').addEventListener('submit', event => { event.preventDefault(); find(); });
$('reset').addEventListener('click', () => change('DELETE', keyPath(looked.limit, looked.key), undefined, 'It starts afresh.'));
$('restore').addEventListener('click', () => change('DELETE', overridePath(), undefined, 'It has the limit’s own quota again.'));
$('unlimited').addEventListener('click', () => override({ unlimited: true }, 'It is not limited now.'));
$('forbid').addEventListener('click', () => override({ deny: true }, 'It is denied now.'));
$('change').addEventListener('submit', event => {
  event.preventDefault();
  const given = id => (($(`${id}-field`).hidden ? '' : $(id).value.trim()));
  const [rate, burst, permits] = ['rate', 'burst', 'permits'].map(given);
  const wholes = { ...(burst && { burst: Number(burst) }), ...(permits && { concurrency: Number(permits) }) };
  override({ ...(rate && { rate }), ...wholes }, 'The quota is in force.');
});

$('token').value = sessionStorage.getItem('token') ?? '';
$('token').addEventListener('input', () => {
  const token = $('token').value.trim();
  if (token) sessionStorage.setItem('token', token);
  else sessionStorage.removeItem('token');
});
$('token-form').addEventListener('submit', event => event.preventDefault());
