// Rates out of totals: the engine counts, whoever looks twice knows how fast. Times are the engine's own.
//
// A rate is taken over the last few answers, so that figures can be read while they move. A total that went back (the
// engine was started anew) begins a new row of answers.

const ANSWERS_KEPT = 4;

export class Rates {
  #rows = new Map();

  /** Take an answer: when it was made, in milliseconds, and its totals by name. */
  add(timeMs, totals) {
    for (const [name, total] of totals) {
      const row = this.#rows.get(name) ?? [];
      const last = row.at(-1);
      if (last !== undefined && (total < last.total || timeMs < last.timeMs)) row.length = 0;
      if (row.at(-1)?.timeMs !== timeMs) row.push({ timeMs, total });
      if (row.length > ANSWERS_KEPT) row.shift();
      this.#rows.set(name, row);
    }
  }

  /** How much of it there was per second; null: not known yet. */
  of(name) {
    const row = this.#rows.get(name);
    if (row === undefined || row.length < 2) return null;
    const first = row[0];
    const last = row.at(-1);
    return ((last.total - first.total) * 1000) / (last.timeMs - first.timeMs);
  }
}

/** The totals of an answer of `/admin/actors`: `in`, `out` and `busy` of each actor, and what was written to each ring. */
export function totalsOf(actors) {
  const totals = new Map();
  for (const actor of actors) {
    totals.set(`in ${actor.name}`, actor.records_in);
    totals.set(`out ${actor.name}`, actor.records_out);
    if (actor.busy_seconds !== null) totals.set(`busy ${actor.name}`, actor.busy_seconds);
    for (const ring of actor.rings) totals.set(`ring ${ring.name}`, ring.head);
  }
  return totals;
}
