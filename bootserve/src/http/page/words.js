// How states, times and sets of nodes are said.

/// States in the order in which they need somebody, with the sign that stands for each.
export const STATES = { stuck: '!', failed: '✕', booting: '▸', parked: 'P', ready: '✓', unseen: '·' };

/// The steps of a boot. Their number is the sign of a node that has come so far.
export const PHASES = ['dhcp', 'nbp', 'script', 'kernel', 'initramfs', 'init', 'network', 'unpack', 'switch-root'];

export const isDown = (node) => node.state === 'stuck' || node.state === 'failed';

/// What people call a machine.
export const labelOf = (node) => node.name ?? node.mac ?? node.address;

export function signOf(node) {
  const number = PHASES.indexOf(node.phase) + 1;
  return node.state === 'booting' && number > 0 ? String(number) : STATES[node.state];
}

/// In the largest unit that leaves two digits, as bootserve says it.
export function duration(ms) {
  const seconds = Math.max(0, ms / 1000);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

const two = (number) => String(number).padStart(2, '0');

export function clock(ms) {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':');
}

export function dateAndClock(ms) {
  const date = new Date(ms);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(ms)}`;
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString('en')} ${count === 1 ? one : many}`;

export const naturally = new Intl.Collator('en', { numeric: true }).compare;

/// Names as a set in ClusterShell's syntax: `node-[000-009,020]`.
export function fold(names) {
  const groups = new Map();
  const order = [...names].sort(naturally);
  const widths = new Map();
  for (const name of order) {
    const [, prefix, digits] = /^(.*?)(\d*)$/.exec(name);
    if (digits.length > 1 && digits.startsWith('0')) widths.set(`${prefix} ${digits.length}`, digits.length);
  }
  for (const name of order) {
    const [, prefix, digits] = /^(.*?)(\d*)$/.exec(name);
    if (digits === '') {
      groups.set(name, null);
      continue;
    }
    const width = widths.get(`${prefix} ${digits.length}`) ?? 0;
    const key = `${prefix} ${width}`;
    if (!groups.has(key)) groups.set(key, { prefix, width, numbers: [] });
    groups.get(key).numbers.push(Number(digits));
  }
  return [...groups].map(([name, group]) => (group === null ? name : foldGroup(group))).join(',');
}

function foldGroup({ prefix, width, numbers }) {
  const written = (number) => String(number).padStart(width, '0');
  if (numbers.length === 1) return prefix + written(numbers[0]);
  const ranges = [];
  for (const number of numbers.sort((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last && number === last[1] + 1) last[1] = number;
    else ranges.push([number, number]);
  }
  const parts = ranges.map(([first, last]) => (first === last ? written(first) : `${written(first)}-${written(last)}`));
  return `${prefix}[${parts.join(',')}]`;
}

/// Why a node is down, without what is of this node alone, so that nodes with one trouble are found together.
export function causeKey(node) {
  const text = node.what
    .replaceAll(labelOf(node), '…')
    .replaceAll(node.address, '…')
    .replace(/([0-9a-f]{2}[:-]){5}[0-9a-f]{2}/gi, '…')
    .replace(/\d+(\.\d+)?/g, '#');
  return `${node.state} ${text}`;
}
