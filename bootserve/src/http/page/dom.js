// Elements are made here, and only here. Text goes into them as text: what machines say is never read as markup.

/// An element with children. Of its properties, `on*` are listeners, `value` and what is true or false are set as they are, and all else are attributes.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value' || typeof value === 'boolean') element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/// Sets a text if it is another one, so that nothing is laid out anew for nothing.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/// Replaces what is in `parent`. Whoever had the focus keeps it, if an element with the same `data-key` is there again.
export function fill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  if (focused !== undefined) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/// A message with its hints, each on a line of its own.
export function message(text) {
  const [said, ...hints] = text.trim().split(/\n?hint: /);
  return [h('span', { class: 'said' }, said.trim()), ...hints.map((hint) => h('span', { class: 'hint' }, `hint: ${hint.trim()}`))];
}

/// What went wrong with a request, as a paragraph.
export const problem = (error) => h('p', { class: 'problem', role: 'alert' }, message(error.message));
