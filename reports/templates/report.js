// Copying, downloading, addresses; the start of all views.
const offer = (link, type, text) => { // made from the embedded study on demand
  const url = URL.createObjectURL(new Blob([text], { type }));
  link.href = url;
  setTimeout(() => URL.revokeObjectURL(url), 60000);
};
const csvCell = value => {
  if (!known(value)) return '';
  // A spreadsheet runs a text that begins with =, +, - or @ as a formula.
  const text = typeof value === 'number' ? String(value) : (typeof value === 'object' ? JSON.stringify(value) : String(value)).replace(/^([=+\-@\t\r])/, "'$1");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

// The columns have the names of reports/dataframe.py, which writes the same table.
function csv() {
  const named = (before, values, after = '') => Object.fromEntries(Object.entries(values || {}).map(([k, v]) => [before + k + after, v]));
  const inUnits = (before, values) => named(before, Object.fromEntries(Object.entries(values || {}).map(([k, v]) => [units[k] ?? k, v])));
  const rows = trials.map(t => {
    const last = lastRung(t), { teachers: heads, losses, metrics: probes } = last || {};
    const { stages_s: times, ...numbers } = t.measurement || {};
    return {
      number: t.number, name: trialName(t), arch_id: t.arch_id, baseline: t.baseline, state: t.state, on_front: onFront.has(t.number),
      reason: t.reason, failure: t.failure, tries: t.tries, worker: t.worker, started_s: t.started_s, finished_s: t.finished_s,
      params: t.params, macs: t.macs, spec_json: JSON.stringify(t.spec), score: score(t), score_rung: last && last.rung, score_steps: last && last.steps,
      ...inUnits('measurement/', numbers),
      ...Object.assign({}, ...t.rungs.map(r => named(`rung${r.rung}/`, { steps: r.steps, score: r.score, train_s: r.seconds }))),
      ...Object.assign({}, ...Object.entries(heads || {}).map(([teacher, values]) => named(`score/${teacher}/`, values))),
      ...named('loss/', losses), ...named('metric/', probes), ...named('stage/', times, '_s'), ...inUnits('expected/', t.expected),
    };
  });
  const names = [...new Set(rows.flatMap(Object.keys))];
  return [names, ...rows.map(r => names.map(n => r[n]))].map(r => r.map(csvCell).join(',')).join('\r\n') + '\r\n';
}

async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); } catch { // file:// pages may lack the clipboard
    const area = element('textarea', { readonly: true, class: 'hidden' });
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

// Paper shows what is folded on the screen.
function unfoldForPrint() {
  const unfolded = [];
  addEventListener('beforeprint', () => {
    for (const each of document.querySelectorAll('details:not([open])')) { each.open = true; unfolded.push(each); }
  });
  addEventListener('afterprint', () => { for (const each of unfolded.splice(0)) each.open = false; });
}

// The address names the open card, so a link or a reload opens it again.
function remember(fragment) {
  try { history.replaceState(null, '', fragment || location.pathname + location.search); } catch { /* addresses of this scheme cannot change */ }
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
byId('card').addEventListener('close', () => remember(''));
byId('csv').addEventListener('click', event => offer(event.currentTarget, 'text/csv', csv()));
byId('json').addEventListener('click', event => offer(event.currentTarget, 'application/json', JSON.stringify({ info, trials })));
for (const button of document.querySelectorAll('[data-reload]')) { button.hidden = false; button.addEventListener('click', () => location.reload()); }
addEventListener('hashchange', openFromAddress);
unfoldForPrint();
startSelection();
startCharts();
startTable();
startParallel();
drawCharts().then(openFromAddress);
