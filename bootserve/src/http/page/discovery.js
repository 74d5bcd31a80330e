// Machines that wait in discover mode, and nodes made of them. All of this needs a token.

import { fill, h, problem, setText } from './dom.js';
import { ask, isPrivate, keepToken, token } from './server.js';
import { STATES, clock, plural, size } from './words.js';

const AGAIN_MS = 5000;

export class Discovery {
  constructor(root, badge) {
    Object.assign(this, { root, badge, asked: 0, cards: new Map(), said: h('div', { role: 'status' }), list: h('div'), gate: h('div') });
    root.append(h('h2', {}, 'Discovery'), this.gate, this.said, this.list);
    if (token()) this.read();
  }

  show() {
    this.showGate();
    return this.read();
  }

  tick() {
    if (token() && Date.now() - this.asked >= AGAIN_MS) this.read();
  }

  // The token.

  showGate(error) {
    if (!isPrivate()) return this.showRefusal();
    if (token()) {
      const forget = () => {
        keepToken(null);
        this.cards.clear();
        fill(this.list);
        this.badge.hidden = true;
        this.showGate();
      };
      return fill(this.gate, h('p', { class: 'quiet' }, 'A token is kept for this tab. ', h('button', { type: 'button', onclick: forget }, 'Forget it')));
    }
    const input = h('input', { id: 'token', type: 'password', autocomplete: 'off', required: true, spellcheck: 'false' });
    const accept = (event) => {
      event.preventDefault();
      keepToken(input.value.trim());
      this.showGate();
      this.read();
    };
    return fill(
      this.gate,
      error && problem(error),
      h('form', { class: 'token', onsubmit: accept }, h('label', { for: 'token' }, 'Token'), input, h('button', { type: 'submit' }, 'Use')),
      h('p', { class: 'quiet' }, 'bootserve token new NAME --role operator makes one on the boot server. It is kept until this tab is closed.'),
    );
  }

  /// The server says itself why it takes no token this way; none is sent.
  async showRefusal() {
    const error = await ask('/v1/machines').then(() => null, (refused) => refused);
    if (error) fill(this.gate, problem(error), h('p', { class: 'quiet' }, 'Or by ssh -L 8080:127.0.0.1:80 to the boot server, and this page on port 8080 of localhost.'));
  }

  // The machines.

  async read() {
    if (!token()) return;
    this.asked = Date.now();
    try {
      this.take(await ask('/v1/machines', { withToken: true }));
    } catch (error) {
      if (error.status === 401) {
        keepToken(null);
        this.showGate(error);
      } else {
        fill(this.list, problem(error));
        this.cards.clear();
      }
    }
  }

  take(machines) {
    const waiting = machines.filter((machine) => !machine.node);
    setText(this.badge, String(waiting.length));
    this.badge.hidden = waiting.length === 0;
    const before = this.cards;
    this.cards = new Map(waiting.map((machine) => [machine.mac, before.get(machine.mac) ?? new Card(machine, this)]));
    for (const machine of waiting) this.cards.get(machine.mac).take(machine);
    // Cards that are there stay where they are: somebody may be writing into one.
    const elements = [...this.cards.values()].map((card) => card.element);
    const isOther = elements.length !== this.list.querySelectorAll('.machine').length || elements.some((element) => element.parentNode !== this.list);
    if (isOther) this.list.replaceChildren(...elements);
    if (elements.length === 0) fill(this.list, h('p', {}, 'No machine waits.'));
  }

  /// Tells of a change that was made.
  tell(text) {
    fill(this.said, h('p', { class: 'done' }, text));
    this.read();
  }
}

/// A machine that waits.
class Card {
  constructor(machine, discovery) {
    Object.assign(this, { mac: machine.mac, discovery, heard: h('span', { class: 'quiet' }), marks: h('p', { class: 'quiet' }), offer: h('div', { class: 'offer' }), facts: h('div'), outcome: h('div', { role: 'status' }) });
    const name = [machine.product, machine.serial && `serial ${machine.serial}`].filter(Boolean).join(', ') || 'unknown machine';
    const parts = [machine.mac, plural(machine.cores, 'core'), size(machine.memory_bytes)];
    this.element = h('article', { class: 'machine', 'data-mac': machine.mac }, h('h3', {}, name), h('p', {}, parts.join('  ·  '), '  ·  ', this.heard), this.marks, this.factsButton(), this.facts, this.offer, this.form(), this.outcome);
  }

  take(machine) {
    setText(this.heard, `heard of at ${clock(machine.last_seen_unix_ms)}, ${plural(machine.check_ins, 'check-in')}`);
    const tags = [...machine.tags.map((tag) => `tag ${tag}`), ...machine.errors.map(({ tag, error }) => `tag ${tag}: ${error}`)];
    setText(this.marks, [...tags, machine.port && `port ${machine.port}`].filter(Boolean).join('  ·  '));
    this.takeOffer(machine);
  }

  /// What a policy would make of it. A button stays the same while that does: somebody may be about to press it.
  takeOffer({ offer, released }) {
    const key = offer && `${offer.policy} ${offer.node}`;
    if (key === this.offered) return;
    this.offered = key;
    fill(this.outcome);
    if (!offer) return fill(this.offer);
    const why = released ? ' It was a node that was taken away.' : '';
    const change = { path: `/v1/machines/${encodeURIComponent(this.mac)}/approve`, body: { node: offer.node }, name: offer.node };
    fill(this.offer, h('p', {}, `Policy ${offer.policy} proposes ${offer.node}.${why} `, h('button', { type: 'button', onclick: () => this.check(change) }, `Check ${offer.node}`)));
  }

  factsButton() {
    const show = async () => {
      const facts = await ask(`/v1/machines/${encodeURIComponent(this.mac)}`, { withToken: true }).catch((error) => error);
      fill(this.facts, facts instanceof Error ? problem(facts) : h('pre', { tabindex: '0', 'aria-label': 'facts' }, JSON.stringify(facts, null, 2)));
    };
    return h('button', { type: 'button', onclick: show }, 'All facts');
  }

  form() {
    const field = (name, label, placeholder, required) => {
      const id = `${name}-${this.mac}`;
      return h('p', {}, h('label', { for: id }, label), h('input', { id, name, placeholder, required, autocomplete: 'off', spellcheck: 'false' }));
    };
    const form = h(
      'form',
      { class: 'approve' },
      field('names', 'Name', 'node-400', true),
      field('address', 'Address', '10.1.5.0', true),
      field('profile', 'Profile', 'of the inventory', false),
      field('image', 'Image', 'or of the profile', false),
      h('button', { type: 'submit' }, 'Check'),
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.check(this.change(form));
    });
    // What was checked is what is approved.
    form.addEventListener('input', () => fill(this.outcome));
    return form;
  }

  change(form) {
    const value = (name) => form.elements.namedItem(name).value.trim();
    const nodes = { mac: this.mac };
    for (const key of ['address', 'profile', 'image']) if (value(key) !== '') nodes[key] = value(key);
    const name = value('names');
    return { path: '/v1/changes', body: { add: { names: name, nodes } }, name };
  }

  async check(change) {
    try {
      const { changes } = await ask(`${change.path}?dry_run=true`, { body: change.body, withToken: true });
      const rows = changes.map(({ table, name, key, before, after }) => h('li', {}, `${table} ${name ?? ''} ${key}: `, before === null || before === undefined ? null : `${JSON.stringify(before)} → `, h('code', {}, JSON.stringify(after ?? null))));
      const approve = h('button', { type: 'button', class: 'primary', onclick: () => this.approve(change) }, `Approve as ${change.name}`);
      fill(this.outcome, h('p', {}, 'This would be added:'), h('ul', {}, rows), approve);
      approve.focus();
    } catch (error) {
      fill(this.outcome, problem(error));
    }
  }

  async approve(change) {
    try {
      const { revision, in_force } = await ask(change.path, { body: change.body, withToken: true });
      const then = in_force ? 'The machine reboots into its image when it checks in the next time.' : 'It is stored and not in force yet; the log of bootserve says why.';
      this.discovery.tell(`${STATES.ready} change ${revision}: ${change.name} is ${this.mac}. ${then}`);
    } catch (error) {
      fill(this.outcome, problem(error));
    }
  }
}
