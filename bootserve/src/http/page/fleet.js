// The fleet: how many nodes are down, which, and why; a cell for each node; and a list, those first that need somebody.

import { byId, fill, h, setText } from './dom.js';
import { ask } from './server.js';
import { PHASES, STATES, causeKey, duration, fold, isDown, labelOf, naturally, plural, signOf } from './words.js';

/// Cells of one block: nodes whose names differ in the last two digits.
const BLOCK = 100;
/// Rows of the list, unless more are asked for.
const ROWS = 100;
/// Causes, likewise.
const CAUSES = 12;
const TYPING_MS = 200;
const RANK = Object.keys(STATES);

export class Fleet {
  constructor(root, model) {
    Object.assign(this, { root, model });
    this.cells = new Map();
    this.chips = new Map();
    /// States, and phases as `booting:kernel`, that are shown; none for all.
    this.wanted = new Set();
    /// A cause whose nodes alone are shown.
    this.cause = null;
    /// What the search found: a predicate, or null for all.
    this.found = null;
    this.isLong = false;
    this.current = null;
    this.buildLegend();
    this.listen();
  }

  show(_, before) {
    if (before && before !== 'fleet') this.cells.get(this.current)?.focus({ preventScroll: false });
  }

  // The model has changed.

  update(changed, isOther) {
    if (isOther) this.buildGrid();
    else for (const label of changed) this.paint(label);
    this.updateHeadline();
    this.updateLegend();
    this.updateCauses();
    this.filter(isOther ? null : changed);
  }

  updateHeadline() {
    const nodes = [...this.model.nodes.values()];
    const count = (state) => nodes.filter((node) => node.state === state).length;
    const [stuck, failed, ready] = ['stuck', 'failed', 'ready'].map(count);
    const down = stuck + failed;
    const headline = byId('headline');
    headline.dataset.is = down > 0 ? 'down' : 'well';
    setText(headline, down > 0 ? `${down.toLocaleString('en')} of ${plural(nodes.length, 'node')} down` : this.quietHeadline(nodes.length, ready));
    const parts = down > 0 ? [stuck && `${stuck} stuck`, failed && `${failed} failed`, `${ready} ready`].filter(Boolean) : ['Nothing is stuck or has failed'];
    setText(byId('subline'), nodes.length > 0 ? parts.join(', ') : 'Nodes are added in the configuration, or from Discovery.');
  }

  quietHeadline(all, ready) {
    if (all === 0) return 'No nodes yet';
    return ready === all ? `All ${plural(all, 'node')} up` : `${ready.toLocaleString('en')} of ${plural(all, 'node')} up`;
  }

  // The legend, which counts and filters.

  buildLegend() {
    const chips = [];
    for (const [state, sign] of Object.entries(STATES)) {
      chips.push(this.chip(state, state, sign, state));
      if (state === 'booting') PHASES.forEach((phase, index) => chips.push(this.chip(`booting:${phase}`, phase, String(index + 1), state, index + 1)));
    }
    byId('legend').append(...chips);
  }

  chip(key, word, sign, state, step) {
    const count = h('b', {}, '0');
    const swatch = h('span', { class: 'swatch', 'aria-hidden': 'true', 'data-state': state, 'data-step': step }, sign);
    const chip = h('button', { type: 'button', class: 'chip', 'aria-pressed': 'false', onclick: () => this.toggle(key) }, swatch, ` ${word} `, count);
    this.chips.set(key, { chip, count });
    return chip;
  }

  toggle(key) {
    if (!this.wanted.delete(key)) this.wanted.add(key);
    this.updateLegend();
    this.filter(null);
  }

  updateLegend() {
    const counts = new Map();
    const add = (key) => counts.set(key, (counts.get(key) ?? 0) + 1);
    for (const node of this.model.nodes.values()) {
      add(node.state);
      if (node.state === 'booting') add(`booting:${node.phase}`);
    }
    for (const [key, { chip, count }] of this.chips) {
      const number = counts.get(key) ?? 0;
      setText(count, String(number));
      const isWanted = this.wanted.has(key);
      chip.setAttribute('aria-pressed', String(isWanted));
      // Phases that nobody is in need no room.
      chip.hidden = key.includes(':') && number === 0 && !isWanted;
    }
  }

  // Why nodes are down.

  updateCauses() {
    const groups = new Map();
    for (const [label, node] of this.model.nodes) {
      if (!isDown(node)) continue;
      const key = causeKey(node);
      if (!groups.has(key)) groups.set(key, { key, first: node, labels: [] });
      groups.get(key).labels.push(label);
    }
    if (this.cause && !groups.has(this.cause)) this.cause = null;
    const sorted = [...groups.values()].sort((a, b) => b.labels.length - a.labels.length);
    byId('causes').hidden = sorted.length === 0;
    const left = sorted.length - CAUSES;
    fill(
      byId('causes'),
      h('h3', {}, 'Why'),
      h('ul', {}, sorted.slice(0, CAUSES).map((group) => this.causeItem(group))),
      left > 0 && h('p', { class: 'quiet' }, `and ${plural(left, 'other cause')}`),
    );
  }

  causeItem({ key, first, labels }) {
    const [said, ...hints] = first.what.split(/\n?hint: /);
    const set = fold(labels);
    return h(
      'li',
      {},
      h(
        'button',
        { type: 'button', class: 'cause', 'aria-pressed': String(this.cause === key), 'data-key': key, onclick: () => this.chooseCause(key) },
        h('span', { class: 'number' }, String(labels.length)),
        h('span', { class: 'tag', 'data-state': first.state }, `${STATES[first.state]} ${first.state}`),
        h('span', { class: 'said' }, said),
        hints.map((hint) => h('span', { class: 'hint' }, `hint: ${hint}`)),
        h('span', { class: 'set' }, set.length > 300 ? `${set.slice(0, 300)}…` : set),
      ),
    );
  }

  chooseCause(key) {
    this.cause = this.cause === key ? null : key;
    this.updateCauses();
    this.filter(null);
  }

  // The grid. It is built when nodes come or go; otherwise only what changed is touched.

  buildGrid() {
    const labels = [...this.model.nodes.keys()].sort(naturally);
    const blocks = new Map();
    for (const label of labels) {
      const key = this.model.nodes.get(label).name ? blockOf(label) : ' ';
      if (!blocks.has(key)) blocks.set(key, []);
      blocks.get(key).push(label);
    }
    const had = this.cells.get(this.current) === document.activeElement;
    this.cells.clear();
    fill(byId('grid'), [...blocks].map(([key, members]) => this.block(key, members)));
    this.order = [...this.cells.keys()];
    if (!this.cells.has(this.current)) this.current = this.order[0] ?? null;
    this.cells.get(this.current)?.setAttribute('tabindex', '0');
    if (had) this.cells.get(this.current)?.focus();
  }

  block(key, labels) {
    const title = key === ' ' ? 'not configured' : fold(labels);
    const cells = labels.map((label) => {
      const cell = h('button', { type: 'button', class: 'cell', tabindex: -1, 'data-label': label });
      this.cells.set(label, cell);
      this.paint(label);
      return cell;
    });
    const short = title.length > 44 ? `${title.slice(0, 43)}…` : title;
    return h('div', { class: 'block', role: 'group', 'aria-label': short }, h('p', { class: 'name', 'aria-hidden': 'true' }, short), h('div', { class: 'cells' }, cells));
  }

  paint(label) {
    const cell = this.cells.get(label);
    const node = this.model.nodes.get(label);
    if (!cell || !node) return;
    const said = `${label}: ${node.state}${node.state === 'booting' ? `, ${node.phase}` : ''}${isDown(node) ? `, ${node.what}` : ''}`;
    if (cell.ariaLabel !== said) cell.ariaLabel = said;
    if (cell.dataset.state !== node.state) cell.dataset.state = node.state;
    const step = node.state === 'booting' ? String(PHASES.indexOf(node.phase) + 1) : '';
    if (cell.dataset.step !== step) cell.dataset.step = step;
    setText(cell, signOf(node));
    if (label === this.peeked) this.peek(label);
  }

  /// What is known of a node, in the line below the grid.
  peek(label) {
    this.peeked = label;
    const node = this.model.nodes.get(label);
    if (!node) return;
    const since = node.since_unix_ms === null ? null : duration(this.model.now() - node.since_unix_ms);
    setText(byId('peek'), [label, node.state, node.phase, since, node.what].filter(Boolean).join('  ·  '));
  }

  // Filters and the search.

  isWanted(label) {
    const node = this.model.nodes.get(label);
    if (this.found && !this.found(node, label)) return false;
    if (this.cause && !(isDown(node) && causeKey(node) === this.cause)) return false;
    return this.wanted.size === 0 || this.wanted.has(node.state) || this.wanted.has(`${node.state}:${node.phase}`);
  }

  get isFiltered() {
    return this.wanted.size > 0 || this.found !== null || this.cause !== null;
  }

  /// Dims the cells that are not wanted: those that changed, or all.
  filter(changed) {
    for (const label of changed ?? this.cells.keys()) {
      const isOut = !this.isWanted(label);
      const cell = this.cells.get(label);
      if (cell && cell.classList.contains('out') !== isOut) cell.classList.toggle('out', isOut);
    }
    if (changed === null || this.isFiltered) {
      for (const block of byId('grid').children) block.hidden = block.querySelector('.cell:not(.out)') === null;
    }
    this.updateList();
  }

  async search(text) {
    const wanted = text.trim();
    this.searched = wanted;
    if (wanted === '') {
      this.applySearch(null, '');
    } else if (/[[\]@!&^,]/.test(wanted)) {
      await this.searchSet(wanted);
    } else {
      const lower = wanted.toLowerCase();
      this.applySearch((node, label) => textOf(node, label).includes(lower));
    }
  }

  /// The server knows what sets and groups mean.
  async searchSet(wanted) {
    try {
      const status = await ask(`/v1/status?node=${encodeURIComponent(wanted)}`);
      const labels = new Set(status.nodes.map(labelOf));
      if (this.searched === wanted) this.applySearch((_, label) => labels.has(label));
    } catch (error) {
      if (this.searched === wanted) this.applySearch(null, error.message);
    }
  }

  applySearch(found, said) {
    this.found = found;
    this.filter(null);
    const count = found ? [...this.cells.keys()].filter((label) => this.isWanted(label)).length : 0;
    setText(byId('matches'), said ?? (count === 0 ? 'none found' : `${plural(count, 'node')} found`));
  }

  // The list.

  updateList() {
    const filtered = this.isFiltered;
    const listed = [...this.model.nodes].filter(([label, node]) => (filtered ? this.isWanted(label) : isDown(node)));
    listed.sort(([one, a], [other, b]) => RANK.indexOf(a.state) - RANK.indexOf(b.state) || naturally(one, other));
    const rows = this.isLong ? listed : listed.slice(0, ROWS);
    setText(byId('listed'), filtered ? `${plural(listed.length, 'node')} shown` : `${plural(listed.length, 'node')} ${listed.length === 1 ? 'needs' : 'need'} somebody`);
    byId('list').hidden = rows.length === 0;
    fill(byId('list').tBodies[0], rows.map(([label, node]) => this.row(label, node)));
    byId('more').hidden = rows.length === listed.length;
    setText(byId('more'), `Show all ${listed.length}`);
  }

  row(label, node) {
    const since = node.since_unix_ms === null ? '' : duration(this.model.now() - node.since_unix_ms);
    const state = [h('span', { class: 'tag', 'data-state': node.state }, `${STATES[node.state]} ${node.state}`), node.phase && !isDown(node) && node.state !== 'ready' ? ` ${node.phase}` : null];
    const before = node.state === 'booting' && node.attempts > 1 && node.error;
    return h(
      'tr',
      {},
      h('td', {}, h('a', { href: `#node/${encodeURIComponent(label)}`, 'data-key': label }, label)),
      h('td', {}, state),
      h('td', { class: 'since' }, since),
      h('td', { class: 'tries' }, node.attempts > 0 ? String(node.attempts) : ''),
      h('td', { class: 'why' }, node.what, before && h('span', { class: 'hint' }, `before: ${before.code ? `[${before.code}] ` : ''}${before.message}`)),
    );
  }

  // Mouse and keyboard.

  listen() {
    const grid = byId('grid');
    const labelAt = (event) => event.target.closest('.cell')?.dataset.label;
    grid.addEventListener('click', (event) => labelAt(event) && this.open(labelAt(event)));
    grid.addEventListener('pointerover', (event) => labelAt(event) && this.peek(labelAt(event)));
    grid.addEventListener('focusin', (event) => labelAt(event) && this.arrive(labelAt(event)));
    grid.addEventListener('keydown', (event) => this.move(event));
    byId('more').addEventListener('click', () => {
      this.isLong = true;
      this.updateList();
    });
    this.listenToSearch();
  }

  listenToSearch() {
    const query = byId('query');
    let typing = null;
    query.addEventListener('input', () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.search(query.value), TYPING_MS);
    });
    query.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') {
        event.preventDefault();
        query.value = '';
        this.search('');
      } else if (event.key === 'ArrowDown') {
        event.preventDefault();
        this.focus(this.order.find((label) => this.isWanted(label)));
      }
    });
    byId('search').addEventListener('submit', async (event) => {
      event.preventDefault();
      clearTimeout(typing);
      await this.search(query.value);
      const hits = this.order.filter((label) => this.isWanted(label));
      if (hits.length === 1) this.open(hits[0]);
      else this.focus(hits[0]);
    });
  }

  open(label) {
    this.arrive(label);
    window.location.hash = `#node/${encodeURIComponent(label)}`;
  }

  /// The one cell that Tab comes to is that where the focus was last.
  arrive(label) {
    this.cells.get(this.current)?.setAttribute('tabindex', '-1');
    this.current = label;
    this.cells.get(label)?.setAttribute('tabindex', '0');
    this.peek(label);
  }

  focus(label) {
    if (label !== undefined) this.cells.get(label)?.focus();
  }

  move(event) {
    const columns = Number(getComputedStyle(byId('grid')).getPropertyValue('--columns')) || 20;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: BLOCK, PageUp: -BLOCK };
    const shown = this.order.filter((label) => !this.cells.get(label).classList.contains('out'));
    const at = shown.indexOf(this.current);
    let to;
    if (event.key in steps) to = Math.min(Math.max(at + steps[event.key], 0), shown.length - 1);
    else if (event.key === 'Home') to = 0;
    else if (event.key === 'End') to = shown.length - 1;
    else if (event.key === 'Escape') return this.clear();
    else return undefined;
    event.preventDefault();
    this.focus(shown[to]);
    return undefined;
  }

  /// Shows all nodes again.
  clear() {
    this.wanted.clear();
    this.cause = null;
    byId('query').value = '';
    this.updateLegend();
    this.updateCauses();
    this.search('');
  }
}

/// `node-0` of `node-017`, `rack1-` of `rack1-12`: what the names of a block have in common.
function blockOf(label) {
  const [, prefix, digits] = /^(.*?)(\d*)\D*$/.exec(label);
  return `${prefix}${Math.floor(Number(digits) / BLOCK)}`;
}

function textOf(node, label) {
  const error = node.error ? `${node.error.code ?? ''} ${node.error.message}` : '';
  return [label, node.address, node.mac, node.image, node.state, node.phase, node.what, isDown(node) ? error : ''].join(' ').toLowerCase();
}
