// Looks at one page for report_page.py: node report_page.mjs NODE_MODULES PAGE. Prints JSON.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, file] = process.argv.slice(2);
const require = createRequire(`${modules}/here.js`);
const { chromium } = require('playwright-core');
const { HtmlValidate, StaticConfigLoader } = require('html-validate');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const address = pathToFileURL(file).href;
const found = { axe: {}, console: [], requests: [], too_wide: [], pick_ms: {}, html: [] };
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', '--disable-gpu'] });

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, offline: true, bypassCSP: true, ...options });
  const page = await context.newPage();
  page.on('console', message => found.console.push(message.text()));
  page.on('pageerror', error => found.console.push(error.message));
  page.on('request', request => /^(file|data|blob):/.test(request.url()) || found.requests.push(request.url()));
  const began = Date.now();
  await page.goto(address);
  if (options.javaScriptEnabled !== false) await page.waitForFunction(() => document.documentElement.dataset.charts === 'ready', null, { timeout: 120000 });
  found.ready_ms ??= Date.now() - began;
  return page;
}

async function violations(page) {
  await page.evaluate(axe);
  const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  return result.violations.map(v => ({ id: v.id, impact: v.impact, nodes: v.nodes.length, first: v.nodes[0].html.slice(0, 160), target: v.nodes[0].target.join(' ') }));
}

for (const colorScheme of ['light', 'dark']) {
  const page = await open({ colorScheme });
  for (const details of await page.locator('details').all()) await details.evaluate(node => { node.open = true; });
  if (Number(await page.locator('#all tbody tr').count()) <= 300) found.axe[colorScheme] = await violations(page);
  const opener = page.locator('[data-open]').first();
  if (await opener.count()) {
    await opener.evaluate(node => node.click());
    await page.waitForSelector('dialog[open]');
    found.axe[`${colorScheme}, a card`] = await violations(page);
  }
  await page.context().close();
}

for (const width of [320, 360, 768]) {
  const page = await open({ viewport: { width, height: 800 } });
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (over > 0) found.too_wide.push([width, over]);
  await page.context().close();
}
await (await open({ javaScriptEnabled: false })).context().close();

// A pick: from the key to the frame that shows it; the slowest of ten. A card: from Enter to its frame.
const page = await open();
const session = await page.context().newCDPSession(page);
await session.send('Performance.setTimeDomain', { timeDomain: 'threadTicks' }).catch(() => {});
await session.send('Performance.enable');
const cpu = async () => (await session.send('Performance.getMetrics')).metrics.find(m => m.name === 'TaskDuration').value;
const press = k => page.evaluate(k => new Promise(done => {
  document.querySelector('.readout [role=listbox]').dispatchEvent(new KeyboardEvent('keydown', { key: k, bubbles: true }));
  requestAnimationFrame(() => setTimeout(done));
}), k);
if (await page.locator('#all tbody tr').count()) {
  let slowest = 0;
  for (const k of ['Home', 'ArrowLeft', 'PageDown', 'ArrowLeft', 'ArrowRight', 'End', 'ArrowRight', 'Home']) {
    const before = await cpu();
    await press(k);
    slowest = Math.max(slowest, 1000 * (await cpu() - before));
  }
  found.pick_cpu_ms = slowest;
}
found.pick_ms = await page.evaluate(async () => {
  const list = document.querySelector('.readout [role=listbox]'), slowest = {};
  const painted = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const time = async (name, act) => { await painted(); const began = performance.now(); act(); await painted(); slowest[name] = Math.max(slowest[name] || 0, performance.now() - began); };
  if (!document.querySelector('#all tbody tr')) return slowest;
  const key = k => () => list.dispatchEvent(new KeyboardEvent('keydown', { key: k, bubbles: true }));
  for (const k of ['Home', 'ArrowLeft', 'ArrowLeft', 'PageDown', 'PageDown', 'ArrowLeft', 'ArrowRight', 'End', 'ArrowRight', 'Home']) await time('pick', key(k));
  await time('open card', key('Enter'));
  await time('close card', () => document.querySelector('dialog').close());
  return slowest;
});

const validator = new HtmlValidate(new StaticConfigLoader({ extends: ['html-validate:standard'], rules: { 'long-title': 'off', 'no-inline-style': 'error', 'require-sri': 'off', 'text-content': 'off', 'prefer-native-element': 'off', 'no-trailing-whitespace': 'off', 'void-style': 'off', 'attribute-boolean-style': 'off', 'no-raw-characters': 'off' } }));
const markup = readFileSync(file, 'utf8').replace(/(<script[^>]*>)[^]*?<\/script>/g, '$1</script>');
const report = await validator.validateString(markup);
const rules = {};
for (const result of report.results) for (const m of result.messages) if (m.severity === 2) (rules[m.ruleId] ??= []).push(`${m.line}:${m.column} ${m.message}`);
found.html = Object.entries(rules).map(([rule, all]) => `${rule} (${all.length}): ${all[0]}`);
await browser.close();
console.log(JSON.stringify(found));
