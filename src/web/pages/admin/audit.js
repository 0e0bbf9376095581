// The audit log: who did what, newest first, a page at a time. What was written down is shown as it was, as text.

import { announce, keyed, make, setText } from "./dom.js";
import { count, moment, none, plain, words } from "./format.js";
import { createBadge, createTable, troubleLine, updateBadge } from "./table.js";

const PAGE = 50;
const TONES = { ok: "ok", refused: "warn", failed: "bad", unknown: "bad" };
const FILTERS = [
  ["actor", "Who", "text"],
  ["action", "Action", "text"],
  ["start", "From (UTC)", "datetime-local"],
  ["end", "Before (UTC)", "datetime-local"],
];

/** Make the view. */
export function createAudit({ api }) {
  const inputs = new Map(FILTERS.map(([name, , type]) => [name, inputOf(name, type)]));
  const actions = make("datalist", { id: "audit-actions" });
  const trouble = make("p", { class: "trouble", role: "alert" });
  const table = createTable("Audit log", COLUMNS, (row) => row.id);
  const older = make("button", { type: "button", onclick: () => load(true), hidden: true }, "Older");
  const node = make(
    "section",
    { class: "view", "aria-label": "Audit log", hidden: true },
    make("h2", {}, "Audit log"),
    make(
      "form",
      { class: "toolbar", onsubmit: (event) => { event.preventDefault(); void load(false); } },
      ...FILTERS.map(([name, label]) => make("div", { class: "field inline" }, make("label", { for: `audit-${name}` }, label), inputs.get(name))),
      make("button", { type: "submit", class: "strong" }, "Show"),
    ),
    actions,
    trouble,
    table.node,
    make("div", { class: "buttons more" }, older),
  );
  const seen = new Set();
  let rows = [];
  let cursor = null;
  let asked = 0;

  /** goesOn: the next page of what is shown; else what the filters say, from the newest. */
  async function load(goesOn) {
    const number = (asked += 1);
    setText(trouble, "");
    try {
      const { data, meta } = await api.get("/admin/audit", { ...filters(), limit: PAGE, cursor: goesOn ? cursor : null });
      // Of two questions the later one counts, in whatever order they are answered.
      if (number !== asked) return;
      rows = goesOn ? [...rows, ...data] : data;
      cursor = meta.next_cursor ?? null;
      table.update(rows, "Nothing like this was done.");
      for (const row of data) seen.add(row.action);
      keyed(actions, [...seen].sort(), (action) => action, (action) => make("option", { value: action }), () => {});
      older.hidden = cursor === null;
      announce(`${count(rows.length)} entries of the audit log are shown${cursor === null ? ", which are all" : ""}.`);
      if (goesOn && older.hidden) node.querySelector("tbody tr:last-child summary")?.focus();
    } catch (error) {
      if (number !== asked) return;
      setText(trouble, troubleLine({ error, data: rows.length ? rows : null }, "Audit log"));
    }
  }

  function filters() {
    return Object.fromEntries([...inputs].map(([name, input]) => [name, input.type === "text" ? input.value.trim() : timeOf(input.value)]));
  }

  return { node, shown: () => load(false) };
}

const COLUMNS = [
  { title: "Time (UTC)", text: (row) => moment(row.time) },
  { title: "Who", create: () => [make("span", { class: "prose" }), make("span", { class: "hint" })], update: (cell, row) => tell(cell, row.actor, row.role) },
  { title: "Action", create: () => [make("span", { class: "prose" }), make("span", { class: "hint" })], update: (cell, row) => tell(cell, row.action, row.details?.dry_run ? "dry run" : null) },
  { title: "Target", text: (row) => row.target ?? none },
  { title: "Outcome", create: () => [createBadge(), make("span", { class: "hint" })], update: updateOutcome },
  { title: "Reason", text: (row) => row.reason ?? none },
  { title: "More", create: () => [make("details", {}, make("summary", {}, "Details"), make("dl", { class: "facts" }))], update: updateMore },
];

function tell(cell, first, second) {
  setText(cell.children[0], plain(first));
  setText(cell.children[1], second === null || second === undefined ? "" : words(second));
}

function updateOutcome(cell, row) {
  updateBadge(cell.children[0], plain(row.outcome), TONES[row.outcome] ?? "note");
  setText(cell.children[1], row.code ?? "");
}

function updateMore(cell, row) {
  const [details] = cell.children;
  setText(details.firstChild, `Details of ${row.id}`);
  const known = new Set(["time", "actor", "role", "action", "target", "outcome", "reason"]);
  const rest = Object.entries(row).filter(([name, value]) => !known.has(name) && value !== null);
  details.lastChild.replaceChildren(...rest.map(([name, value]) => make("div", {}, make("dt", {}, words(name)), make("dd", {}, plain(value)))));
}

function inputOf(name, type) {
  const isText = type === "text";
  return make("input", { id: `audit-${name}`, type, list: name === "action" ? "audit-actions" : null, autocomplete: "off", spellcheck: "false", placeholder: isText ? "exactly" : null, step: isText ? null : "1" });
}

/** What a field for date and time has, as a time in UTC. */
function timeOf(text) {
  if (!text) return null;
  return `${text.length === 16 ? `${text}:00` : text}Z`;
}
