// The Vega charts, in the place of the pictures that stand there without JavaScript.
const views = {};
const tip = byId('tip');

function showTip(rows, x, y) {
  tip.hidden = !rows;
  if (tip.hidden) return;
  tip.replaceChildren(...rows.map(([k, v]) => element('div', {}, element('span', {}, brief(String(k), 60)), element('span', {}, brief(String(v), 120)))));
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
}

// The small pictures of quality against a metric, by its place among them: too many rows to be in the file twice. Of
// thousands of dots not all are drawn: each is an element of the page, and an open card makes all of them inert.
const kinds = new Map(datasets.points.map(p => [p.number, p.kind]));
datasets.metrics = scattered.flatMap(([name, step], which) => {
  let others = 0;
  return trials.filter(t => t.state === 'complete' && kinds.has(t.number) && Number.isFinite(metric(t, name)))
    .filter(t => ['front', 'baseline'].includes(standing(t)) || others++ % step === 0)
    .map(t => ({ which, number: t.number, net: netName(t), kind: kinds.get(t.number), quality: quality(t), value: metric(t, name) }));
});

async function drawChart(name) {
  const place = byId(`chart-${name}`), still = [...place.childNodes];
  const tooltip = (handler, event, item, value) => showTip(value && typeof value === 'object' ? Object.entries(value) : null, event.clientX, event.clientY);
  try {
    // ast: vega-embed then runs Vega's expression interpreter, so that no unsafe-eval is needed.
    const result = await vegaEmbed(place, { ...charts[name], datasets }, { ast: true, actions: false, renderer: 'svg', defaultStyle: false, tooltip, mode: 'vega-lite' });
    place.dataset.live = '';
    for (const drawing of place.querySelectorAll('svg')) drawing.setAttribute('aria-hidden', 'true'); // the place is the image, with its caption
    views[name] = result.view;
    result.view.addEventListener('click', (event, item) => item && item.datum && byNumber.has(item.datum.number) && openCard(item.datum.number));
  } catch (error) {
    console.warn(`chart ${name} stays a picture:`, error.message);
    place.replaceChildren(...still);
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
  if (views.front) views.front.data('picked', point ? [{ number, ratio: point.ratio, quality: point.quality ?? floor }] : []).runAsync();
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
