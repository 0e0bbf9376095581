// What needs somebody: one line for each trouble, above every view, and one sentence when there is none.
//
// It is told once to who hears the page, when it comes and when it is over; figures that only move are not told again.

import { announce, keyed, make, setAttribute, setText } from "./dom.js";
import { count, percent } from "./format.js";
import { FILL_ALARM, FILL_WARNING, healthOf, ringsOf, troubleOf } from "./topology.js";

const TONES = ["ok", "note", "warn", "bad"];

/** Make the list. */
export function createAttention({ feeds }) {
  const list = make("ul", { class: "troubles" });
  const node = make("section", { class: "attention", "aria-label": "What needs attention" }, list);
  const known = new Map();

  function update() {
    const troubles = troublesOf(feeds);
    keyed(list, troubles, (trouble) => trouble.key, createTrouble, updateTrouble);
    node.hidden = troubles.length === 0;
    const news = troubles.filter((trouble) => known.get(trouble.key) !== trouble.what).map((trouble) => `${trouble.who} ${trouble.what}`);
    const over = [...known.keys()].filter((key) => !troubles.some((trouble) => trouble.key === key));
    known.clear();
    for (const trouble of troubles) known.set(trouble.key, trouble.what);
    if (news.length) announce(`Attention: ${news.join("; ")}.`);
    else if (over.length) announce(troubles.length ? `Over: ${over.join(", ")}.` : "Nothing needs attention any more.");
  }

  feeds.actors.listen(update);
  feeds.ready.listen(update);
  return { node };
}

/** Everything that is wrong: {key, who, what, more, tone}, the worst first. */
export function troublesOf(feeds) {
  const troubles = [...unreachable(feeds.actors), ...actorTroubles(feeds.actors.data ?? []), ...ringTroubles(feeds.actors.data ?? []), ...notAccepting(feeds.ready)];
  return troubles.sort((one, other) => TONES.indexOf(other.tone) - TONES.indexOf(one.tone));
}

function unreachable(feed) {
  if (!feed.isDown) return [];
  return [{ key: "engine", who: "This page", what: "has no answer", more: feed.error.message, tone: "bad" }];
}

function notAccepting(feed) {
  if (feed.error?.status !== 503) return [];
  return [{ key: "orders", who: "Orders", what: "are not accepted", more: feed.error.message, tone: "bad" }];
}

function actorTroubles(actors) {
  return actors
    .map((actor) => ({ actor, health: healthOf(actor) }))
    .filter(({ health }) => health.weight > 0)
    .map(({ actor, health }) => ({
      key: actor.name,
      who: actor.name,
      what: `is ${health.word}`,
      more: troubleOf(actor),
      tone: TONES[health.weight],
    }));
}

function ringTroubles(actors) {
  return [...ringsOf(actors).values()]
    .filter((ring) => ring.fill >= FILL_WARNING)
    .map((ring) => {
      const slowest = ring.gates.reduce((one, other) => (other.lag > one.lag ? other : one));
      return {
        key: ring.name,
        who: ring.name,
        what: ring.fill >= FILL_ALARM ? "is nearly full" : "fills up",
        more: `${percent(ring.fill)}: ${slowest.name} is ${count(slowest.lag)} of ${count(ring.capacity)} behind`,
        tone: ring.fill >= FILL_ALARM ? "bad" : "warn",
      };
    });
}

function createTrouble() {
  return make("li", {}, make("strong"), " ", make("span", { class: "what" }), " ", make("span", { class: "more" }));
}

function updateTrouble(item, { who, what, more, tone }) {
  const [strong, said, rest] = item.children;
  setAttribute(item, "data-tone", tone);
  setText(strong, who);
  setText(said, what);
  setText(rest, more);
}
