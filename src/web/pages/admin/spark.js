// A tile: one figure large, with a line of what it was in the last minute. It has a word for who cannot see the line.

import { draw, make, setAttribute, setText } from "./dom.js";

const POINTS = 60;
const [WIDTH, HEIGHT] = [120, 28];

/** Make a tile. */
export function createTile(title) {
  const line = draw("polyline", { class: "spark-line" });
  const area = draw("polygon", { class: "spark-area" });
  const value = make("p", { class: "tile-value" }, "–");
  const note = make("p", { class: "tile-note" });
  const values = [];
  const node = make(
    "div",
    { class: "tile" },
    make("p", { class: "tile-title" }, title),
    value,
    draw("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line),
    note,
  );

  /** text: what is shown; number: what is drawn, null where there is none; more: a line below. */
  function update(text, number = null, more = "") {
    setText(value, text);
    setText(note, more);
    if (number === null || !Number.isFinite(number)) return;
    values.push(number);
    if (values.length > POINTS) values.shift();
    const top = Math.max(...values, 1e-9);
    const points = values.map((each, place) => {
      const x = WIDTH - ((values.length - 1 - place) * WIDTH) / (POINTS - 1);
      return `${x.toFixed(1)},${(HEIGHT - 1.5 - (each / top) * (HEIGHT - 4)).toFixed(1)}`;
    });
    setAttribute(line, "points", points.join(" "));
    setAttribute(area, "points", `${points[0].split(",")[0]},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`);
  }

  return { node, update };
}
