// The Vega charts, which replace the static pictures.
const views = {};
const tip = byId('tip');

function showTip(rows, x, y) {
  tip.hidden = !rows;
  if (tip.hidden) return;
  tip.replaceChildren(...rows.map(([k, v]) => element('div', {}, element('span', {}, brief(String(k), 60)), element('span', {}, brief(String(v), 120)))));
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
}

// Rows of the small charts of score against metrics, derived here because they would double the size of the file. Of
// thousands of dominated models only some are drawn: each is an element of the page, which an open card makes inert.
const kinds = new Map(datasets.points.map(p => [p.number, p.kind]));
datasets.metrics = scattered.flatMap(([name, step], which) => {
  let others = 0;
  return trials.filter(t => t.state === 'complete' && kinds.has(t.number) && Number.isFinite(metric(t, name)))
    .filter(t => ['front', 'baseline'].includes(status(t)) || others++ % step === 0)
    .map(t => ({ which, number: t.number, name: trialName(t), kind: kinds.get(t.number), score: score(t), value: metric(t, name) }));
});

// The learning curves of all candidates, likewise.
let otherCurves = 0;
datasets['score-curves'] = trials.filter(t => kinds.has(t.number) && t.rungs.length && charts['score-curves'])
  .filter(t => ['front', 'baseline'].includes(status(t)) || otherCurves++ % curveStep === 0)
  .flatMap(t => t.rungs.map(r => ({ number: t.number, name: trialName(t), kind: kinds.get(t.number), steps: r.steps, score: r.score })));

async function drawChart(name) {
  const place = byId(`chart-${name}`), picture = [...place.childNodes];
  const rowsOf = value => Object.entries(value).filter(([, text]) => text !== 'null' && text !== ''); // what the point has
  const tooltip = (handler, event, item, value) => showTip(value && typeof value === 'object' ? rowsOf(value) : null, event.clientX, event.clientY);
  // A legend whose columns follow the width would be cut off: Vega reserves its room before the width is known.
  const config = narrow() ? { legend: { columns: 2 } } : {};
  try {
    // ast: vega-embed runs Vega's expression interpreter, which needs no unsafe-eval.
    const result = await vegaEmbed(place, { ...charts[name], datasets }, { config, ast: true, actions: false, renderer: 'svg', defaultStyle: false, tooltip, mode: 'vega-lite' });
    place.dataset.live = '';
    for (const drawing of place.querySelectorAll('svg')) drawing.setAttribute('aria-hidden', 'true'); // the parent is the image, with its caption
    views[name] = result.view;
    result.view.addEventListener('click', (event, item) => item && item.datum && byNumber.has(item.datum.number) && openCard(item.datum.number));
  } catch (error) {
    console.warn(`chart ${name} stays a picture:`, error.message);
    place.replaceChildren(...picture);
  }
}

async function drawCharts() {
  for (const name of Object.keys(charts)) {
    if (byId(`chart-${name}`)) await drawChart(name);
  }
  document.documentElement.dataset.charts = 'ready';
}

// Early-stopped candidates are hidden in the chart of the front until the switch above it is on.
const stoppedSwitch = byId('stopped');
const stoppedShown = () => Boolean(stoppedSwitch && stoppedSwitch.checked);

function ringInFront(number) {
  const point = datasets.points.find(p => p.number === number && (stoppedShown() || p.kind !== stoppedKind));
  if (views.front) views.front.data('picked', point ? [{ number, ratio: point.ratio, score: point.score ?? floors[Number(stoppedShown())] }] : []).runAsync();
}

function startStoppedSwitch() {
  if (!stoppedSwitch) return;
  byId('stopped-switch').hidden = false;
  stoppedSwitch.addEventListener('change', () => {
    if (views.front) views.front.signal('show_stopped', stoppedShown()).runAsync();
    ringInFront(selection.picked);
  });
}

let refilling = 0;
function startCharts() {
  startStoppedSwitch();
  listeners.picked.push(ringInFront);
  listeners.shown.push(shown => {
    const numbers = new Set(shown.map(t => t.number));
    clearTimeout(refilling);
    const kept = name => datasets[name].filter(p => numbers.has(p.number));
    refilling = setTimeout(() => views.front && views.front.data('points', kept('points')).data('labels', kept('labels')).runAsync(), 60);
  });
}
