// One node: how its boot goes and went, what went wrong, what its console said last, and with a token what it is configured to.

import { fill, h, message, problem } from './dom.js';
import { ask, token } from './server.js';
import { STATES, clock, dateAndClock, duration, isDown, plural, size } from './words.js';

/// Boots that are shown, the newest first.
const BOOTS = 20;
const DOWNLOAD_MS = 1000;
/// Phases that end a boot.
const ENDS = ['ready', 'failed'];

export class Node {
  constructor(root, model) {
    Object.assign(this, { root, model, label: null, events: [], console: null, settings: null, trouble: null, codes: null });
    this.nameHeading = h('h2', { id: 'node-name', tabindex: '-1' });
    this.summary = h('div');
    this.timeline = h('div');
    this.consolePart = h('div', { id: 'node-console' });
    this.settingsPart = h('div');
    root.append(h('p', {}, h('a', { href: '#fleet' }, '← Fleet')), this.nameHeading, this.summary, this.timeline, this.consolePart, this.settingsPart);
  }

  async show(label) {
    Object.assign(this, { label, events: [], console: null, settings: null, trouble: null });
    this.render();
    this.renderConsole();
    this.nameHeading.focus({ preventScroll: true });
    this.codes ??= await ask('/ui/codes').then((codes) => new Map(codes.map(({ code, meaning }) => [code, meaning])), () => null);
    await Promise.all([this.readEvents(), this.readConsole(), this.readSettings()]);
  }

  hide() {
    this.label = null;
  }

  /// An event has happened.
  heard(event) {
    if (this.label !== null && (event.node === this.label || event.mac === this.label)) {
      this.readEvents();
      this.readConsole();
    }
  }

  update(changed) {
    if (this.label === null || !changed.has(this.label)) return;
    this.render();
    if (this.settings === null) this.readSettings();
  }

  /// A download is followed more closely than all nodes are asked for.
  tick() {
    const node = this.node;
    if (node?.download && Date.now() - (this.asked ?? 0) >= DOWNLOAD_MS) {
      this.asked = Date.now();
      this.model.refreshSoon(this.label);
    }
  }

  get node() {
    return this.model.nodes.get(this.label);
  }

  async readEvents() {
    const { label } = this;
    try {
      const events = await ask(`/v1/nodes/${encodeURIComponent(label)}/events`);
      if (label === this.label) Object.assign(this, { events, trouble: null });
    } catch (error) {
      if (label === this.label) this.trouble = error;
    }
    if (label === this.label) this.render();
  }

  /// A server of an older version has none.
  async readConsole() {
    const { label } = this;
    const text = await ask(`/ui/console/${encodeURIComponent(label)}`).catch(() => null);
    if (label !== this.label || text === this.console) return;
    this.console = text;
    this.renderConsole();
  }

  async readSettings() {
    const { label } = this;
    // Machines that are no node have none.
    if (!token() || !this.node?.name) return;
    const settings = await ask(`/v1/nodes/${encodeURIComponent(label)}`, { withToken: true }).catch((error) => error);
    if (label !== this.label) return;
    this.settings = settings;
    this.render();
  }

  render() {
    const { node } = this;
    fill(this.nameHeading, this.label, ' ', node && h('span', { class: 'tag', 'data-state': node.state }, `${STATES[node.state]} ${node.state}`));
    fill(this.summary, this.trouble && problem(this.trouble), node ? this.describe(node) : null);
    const boots = splitBoots(this.events).reverse();
    fill(this.timeline, h('h3', {}, 'Boots'), boots.length === 0 ? h('p', { class: 'quiet' }, 'It has not booted here yet.') : boots.slice(0, BOOTS).map((boot, index) => this.boot(boot, index)));
    fill(this.settingsPart, this.describeSettings());
  }

  /// Not with all else: whoever reads and selects in it is not disturbed until there is a new one.
  renderConsole() {
    const parts = [h('h3', {}, 'Console'), h('p', { class: 'quiet' }, 'Warnings of the kernel and the lines of init, as of the last report of init.')];
    fill(this.consolePart, this.console === null ? null : [...parts, h('pre', { tabindex: '0', 'aria-label': 'console' }, this.console)]);
  }

  describe(node) {
    const facts = [
      ['Address', node.address],
      ['MAC', node.mac],
      ['Image', node.image],
      ['Mode', node.mode],
      ['Tries', node.attempts > 0 ? `${plural(node.attempts, 'script')} since it was last ready` : null],
      ['Boot', node.boot],
    ].filter(([, value]) => value);
    return [
      h('p', { class: isDown(node) ? 'what down' : 'what' }, message(node.what)),
      node.download && this.download(node.download),
      node.error && this.error(node),
      h('dl', {}, facts.map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])),
    ];
  }

  download({ file, sent_bytes, size_bytes, percent }) {
    return h('p', { class: 'download' }, h('progress', { max: '100', value: percent, 'aria-label': `download of ${file}` }), ` ${file} ${percent} %, ${size(sent_bytes)} of ${size(size_bytes)}`);
  }

  error({ error, what }) {
    const { code, message: said, by, time_unix_ms } = error;
    const meaning = this.codes?.get(code);
    return h(
      'div',
      { class: 'error' },
      h('h3', {}, `Last error, ${dateAndClock(time_unix_ms)}`),
      // What is said above already need not be said again.
      what.includes(said) ? null : h('p', {}, code ? `[${code}] ` : null, message(said)),
      h('p', { class: 'quiet' }, by === 'node' ? 'Reported by init on the node.' : 'bootserve could not give the node what it asked for.', meaning ? ` ${code}: ${meaning}. What to do: docs/operations.md, ${code}.` : null),
    );
  }

  boot(boot, index) {
    const { steps } = boot;
    const began = steps[0].time_unix_ms;
    const isOver = index > 0 || ENDS.includes(steps.at(-1).phase);
    const ended = isOver ? steps.at(-1).time_unix_ms : this.model.now();
    const end = steps.at(-1).phase;
    const image = steps.find((step) => step.image)?.image;
    const words = [dateAndClock(began), ENDS.includes(end) ? `${end} after ${duration(ended - began)}` : isOver ? `ended with ${end}` : `${end}, so far ${duration(ended - began)}`, image];
    const rows = steps.map((step, at) => this.step(step, steps[at + 1], { began, ended, isOver }));
    return h('details', { class: 'boot', open: index === 0, 'data-end': end }, h('summary', {}, words.filter(Boolean).join(', ')), h('ol', {}, rows));
  }

  step(step, next, { began, ended, isOver }) {
    const until = next?.time_unix_ms ?? ended;
    const whole = Math.max(ended - began, 1);
    const bar = h('span', { class: 'bar', 'aria-hidden': 'true' });
    bar.style.setProperty('--from', String((step.time_unix_ms - began) / whole));
    bar.style.setProperty('--part', String(Math.max(until - step.time_unix_ms, 0) / whole));
    const isEnd = ENDS.includes(step.phase);
    const took = isEnd || (isOver && !next) ? '' : duration(until - step.time_unix_ms) + (next ? '' : ' so far');
    return h(
      'li',
      { 'data-phase': step.phase },
      h('time', { title: `${step.time_unix_ms}` }, clock(step.time_unix_ms)),
      h('span', { class: 'phase' }, step.phase),
      h('span', { class: 'took' }, took),
      h('span', { class: 'track' }, bar),
      step.message && h('span', { class: 'message' }, message(step.message)),
    );
  }

  describeSettings() {
    if (this.settings === null) {
      return !token() && this.node?.name ? h('p', { class: 'quiet' }, 'Its settings and what made them so are shown with a token, which ', h('a', { href: '#discovery' }, 'Discovery'), ' asks for.') : null;
    }
    if (this.settings instanceof Error) return problem(this.settings);
    const rows = this.settings.flatMap(({ settings }) => settings).map(({ key, value, from }) =>
      h('tr', {}, h('td', {}, key), h('td', {}, h('code', {}, written(value))), h('td', {}, from.map((said) => h('span', { class: said.overruled ? 'origin overruled' : 'origin' }, said.overruled ? `${said.origin}: ${written(said.value)}, overruled` : said.origin)))),
    );
    return [h('h3', {}, 'Settings'), h('table', { class: 'settings' }, h('thead', {}, h('tr', {}, h('th', {}, 'Key'), h('th', {}, 'Value'), h('th', {}, 'From'))), h('tbody', {}, rows))];
  }
}

const written = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

/// Sets boots apart. What is no step of a boot is in the one that it happened in.
function splitBoots(events) {
  const boots = [];
  for (const event of events) {
    if (boots.length === 0 || event.begins_boot) boots.push({ steps: [] });
    boots.at(-1).steps.push(event);
  }
  return boots;
}
