// One net is picked and some are shown, on the whole page at once. Views listen; none of them changes another.
const listeners = { picked: [], shown: [] };
const selection = { picked: null, shown: trials, hidden: new Set(), find: '', ranges: new Map() };
const haystacks = new WeakMap(); // beside the trials: these are what is downloaded
const textOf = t => `${netName(t)} #${t.number} ${t.arch_id} ${standing(t)} ${blocks(t)} ${t.reason || ''}`.toLowerCase();
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
  selection.shown = trials.filter(t => !selection.hidden.has(standing(t)) && within(t) && (!selection.find || haystack(t).includes(selection.find)));
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

// --- the readout: the nets by speed, one at a time. A list box whose only option in the document is the picked one.
const bySpeed = trials.filter(t => Number.isFinite(of(t, 'ratio'))).sort((a, b) => of(b, 'ratio') - of(a, 'ratio') || a.number - b.number);
let walked = bySpeed;

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
    option.id = `picked-${i}-${selection.picked}`; // a new one is read aloud
    list.setAttribute('aria-activedescendant', option.id);
    option.textContent = t ? inWords(t) : 'No net is picked. Click one, or come here by keyboard: arrow keys go by speed, Enter opens a card.';
    option.setAttribute('aria-selected', t ? 'true' : 'false');
    option.setAttribute('aria-setsize', Math.max(1, walked.length));
    option.setAttribute('aria-posinset', at < 0 ? 1 : at + 1);
    list.classList.toggle('muted', !t);
    box.querySelector('[data-card]').hidden = !t;
    const note = box.querySelector('.filtered');
    note.hidden = !filtered();
    note.firstElementChild.textContent = `${selection.shown.length} of ${trials.length} nets pass the filters. `;
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
  listeners.shown.push(shown => { const set = new Set(shown); walked = bySpeed.filter(t => set.has(t)); drawReadouts(); });
  drawReadouts();
}
