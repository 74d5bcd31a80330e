// The images of the store: their versions, and which nodes are to boot and run each.

import { fill, h, problem } from './dom.js';
import { ask } from './server.js';
import { dateAndClock, fold, plural, size } from './words.js';

const AGAIN_MS = 10000;

export class Images {
  constructor(root) {
    Object.assign(this, { root, asked: 0, isShown: false });
  }

  show() {
    this.isShown = true;
    return this.read();
  }

  hide() {
    this.isShown = false;
  }

  tick() {
    if (Date.now() - this.asked >= AGAIN_MS) this.read();
  }

  async read() {
    this.asked = Date.now();
    let content;
    try {
      const images = await ask('/v1/images');
      content = images.length === 0 ? h('p', {}, 'The store is empty. imagebuild build makes an image.') : images.map(image);
    } catch (error) {
      content = problem(error);
    }
    // What is unfolded stays so.
    const open = [...this.root.querySelectorAll('details[open]')].map((details) => details.dataset.key);
    fill(this.root, h('h2', {}, 'Images'), content);
    for (const details of this.root.querySelectorAll('details')) details.open = open.includes(details.dataset.key);
  }
}

function image({ name, current, waiting, versions }) {
  const head = ['Version', 'Size', 'Mode', 'Kernel', 'Built', 'Signed', 'To boot it', 'Run it'];
  return h(
    'article',
    { class: 'image' },
    h('h3', {}, name, ' ', h('span', { class: 'quiet' }, current ? `current is ${current}` : 'no current version')),
    waiting.length > 0 && h('p', { class: 'problem' }, `${plural(waiting.length, 'node')} cannot boot: ${fold(waiting)}`, h('span', { class: 'hint' }, `hint: imagebuild build ${name}`)),
    versions.length > 0 && h('table', {}, h('thead', {}, h('tr', {}, head.map((word) => h('th', {}, word)))), h('tbody', {}, versions.map((version) => row(name, current, version)))),
  );
}

function row(name, current, { version, contents, problem: trouble, assigned, running }) {
  const isCurrent = version === current;
  const cells = contents
    ? [size(contents.size_bytes), contents.mode, contents.kernel_release, contents.built_unix > 0 ? dateAndClock(contents.built_unix * 1000) : '', contents.is_signed ? 'signed' : 'no']
    : [h('span', { class: 'problem' }, trouble), '', '', '', ''];
  const labels = ['Size', 'Mode', 'Kernel', 'Built', 'Signed'];
  return h(
    'tr',
    { class: isCurrent ? 'current' : null, 'data-version': `${name}/${version}` },
    h('td', {}, version, isCurrent && h('span', { class: 'tag' }, 'current')),
    cells.map((cell, at) => h('td', { 'data-head': labels[at] }, cell)),
    h('td', { 'data-head': 'To boot it' }, nodes(`${name}/${version} assigned`, assigned)),
    h('td', { 'data-head': 'Run it' }, nodes(`${name}/${version} running`, running)),
  );
}

function nodes(key, names) {
  if (names.length === 0) return h('span', { class: 'quiet' }, 'none');
  return h('details', { 'data-key': key }, h('summary', { 'data-key': `${key} summary` }, plural(names.length, 'node')), fold(names));
}
