// Listing a symbol without a restart: for super administrators. What is left empty is decided by the engine.

import { openAction } from "./action.js";
import { plain, words } from "./format.js";

const WHOLE = new Set(["base_places", "quote_places", "shard"]);
const FIELDS = [
  { name: "symbol", label: "Symbol", hint: "BASE/QUOTE, for example DOT/USDT.", required: true },
  { name: "tick", label: "Tick", hint: "Step of prices.", required: true, inputmode: "decimal" },
  { name: "lot", label: "Lot", hint: "Step of quantities.", required: true, inputmode: "decimal" },
  { name: "price_max", label: "Highest price", hint: "A multiple of the tick.", required: true, inputmode: "decimal" },
  { name: "quantity_min", label: "Smallest quantity", required: true, inputmode: "decimal" },
  { name: "quantity_max", label: "Largest quantity", required: true, inputmode: "decimal" },
  { name: "min_notional", label: "Least worth of an order", hint: "In the quote asset.", required: true, inputmode: "decimal" },
  { name: "maker_fee", label: "Maker’s fee", hint: "As a fraction: 0.001 is 0.1 %.", required: true, inputmode: "decimal" },
  { name: "taker_fee", label: "Taker’s fee", required: true, inputmode: "decimal" },
  { name: "max_price_deviation", label: "Collar", hint: "As a fraction: 0.1 is 10 %. Empty: none.", inputmode: "decimal" },
  { name: "base_places", label: "Places of the base asset", hint: "Only if it is new.", inputmode: "numeric" },
  { name: "quote_places", label: "Places of the quote asset", hint: "Only if it is new.", inputmode: "numeric" },
  { name: "shard", label: "Shard", hint: "Empty: the one with the fewest symbols.", inputmode: "numeric" },
  { name: "status", label: "Begins", options: ["open", "cancel_only", "halted"] },
];

/** Open the dialog; done() is called when it is listed. */
export function openListing(context, done) {
  openAction(context, {
    title: "List a symbol",
    lead: "It can be traded on every front when this is done.",
    path: "/admin/symbols",
    verb: "List it",
    tone: "ok",
    fields: FIELDS,
    hasReason: false,
    bodyOf,
    outcome: ({ symbol, created }) => [
      ["Listed", created === false ? "just so before" : "anew"],
      ...Object.entries(symbol ?? {}).map(([name, value]) => [words(name), plain(value)]),
    ],
    done,
  });
}

/** What was written as a body: what is empty is left out, whole numbers are numbers. */
function bodyOf(values) {
  const written = Object.entries(values).filter(([, text]) => text !== "");
  return Object.fromEntries(written.map(([name, text]) => [name, WHOLE.has(name) && /^\d{1,9}$/.test(text) ? Number(text) : text]));
}
