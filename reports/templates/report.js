(() => {
  'use strict';
  const FIRST_ROWS = 500;
  const byId = id => document.getElementById(id);

  // Inverse of reports/pack.py: an object is [index into keys, ...values], an array is [-1, ...items].
  const packed = JSON.parse(byId('data').textContent);
  const unpack = value => {
    if (!Array.isArray(value)) return value;
    const [shape, ...values] = value;
    if (shape < 0) return values.map(unpack);
    return Object.fromEntries(packed.keys[shape].map((key, i) => [key, unpack(values[i])]));
  };
  const { info, trials, front, metrics, charts, datasets } = unpack(packed.data);
  const onFront = new Set(front);
  const byNumber = new Map(trials.map(t => [t.number, t]));

  // Everything that is shown goes through textContent or setAttribute: no text of a study is ever parsed as markup.
  const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
    }
    node.append(...children.filter(c => c !== null && c !== undefined));
    return node;
  };

  const fixed = (value, digits) => Number.isFinite(value) ? value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits }) : '–';
  const scaled = (value, unit, digits) => Number.isFinite(value) ? fixed(value / unit, digits) : '–';
  const isBaseline = t => t.origin.startsWith('baseline:');
  const netName = t => isBaseline(t) ? t.origin.slice('baseline:'.length) : `trial ${t.number}`;
  const standing = t => isBaseline(t) ? 'baseline' : onFront.has(t.number) ? 'front' : t.state;
  const quality = t => t.rungs.length ? t.rungs[t.rungs.length - 1].quality : null;
  const metric = (t, name) => t.rungs.length ? t.rungs[t.rungs.length - 1].metrics[name] ?? null : null;
  const metricLabels = new Map(metrics.map(([name, label]) => [name, label]));
  const spec = t => JSON.stringify(t.spec, null, 2);
  const blocks = t => (t.spec.stages || []).map(s => `${s.block}×${s.depth}`).join(' ');
  const MARKS = { front: '●', baseline: '◆', complete: '•', stopped: '▽', infeasible: '×', failed: '!', running: '…', duplicate: '=' };

  // --- charts -------------------------------------------------------------------------------------------------
  const views = {};
  const tip = byId('tip');
  const showTip = (handler, event, item, value) => {
    tip.hidden = !value || typeof value !== 'object';
    if (tip.hidden) return;
    tip.replaceChildren(...Object.entries(value).map(([k, v]) => element('div', {}, element('span', {}, k), element('span', {}, String(v)))));
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };

  async function drawCharts() {
    for (const [name, chart] of Object.entries(charts)) {
      const place = byId(`chart-${name}`);
      const still = [...place.childNodes];
      try {
        // ast: vega-embed then runs Vega's expression interpreter, so that no unsafe-eval is needed.
        const result = await vegaEmbed(place, { ...chart, datasets }, { ast: true, actions: false, renderer: 'svg', defaultStyle: false, tooltip: showTip, mode: 'vega-lite' });
        place.dataset.live = '';
        views[name] = result.view;
        result.view.addEventListener('click', (event, item) => item && item.datum && byNumber.has(item.datum.number) && openCard(item.datum.number));
      } catch (error) {
        console.warn(`chart ${name} stays a picture:`, error.message);
        place.replaceChildren(...still);
      }
    }
    document.documentElement.dataset.charts = 'ready';
  }

  function pick(number) {
    if (views.front) views.front.signal('picked', number).runAsync();
  }

  // --- table --------------------------------------------------------------------------------------------------
  const of = (t, key) => t.measurement ? t.measurement[key] : null;
  const COLUMNS = [
    ['net', t => t.number, t => element('a', { href: `#${t.arch_id}`, 'data-open': t.number }, netName(t))],
    ['state', t => standing(t), t => element('span', {}, element('span', { class: `mark ${standing(t)}`, 'aria-hidden': 'true' }, MARKS[standing(t)] || ''), ` ${standing(t)}`)],
    ['quality', quality, t => fixed(quality(t), 3)],
    [`× ${info.reference}`, t => of(t, 'ratio'), t => fixed(of(t, 'ratio'), 3)],
    ['95 %', t => t.measurement ? t.measurement.ratio_high - t.measurement.ratio_low : null, t => t.measurement ? `${fixed(of(t, 'ratio_low'), 3)} to ${fixed(of(t, 'ratio_high'), 3)}` : '–'],
    ['images/s', t => of(t, 'throughput_img_s'), t => fixed(of(t, 'throughput_img_s'), 1)],
    ['latency ms', t => of(t, 'latency_ms'), t => fixed(of(t, 'latency_ms'), 2)],
    ['params M', t => t.params, t => scaled(t.params, 1e6, 3)],
    ['MACs M', t => t.macs, t => scaled(t.macs, 1e6, 1)],
    ['memory MiB', t => of(t, 'peak_memory_mib'), t => fixed(of(t, 'peak_memory_mib'), 1)],
    ['steps', t => t.rungs.length ? t.rungs[t.rungs.length - 1].steps : null, t => t.rungs.length ? String(t.rungs[t.rungs.length - 1].steps) : '–'],
    ...metrics.filter(([, , inTables]) => inTables).map(([name, label]) => [label, t => metric(t, name), t => fixed(metric(t, name), 3)]),
    ['blocks', blocks, blocks],
  ];
  const view = { sort: 0, down: false, hidden: new Set(), find: '', all: false };
  const haystack = t => (t.haystack ??= `${netName(t)} #${t.number} ${t.arch_id} ${standing(t)} ${blocks(t)} ${t.reason || ''}`.toLowerCase());

  function compare(a, b) {
    const [x, y] = [COLUMNS[view.sort][1](a), COLUMNS[view.sort][1](b)];
    const missing = v => v === null || v === undefined || v === '';
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a.number - b.number;
    return (x < y ? -1 : x > y ? 1 : 0) * (view.down ? -1 : 1) || a.number - b.number;
  }

  function drawHead() {
    byId('all').tHead.rows[0].replaceChildren(...COLUMNS.map(([title], i) => element(
      'th', { scope: 'col', 'aria-sort': i === view.sort ? (view.down ? 'descending' : 'ascending') : null },
      element('button', { type: 'button', onclick: () => sortBy(i) }, title))));
  }

  function sortBy(i) {
    view.down = view.sort === i ? !view.down : i >= 2 && i !== COLUMNS.length - 1;
    view.sort = i;
    drawHead();
    drawRows();
    byId('all').tHead.rows[0].cells[i].firstChild.focus();
  }

  function drawRows() {
    const found = trials.filter(t => !view.hidden.has(standing(t)) && haystack(t).includes(view.find)).sort(compare);
    const shown = view.all ? found : found.slice(0, FIRST_ROWS);
    byId('all').tBodies[0].replaceChildren(...shown.map(t => element('tr', {}, ...COLUMNS.map(([, , cell], i) => element(i ? 'td' : 'th', i ? {} : { scope: 'row' }, cell(t))))));
    byId('shown').textContent = `${shown.length} of ${trials.length} trials shown`;
    byId('more').hidden = shown.length === found.length;
  }

  function drawTable() {
    byId('all').append(element('thead', {}, element('tr')), element('tbody'));
    const states = [...new Set(trials.map(standing))].sort();
    for (const state of states) {
      const box = element('input', { type: 'checkbox', checked: true, onchange: () => { box.checked ? view.hidden.delete(state) : view.hidden.add(state); drawRows(); } });
      byId('states').append(element('label', {}, box, ` ${state} (${trials.filter(t => standing(t) === state).length})`));
    }
    byId('find').addEventListener('input', event => { view.find = event.target.value.trim().toLowerCase(); drawRows(); });
    byId('more').addEventListener('click', () => { view.all = true; drawRows(); });
    byId('controls').hidden = false;
    drawHead();
    drawRows();
  }

  // --- downloads: made from the embedded study when they are asked for ------------------------------------------
  const offer = (link, type, text) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    link.href = url;
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  };
  const cell = value => {
    if (value === null || value === undefined) return '';
    // A leading =, +, - or @ would run as a formula in a spreadsheet.
    const text = typeof value === 'number' ? String(value) : String(value).replace(/^([=+\-@\t\r])/, "'$1");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  function csv() {
    const rows = trials.map(t => {
      const { teachers, losses, metrics, ...rung } = t.rungs.length ? t.rungs[t.rungs.length - 1] : {};
      const { seconds, ...measured } = t.measurement || {};
      const heads = Object.entries(teachers || {}).flatMap(([n, h]) => Object.entries(h).map(([k, v]) => [`${n}/${k}`, v]));
      return { number: t.number, arch_id: t.arch_id, origin: t.origin, state: t.state, on_front: onFront.has(t.number), params: t.params, macs: t.macs, ...measured, rung: rung.rung, steps: rung.steps, quality: rung.quality, ...Object.fromEntries(heads), ...metrics, finished_s: t.finished_s, reason: t.reason, spec: JSON.stringify(t.spec) };
    });
    const names = [...new Set(rows.flatMap(Object.keys))];
    return [names, ...rows.map(r => names.map(n => r[n]))].map(r => r.map(cell).join(',')).join('\r\n') + '\r\n';
  }

  // --- cards --------------------------------------------------------------------------------------------------
  const WIDE = 640;
  const label = (x, y, text, attributes = {}) => svg('text', { x, y, ...attributes }, text);

  function stageDiagram(t) {
    const { stages = [], ...rest } = t.spec;
    const stride = rest.stem === 'patch16' ? 16 : 4;
    const parts = [{ title: 'stem', lines: [rest.stem, rest.stem_width] }, ...stages.map((s, i) => ({ title: `stage ${i + 1}, /${stride << i}`, stage: s, lines: [s.block, `×${s.depth}, ${s.width} ch`] }))];
    if (rest.neck && rest.neck !== 'none') parts.push({ title: 'neck', lines: [rest.neck, rest.neck_dim && `${rest.neck_dim} ch`] });
    const gap = 16, width = (WIDE - gap * (parts.length - 1)) / parts.length, base = 120;
    const nodes = parts.flatMap(({ title, stage, lines }, i) => {
      const x = i * (width + gap), height = stage ? Math.min(100, 34 + 7 * stage.depth) : 34, top = base - height;
      const words = lines.filter(Boolean).map((text, k) => label(x + width / 2, base + 17 + 15 * k, String(text), { 'text-anchor': 'middle', class: k ? 'faint' : null }));
      const layers = stage ? Array.from({ length: Math.min(stage.depth, 12) - 1 }, (_, k) => svg('line', { class: 'axis', x1: x + 4, x2: x + width - 4, y1: base - (k + 1) * height / Math.min(stage.depth, 12), y2: base - (k + 1) * height / Math.min(stage.depth, 12) })) : [];
      return [i ? svg('line', { class: 'wire', x1: x - gap, x2: x, y1: base - 17, y2: base - 17 }) : null, svg('rect', { class: 'box', x, y: top, width, height, rx: 4 }), ...layers, label(x + width / 2, top - 6, title, { 'text-anchor': 'middle', class: 'faint' }), ...words].filter(Boolean);
    });
    return svg('svg', { viewBox: `0 0 ${WIDE} ${base + 42}`, role: 'img', 'aria-label': `Stages: ${blocks(t)}` }, ...nodes);
  }

  function learningCurve(t) {
    const mean = heads => { const v = Object.values(heads); return v.reduce((a, b) => a + b, 0) / v.length; };
    const teachers = Object.keys(t.rungs[0].teachers);
    const lines = [t.rungs.map(r => r.quality), ...teachers.map(n => t.rungs.map(r => mean(r.teachers[n] || {})))];
    const values = lines.flat().filter(Number.isFinite), low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
    const steps = t.rungs.map(r => Math.log(r.steps)), from = steps[0], reach = steps[steps.length - 1] - from || 1;
    const x = i => 40 + (WIDE - 200) * (steps[i] - from) / reach, y = v => 150 - 125 * (v - low) / span;
    const path = line => line.map((v, i) => Number.isFinite(v) ? `${x(i)},${y(v)}` : '').join(' ');
    const nodes = [svg('line', { class: 'axis', x1: 40, x2: WIDE - 160, y1: 158, y2: 158 })];
    steps.forEach((_, i) => nodes.push(label(x(i), 174, `${t.rungs[i].steps}`, { 'text-anchor': 'middle', class: 'faint' }), svg('circle', { class: 'dot', cx: x(i), cy: y(t.rungs[i].quality), r: 3 })));
    nodes.push(label(34, y(low) + 4, low.toFixed(2), { 'text-anchor': 'end', class: 'faint' }), label(34, y(high) + 4, high.toFixed(2), { 'text-anchor': 'end', class: 'faint' }));
    lines.forEach((line, k) => nodes.push(svg('polyline', { class: k ? `part c${(k - 1) % 5 + 1}` : 'total', points: path(line) })));
    const ends = lines.map((line, k) => [y(line[line.length - 1]), k ? teachers[k - 1] : 'mean', k]).sort((a, b) => a[0] - b[0]);
    ends.forEach(([at, text, k], i) => {
      if (i && at < ends[i - 1][0] + 14) ends[i][0] = ends[i - 1][0] + 14;
      nodes.push(label(x(steps.length - 1) + 10, ends[i][0] + 4, text.slice(0, 22), { class: k ? `c${(k - 1) % 5 + 1}` : null }));
    });
    return svg('svg', { viewBox: `0 0 ${WIDE} ${Math.max(182, ends[ends.length - 1][0] + 12)}`, role: 'img', 'aria-label': 'Quality by distillation steps; the numbers are in the table below' }, ...nodes);
  }

  const facts = rows => element('dl', { class: 'facts' }, ...rows.filter(([, v]) => v !== null && v !== undefined && v !== '').map(([k, v]) => element('div', {}, element('dt', {}, k), element('dd', {}, String(v)))));
  const copyable = text => element('div', { class: 'code' }, element('pre', { tabindex: 0 }, text), element('button', { type: 'button', onclick: event => copy(text, event.currentTarget) }, 'Copy'));
  const section = (title, ...children) => [element('h3', {}, title), ...children];

  function qualityTable(t) {
    const heads = [...new Set(t.rungs.flatMap(r => Object.values(r.teachers).flatMap(Object.keys)))];
    const names = Object.keys(t.rungs[t.rungs.length - 1].teachers);
    const rows = names.flatMap(n => heads.map(h => [`${n}, ${h}`, ...t.rungs.map(r => (r.teachers[n] || {})[h])]));
    const metrics = [...new Set(t.rungs.flatMap(r => Object.keys(r.metrics)))].map(m => [metricLabels.get(m) || m, ...t.rungs.map(r => r.metrics[m])]);
    const all = [['quality (mean)', ...t.rungs.map(r => r.quality)], ...rows, ...metrics];
    return element('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Quality by teacher' }, element('table', {},
      element('thead', {}, element('tr', {}, element('th', { scope: 'col' }, 'after steps'), ...t.rungs.map(r => element('th', { scope: 'col' }, String(r.steps))))),
      element('tbody', {}, ...all.map(([name, ...values]) => element('tr', {}, element('th', { scope: 'row' }, name), ...values.map(v => element('td', {}, fixed(v, 3))))))));
  }

  const known = value => value !== null && value !== undefined;

  function measured(m) {
    const kinds = [['tensors', m.peak_memory_mib], ['taken from the system', m.reserved_memory_mib], ['on the card', m.driver_memory_mib]];
    const memory = kinds.filter(([, mib]) => known(mib)).map(([kind, mib]) => `${fixed(mib, 1)} MiB ${kind}`).join(', ');
    const percentiles = [[95, m.latency_p95_ms], [99, m.latency_p99_ms]].filter(([, ms]) => known(ms)).map(([q, ms]) => `${q}th percentile ${fixed(ms, 2)} ms`).join(', ');
    return facts([
      ['throughput', `${fixed(m.throughput_img_s, 1)} images/s (${fixed(m.throughput_low_img_s, 1)} to ${fixed(m.throughput_high_img_s, 1)})`],
      [`times ${m.reference}`, `${fixed(m.ratio, 3)} (${fixed(m.ratio_low, 3)} to ${fixed(m.ratio_high, 3)})`],
      ['latency, batch 1', `${fixed(m.latency_ms, 2)} ms${percentiles ? `, ${percentiles}` : ''}`],
      ['peak memory', memory || 'unknown'],
      ...known(m.energy_j) ? [['energy', `${fixed(m.energy_j * 1e3, 1)} mJ an image, by the whole card`]] : [],
      ['measured on', `${m.device}, ${m.arm}, batch ${m.batch}${known(m.requested_batch) && m.requested_batch !== m.batch ? ` (for ${m.requested_batch})` : ''}, ${m.resolution} px`],
      ['samples', `${m.samples} in ${fixed(m.seconds, 1)} s, verdict ${m.verdict}`],
      ...known(m.output_error) ? [['against fp32 eager', `outputs differ by ${m.output_error.toExponential(1)}`]] : [],
      ...(m.notes || []).map(note => ['note', note])]);
  }

  function commands(t) {
    const m = t.measurement, file = `${t.arch_id}.json`;
    const threads = m && /(\d+) thread/.exec(m.arm), seconds = 5;
    const arm = m && m.arm.split(', ').slice(0, 4).map(word => word.split(' ')[0]).join('+');
    const options = m ? ` --device ${info.config.device || m.device} --batch ${m.batch} --resolution ${m.resolution} --arm ${arm}`
      + ` --reference ${m.reference} --seconds ${seconds}${threads ? ` --threads ${threads[1]}` : ''}` : '';
    const save = element('a', { href: '#', download: file, onclick: event => offer(event.currentTarget, 'application/json', spec(t)) }, 'Save spec');
    return section('Measure it again', copyable(`python -m nas.profile --arch ${file}${options}`), element('p', { class: 'muted' }, `with the spec below saved as ${file}: `, element('span', { class: 'actions' }, save)));
  }

  function pictures(t) {
    const sheet = byId(`pictures-${t.number}`);
    if (!sheet) return [];
    const copy = sheet.cloneNode(true);
    copy.removeAttribute('id');
    copy.querySelector('figcaption').remove();
    return section('What its features look like', copy);
  }

  function openCard(number) {
    const t = byNumber.get(number), card = byId('card');
    const size = facts([['parameters', scaled(t.params, 1e6, 3) + ' M'], ['MACs', scaled(t.macs, 1e6, 1) + ' M'], ['arch id', t.arch_id], ['state', standing(t) === t.state ? t.state : `${t.state}, ${standing(t)}`]]);
    card.replaceChildren(
      element('header', {}, element('h2', { id: 'card-title' }, netName(t)), element('button', { type: 'button', onclick: () => card.close() }, 'Close')),
      ...(t.reason ? section('Reason', element('pre', { tabindex: 0 }, t.reason)) : []), stageDiagram(t), size,
      ...(t.measurement ? section('Speed', measured(t.measurement)) : []),
      ...(t.rungs.length ? section('Quality', ...(t.rungs.length > 1 ? [learningCurve(t)] : []), qualityTable(t)) : []),
      ...pictures(t),
      ...commands(t), ...section('Spec', copyable(spec(t))));
    if (!card.open) card.showModal();
    card.scrollTop = 0;
    pick(number);
  }

  // --- wiring -------------------------------------------------------------------------------------------------
  async function copy(text, button) {
    const area = element('textarea', { readonly: true, class: 'hidden' });
    try { await navigator.clipboard.writeText(text); } catch { // file:// pages may lack the clipboard
      area.value = text;
      button.after(area);
      area.select();
      document.execCommand('copy');
      area.remove();
      button.focus();
    }
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  }

  function openFromAddress() {
    const found = trials.find(t => location.hash === `#${t.arch_id}`);
    if (found) openCard(found.number);
  }

  document.addEventListener('click', event => {
    const opener = event.target.closest('[data-open]'), copier = event.target.closest('[data-copy]');
    if (opener && !event.ctrlKey && !event.metaKey) { event.preventDefault(); openCard(Number(opener.dataset.open)); }
    if (copier) copy(byId(copier.dataset.copy).textContent, copier);
  });
  byId('card').addEventListener('click', event => event.target === byId('card') && byId('card').close());
  byId('csv').addEventListener('click', event => offer(event.currentTarget, 'text/csv', csv()));
  byId('json').addEventListener('click', event => offer(event.currentTarget, 'application/json', JSON.stringify({ info, trials })));
  addEventListener('hashchange', openFromAddress);
  drawTable();
  drawCharts().then(openFromAddress);
})();
