// What the server is asked. A token is kept for this tab alone, and never sent where others could read it.

const KEY = 'bootnode.token';
const PATIENCE_MS = 15000;

/// An answer that is no success; the message is the server's own.
export class Refused extends Error {
  constructor(status, text) {
    super(text.trim() || `HTTP status ${status}`);
    this.status = status;
  }
}

/// Whether nobody between here and the server can read a token: what the server itself asks for.
export function isPrivate() {
  const { protocol, hostname } = window.location;
  return protocol === 'https:' || hostname === 'localhost' || hostname === '[::1]' || /^127(\.\d+){3}$/.test(hostname);
}

export const token = () => (isPrivate() ? sessionStorage.getItem(KEY) : null);

export function keepToken(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/// Asks, and returns what came as JSON. `body` makes it a POST.
export async function ask(path, { body, withToken = false } = {}) {
  const headers = {};
  if (withToken && token()) headers.Authorization = `Bearer ${token()}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const response = await fetch(path, {
    method: body === undefined ? 'GET' : 'POST',
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: 'no-store',
    credentials: 'omit',
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (!response.ok) throw new Refused(response.status, await response.text());
  return response.json();
}
