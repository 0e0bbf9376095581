// Symbols: what each trades at and whether it does, with halt, cancel-only, resume and mass cancels.

import { openAction } from "./action.js";
import { inPath } from "./api.js";
import { keyed, make, setAttribute, setText } from "./dom.js";
import { count, moment, none, words } from "./format.js";
import { openListing } from "./listing.js";
import { createBadge, createTable, troubleLine, updateBadge } from "./table.js";

const TONES = { open: "ok", cancel_only: "warn", halted: "bad" };
const CHANGES = {
  halt: { label: "Halt", verb: "Halt it", tone: "bad", fits: (status) => status !== "halted", lead: "No new orders, no matching and no triggers until it is resumed. Cancels work, and orders that end by time end." },
  "cancel-only": { label: "Cancel only", verb: "Set cancel-only", tone: "warn", fits: (status) => status !== "cancel_only", lead: "As a halt, shown to traders as its own state: they are asked to get out." },
  resume: { label: "Resume", verb: "Resume it", tone: "ok", fits: (status) => status !== "open", lead: "New orders and matching go on at once, and stops trigger again." },
};

const TOLD = "Traders are told, and it is kept in the audit log.";

/** Make the view. */
export function createSymbols(context) {
  const feed = context.feeds.symbols;
  const trouble = make("p", { class: "trouble" });
  const counts = make("p", { class: "hint" });
  const filter = make("input", { type: "search", id: "symbol-filter", autocomplete: "off", spellcheck: "false", oninput: update });
  const table = createTable("Symbols", columnsOf(context, act), (symbol) => symbol.symbol);
  const node = make(
    "section",
    { class: "view", "aria-label": "Symbols", hidden: true },
    make("h2", { class: "unseen" }, "Symbols"),
    make(
      "div",
      { class: "toolbar" },
      make("div", { class: "field inline" }, make("label", { for: filter.id }, "Filter"), filter),
      counts,
      make(
        "div",
        { class: "buttons" },
        context.isSuper ? make("button", { type: "button", onclick: () => openListing(context, () => feed.now()) }, "List a symbol") : null,
        make("button", { type: "button", onclick: () => actOnAll("resume-all") }, "Resume all"),
        make("button", { type: "button", "data-tone": "bad", onclick: () => actOnAll("halt-all") }, "Halt all"),
      ),
    ),
    trouble,
    table.node,
  );

  function update() {
    setText(trouble, troubleLine(feed, "Symbols"));
    if (feed.data === null) return;
    const wanted = filter.value.trim().toUpperCase();
    const shown = feed.data.filter((symbol) => symbol.symbol.includes(wanted));
    const closed = feed.data.filter((symbol) => symbol.status !== "open").length;
    setText(counts, `${count(feed.data.length)} symbols, ${closed ? `${count(closed)} not open` : "all open"}`);
    table.update(shown, wanted ? "No symbol has this in its name." : "No symbol is listed.");
  }

  function act(change, symbol) {
    const { label, verb, tone, lead } = CHANGES[change];
    openAction(context, {
      title: `${label} ${symbol}`,
      lead,
      path: `/admin/trading/${change}/${inPath(symbol)}`,
      reasonHint: TOLD,
      verb,
      tone,
      preview: (data) => [["Symbol", data.symbol], ["Now", words(data.previous_status)], ["Then", words(data.status)]],
      outcome: (data) => [["Symbol", data.symbol], ["Before", words(data.previous_status)], ["Now", words(data.status)], ["Since sequence", data.sequence]],
      done: () => feed.now(),
    });
  }

  function actOnAll(change) {
    const isHalt = change === "halt-all";
    openAction(context, {
      title: isHalt ? "Halt all symbols" : "Resume all symbols",
      lead: isHalt ? CHANGES.halt.lead : CHANGES.resume.lead,
      path: `/admin/trading/${change}`,
      reasonHint: TOLD,
      verb: isHalt ? "Halt all" : "Resume all",
      tone: isHalt ? "bad" : "ok",
      preview: (data) => tellAll(data, "Would become"),
      outcome: (data) => tellAll(data, "Became"),
      done: () => feed.now(),
    });
  }

  feed.listen(update);
  return { node, feeds: [feed] };
}

/** Say of each symbol what changed; those that stay as they are only by their number. */
function tellAll(data, word) {
  const symbols = Array.isArray(data) ? data : (data.symbols ?? []);
  const changed = symbols.filter((symbol) => symbol.previous_status !== symbol.status);
  return [
    [`${word} ${words(symbols[0]?.status)}`, changed.map((symbol) => symbol.symbol).join(", ") || "none"],
    ["Stay as they are", count(symbols.length - changed.length)],
  ];
}

function columnsOf(context, act) {
  const cancel = (symbol) =>
    openAction(context, {
      title: `Cancel every order in ${symbol}`,
      lead: "Everyone’s orders and waiting stops in this symbol end. Its trading state stays as it is: halt it first if nobody shall place new ones.",
      path: `/admin/orders/cancel-symbol/${inPath(symbol)}`,
      verb: "Cancel them",
      preview: (data) => [["Would be cancelled", count(data.total ?? data.cancelled)]],
      outcome: (data) => [["Cancelled", count(data.cancelled ?? data.total)]],
      done: () => context.feeds.symbols.now(),
    });
  return [
    { title: "Symbol", text: (symbol) => symbol.symbol },
    { title: "Status", create: () => [createBadge()], update: (cell, symbol) => updateBadge(cell.firstChild, words(symbol.status), TONES[symbol.status] ?? "note") },
    { title: "Reason", create: () => [make("span", { class: "prose" }), make("span", { class: "hint" })], update: updateReason },
    { title: "Last", number: true, text: (symbol) => symbol.last_price ?? none },
    { title: "Bid", number: true, text: (symbol) => symbol.best_bid ?? none },
    { title: "Ask", number: true, text: (symbol) => symbol.best_ask ?? none },
    { title: "Open orders", number: true, text: (symbol) => count(symbol.open_orders) },
    { title: "Shard", number: true, text: (symbol) => symbol.shard },
    { title: "", create: () => [make("div", { class: "buttons" })], update: (cell, symbol) => updateButtons(cell.firstChild, symbol, act, cancel) },
  ];
}

function updateReason(cell, symbol) {
  const [reason, since] = cell.children;
  setText(reason, symbol.reason ?? "");
  setText(since, symbol.changed_at ? `since ${moment(symbol.changed_at)} UTC` : "");
}

/** Every button stays where it is and is only switched off, so that none slips under a finger and no focus is lost. */
function updateButtons(box, symbol, act, cancel) {
  const buttons = [...Object.entries(CHANGES).map(([change, { label, fits }]) => ({ label, isOff: !fits(symbol.status), press: () => act(change, symbol.symbol) })), { label: "Cancel orders", isOff: false, press: () => cancel(symbol.symbol) }];
  keyed(box, buttons, (button) => button.label, ({ label, press }) => createButton(label, symbol.symbol, press), (node, { isOff }) => setAttribute(node, "aria-disabled", isOff ? "true" : null));
}

function createButton(label, symbol, press) {
  return make("button", { type: "button", class: "small", "aria-label": `${label} ${symbol}`, onclick: (event) => event.currentTarget.ariaDisabled !== "true" && press() }, label);
}
