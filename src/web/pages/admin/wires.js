// Wires: the lines between cards and pipes, drawn behind them from where they happen to be, and the dots on the lines
// that say that something moves, the faster the more.
//
// On a wide screen every ring has its line, and what the matchers say meets in a point (the hub) from which it goes to
// all who read it, and back to risk. On a narrow one the groups are below each other and one line joins each two.
// Whoever wants less motion gets lines without dots.

import { draw, setAttribute } from "./dom.js";

const DASH = 22;
const SPEED_MAX = 5;

/** Make the layer. It is drawn anew whenever something on it changes its size. */
export function createWires(groups) {
  const caption = draw("text", { class: "wire-caption" }, "what happened goes back to risk");
  const layer = draw("svg", { class: "wires", "aria-hidden": "true" });
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const resized = new ResizeObserver(() => place());
  let wires = [];

  function join(wanted) {
    wires = wanted.map((wire) => ({ ...wire, line: draw("path", { class: `wire ${wire.kind}` }), dots: draw("path", { class: "dots" }), motion: null }));
    layer.replaceChildren(...wires.flatMap((wire) => [wire.line, wire.dots]), caption);
    for (const group of Object.values(groups)) resized.observe(group);
    still.addEventListener("change", place);
  }

  function place() {
    const frame = layer.getBoundingClientRect();
    if (!frame.width) return;
    const isWide = groups.risk.getBoundingClientRect().left > groups.entry.getBoundingClientRect().right;
    const boxes = (node) => relative(node.getBoundingClientRect(), frame);
    const hub = hubOf(boxes(groups.shards), boxes(groups.readers));
    const risk = boxes(groups.risk);
    setAttribute(caption, "x", isWide ? (risk.left + risk.right) / 2 + 18 : null);
    setAttribute(caption, "y", frame.height - 16);
    setAttribute(caption, "visibility", isWide ? null : "hidden");
    setAttribute(layer, "viewBox", `0 0 ${frame.width} ${frame.height}`);
    for (const wire of wires) {
      const shown = (wire.kind === "group") !== isWide;
      const path = shown ? pathOf(wire, hub, boxes, frame) : "";
      for (const part of [wire.line, wire.dots]) setAttribute(part, "d", path);
      if (still.matches || !shown) {
        wire.motion?.cancel();
        wire.motion = null;
      } else if (wire.motion === null) {
        wire.motion = wire.dots.animate([{ strokeDashoffset: 0 }, { strokeDashoffset: -DASH }], { duration: 1000, iterations: Infinity });
        wire.motion.playbackRate = 0;
      }
      setAttribute(wire.dots, "data-moving", wire.motion !== null && wire.motion.playbackRate > 0);
    }
  }

  /** rateOf(rings): records per second, or null. */
  function flow(rateOf) {
    for (const wire of wires) {
      const speed = speedOf(rateOf(wire.rings));
      setAttribute(wire.line, "data-flow", speed > 0);
      setAttribute(wire.dots, "data-moving", wire.motion !== null && speed > 0);
      if (wire.motion !== null && Math.abs(wire.motion.playbackRate - speed) > 0.1) wire.motion.updatePlaybackRate(speed);
    }
  }

  function close() {
    resized.disconnect();
    still.removeEventListener("change", place);
    for (const wire of wires) wire.motion?.cancel();
  }

  return { node: layer, join, flow, close };
}

/** Dots' lengths per second: it grows with the logarithm, so that little is seen to move and much can be followed. */
function speedOf(rate) {
  return rate > 0 ? Math.min(0.5 + Math.log10(1 + rate), SPEED_MAX) : 0;
}

function hubOf(shards, readers) {
  return { x: (shards.right + readers.left) / 2, y: (readers.top + readers.bottom) / 2 };
}

function pathOf({ from, to, kind }, hub, boxes, frame) {
  if (kind === "group") return downwards(boxes(from), boxes(to));
  if (kind === "return") return returning(hub, boxes(to), frame);
  if (kind === "low") return below(rightOf(boxes(from)), hub);
  const start = from === "hub" ? hub : rightOf(boxes(from));
  const end = to === "hub" ? hub : leftOf(boxes(to));
  const bend = Math.max((end.x - start.x) / 2, 4);
  return `M${start.x} ${start.y}C${start.x + bend} ${start.y} ${end.x - bend} ${end.y} ${end.x} ${end.y}`;
}

function downwards(upper, lower) {
  const x = (upper.left + upper.right) / 2;
  return `M${x} ${upper.bottom + 4}L${x} ${lower.top - 4}`;
}

/** Straight on below all lanes, and up to the hub at their end. */
function below(start, hub) {
  const turn = Math.min(14, Math.abs(start.y - hub.y) / 2);
  const x = hub.x - turn;
  return `M${start.x} ${start.y}L${x - turn} ${start.y}Q${x} ${start.y} ${x} ${start.y - turn}L${x} ${hub.y + turn}Q${x} ${hub.y} ${hub.x} ${hub.y}`;
}

/** From the hub down, below everything to the left, and up into risk. */
function returning(hub, risk, frame) {
  const [x, low, turn] = [(risk.left + risk.right) / 2, frame.height - 10, 12];
  return (
    `M${hub.x} ${hub.y}L${hub.x} ${low - turn}Q${hub.x} ${low} ${hub.x - turn} ${low}` +
    `L${x + turn} ${low}Q${x} ${low} ${x} ${low - turn}L${x} ${risk.bottom}`
  );
}

function rightOf(box) {
  return { x: box.right, y: (box.top + box.bottom) / 2 };
}

function leftOf(box) {
  return { x: box.left, y: (box.top + box.bottom) / 2 };
}

function relative(box, frame) {
  return { left: box.left - frame.left, right: box.right - frame.left, top: box.top - frame.top, bottom: box.bottom - frame.top };
}
