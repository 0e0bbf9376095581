// A pipe: one ring in the picture: how full it is, how far its readers are behind, and how much is written to it.

import { make, setAttribute, setText } from "./dom.js";
import { count, percent, rate } from "./format.js";
import { FILL_ALARM, FILL_WARNING } from "./topology.js";

/** Make a pipe. title: what it is called in the picture. */
export function createPipe(title) {
  const parts = {
    fill: make("span", { class: "pipe-fill" }),
    lag: make("span", { class: "number" }),
    rate: make("span", { class: "number" }),
    gates: make("p", { class: "pipe-line gates" }),
  };
  const node = make(
    "div",
    { class: "pipe" },
    make("p", { class: "pipe-name" }, title),
    make("div", { class: "pipe-tube", "aria-hidden": "true" }, parts.fill),
    make("p", { class: "pipe-line" }, parts.lag, parts.rate),
    parts.gates,
  );
  node.parts = parts;
  return node;
}

/** Bring a pipe up to date with one ring, or several that are shown as one. */
export function updatePipe(node, rings, rates) {
  const { parts } = node;
  const fill = worst(rings.map((ring) => ring.fill));
  const lag = worst(rings.map((ring) => ring.lag));
  parts.fill.style.setProperty("--share", String(fill ?? 0));
  setAttribute(node, "data-tone", fill >= FILL_ALARM ? "bad" : fill >= FILL_WARNING ? "warn" : "ok");
  setAttribute(node, "data-used", fill > 0);
  setText(parts.lag, lag === null ? "" : fill >= FILL_WARNING ? `${percent(fill)} full` : `lag ${count(lag)}`);
  setText(parts.rate, rate(flowThrough(rings, rates)));
  const gates = rings.length === 1 ? rings[0].gates : [];
  setText(parts.gates, gates.length > 1 ? gates.map((gate) => `${gate.name} ${count(gate.lag)}`).join(", ") : "");
}

/** How much is written per second to some rings; null: not known yet. */
export function flowThrough(rings, rates) {
  const known = rings.map((ring) => rates.of(`ring ${ring.name}`)).filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) : null;
}

function worst(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? Math.max(...known) : null;
}
