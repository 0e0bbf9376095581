// A poll: one question, asked again and again while somebody looks at the answers.
//
// Rule 1: the next question waits for the answer to the one before; after errors it waits longer and longer, and as long
// as the engine asks for. A page that nobody sees asks nothing.
// Rule 2: an old answer is never passed off as a new one: who shows it is told how old it is.

const BACKOFF_MS_MAX = 15_000;
const STALE_AFTER_MS = 3500;

export class Poll {
  /** ask(): a promise of {data, meta}. */
  constructor(ask, intervalMs) {
    this.data = null;
    this.meta = null;
    this.error = null;
    this.answeredAt = 0;
    this.#ask = ask;
    this.#intervalMs = intervalMs;
  }

  #ask;
  #intervalMs;
  #listeners = new Set();
  #running = false;
  #asking = null;
  #failures = 0;
  #timer = 0;
  #seen = () => this.#wake();

  /** Call back after every answer and every failure; returns how to end that. */
  listen(listener) {
    this.#listeners.add(listener);
    if (this.data !== null || this.error !== null) listener(this);
    return () => this.#listeners.delete(listener);
  }

  /** Whether it fails again and again: once is a front that dies and is replaced. */
  get isDown() {
    return this.#failures > 1;
  }

  /** Milliseconds since the last good answer; null: there was none. */
  get ageMs() {
    return this.answeredAt ? performance.now() - this.answeredAt : null;
  }

  /** Whether what is known is older than it should be. */
  get isStale() {
    return this.ageMs !== null && this.ageMs > Math.max(STALE_AFTER_MS, 2.5 * this.#intervalMs);
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    document.addEventListener("visibilitychange", this.#seen);
    this.#wake();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#seen);
  }

  /** Ask now; resolves when it is answered, or not. */
  now() {
    clearTimeout(this.#timer);
    this.#asking ??= this.#round().finally(() => {
      this.#asking = null;
      if (this.#running) this.#timer = setTimeout(() => this.#wake(), this.#pauseMs());
    });
    return this.#asking;
  }

  #wake() {
    clearTimeout(this.#timer);
    if (this.#running && !document.hidden) void this.now();
  }

  async #round() {
    try {
      const { data, meta } = await this.#ask();
      Object.assign(this, { data, meta, error: null, answeredAt: performance.now() });
      this.#failures = 0;
    } catch (error) {
      // Nobody is left to be told.
      if (error.code === "SIGNED_OUT") return;
      this.error = error;
      this.#failures += 1;
    }
    for (const listener of [...this.#listeners]) listener(this);
  }

  #pauseMs() {
    if (this.#failures === 0) return this.#intervalMs;
    const backoffMs = Math.min(Math.max(this.#intervalMs, 1000) * 2 ** (this.#failures - 1), BACKOFF_MS_MAX);
    return Math.max(backoffMs, this.error.retryAfterMs ?? 0);
  }
}
