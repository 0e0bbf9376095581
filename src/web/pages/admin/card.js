// A card: one actor in the picture. Its state is a word and a shape, and colour only beside these; what it says of
// itself when something is wrong stands on the card in full.

import { draw, make, setAttribute, setText } from "./dom.js";
import { count, milliseconds, percent, rate } from "./format.js";
import { healthOf, troubleOf } from "./topology.js";

const TONES = ["ok", "note", "warn", "bad"];
const SHAPES = {
  ok: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z",
  note: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9zM6 4a2 2 0 1 1 0 4a2 2 0 1 1 0-4z",
  warn: "M6 1L11.4 10.6H.6z",
  bad: "M2.6 1.2L6 4.6 9.4 1.2 10.8 2.6 7.4 6 10.8 9.4 9.4 10.8 6 7.4 2.6 10.8 1.2 9.4 4.6 6 1.2 2.6z",
};

/** Make a card; opened(name) is called when somebody wants to know more. */
export function createCard(name, opened) {
  const parts = {
    mark: draw("path", { "fill-rule": "evenodd" }),
    state: make("span", { class: "state-word" }),
    bar: make("span", { class: "bar-fill" }),
    busy: make("span", { class: "number" }),
    rates: make("span", { class: "number" }),
    half: make("span", { class: "number" }),
    most: make("span", { class: "number" }),
    message: make("p", { class: "card-message" }),
    restarts: make("p", { class: "card-line restarts" }),
  };
  const node = make(
    "article",
    { class: "card", "data-actor": name },
    make(
      "header",
      {},
      make("button", { type: "button", class: "card-name", "aria-haspopup": "dialog", onclick: () => opened(name) }, name),
      make("span", { class: "state" }, draw("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, parts.mark), parts.state),
    ),
    make("p", { class: "card-line busy" }, make("span", { class: "bar-track", "aria-hidden": "true" }, parts.bar), parts.busy),
    make("p", { class: "card-line" }, parts.rates),
    make("p", { class: "card-line latency" }, parts.half, parts.most),
    parts.restarts,
    parts.message,
  );
  node.parts = parts;
  return node;
}

/** Bring a card up to date. actor null: it is not in the answer. */
export function updateCard(node, actor, rates) {
  const { parts } = node;
  const health = actor === null ? { word: "not there", weight: 2 } : healthOf(actor);
  const tone = TONES[health.weight];
  setAttribute(node, "data-tone", tone);
  setAttribute(parts.mark, "d", SHAPES[tone]);
  setText(parts.state, health.word);
  setText(parts.message, actor === null ? "" : troubleOf(actor));
  if (actor === null) return;
  const share = utilisationOf(actor, rates);
  parts.bar.style.setProperty("--share", String(share ?? 0));
  setAttribute(parts.bar, "data-tone", share > 0.95 ? "bad" : share > 0.8 ? "warn" : "ok");
  parts.bar.closest("p").hidden = actor.busy_seconds === null;
  setText(parts.busy, share === null ? "" : `${percent(share)} busy`);
  setText(parts.rates, flowOf(actor, rates));
  setText(parts.half, actor.latency ? `p50 ${milliseconds(actor.latency.p50_ms)}` : "");
  setText(parts.most, actor.latency ? `p99 ${milliseconds(actor.latency.p99_ms)}` : "");
  setText(parts.restarts, actor.restarts > 0 ? `${count(actor.restarts)} ${actor.restarts === 1 ? "restart" : "restarts"}` : "");
}

/** What share of its time an actor works; null: not measured, or not known yet. */
export function utilisationOf(actor, rates) {
  const busy = actor.busy_seconds === null ? null : rates.of(`busy ${actor.name}`);
  return busy === null ? null : Math.min(Math.max(busy, 0), 1);
}

function flowOf(actor, rates) {
  const [taken, given] = [rates.of(`in ${actor.name}`), rates.of(`out ${actor.name}`)];
  const writes = actor.rings.some((ring) => ring.access === "write");
  if (!writes && !actor.records_in) return "";
  return writes ? `in ${rate(taken)}, out ${rate(given)}` : `in ${rate(taken)}`;
}
