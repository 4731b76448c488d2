// "What would become of this request?"

const effects = { counts: 'counts', denies: 'denies', never: 'never' };

$('explain').addEventListener('submit', async event => {
  event.preventDefault();
  const place = $('explained');
  const headers = $('explain-headers').value.split('\n').map(line => line.trim()).filter(Boolean);
  const odd = headers.find(line => !line.includes(':'));
  if (odd) return place.replaceChildren(h('p', { class: 'problem' }, `A header is written name: value; this is none: ${odd}`));
  const request = explainRequest({
    method: $('explain-method').value,
    path: $('explain-path').value.trim() || '/',
    client: $('explain-client').value.trim(),
    headers: headers.map(line => [line.slice(0, line.indexOf(':')).trim(), line.slice(line.indexOf(':') + 1).trim()]),
  });
  try {
    const told = await ask('/api/explain', { method: 'POST', body: request });
    place.replaceChildren(explanation(told));
  } catch (error) {
    place.replaceChildren(h('p', { class: 'problem' }, error.status === 404 ? 'This proxy does not explain requests here; the command `explain` does.' : error.message));
  }
});

const explainRequest = ({ method, path, client, headers }) => ({
  method, path, headers: Object.fromEntries(headers), ...(client && { client }),
});

const explanation = told => {
  if (told.exempt) return h('p', {}, `Exempt, so no limit counts it: ${told.exempt}`);
  const limits = told.limits || [];
  if (!limits.length) return h('p', {}, 'There are no limits.');
  const line = limit => {
    const key = (limit.key || []).map(part => `${part.source} ${part.value === null || part.value === undefined ? 'missing' : `= ${part.value}`}`);
    const from = limit.quota_from && limit.quota_from !== 'limit' ? ` (${limit.quota_from})` : '';
    const effect = String(limit.effect);
    const why = [
      limit.why, limit.quota && `quota ${limit.quota}${from}`, key.length ? `key ${key.join(', ')}` : null,
      limit.cost !== undefined && limit.cost !== null && `cost ${limit.cost}`, limit.settled,
      limit.mode === 'shadow' && 'shadow, so it never denies',
    ].filter(Boolean);
    return h('tr', {}, h('th', { scope: 'row' }, limit.limit),
      h('td', { class: `effect ${effects[effect] || ''}` }, words(effect)), h('td', {}, why.join('; ')));
  };
  return h('table', {}, h('thead', {}, h('tr', {}, ...['Limit', 'Effect', 'Why'].map(name => h('th', { scope: 'col' }, name)))),
    h('tbody', {}, ...limits.map(line)));
};
