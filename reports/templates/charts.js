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

async function drawChart(name) {
  const place = byId(`chart-${name}`), picture = [...place.childNodes];
  const tooltip = (handler, event, item, value) => showTip(value && typeof value === 'object' ? Object.entries(value) : null, event.clientX, event.clientY);
  try {
    // ast: vega-embed runs Vega's expression interpreter, which needs no unsafe-eval.
    const result = await vegaEmbed(place, { ...charts[name], datasets }, { ast: true, actions: false, renderer: 'svg', defaultStyle: false, tooltip, mode: 'vega-lite' });
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

function ringInFront(number) {
  const point = datasets.points.find(p => p.number === number);
  if (views.front) views.front.data('picked', point ? [{ number, ratio: point.ratio, score: point.score ?? floor }] : []).runAsync();
}

let refilling = 0;
function startCharts() {
  listeners.picked.push(ringInFront);
  listeners.shown.push(shown => {
    const numbers = new Set(shown.map(t => t.number));
    clearTimeout(refilling);
    refilling = setTimeout(() => views.front && views.front.data('points', datasets.points.filter(p => numbers.has(p.number))).runAsync(), 60);
  });
}
