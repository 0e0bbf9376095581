// Money: how far settlement is behind, whether all books agree (reconciliation, on request), and what the wallet outside
// would not do (dead letters).

import { facts, openAction } from "./action.js";
import { make, setAttribute, setText } from "./dom.js";
import { count, duration, moment, none, percent, rate, words } from "./format.js";
import { createTable, troubleLine } from "./table.js";

const RECONCILE_TIMEOUT_MS = 120_000;

/** Make the view. */
export function createMoney(context) {
  const backlog = createBacklog(context);
  const reconciliation = createReconciliation(context);
  const letters = createLetters(context);
  const node = make("section", { class: "view", "aria-label": "Money", hidden: true }, backlog.node, reconciliation.node, letters.node);
  return { node, feeds: [context.feeds.settlement], shown: () => letters.load() };
}

function createBacklog({ feeds }) {
  const trouble = make("p", { class: "trouble" });
  const summary = make("p", { class: "headline" });
  const more = make("p", { class: "hint" });
  const table = createTable("Settlement by shard", SHARD_COLUMNS, (shard) => shard.ring);
  feeds.settlement.listen((feed) => {
    setText(trouble, troubleLine(feed, "Settlement"));
    if (feed.data === null) return;
    const { state, message, queue_size: size, queue_seconds: seconds, queue_size_max: most } = feed.data;
    setAttribute(summary, "data-tone", state !== "ready" || size > most ? "bad" : size > most / 2 ? "warn" : "ok");
    setText(summary, `${state === "ready" ? "" : `settlement is ${words(state)}${message ? `: ${message}` : ""}; `}${size ? `${count(size)} events wait, the oldest for ${duration(seconds)}` : "nothing waits"}`);
    setText(more, `${count(feed.data.pending_trades)} trades and ${count(feed.data.pending_fundings)} deposits and withdrawals pending; ${rate(feed.data.events_per_second)} committed; new orders are refused from ${count(most)} on; ${count(feed.data.errors)} errors`);
    table.update(feed.data.shards ?? []);
  });
  return { node: make("section", {}, make("h2", {}, "Settlement"), trouble, summary, more, table.node) };
}

const SHARD_COLUMNS = [
  { title: "Ring", text: (shard) => shard.ring },
  { title: "Behind", number: true, text: (shard) => count(shard.backlog) },
  { title: "Oldest waits", number: true, text: (shard) => (shard.backlog ? duration(shard.backlog_seconds) : none) },
  { title: "Full", number: true, text: (shard) => percent(shard.backlog / shard.capacity) },
  { title: "Settled to", number: true, text: (shard) => String(shard.cursor) },
  { title: "Happened to", number: true, text: (shard) => String(shard.head) },
];

function createReconciliation({ api }) {
  const summary = make("p", { class: "headline", role: "status" }, "Not run since you signed in.");
  const checked = make("dl", { class: "facts" });
  const table = createTable("Differences", DIFFERENCE_COLUMNS, (difference) => difference.key);
  const button = make("button", { type: "button", onclick: run }, "Reconcile now");
  table.node.hidden = true;

  async function run() {
    if (button.disabled) return;
    button.disabled = true;
    setAttribute(summary, "data-tone", "note");
    setText(summary, "Comparing; trading goes on …");
    try {
      show((await api.get("/admin/reconciliation", {}, { timeoutMs: RECONCILE_TIMEOUT_MS })).data);
    } catch (error) {
      setAttribute(summary, "data-tone", "bad");
      setText(summary, error.message);
    }
    button.disabled = false;
  }

  function show(data) {
    const total = data.difference_count;
    setAttribute(summary, "data-tone", total ? "bad" : "ok");
    setText(summary, `${total ? `${count(total)} ${total === 1 ? "difference" : "differences"}` : "No difference"}, as of ${moment(data.finished_at)} UTC`);
    const numbers = Object.entries(data.checked).filter(([, value]) => typeof value === "number");
    checked.replaceChildren(...numbers.map(([name, value]) => make("div", {}, make("dt", {}, words(name)), make("dd", {}, value.toLocaleString("en")))));
    table.node.hidden = !total;
    table.update(data.differences.map((difference, place) => ({ ...difference, key: `${data.id} ${place}` })));
  }

  return { node: make("section", {}, make("h2", {}, "Reconciliation"), make("div", { class: "toolbar" }, summary, make("div", { class: "buttons" }, button)), checked, table.node) };
}

const DIFFERENCE_COLUMNS = [
  { title: "Kind", text: (difference) => words(difference.kind) },
  { title: "What", text: (difference) => difference.message },
  { title: "Account", text: (difference) => difference.account ?? none },
  { title: "Of", text: (difference) => [difference.asset, difference.symbol, difference.order_id && `order ${difference.order_id}`, difference.transaction_id && `transaction ${difference.transaction_id}`, difference.field].filter(Boolean).join(", ") || none },
  { title: "Expected", number: true, text: (difference) => difference.expected ?? none },
  { title: "Found", number: true, text: (difference) => difference.found ?? none },
];

function createLetters(context) {
  const { api } = context;
  const trouble = make("p", { class: "trouble" });
  const act = (letter, what) =>
    openAction(context, {
      title: what === "retry" ? `Try dead letter ${letter.id} again` : `Discard dead letter ${letter.id}`,
      lead: what === "retry" ? "The wallet is asked again." : "It is given up for good: the wallet differs from the ledger by it from now on, with your reason beside it.",
      path: `/admin/dead-letters/${encodeURIComponent(letter.id)}/${what}`,
      verb: what === "retry" ? "Try again" : "Discard it",
      tone: what === "retry" ? "ok" : "bad",
      hasReason: what === "discard",
      bodyOf: (values) => (what === "discard" ? values : undefined),
      preview: (data) => [[what === "retry" ? "Would be tried again" : "Would be given up", movesOf(data)], ...tell(data)],
      outcome: tell,
      done: () => load(),
    });
  const table = createTable("Dead letters", letterColumns(act), (letter) => letter.id);

  async function load() {
    try {
      const { data, meta } = await api.get("/admin/dead-letters", { limit: 200 });
      setText(trouble, meta.next_cursor ? "The newest 200 are shown." : "");
      table.update(data, "There are none.");
    } catch (error) {
      setText(trouble, troubleLine({ error, data: null }, "Dead letters"));
    }
  }

  return { load, node: make("section", {}, make("div", { class: "toolbar" }, make("h2", {}, "Dead letters"), make("div", { class: "buttons" }, make("button", { type: "button", onclick: load }, "Look again"))), trouble, table.node) };
}

function tell({ id, kind, error }) {
  return facts({ id, kind, error });
}

function movesOf(letter) {
  return letter.legs.map((leg) => `${leg.user} ${leg.amount} ${leg.asset}`).join(", ");
}

function letterColumns(act) {
  return [
    { title: "Id", text: (letter) => letter.id },
    { title: "Kind", text: (letter) => letter.kind },
    { title: "What the wallet said", text: (letter) => letter.error },
    { title: "Tries", number: true, text: (letter) => count(letter.tries) },
    { title: "Since", text: (letter) => moment(letter.created_at) },
    { title: "Moves", text: movesOf },
    {
      title: "",
      create: () => [make("div", { class: "buttons" })],
      update: (cell, letter) => {
        if (cell.firstChild.childElementCount) return;
        cell.firstChild.append(
          make("button", { type: "button", class: "small", "aria-label": `Try dead letter ${letter.id} again`, onclick: () => act(letter, "retry") }, "Try again"),
          make("button", { type: "button", class: "small", "aria-label": `Discard dead letter ${letter.id}`, onclick: () => act(letter, "discard") }, "Discard"),
        );
      },
    },
  ];
}
