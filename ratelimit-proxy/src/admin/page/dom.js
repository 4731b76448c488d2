// The page's hands. Whatever comes from elsewhere becomes text, never markup.
'use strict';

const $ = id => document.getElementById(id);

const fill = (node, properties, children) => {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'class') node.setAttribute('class', value);
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter(child => child !== undefined && child !== null && child !== false));
  return node;
};

const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
const svg = (tag, properties = {}, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, children);

// Only what changed is written, so that nothing is laid out anew for nothing.
const say = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};
const mark = (node, name, value) => {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
};

const meter = (kind = '') => {
  const bar = h('i');
  const node = h('span', { class: `meter ${kind}`, 'aria-hidden': 'true' }, bar);
  return { node, set: share => { bar.style.width = `${Math.max(0, Math.min(1, share || 0)) * 100}%`; } };
};

const rows = (list, pairs) => {
  list.replaceChildren(...pairs.filter(Boolean).flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
};

// Asks the proxy. A refusal becomes an error that says what the problem document says.
const ask = async (path, { method = 'GET', body, headers = {} } = {}) => {
  const options = { method, headers: { ...headers }, cache: 'no-store', signal: AbortSignal.timeout(5000) };
  const token = sessionStorage.getItem('token');
  if (token) options.headers.authorization = `Bearer ${token}`;
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers['content-type'] = 'application/json';
  }
  const response = await fetch(path, options);
  const text = await response.text();
  let value = null;
  try { value = text ? JSON.parse(text) : null; } catch { /* Not everything is JSON. */ }
  if (response.ok) return value;
  const error = new Error(value?.detail || value?.title || `the answer is ${response.status}`);
  error.status = response.status;
  throw error;
};
