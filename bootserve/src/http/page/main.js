// The page: which view is shown, what is known of the nodes, and how it is kept up to date.

import { byId, setText } from './dom.js';
import { Discovery } from './discovery.js';
import { Fleet } from './fleet.js';
import { Images } from './images.js';
import { Live } from './live.js';
import { Node } from './node.js';
import { ask } from './server.js';
import { clock, isDown, labelOf } from './words.js';

/// Events are gathered for so long: a hall of nodes reports at once.
const GATHER_MS = 200;
/// More nodes than that are asked for as all nodes.
const FEW = 40;
/// How often everything is asked for, since a node also gets stuck by nothing happening.
const QUIET_MS = 10000;
const BUSY_MS = 3000;
/// The server is given so many times the pause that its answer took.
const REST = 10;

/// What is known of all nodes.
const model = {
  nodes: new Map(),
  /// What the server's clock is ahead of ours.
  aheadMs: 0,
  isKnown: false,
  now: () => Date.now() + model.aheadMs,
  refreshSoon,
};

const views = {
  fleet: new Fleet(byId('fleet'), model),
  node: new Node(byId('node'), model),
  images: new Images(byId('images')),
  discovery: new Discovery(byId('discovery'), byId('waiting')),
};
let shown = null;

function route() {
  const [name, ...rest] = window.location.hash.slice(1).split('/');
  const next = views[name] ? name : 'fleet';
  const parameter = decodeURIComponent(rest.join('/'));
  for (const [other, view] of Object.entries(views)) {
    byId(other).hidden = other !== next;
    if (other !== next && shown === other) view.hide?.();
  }
  for (const link of document.querySelectorAll('nav a')) {
    if (link.hash === `#${next}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const before = shown;
  shown = next;
  views[next].show?.(parameter, before);
  if (before !== null) window.scrollTo(0, 0);
}

// Keeping up to date.

const pending = new Set();
let gathering = null;
/// Answers are taken in the order in which they were asked for.
let queue = Promise.resolve();
let waiting = 0;
let lastAll = -Infinity;
let tookMs = 0;

/// Has the status of a node asked for.
function refreshSoon(label) {
  pending.add(label);
  gathering ??= setTimeout(refreshPending, GATHER_MS);
}

async function refreshPending() {
  gathering = null;
  const labels = [...pending];
  pending.clear();
  if (labels.length === 0) return;
  const areFew = model.isKnown && labels.length <= FEW && labels.length * 4 <= Math.max(model.nodes.size, 4);
  const path = `/v1/status?node=${encodeURIComponent(labels.join(','))}`;
  if (!areFew || !(await refresh(path, false))) await refreshAll();
}

const refreshAll = () => refresh('/v1/status', true);

/// Asks for a status and takes it over; whether there is one.
function refresh(path, isAll) {
  waiting += 1;
  queue = queue.then(() => askForStatus(path, isAll)).finally(() => (waiting -= 1));
  return queue;
}

async function askForStatus(path, isAll) {
  const began = performance.now();
  if (isAll) lastAll = began;
  try {
    const status = await ask(path);
    if (isAll) tookMs = performance.now() - began;
    connection.answered();
    take(status, isAll);
  } catch (error) {
    // A machine that has neither a name nor a lease is in no status.
    if (error.status === 404) return false;
    connection.failed(error);
  }
  return true;
}

function take(status, isAll) {
  model.aheadMs = status.time_unix_ms - Date.now();
  const changed = new Set();
  const seen = new Set();
  let isOther = !model.isKnown;
  for (const node of status.nodes) {
    const label = labelOf(node);
    seen.add(label);
    isOther ||= !model.nodes.has(label);
    model.nodes.set(label, node);
    changed.add(label);
  }
  if (isAll) {
    for (const label of model.nodes.keys()) {
      if (!seen.has(label)) isOther = model.nodes.delete(label);
    }
    model.isKnown = true;
  }
  for (const view of Object.values(views)) view.update?.(changed, isOther);
  const down = [...model.nodes.values()].filter(isDown).length;
  document.title = `${down > 0 ? `(${down} down) ` : ''}bootnode ${window.location.hostname}`;
}

/// How well the server is heard, as it is shown.
const connection = {
  hasStream: false,
  hasAnswers: true,
  since: Date.now(),
  set(change) {
    const wasLive = this.hasStream && this.hasAnswers;
    Object.assign(this, change);
    const isLive = this.hasStream && this.hasAnswers;
    if (wasLive && !isLive) this.since = Date.now();
    byId('live').dataset.is = isLive ? 'live' : 'lost';
    setText(byId('live'), isLive ? 'live' : 'not live');
    const since = clock(this.since);
    setText(
      byId('banner'),
      this.hasAnswers
        ? `Events do not come since ${since}, trying again. The status is asked for every few seconds.`
        : `Not live since ${since}, trying again. What you see is as it was then.`,
    );
    clearTimeout(this.timer);
    // What is mended within a moment need not alarm anybody.
    if (isLive) byId('banner').hidden = true;
    else this.timer = setTimeout(() => (byId('banner').hidden = false), 1500);
  },
  answered() {
    if (!this.hasAnswers) this.set({ hasAnswers: true });
  },
  failed(error) {
    console.error(error);
    this.set({ hasAnswers: false });
    // A stream whose other end is gone says nothing, either.
    live.again();
  },
};

const live = new Live({
  onEvent(event) {
    refreshSoon(event.node ?? event.mac);
    views.node.heard(event);
  },
  onOpen() {
    connection.set({ hasStream: true });
    // Nodes may have become something else while nobody listened.
    refreshAll();
  },
  onLost() {
    connection.set({ hasStream: false });
  },
});

function isBusy() {
  for (const node of model.nodes.values()) if (node.state === 'booting') return true;
  return false;
}

function tick() {
  if (document.hidden || waiting > 0) return;
  const period = Math.max(isBusy() || !connection.hasStream || !connection.hasAnswers ? BUSY_MS : QUIET_MS, REST * tookMs);
  if (performance.now() - lastAll >= period) refreshAll();
  views[shown]?.tick?.();
}

// A tab that nobody sees needs none of the server's few streams.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) live.close();
  else live.open();
});

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches('input, textarea, select');
  if (event.key === '/' && !isTyping) {
    event.preventDefault();
    if (shown !== 'fleet') window.location.hash = '#fleet';
    // The view is shown once the change of the address is noticed.
    setTimeout(() => byId('query').focus(), 0);
  } else if (event.key === 'Escape' && !isTyping && shown !== 'fleet') {
    window.location.hash = '#fleet';
  }
});

window.addEventListener('hashchange', route);
route();
connection.set({});
live.open();
setInterval(tick, 1000);
