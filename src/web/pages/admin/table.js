// Tables whose rows stay while their cells change. On a narrow screen each row becomes a card, whose cells name
// themselves by their column's title.

import { keyed, make, setAttribute, setText } from "./dom.js";

/**
 * Make a table.
 *
 * columns: [{title, text(item), tone(item), number, create(), update(cell, item)}]: a text, or nodes of the column's own.
 * keyOf(item) names a row. The first column is the row's heading.
 */
export function createTable(label, columns, keyOf) {
  const body = make("tbody");
  const head = make("tr", {}, ...columns.map((column) => make("th", { scope: "col", class: column.number ? "number" : null }, column.title || make("span", { class: "unseen" }, column.label ?? "Actions"))));
  const empty = make("p", { class: "empty", hidden: true });
  const table = make("table", { "aria-label": label }, make("thead", {}, head), body);
  const node = make("div", { class: "table" }, table, empty);

  function createRow() {
    return make("tr", {}, ...columns.map((column, place) => make(place === 0 ? "th" : "td", { scope: place === 0 ? "row" : null, class: column.number ? "number" : null, "data-title": column.title }, ...(column.create?.() ?? []))));
  }

  function updateRow(row, item) {
    columns.forEach((column, place) => {
      const cell = row.children[place];
      if (column.update) column.update(cell, item, row);
      else setText(cell, column.text(item));
      if (column.tone) setAttribute(cell, "data-tone", column.tone(item));
    });
  }

  /** Show items; without: what is said when there are none. */
  function update(items, without = "There are none.") {
    keyed(body, items, keyOf, createRow, updateRow);
    setText(empty, without);
    empty.hidden = items.length > 0;
    table.hidden = items.length === 0;
  }

  return { node, update };
}

/** A state as a word in a box; tone: ok, note, warn or bad. */
export function createBadge() {
  return make("span", { class: "badge" });
}

/** Bring a badge up to date. */
export function updateBadge(badge, word, tone) {
  setText(badge, word);
  setAttribute(badge, "data-tone", tone);
}

/** A line that says how it is with a feed that has no good answer; empty when it has one. */
export function troubleLine(feed, what) {
  if (feed.error === null) return "";
  if (feed.error.isMissing) return `${what}: this engine does not offer it.`;
  return `${what}: ${feed.error.message}${feed.data === null ? "" : " What is shown is old."}`;
}
