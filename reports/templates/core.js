// Unpack the study; read, format and show its values.
const FIRST_ROWS = 300;
const byId = id => document.getElementById(id);

// Inverse of reports.formatting.packed_json: an object is [index into keys, ...values] without its last nulls, an array is [-1, ...items].
const packed = JSON.parse(byId('data').textContent);
const unpack = value => {
  if (!Array.isArray(value)) return value;
  const [shape, ...values] = value;
  if (shape < 0) return values.map(unpack);
  return Object.fromEntries(packed.keys[shape].map((key, i) => [key, unpack(values[i] ?? null)]));
};
const { info, trials, front, metrics, units, further, charts, datasets, floors, run, scattered, curve_step: curveStep, stopped_kind: stoppedKind, timing_doubts: timingDoubts, no_intervals: noIntervals, state_words: stateWords } = unpack(packed.data);
const onFront = new Set(front);
const byNumber = new Map(trials.map(t => [t.number, t]));

// All text goes through textContent or setAttribute: no text of a study is ever parsed as markup.
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

const known = value => value !== null && value !== undefined;
const formats = [0, 1, 2, 3].map(digits => new Intl.NumberFormat('en', { minimumFractionDigits: digits, maximumFractionDigits: digits }));
const fixed = (value, digits) => Number.isFinite(value) ? formats[digits].format(value).replace(/^-(?=[0.]+$)/, '') : '–'; // no -0.000
const scaled = (value, unit, digits) => Number.isFinite(value) ? fixed(value / unit, digits) : '–';
const significant = value => Number.isFinite(value) ? value.toLocaleString('en', Math.abs(value) >= 1e4 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 }) : '–';
const brief = (text, length) => text.length > length ? `${text.slice(0, length - 1)}…` : text;
const sum = values => values.reduce((a, b) => a + b, 0);
const mean = values => sum(values) / values.length;
// A teacher's part of the distillation score: its spatial features alone, or the mean over its heads.
const bySpatial = Boolean(info.config.distill) && info.config.distill.score === 'spatial';
const teacherScore = heads => bySpatial && known(heads.spatial) ? heads.spatial : mean(Object.values(heads));
const percent = share => Number.isFinite(share) ? `${fixed(100 * share, 0)} %` : '–';
const isBaseline = t => t.baseline !== null;
const trialName = t => t.baseline ?? `trial ${t.number}`;
const status = t => isBaseline(t) ? 'baseline' : onFront.has(t.number) ? 'front' : t.state; // a key: also a CSS class
const statusWord = t => stateWords[status(t)] || status(t);
const lastRung = t => t.rungs.length ? t.rungs[t.rungs.length - 1] : null;
const score = t => lastRung(t) ? lastRung(t).score : null;
const metric = (t, name) => lastRung(t) ? lastRung(t).metrics[name] ?? null : null;
const of = (t, key) => t.measurement ? t.measurement[key] ?? null : null;
const predicted = t => t.state === 'stopped' && !t.measurement && t.expected ? t.expected.ratio ?? null : null; // it ended before its measurement
const ratio = t => of(t, 'ratio') ?? predicted(t);
const doubtOf = new Map(timingDoubts), noRatioInterval = new Map(noIntervals.ratio), noThroughputInterval = new Map(noIntervals.throughput);
const doubtful = t => doubtOf.has(t.number);
const ratioDigits = t => doubtful(t) ? 2 : 3; // an interval that cannot be trusted has no third digit
const speedDigits = t => of(t, 'throughput_img_s') < 100 ? 1 : 0; // as in macros.html.j2
const ratioText = t => known(predicted(t)) ? `about ${fixed(predicted(t), 2)}` : fixed(of(t, 'ratio'), ratioDigits(t));
const metricLabels = new Map(metrics.map(([name, label]) => [name, label]));
const placeOf = new Map(trials.map((t, i) => [t, i]));
const valueOf = (objective, t) => objective.values[placeOf.get(t)] ?? null; // of one of `further`
const spec = t => JSON.stringify(t.spec, null, 2);
const stagesOf = t => t.spec.stages || [];
const blocks = t => stagesOf(t).map(s => `${s.block}×${s.depth}`).join(' ');
const MARKS = { front: '●', baseline: '◆', complete: '•', stopped: '▽', infeasible: '×', failed: '!', running: '…', duplicate: '=' };
const describe = t => `${brief(trialName(t), 60)}, ${statusWord(t)}`
  + (Number.isFinite(ratio(t)) ? `, ${ratioText(t)} times ${brief(info.reference, 40)}` : '')
  + (Number.isFinite(score(t)) ? `, score ${fixed(score(t), 3)}` : '');
const narrow = () => innerWidth < 560;
