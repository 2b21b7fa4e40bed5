// Drawings of a card: the stages of an architecture, and its score by steps. One unit is one pixel, so text stays legible on a phone.
const STEM_STRIDES = { conv: 4, overlap: 4, patch: 4, conv16: 16, patch16: 16 };
const stemStride = t => STEM_STRIDES[t.spec.stem] || 4;
const label = (x, y, text, attributes = {}) => svg('text', { x, y, ...attributes }, text);
const DETAILS = [['expansion', v => `expansion ${v}`], ['heads', v => `${v} heads`], ['window', v => `window ${v}`], ['pre_conv', v => v === 'none' ? '' : `${v} conv before`], ['squeeze', v => `squeeze ${v}`],
  ['kernel', v => `kernel ${v}`], ['key_width', v => `keys of ${v}`], ['group_width', v => `groups of ${v}`], ['ratios', v => `ratios ${v}`], ['subsampling', v => `subsampled by ${v}`], ['mlp', v => v],
  ['global_every', v => `every ${v} layers one is global`], ['registers', v => v > 1 ? `${v} registers` : 'one register'], ['positions', v => `${v} positions`]];

function parts(t) {
  const { stem, stem_width, neck, neck_dim, downsampling, downsampling_expansion } = t.spec, stride = stemStride(t);
  const px = t.measurement ? t.measurement.resolution : info.config.distill && info.config.distill.img_size;
  const map = s => px ? `/${s}, ${Math.ceil(px / s)}×${Math.ceil(px / s)}` : `/${s}`;
  const stages = stagesOf(t).map((s, i) => ({
    name: `stage ${i + 1}`, at: map(stride * 2 ** i), slabs: s.depth, width: s.width, words: `${s.block} ×${s.depth}, ${s.width} channels`,
    more: DETAILS.filter(([key]) => known(s[key])).map(([key, say]) => say(s[key])).filter(Boolean).join(', '),
  }));
  const first = { name: 'stem', at: map(stride), slabs: 1, width: stem_width || (stages[0] && stages[0].width), words: `${stem}${stem_width ? `, ${stem_width} inner channels` : ''}`, more: downsampling ? `downsampling by ${downsampling}${downsampling_expansion ? ` of expansion ${downsampling_expansion}` : ''} between stages` : '' };
  const from = /^stage(\d+)$/.exec(neck || '');
  const last = from ? [{ name: 'neck', at: map(stride * 2 ** (from[1] - 1)), slabs: 1, width: neck_dim, words: `stages ${from[1]} to ${stages.length} fused, ${neck_dim} channels`, more: 'gives the spatial features; the summary is from the last stage' }] : [];
  return [first, ...stages, ...last];
}

// Stages are named "stage 1" here and "stage1" in the measurement. They are timed eagerly, whatever runtime the trial uses.
function sharesOfTime(t) {
  const m = t.measurement || {}, times = m.stages_s || {}, whole = sum(Object.values(times));
  const of = m.arm && m.arm.split(', ').includes('eager') ? 'of time' : 'of eager time';
  return name => { const s = times[name.replace(' ', '')]; return whole && known(s) ? `${percent(s / whole)} ${of}` : ''; };
}

function stageDiagram(t, wide) {
  const share = sharesOfTime(t);
  const rows = parts(t).filter(part => known(part.width)), left = Math.min(104, wide * 0.3), pitch = 50, tall = 18;
  const most = Math.max(...rows.map(part => part.width));
  const nodes = rows.flatMap((part, i) => {
    const y = 4 + i * pitch, length = Math.max(6, (wide - left - 2) * part.width / most), slab = length / Math.min(part.slabs, 24);
    return [
      i ? svg('line', { class: 'wire', x1: left + 3, x2: left + 3, y1: y - pitch + tall, y2: y }) : null,
      label(0, y + 13, part.name), label(0, y + 29, part.at, { class: 'faint' }), label(0, y + 43, share(part.name), { class: 'faint' }),
      svg('rect', { class: part.name === 'neck' ? 'box neck' : 'box', x: left, y, width: length, height: tall, rx: 3 }),
      ...Array.from({ length: Math.min(part.slabs, 24) - 1 }, (_, k) => svg('line', { class: 'cut', x1: left + (k + 1) * slab, x2: left + (k + 1) * slab, y1: y, y2: y + tall })),
      label(left + 10, y + 31, brief(String(part.words), Math.floor((wide - left) / 7))),
      part.more ? label(left + 10, y + 43, brief(part.more, Math.floor((wide - left) / 6.2)), { class: 'faint' }) : null];
  });
  const height = rows.length * pitch + 2;
  return svg('svg', { width: wide, height, viewBox: `0 0 ${wide} ${height}`, role: 'img', 'aria-label': rows.map(part => [`${part.name} ${part.at}: ${part.words}`, share(part.name)].filter(Boolean).join(', ')).join('; ') }, ...nodes.filter(Boolean));
}

function learningCurve(t, wide) {
  const names = Object.keys(t.rungs[0].teachers);
  const lines = [t.rungs.map(r => r.score), ...names.map(n => t.rungs.map(r => teacherScore(r.teachers[n] || {})))];
  const values = lines.flat().filter(Number.isFinite), low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  const steps = t.rungs.map(r => Math.log(r.steps)), from = steps[0], reach = steps[steps.length - 1] - from || 1, right = wide - 130;
  const x = i => 44 + (right - 44) * (steps[i] - from) / reach, y = v => 150 - 125 * (v - low) / span;
  const path = line => line.map((v, i) => Number.isFinite(v) ? `${x(i)},${y(v)}` : '').join(' ');
  const nodes = [svg('line', { class: 'axis', x1: 44, x2: right, y1: 160, y2: 160 }), label((44 + right) / 2, 192, 'steps', { 'text-anchor': 'middle', class: 'faint' })];
  steps.forEach((_, i) => nodes.push(label(x(i), 176, `${t.rungs[i].steps}`, { 'text-anchor': 'middle', class: 'faint' }), svg('circle', { class: 'dot', cx: x(i), cy: y(t.rungs[i].score), r: 3 })));
  nodes.push(label(36, y(low) + 4, low.toFixed(2), { 'text-anchor': 'end', class: 'faint' }), label(36, y(high) + 4, high.toFixed(2), { 'text-anchor': 'end', class: 'faint' }));
  lines.forEach((line, k) => nodes.push(svg('polyline', { class: k ? `part c${(k - 1) % 5 + 1}` : 'total', points: path(line) })));
  const ends = lines.map((line, k) => [y(line[line.length - 1]), k ? names[k - 1] : 'score', k]).sort((a, b) => a[0] - b[0]);
  ends.forEach(([at, text, k], i) => {
    if (i && at < ends[i - 1][0] + 14) ends[i][0] = ends[i - 1][0] + 14;
    nodes.push(label(right + 10, ends[i][0] + 4, brief(text, 18), { class: k ? `c${(k - 1) % 5 + 1}` : null }));
  });
  const height = Math.max(198, ends[ends.length - 1][0] + 12);
  return svg('svg', { width: wide, height, viewBox: `0 0 ${wide} ${height}`, role: 'img', 'aria-label': `Score, and ${bySpatial ? 'spatial features' : 'mean over the heads'} of each teacher, by training steps; the table below has the numbers` }, ...nodes);
}
