// The stream of events, and whether it is alive. Whatever happens, it is resumed where it was.

const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 15000;

/// Calls `onEvent` with each event, `onOpen` when the stream is there (again), `onLost` when it is not.
export class Live {
  constructor({ onEvent, onOpen, onLost }) {
    Object.assign(this, { onEvent, onOpen, onLost });
    this.last = null;
    this.pause = FIRST_PAUSE_MS;
    this.stream = null;
    this.timer = null;
  }

  open() {
    this.close();
    const stream = new EventSource(this.last === null ? '/v1/events' : `/v1/events?after=${this.last}`);
    this.stream = stream;
    stream.onopen = () => {
      this.pause = FIRST_PAUSE_MS;
      this.onOpen();
    };
    stream.onmessage = (message) => {
      this.last = message.lastEventId;
      this.onEvent(JSON.parse(message.data));
    };
    // The browser's own tries end where the server answers that there are too many streams, so they are made here.
    stream.onerror = () => this.again();
  }

  /// Tries again after a while.
  again() {
    if (this.timer !== null) return;
    this.close();
    this.onLost();
    this.timer = setTimeout(() => this.open(), this.pause * (1 + Math.random() / 2));
    this.pause = Math.min(this.pause * 2, MAX_PAUSE_MS);
  }

  close() {
    clearTimeout(this.timer);
    this.timer = null;
    this.stream?.close();
    this.stream = null;
  }
}
