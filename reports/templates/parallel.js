// Parallel coordinates, a line per candidate. Canvases draw ten thousand lines; the picked line has a canvas of its own.
const TOP = 46, BOTTOM = 26, HEIGHT = 340, AXIS_PX = 74, GRAB_PX = 16, PRINTED = 800;
const total = (t, key) => stagesOf(t).length ? sum(stagesOf(t).map(s => s[key])) : null;
// As in the importance of choices, stages are counted by stride, whatever the stem: stage 1 has stride 4, stage 3 has 16.
const stagesBefore = t => Math.log2(stemStride(t) / 4);
const blockOf = (t, number) => { const s = stagesOf(t)[number - 1 - stagesBefore(t)]; return s && s.block; };
const neckOf = t => known(t.spec.neck) ? String(t.spec.neck).replace(/^stage(\d+)$/, (_, n) => `stage${Number(n) + stagesBefore(t)}`) : null;
const teachers = Object.keys(info.teachers).length ? Object.keys(info.teachers) : [...new Set(trials.flatMap(t => Object.keys((lastRung(t) || { teachers: {} }).teachers)))];
const scoreOn = (t, name) => { const heads = lastRung(t) && lastRung(t).teachers[name]; return heads ? teacherScore(heads) : null; };
const log2 = value => value > 0 ? Math.log2(value) : null;
const linear = (title, value, digits) => ({ title, value, digits, place: value, back: p => p });
const log = (title, value, digits) => ({ title, value, digits, place: t => log2(value(t)), back: p => 2 ** p });
const category = (title, value) => ({ title, value, category: true });
// Axes by the name of their objective or metric.
const costs = new Map([
  ['latency', log('latency ms', t => of(t, 'latency_ms'), 2)],
  ['memory', log('memory MiB', t => of(t, 'peak_memory_mib'), 1)],
  ['params', log('params M', t => known(t.params) ? t.params / 1e6 : null, 2)],
  ['macs', log('MACs M', t => known(t.macs) ? t.macs / 1e6 : null, 1)],
]);
const judged = new Map(metrics.filter(([, , inTables]) => inTables).map(([name, label]) => [name, linear(label, t => metric(t, name), 3)]));
const axisOf = o => costs.get(o.name) || judged.get(o.name) || (o.log ? log : linear)(o.title, t => valueOf(o, t));
// All sets begin with throughput, score and the study's further objectives.
const firstAxes = [log(`× ${info.reference}`, ratio, 2), linear('score', score, 3), ...further.map(axisOf)];
const SETS = {
  'throughput and cost': [...new Set([...firstAxes, ...costs.values()]), category('steps', t => lastRung(t) && lastRung(t).steps)],
  'architecture': [...firstAxes, category('stem', t => t.spec.stem), ...[1, 2, 3, 4, 5].map(number => category(`stage ${number}`, t => blockOf(t, number))),
    category('neck', neckOf), category('blocks', t => total(t, 'depth')), linear('channels', t => total(t, 'width'), 0)],
  'teachers and metrics': [...new Set([...firstAxes, ...teachers.map(name => linear(bySpatial ? `${name} spatial` : name, t => scoreOn(t, name), 3)), ...judged.values()])],
};

function prepare(axis) {
  if (axis.category) {
    axis.values = [...new Set(trials.map(axis.value).filter(known))].sort((a, b) => typeof a === 'number' ? a - b : a < b ? -1 : 1);
    axis.place = t => { const i = axis.values.indexOf(axis.value(t)); return i < 0 ? null : i; };
    [axis.low, axis.high] = [-0.5, axis.values.length - 0.5];
    return axis.values.length > 1;
  }
  const places = trials.map(axis.place).filter(p => Number.isFinite(p));
  axis.low = places.reduce((a, b) => Math.min(a, b), Infinity);
  axis.high = places.reduce((a, b) => Math.max(a, b), -Infinity);
  return axis.high > axis.low;
}

const titleOf = axis => brief(axis.title, 16);
const parallel = { axes: [], width: 0, lines: [] };
const yOf = (axis, place) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (place - axis.low) / (axis.high - axis.low);
const placeAt = (axis, y) => axis.low + (axis.high - axis.low) * (HEIGHT - BOTTOM - y) / (HEIGHT - TOP - BOTTOM);
const valueText = (axis, place) => axis.category ? String(axis.values[Math.round(place)]) : known(axis.digits) ? fixed(axis.back(place), axis.digits) : significant(axis.back(place));

function layOut() {
  const wanted = Math.max(byId('parallel').clientWidth, parallel.axes.length * AXIS_PX);
  parallel.width = wanted;
  const left = 34, right = 74, step = (wanted - left - right) / Math.max(1, parallel.axes.length - 1);
  parallel.axes.forEach((axis, i) => { axis.x = left + i * step; });
  parallel.lines = trials.map(t => ({ t, y: parallel.axes.map(axis => { const p = axis.place(t); return Number.isFinite(p) ? yOf(axis, p) : null; }) }))
    .filter(line => line.y.filter(y => y !== null).length > 1);
  const order = { front: 2, baseline: 3 };
  parallel.lines.sort((a, b) => (order[status(a.t)] || 0) - (order[status(b.t)] || 0));
  for (const canvas of byId('parallel').querySelectorAll('canvas')) {
    canvas.width = wanted * devicePixelRatio;
    canvas.height = HEIGHT * devicePixelRatio;
    canvas.style.width = `${wanted}px`;
    canvas.style.height = `${HEIGHT}px`;
  }
  drawAxes();
  drawLines();
  drawPicked();
}

function trace(context, line) {
  let pen = false;
  line.y.forEach((y, i) => {
    if (y === null) { pen = false; return; }
    pen ? context.lineTo(parallel.axes[i].x, y) : context.moveTo(parallel.axes[i].x, y);
    pen = true;
  });
}

function blank(id) {
  const context = byId(id).getContext('2d');
  context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  context.clearRect(0, 0, parallel.width, HEIGHT);
  return context;
}

function drawLines() {
  const shown = new Set(selection.shown), style = getComputedStyle(document.documentElement);
  const color = name => style.getPropertyValue(`--${name}`).trim();
  const looks = { front: [color('front'), 1.6, 0.9], baseline: [color('baseline'), 1.8, 0.95], infeasible: [color('infeasible'), 1, Math.max(0.3, Math.min(0.9, 30 / selection.shown.length))] };
  const faint = [color('dominated'), 1, Math.max(0.07, Math.min(0.55, 60 / selection.shown.length))];
  const context = blank('lines');
  for (const line of parallel.lines) {
    if (!shown.has(line.t)) continue;
    [context.strokeStyle, context.lineWidth, context.globalAlpha] = looks[status(line.t)] || faint;
    context.beginPath();
    context.setLineDash(status(line.t) === 'baseline' ? [6, 4] : []);
    trace(context, line);
    context.stroke();
  }
  context.setLineDash([]);
  context.globalAlpha = 1;
}

function drawPicked(hovered = null) {
  const context = blank('picked-line'), ink = getComputedStyle(document.documentElement).getPropertyValue('--ink').trim();
  const line = number => parallel.lines.find(l => l.t.number === number);
  for (const [found, width] of [[hovered, 1.5], [line(selection.picked), 3]]) {
    if (!found) continue;
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = width;
    context.beginPath();
    trace(context, found);
    context.stroke();
    found.y.forEach((y, i) => { if (y !== null) { context.beginPath(); context.arc(parallel.axes[i].x, y, 3.2, 0, 7); context.fill(); } });
  }
}

// Round numbers between two others, at most about five: a step of 1, 2 or 5 times a power of ten.
function roundSteps(low, high) {
  const raw = (high - low) / 4, unit = 10 ** Math.floor(Math.log10(raw)), step = unit * [1, 2, 5, 10].find(m => m * unit >= raw);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

// On a logarithmic axis that spans a factor of 4 or more: 1, 2 and 5 times powers of ten; of many, powers of ten alone.
function roundDoublings(low, high) {
  if (high < 4 * low) return roundSteps(low, high);
  const tens = Array.from({ length: Math.ceil(Math.log10(high / low)) + 2 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i));
  const within = values => values.map(v => Number(v.toPrecision(6))).filter(v => v >= low && v <= high);
  const fine = within(tens.flatMap(ten => [ten, 2 * ten, 5 * ten]));
  return fine.length > 7 ? within(tens) : fine;
}

// Places on an axis and their labels.
function ticks(axis) {
  if (axis.category) return axis.values.map((value, i) => [i, String(value)]);
  const doublings = axis.back(1) !== 1, values = (doublings ? roundDoublings : roundSteps)(axis.back(axis.low), axis.back(axis.high));
  return values.map(value => [doublings ? Math.log2(value) : value, value.toLocaleString('en', { maximumFractionDigits: 6 })]);
}

// A label on paper, which lines do not cross.
function tickLabel(axis, [place, text]) {
  const shown = brief(text, 12), y = yOf(axis, place);
  return [svg('rect', { class: 'under', x: axis.x + 3, y: y - 6.5, width: 5.8 * shown.length + 4, height: 13 }), svg('text', { x: axis.x + 5, y: y + 3.5, class: 'tick' }, shown)];
}

// Whether the titles of two neighbors would touch, at 6.6 px a character.
const crowded = () => parallel.axes.some((axis, i) => i && 3.3 * (titleOf(axis).length + titleOf(parallel.axes[i - 1]).length) > axis.x - parallel.axes[i - 1].x);

function drawAxes() {
  const staggered = narrow() || crowded();
  const nodes = parallel.axes.flatMap((axis, i) => {
    const title = svg('text', { x: axis.x, y: i % 2 && staggered ? 30 : 18, 'text-anchor': i ? i === parallel.axes.length - 1 ? 'end' : 'middle' : 'start', dx: i ? i === parallel.axes.length - 1 ? 60 : 0 : -24, class: 'title' }, titleOf(axis));
    title.append(svg('title', {}, axis.title));
    const range = selection.ranges.get(axis);
    return [
      svg('line', { class: 'axis', x1: axis.x, x2: axis.x, y1: TOP, y2: HEIGHT - BOTTOM }), title,
      ...ticks(axis).flatMap(tick => tickLabel(axis, tick)),
      range ? svg('rect', { class: 'brush', x: axis.x - 7, width: 14, rx: 2, y: yOf(axis, range[1]), height: Math.max(2, yOf(axis, range[0]) - yOf(axis, range[1])) }) : null,
      svg('rect', { class: 'grab', x: axis.x - GRAB_PX, width: 2 * GRAB_PX, y: TOP - 8, height: HEIGHT - TOP - BOTTOM + 16 }),
    ].filter(Boolean);
  });
  byId('axes').replaceChildren(...(parallel.printing ? printedLines() : []), ...nodes);
  byId('axes').setAttribute('width', parallel.width);
  byId('axes').setAttribute('height', HEIGHT);
  byId('axes').setAttribute('viewBox', `0 0 ${parallel.width} ${HEIGHT}`);
}

// A printed canvas is blank or coarse: for printing, lines are drawn as SVG, at most a few hundred of the dominated ones.
function printedLines() {
  const shown = new Set(selection.shown), lines = parallel.lines.filter(line => shown.has(line.t)), step = Math.ceil(lines.length / PRINTED);
  return lines.filter((line, i) => i % step === 0 || ['front', 'baseline'].includes(status(line.t))).map(line => {
    let d = '', pen = 'M';
    line.y.forEach((y, i) => { d += y === null ? '' : `${pen}${parallel.axes[i].x.toFixed(1)},${y.toFixed(1)}`; pen = y === null ? 'M' : 'L'; });
    return svg('path', { d, class: `line ${status(line.t)}` });
  });
}

function nearest(x, y) {
  const { axes } = parallel, shown = new Set(selection.shown);
  const right = axes.findIndex(axis => axis.x > x), i = right < 0 ? axes.length - 2 : Math.max(0, right - 1);
  const part = (x - axes[i].x) / (axes[i + 1].x - axes[i].x);
  let best = null, least = 9;
  for (const line of parallel.lines) {
    const [a, b] = [line.y[i], line.y[i + 1]];
    if (a === null || b === null || !shown.has(line.t)) continue;
    const off = Math.abs(a + (b - a) * part - y) - (status(line.t) === 'front' ? 2 : 0);
    if (off < least) [best, least] = [line, off];
  }
  return best;
}

// Dragging along an axis filters by a range; a click on the axis removes the filter.
function startBrush(event) {
  const at = e => { const box = byId('axes').getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
  const [x, y] = at(event), axis = parallel.axes.find(a => Math.abs(a.x - x) <= GRAB_PX);
  if (!axis) return;
  event.preventDefault();
  byId('axes').setPointerCapture(event.pointerId);
  const from = placeAt(axis, y);
  const move = e => setRange(axis, [from, placeAt(axis, at(e)[1])].sort((a, b) => a - b));
  const end = e => {
    byId('axes').removeEventListener('pointermove', move);
    if (Math.abs(at(e)[1] - y) < 3) setRange(axis, null);
  };
  byId('axes').addEventListener('pointermove', move);
  byId('axes').addEventListener('pointerup', end, { once: true });
  byId('axes').addEventListener('pointercancel', end, { once: true });
}

let brushing = 0;
function setRange(axis, range) {
  range ? selection.ranges.set(axis, range) : selection.ranges.delete(axis);
  cancelAnimationFrame(brushing);
  brushing = requestAnimationFrame(refilter);
}

// The same filters as numbers, for use without dragging.
function drawLimits() {
  byId('limits').replaceChildren(...parallel.axes.filter(axis => !axis.category).map(axis => {
    const range = selection.ranges.get(axis);
    const input = end => element('input', { type: 'number', step: 'any', 'aria-label': `${axis.title}, ${end ? 'at most' : 'at least'}`, placeholder: valueText(axis, end ? axis.high : axis.low),
      value: range && range[end] !== (end ? axis.high : axis.low) ? Number(axis.back(range[end]).toPrecision(4)) : null, onchange: event => limit(axis, end, event.target.value) });
    return element('div', {}, element('span', {}, axis.title), input(0), input(1));
  }));
}

function limit(axis, end, text) {
  const range = [...selection.ranges.get(axis) || [axis.low, axis.high]], value = Number(text), whole = [axis.low, axis.high];
  range[end] = text.trim() === '' ? whole[end] : axis.back(1) === 1 ? value : log2(value) ?? axis.low;
  setRange(axis, range[0] <= axis.low && range[1] >= axis.high ? null : range);
}

function chooseAxes(name) {
  selection.ranges.clear();
  parallel.axes = SETS[name];
  layOut();
  drawLimits();
  if (filtered() || selection.shown.length < trials.length) refilter();
}

function startParallel() {
  for (const name of Object.keys(SETS)) {
    SETS[name] = SETS[name].filter(prepare);
    if (SETS[name].length < 3) delete SETS[name];
  }
  const names = Object.keys(SETS);
  if (!names.length) return;
  byId('candidates').hidden = document.querySelector('#contents [hidden]').hidden = false;
  byId('axis-sets').append(...names.map((name, i) => element('label', {}, element('input', { type: 'radio', name: 'axes', checked: !i, onchange: () => chooseAxes(name) }), ` ${name}`)));
  const axes = byId('axes');
  const under = event => { const box = axes.getBoundingClientRect(); return nearest(event.clientX - box.left, event.clientY - box.top); };
  axes.addEventListener('pointerdown', startBrush);
  axes.addEventListener('click', event => { const line = !event.target.matches('.grab, .brush') && under(event); if (line) openCard(line.t.number); });
  axes.addEventListener('pointermove', event => {
    const line = event.buttons || event.target.matches('.grab, .brush') ? null : under(event);
    axes.classList.toggle('clickable', Boolean(line));
    drawPicked(line);
    showTip(line && [['candidate', trialName(line.t)], ['status', statusWord(line.t)], ['score', fixed(score(line.t), 3)], [`× ${info.reference}`, ratioText(line.t)]], event.clientX, event.clientY);
  });
  axes.addEventListener('pointerleave', () => { drawPicked(); showTip(null); });
  listeners.picked.push(() => drawPicked());
  listeners.shown.push(() => { drawAxes(); drawLines(); byId('limits').contains(document.activeElement) || drawLimits(); });
  new ResizeObserver(() => byId('parallel').clientWidth !== parallel.seen && (parallel.seen = byId('parallel').clientWidth, layOut())).observe(byId('parallel'));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { drawLines(); drawPicked(); });
  for (const [event, printing] of [['beforeprint', true], ['afterprint', false]]) addEventListener(event, () => { parallel.printing = printing; drawAxes(); });
  chooseAxes(names[0]);
}
