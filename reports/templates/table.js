// The table of all trials. Arrow keys move between rows; the tab key stops in it once.
const dagger = t => doubtful(t) ? element('abbr', { title: `${doubtOf.get(t.number)}: the number is doubtful` }, ' †') : null;
const timed = (t, key, digits) => element('span', doubtful(t) ? { class: 'doubtful' } : {}, fixed(of(t, key), digits), dagger(t));
// Objectives that have a column anyway.
const OWN = new Set(['latency', 'memory', 'params', 'macs', ...metrics.filter(([, , inTables]) => inTables).map(([name]) => name)]);
// A column: its head, the value that it is sorted by, its cell, and 'text' where it is aligned left and sorted from A to Z first. Numbers
// are aligned right, and the largest come first.
const COLUMNS = [
  ['trial', t => t.number, t => element('a', { href: `#${t.arch_id}`, 'data-open': t.number, tabindex: -1 }, brief(trialName(t), 40)), 'text'],
  ['status', statusWord, t => element('span', {}, element('span', { class: `mark ${status(t)}`, 'aria-hidden': 'true' }, MARKS[status(t)] || ''), ` ${statusWord(t)}`), 'text'],
  ['score', score, t => fixed(score(t), 3)],
  [`× ${brief(info.reference, 30)}`, ratio, t => element('span', known(predicted(t)) ? { title: 'predicted, not measured' } : {}, ratioText(t), dagger(t))],
  ['95 % interval', t => t.measurement ? t.measurement.ratio_high - t.measurement.ratio_low : null, t => t.measurement ? noRatioInterval.get(t.number) || `${fixed(of(t, 'ratio_low'), ratioDigits(t))} to ${fixed(of(t, 'ratio_high'), ratioDigits(t))}` : '–'],
  ['images/s', t => of(t, 'throughput_img_s'), t => timed(t, 'throughput_img_s', speedDigits(t))],
  ['latency ms', t => of(t, 'latency_ms'), t => timed(t, 'latency_ms', 2)],
  ['params M', t => t.params, t => scaled(t.params, 1e6, 3)],
  ['MACs M', t => t.macs, t => scaled(t.macs, 1e6, 1)],
  ['memory MiB', t => of(t, 'peak_memory_mib'), t => fixed(of(t, 'peak_memory_mib'), 1)],
  ['steps', t => lastRung(t) && lastRung(t).steps, t => lastRung(t) ? String(lastRung(t).steps) : '–'],
  ...metrics.filter(([, , inTables]) => inTables).map(([name, label]) => [label, t => metric(t, name), t => fixed(metric(t, name), 3)]),
  ...further.filter(o => !OWN.has(o.name)).map(o => [o.title, t => valueOf(o, t), t => significant(valueOf(o, t))]),
  ['blocks', blocks, t => brief(blocks(t), 80), 'text'],
];
const view = { sort: 0, down: false, from: 0, found: [], rows: new Map() };
const AROUND = 25; // rows before and after a distant row that is picked: more than the frame shows

function compare(a, b) {
  const [x, y] = [COLUMNS[view.sort][1](a), COLUMNS[view.sort][1](b)];
  const missing = v => v === null || v === undefined || v === '';
  if (missing(x) || missing(y)) return missing(x) - missing(y) || a.number - b.number;
  return (x < y ? -1 : x > y ? 1 : 0) * (view.down ? -1 : 1) || a.number - b.number;
}

function drawHead() {
  byId('all').tHead.rows[0].replaceChildren(...COLUMNS.map(([title, , , kind], i) => element(
    'th', { scope: 'col', class: kind, 'aria-sort': i === view.sort ? (view.down ? 'descending' : 'ascending') : null },
    element('button', { type: 'button', onclick: () => sortBy(i) }, title))));
}

function sortBy(i) {
  view.down = view.sort === i ? !view.down : COLUMNS[i][3] !== 'text';
  view.sort = i;
  drawHead();
  drawRows();
  byId('all').tHead.rows[0].cells[i].firstChild.focus();
}

const row = t => element('tr', { 'data-row': t.number }, ...COLUMNS.map(([, , cell, kind], i) => element(i ? 'td' : 'th', { class: kind, scope: i ? null : 'row' }, cell(t))));

function drawRows() {
  view.found = [...selection.shown].sort(compare);
  const at = view.found.findIndex(t => t.number === selection.picked);
  show(at >= FIRST_ROWS ? at - AROUND : 0, at >= FIRST_ROWS ? 2 * AROUND : FIRST_ROWS);
  byId('rows').scrollTop = 0; // of another order or other rows, the reader wants the first
}

// The document holds a window of the rows, of which there can be ten thousand. It contains the picked row; buttons extend it.
function show(from, count) {
  view.from = Math.max(0, from);
  const shown = view.found.slice(view.from, view.from + count);
  view.rows = new Map(shown.map(t => [t.number, row(t)]));
  byId('all').tBodies[0].replaceChildren(...view.rows.values());
  const last = view.from + shown.length;
  const part = view.from || last < view.found.length ? `, rows ${view.from + 1} to ${last} of ${view.found.length}` : '';
  byId('shown').textContent = `${view.found.length} of ${trials.length} trials shown${part}`;
  byId('less').hidden = view.from === 0;
  byId('more').hidden = last >= view.found.length;
  mark(selection.picked);
}

const linkOf = row => row && row.querySelector('a');

// The tab key enters at the picked row, or at the first one.
function mark(number) {
  for (const old of byId('all').querySelectorAll('[aria-current]')) old.removeAttribute('aria-current');
  for (const old of byId('all').querySelectorAll('a[tabindex="0"]')) old.setAttribute('tabindex', -1);
  const picked = view.rows.get(number), entry = linkOf(picked) || linkOf(byId('all').tBodies[0].rows[0]);
  if (picked) picked.setAttribute('aria-current', 'true');
  if (entry) entry.setAttribute('tabindex', 0);
}

function showPicked(number) {
  const at = view.found.findIndex(t => t.number === number);
  if (at >= 0 && !view.rows.has(number)) show(at - AROUND, 2 * AROUND);
  mark(number);
  const picked = view.rows.get(number), frame = byId('rows');
  if (picked && !frame.contains(document.activeElement)) frame.scrollTop = picked.offsetTop - frame.clientHeight / 2;
}

function walkRows(event) {
  const here = event.target.closest('tr[data-row]');
  if (!here) return;
  const at = view.found.findIndex(t => t.number === Number(here.dataset.row)), last = view.found.length - 1;
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 20, PageUp: at - 20, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = view.found[Math.max(0, Math.min(last, to))].number;
  pick(next);
  linkOf(view.rows.get(next)).focus();
}

function startTable() {
  byId('all').append(element('thead', {}, element('tr')), element('tbody'));
  for (const state of [...new Set(trials.map(status))].sort()) {
    const box = element('input', { type: 'checkbox', checked: true, onchange: () => { box.checked ? selection.hidden.delete(state) : selection.hidden.add(state); refilter(); } });
    byId('states').append(element('label', {}, box, ` ${stateWords[state] || state} (${trials.filter(t => status(t) === state).length})`));
  }
  byId('find').addEventListener('input', event => { selection.find = event.target.value.trim().toLowerCase(); refilter(); });
  byId('more').addEventListener('click', () => show(view.from, view.rows.size + 2 * FIRST_ROWS));
  byId('less').addEventListener('click', () => show(view.from - FIRST_ROWS, view.rows.size + FIRST_ROWS));
  byId('all').addEventListener('keydown', walkRows);
  byId('controls').hidden = byId('keys').hidden = false;
  let drawing = 0;
  listeners.shown.push(() => { clearTimeout(drawing); drawing = setTimeout(drawRows, 80); });
  listeners.picked.push(showPicked);
  drawHead();
  drawRows();
}
