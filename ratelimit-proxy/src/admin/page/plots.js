// Plots of the last minutes: two large ones, and one in each row of the table.

const KEPT = 300; // looks, one a second
const LEAST = 60; // seconds that a plot is wide at least

const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Hatching, so that areas differ without colour.
const hatched = (context, line, ground, dotted) => {
  const scale = devicePixelRatio || 1;
  const tile = document.createElement('canvas');
  tile.width = tile.height = Math.round(6 * scale);
  const pen = tile.getContext('2d');
  pen.fillStyle = ground;
  pen.fillRect(0, 0, tile.width, tile.height);
  pen.strokeStyle = pen.fillStyle = line;
  pen.lineWidth = 1.1 * scale;
  pen.beginPath();
  if (dotted) {
    pen.arc(tile.width / 2, tile.width / 2, scale, 0, 7);
    pen.fill();
  } else {
    for (const shift of [-tile.width, 0, tile.width]) {
      pen.moveTo(shift - 1, tile.width + 1);
      pen.lineTo(shift + tile.width + 1, -1);
    }
    pen.stroke();
  }
  return context.createPattern(tile, 'repeat');
};

const axes = format => {
  const text = { stroke: () => color('--soft'), font: '11px system-ui, sans-serif', ticks: { show: false } };
  return [
    { ...text, grid: { show: false }, space: 84, size: 26, values: (_, at) => at.map(t => clock.format(t * 1000)) },
    {
      ...text, grid: { stroke: () => color('--line'), width: 1 }, space: 36, gap: 6,
      size: (_, labels) => Math.max(36, 14 + 7 * Math.max(0, ...(labels || []).map(label => label.length))),
      values: (_, at) => at.map(format),
    },
  ];
};

// What is under the pointer, in words.
const tip = lines => {
  const box = h('div', { class: 'tip', hidden: true });
  return {
    hooks: {
      ready: [plot => plot.over.append(box)],
      setCursor: [plot => {
        const { idx, left } = plot.cursor;
        box.hidden = idx === null || idx === undefined || left < 0;
        if (box.hidden) return;
        box.replaceChildren(
          h('div', {}, h('b', {}, clock.format(plot.data[0][idx] * 1000))),
          ...lines(idx).map(line => h('div', {}, line)),
        );
        const beyond = left > plot.over.clientWidth / 2;
        box.style.top = '4px';
        box.style.left = beyond ? '' : `${left + 12}px`;
        box.style.right = beyond ? `${plot.over.clientWidth - left + 12}px` : '';
      }],
    },
  };
};

const wide = () => (plot, min, max) => [Math.min(min ?? 0, (max ?? 0) - LEAST), max ?? 0];

const plot = (place, { series, bands = [], format, lines, empty }) => {
  const make = data => new uPlot({
    width: place.clientWidth, height: place.clientHeight, legend: { show: false }, padding: [10, 18, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 } },
    scales: { x: { time: true, range: wide() }, y: { range: (_, __, max) => [0, (max || empty) * 1.12] } },
    axes: axes(format), series: [{}, ...series], bands, plugins: [tip(lines)],
  }, data, place);
  let shown = make([[], ...series.map(() => [])]);
  new ResizeObserver(() => {
    if (place.clientWidth) shown.setSize({ width: place.clientWidth, height: place.clientHeight });
  }).observe(place);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    const { data } = shown;
    shown.destroy();
    shown = make(data);
  });
  return data => shown.setData(data);
};

// Decisions, stacked: what was allowed at the bottom, what was denied on top.
const decisionsPlot = place => {
  let raw = [[], [], [], []];
  // A line that lies on the one below, because there is nothing between them, is not drawn.
  const line = (name, at) => ({ stroke: () => (raw[at].some(Boolean) ? color(name) : 'transparent'), width: 1.5, points: { show: false } });
  const show = plot(place, {
    series: [{ ...line('--allow', 1), fill: () => color('--allow-fill') }, line('--shadow', 2), line('--deny', 3)],
    bands: [
      { series: [3, 2], fill: u => hatched(u.ctx, color('--deny'), color('--deny-fill')) },
      { series: [2, 1], fill: u => hatched(u.ctx, color('--shadow'), color('--shadow-fill'), true) },
    ],
    format: rate, empty: 1,
    lines: at => [
      `${rate(raw[3][at])} denied`, raw[2][at] ? `${rate(raw[2][at])} would deny` : null, `${rate(raw[1][at])} allowed`,
    ].filter(Boolean),
  });
  return (times, allowed, shadow, denied) => {
    raw = [times, allowed, shadow, denied];
    const over = (below, own) => below.map((value, at) => value + own[at]);
    const second = over(allowed, shadow);
    show([times, allowed, second, over(second, denied)]);
    const now = `${rate(allowed.at(-1))} a second allowed, ${rate(denied.at(-1))} denied, ${rate(shadow.at(-1))} would be denied`;
    mark(place, 'aria-label', `Decisions over the last minutes. Now ${now}.`);
  };
};

// How long things take.
const latencyPlot = place => {
  const names = ['request', 'upstream', 'store'];
  let raw = [[], [], [], []];
  const line = (name, dash) => ({ stroke: () => color(name), width: 1.6, dash, points: { show: false }, spanGaps: true });
  const show = plot(place, {
    series: [line('--allow'), line('--shadow', [6, 4]), line('--deny', [2, 3])],
    format: value => (value >= 1 ? String(Math.round(value * 10) / 10) : String(Math.round(value * 1000) / 1000)), empty: 1,
    lines: at => names.map((name, place) => {
      const value = raw[place + 1][at];
      return value === null ? null : `${name} ${length(value / 1000).join(' ')}`;
    }).filter(Boolean),
  });
  return (times, ...all) => {
    raw = [times, ...all.map(values => values.map(value => (value === null ? null : value * 1000)))];
    show(raw);
    const now = names.map((name, place) => [name, all[place].at(-1)]).filter(([, value]) => value !== null && value !== undefined);
    const told = now.map(([name, value]) => `${name} ${length(value).join(' ')}`).join(', ');
    mark(place, 'aria-label', `Time that 99 of 100 take at most. Now ${told || 'nothing'}.`);
  };
};

// A small one: allowed below, denied above.
const sparkline = () => {
  const [yesArea, noArea, yesLine, noLine] = ['allowed area', 'denied area', 'allowed', 'denied'].map(kind => svg('path', { class: kind }));
  const node = svg('svg', { class: 'spark', viewBox: '0 0 100 24', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, yesArea, noArea, yesLine, noLine);
  const x = (at, all) => ((at * 100) / Math.max(1, all - 1)).toFixed(1);
  const along = tops => tops.map((y, at) => `${at ? 'L' : 'M'}${x(at, tops.length)} ${y.toFixed(1)}`).join('');
  const back = bottoms => bottoms.map((y, at) => `L${x(at, bottoms.length)} ${y.toFixed(1)}`).reverse().join('');
  return {
    node,
    set: (yes, no) => {
      if (yes.length < 2) return;
      const most = Math.max(...yes.map((value, at) => value + no[at]), 0.001);
      const y = value => 23.5 - (value / most) * 22;
      const [base, middle, top] = [yes.map(() => 24), yes.map(y), yes.map((value, at) => y(value + no[at]))];
      const any = no.some(Boolean);
      yesArea.setAttribute('d', `${along(middle)}${back(base)}Z`);
      yesLine.setAttribute('d', along(middle));
      noArea.setAttribute('d', any ? `${along(top)}${back(middle)}Z` : '');
      noLine.setAttribute('d', any ? along(top) : '');
    },
  };
};
