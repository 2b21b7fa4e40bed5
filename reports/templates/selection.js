// One trial is picked and some are shown, in all views of the page. Views listen; none of them changes another.
const listeners = { picked: [], shown: [] };
const selection = { picked: null, shown: trials, hidden: new Set(), find: '', ranges: new Map() };
const haystacks = new WeakMap(); // kept apart from the trials, which can be downloaded
const textOf = t => `${trialName(t)} #${t.number} ${t.arch_id} ${statusWord(t)} ${blocks(t)} ${t.reason || ''}`.toLowerCase();
const haystack = t => haystacks.get(t) ?? haystacks.set(t, textOf(t)).get(t);

function pick(number) {
  if (selection.picked === number) return;
  selection.picked = number;
  for (const listener of listeners.picked) listener(number);
}

const within = t => {
  for (const [axis, [low, high]] of selection.ranges) {
    const place = axis.place(t);
    if (place === null || place < low || place > high) return false;
  }
  return true;
};

function refilter() {
  selection.shown = trials.filter(t => !selection.hidden.has(status(t)) && within(t) && (!selection.find || haystack(t).includes(selection.find)));
  for (const listener of listeners.shown) listener(selection.shown);
}

const filtered = () => selection.hidden.size || selection.find || selection.ranges.size;

function clearFilters() {
  selection.hidden.clear();
  selection.ranges.clear();
  selection.find = '';
  byId('find').value = '';
  for (const box of byId('states').querySelectorAll('input')) box.checked = true;
  refilter();
}

// The readout: the candidates by throughput, one at a time. It is a list box that contains the picked option alone.
const byThroughput = trials.filter(t => Number.isFinite(ratio(t))).sort((a, b) => ratio(b) - ratio(a) || a.number - b.number);
let walked = byThroughput;

function walk(event) {
  const at = walked.findIndex(t => t.number === selection.picked), last = walked.length - 1;
  const to = { ArrowRight: at - 1, ArrowUp: at - 1, ArrowLeft: at + 1, ArrowDown: at + 1, PageUp: at - 10, PageDown: at + 10, Home: 0, End: last }[event.key];
  if (event.key === 'Enter' && at >= 0) openCard(selection.picked);
  else if (to === undefined || !walked.length) return;
  else pick(walked[at < 0 && event.key !== 'End' ? 0 : Math.max(0, Math.min(last, to))].number);
  event.preventDefault();
}

function drawReadouts() {
  const t = byNumber.get(selection.picked), at = walked.indexOf(t);
  for (const [i, box] of document.querySelectorAll('.readout').entries()) {
    const list = box.querySelector('[role=listbox]'), option = box.querySelector('[role=option]');
    option.id = `picked-${i}-${selection.picked}`; // a new id makes screen readers read it
    list.setAttribute('aria-activedescendant', option.id);
    option.textContent = t ? describe(t) : 'No candidate is picked. Click one, or use the keyboard here: arrow keys move by throughput, Enter opens a card.';
    option.setAttribute('aria-selected', t ? 'true' : 'false');
    option.setAttribute('aria-setsize', Math.max(1, walked.length));
    option.setAttribute('aria-posinset', at < 0 ? 1 : at + 1);
    list.classList.toggle('muted', !t);
    box.querySelector('[data-card]').hidden = !t;
    const note = box.querySelector('.filtered');
    note.hidden = !filtered();
    note.firstElementChild.textContent = `${selection.shown.length} of ${trials.length} trials pass the filters. `;
  }
}

function startSelection() {
  for (const box of document.querySelectorAll('.readout')) {
    box.hidden = false;
    box.querySelector('[role=listbox]').addEventListener('keydown', walk);
    box.querySelector('[data-card]').addEventListener('click', () => openCard(selection.picked));
    box.querySelector('[data-clear]').addEventListener('click', clearFilters);
  }
  listeners.picked.push(drawReadouts);
  listeners.shown.push(shown => { const set = new Set(shown); walked = byThroughput.filter(t => set.has(t)); drawReadouts(); });
  drawReadouts();
}
