// The card of one trial: its records, and the commands to use it.
const facts = rows => element('dl', { class: 'facts' }, ...rows.filter(([, v]) => known(v) && v !== '').map(([k, v]) => element('div', {}, element('dt', {}, k), element('dd', {}, String(v)))));
const copyable = text => element('div', { class: 'code' }, element('pre', { tabindex: 0 }, text), element('button', { type: 'button', onclick: event => copy(text, event.currentTarget) }, 'Copy'));
const section = (title, ...children) => [element('h3', {}, title), ...children];

function scoreTable(t) {
  const heads = [...new Set(t.rungs.flatMap(r => Object.values(r.teachers).flatMap(Object.keys)))];
  const names = Object.keys(lastRung(t).teachers);
  const rows = names.flatMap(n => heads.map(h => [`${n}, ${h}`, ...t.rungs.map(r => (r.teachers[n] || {})[h])])).filter(([, ...values]) => values.some(known));
  const probes = [...new Set(t.rungs.flatMap(r => Object.keys(r.metrics)))].map(m => [metricLabels.get(m) || m, ...t.rungs.map(r => r.metrics[m])]);
  const all = [['score', ...t.rungs.map(r => r.score)], ...rows, ...probes];
  return element('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Score by teacher' }, element('table', {},
    element('thead', {}, element('tr', {}, element('th', { scope: 'col' }, 'steps'), ...t.rungs.map(r => element('th', { scope: 'col' }, String(r.steps))))),
    element('tbody', {}, ...all.map(([name, ...values]) => element('tr', {}, element('th', { scope: 'row' }, brief(name, 60)), ...values.map(v => element('td', {}, fixed(v, 3))))))));
}

// A record names the threads twice, with the CPU and with the runtime.
const threads = /, (\d+) thread(?:s|\(s\))?$/;
const setting = m => {
  const runtime = m.arm.replace(threads, (_, n) => ', ' + n + (n === '1' ? ' measuring thread' : ' measuring threads'));
  return `${m.device.replace(threads, '')}, ${runtime}`;
};

function measured(t) {
  const m = t.measurement, ends = (none, low, high, digits) => none.get(t.number) || `${fixed(low, digits)} to ${fixed(high, digits)}`;
  const kinds = [['tensors', m.peak_memory_mib], ['reserved', m.reserved_memory_mib], ['on the GPU', m.driver_memory_mib]];
  const memory = kinds.filter(([, mib]) => known(mib)).map(([kind, mib]) => `${fixed(mib, 1)} MiB ${kind}`).join(', ');
  const percentiles = [[95, m.latency_p95_ms], [99, m.latency_p99_ms]].filter(([, ms]) => known(ms)).map(([q, ms]) => `${q}th percentile ${fixed(ms, 2)} ms`).join(', ');
  return facts([
    [`throughput, batch ${m.batch}`, `${fixed(m.throughput_img_s, speedDigits(t))} images/s (${ends(noThroughputInterval, m.throughput_low_img_s, m.throughput_high_img_s, speedDigits(t))})`],
    [`times ${m.reference}`, `${fixed(m.ratio, ratioDigits(t))} (${ends(noRatioInterval, m.ratio_low, m.ratio_high, ratioDigits(t))})`],
    ['latency, batch 1', `${fixed(m.latency_ms, 2)} ms${percentiles ? `, ${percentiles}` : ''}`],
    ['peak memory', memory || 'unknown'],
    ...known(m.energy_j) ? [['energy', `${fixed(m.energy_j * 1e3, 1)} mJ per image, whole GPU`]] : [],
    ['measured on', `${setting(m)}, batch ${m.batch}${known(m.requested_batch) && m.requested_batch !== m.batch ? ` (requested: ${m.requested_batch})` : ''}, ${m.resolution} px`],
    ['samples', `${m.samples} in ${fixed(m.seconds, 1)} s, verdict ${m.verdict}${doubtful(t) ? ': the intervals cannot be trusted' : ''}`],
    ...known(m.output_error) ? [['against fp32 eager', `relative output error ${m.output_error.toExponential(1)}`]] : [],
    ...(m.notes || []).map(note => ['note', note])]);
}

// Seconds of a batch by stage, timed eagerly, whatever runtime the trial uses.
function stageTimes(m) {
  const times = Object.entries(m.stages_s || {}), whole = sum(times.map(([, s]) => s)), longest = Math.max(...times.map(([, s]) => s));
  if (!times.length) return [];
  const bar = s => svg('svg', { width: 120, height: 12, 'aria-hidden': 'true' }, svg('rect', { class: 'box', width: Math.max(1, 120 * s / longest), height: 12, rx: 2 }));
  return [element('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Time by stage' }, element('table', { class: 'stages' },
    element('thead', {}, element('tr', {}, ...['stage', 'ms', 'share', ''].map(title => element(title ? 'th' : 'td', title ? { scope: 'col' } : {}, title)))),
    element('tbody', {}, ...times.map(([name, s]) => element('tr', {}, element('th', { scope: 'row' }, brief(name, 40)), element('td', {}, fixed(s * 1e3, 2)), element('td', {}, percent(s / whole)), element('td', {}, bar(s))))))),
    element('p', { class: 'muted' }, `Times are for a batch of ${m.batch}, ${fixed(whole * 1e3, 2)} ms in total, run eagerly; "rest" is the time between the stages.`)];
}

function commands(t) {
  if (!stagesOf(t).length) return [];
  const m = t.measurement, file = `${t.arch_id}.json`, own = m && m.reference in (info.config.specs || {});
  const threads = m && /(\d+) thread/.exec(m.arm), seconds = 5;
  const arm = m && m.arm.split(', ').slice(0, 4).map(word => word.split(' ')[0]).join('+');
  const options = m ? ` --device ${info.config.device || m.device} --batch-size ${m.batch} --img-size ${m.resolution} --runtime ${arm}`
    + `${own ? '' : ` --reference ${m.reference}`} --measure-seconds ${seconds}${threads ? ` --threads ${threads[1]}` : ''}` : '';
  const save = element('a', { href: '#', download: file, onclick: event => offer(event.currentTarget, 'application/json', spec(t)) }, 'Save spec');
  const exported = t.state === 'complete' && Object.keys(info.teachers).length ? section('Export', copyable(`backbone-nas export ${run} --trial ${t.number} --format timm`)) : [];
  return [...exported, ...section('Measure again', copyable(`backbone-nas profile --arch ${file}${options}`), element('p', { class: 'muted' }, `First save the spec as ${file}: `, element('span', { class: 'actions' }, save),
    own ? ` Add --reference with the spec file of the study's reference, ${m.reference}.` : '', ' The command also shows by how much fvcore and thop differ in MACs, and why; with --layers it lists every layer.'))];
}

function pictures(t) {
  const sheet = byId(`pictures-${t.number}`);
  if (!sheet) return [];
  const copy = sheet.cloneNode(true);
  copy.removeAttribute('id');
  copy.querySelector('figcaption').remove();
  return section('Feature maps', copy);
}

// The next slower or faster candidate, in the order of the arrow keys.
function neighborButton(number, by, label) {
  const at = walked.findIndex(t => t.number === number), next = at < 0 ? undefined : walked[at + by];
  return element('button', { type: 'button', disabled: !next, 'data-by': by, onclick: () => { openCard(next.number); const again = byId('card').querySelector(`[data-by="${by}"]`); (again.disabled ? byId('card').querySelector('[data-close]') : again).focus(); } }, label);
}

function openCard(number) {
  const t = byNumber.get(number), card = byId('card');
  pick(number);
  const size = facts([['parameters', known(t.params) ? `${scaled(t.params, 1e6, 3)} M` : null], ['MACs', known(t.macs) ? `${scaled(t.macs, 1e6, 1)} M` : null], ['arch id', t.arch_id], ['status', status(t) === t.state ? statusWord(t) : `${t.state}, ${statusWord(t)}`], ['tries', t.tries > 1 ? t.tries : null]]);
  card.replaceChildren(element('header', {}, element('h2', { id: 'card-title' }, brief(trialName(t), 120)),
    element('div', { class: 'actions' }, neighborButton(number, -1, 'Faster'), neighborButton(number, 1, 'Slower'), element('button', { type: 'button', 'data-close': true, onclick: () => card.close() }, 'Close'))));
  if (!card.open) card.showModal();
  const room = getComputedStyle(card), wide = Math.max(220, Math.floor(card.clientWidth - parseFloat(room.paddingLeft) - parseFloat(room.paddingRight)));
  card.append(
    ...(t.reason ? section('Reason', element('pre', { tabindex: 0 }, t.reason)) : []),
    ...(stagesOf(t).length ? [stageDiagram(t, wide)] : []), size,
    ...(t.measurement ? section('Throughput', measured(t), ...stageTimes(t.measurement)) : []),
    ...(known(predicted(t)) ? section('Throughput', element('p', {}, `About ${fixed(predicted(t), 2)} times ${brief(info.reference, 40)}, predicted from the models measured before. It was not measured, because it was stopped early.`)) : []),
    ...(t.rungs.length ? section('Distillation score', ...(t.rungs.length > 1 ? [learningCurve(t, wide)] : []), scoreTable(t)) : []),
    ...pictures(t), ...commands(t), ...section('Spec', copyable(spec(t))));
  card.scrollTop = 0;
  remember(`#${t.arch_id}`);
}
