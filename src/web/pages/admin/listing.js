// Listing a symbol without a restart: for super administrators. Fields are called as in the API, so that what it says of
// them is understood; what is left empty is decided by the engine.

import { openAction } from "./action.js";
import { plain, words } from "./format.js";

const WHOLE = new Set(["base_places", "quote_places", "shard"]);
const FIELDS = [
  { name: "symbol", label: "Symbol", hint: "BASE/QUOTE, for example DOT/USDT.", required: true },
  { name: "base_places", label: "Base places", hint: "Decimal places of the base asset. Needed only if it is new.", inputmode: "numeric" },
  { name: "quote_places", label: "Quote places", hint: "Of the quote asset. Needed only if it is new.", inputmode: "numeric" },
  { name: "tick", label: "Tick", hint: "Step of prices.", required: true, inputmode: "decimal" },
  { name: "lot", label: "Lot", hint: "Step of quantities.", required: true, inputmode: "decimal" },
  { name: "quantity_min", label: "Quantity min", hint: "A multiple of the lot.", required: true, inputmode: "decimal" },
  { name: "quantity_max", label: "Quantity max", hint: "A multiple of the lot.", required: true, inputmode: "decimal" },
  { name: "price_max", label: "Price max", hint: "A multiple of the tick.", required: true, inputmode: "decimal" },
  { name: "min_notional", label: "Min notional", hint: "What an order must be worth, in the quote asset.", required: true, inputmode: "decimal" },
  { name: "maker_fee", label: "Maker fee", hint: "As a fraction: 0.001 is 0.1 %.", required: true, inputmode: "decimal" },
  { name: "taker_fee", label: "Taker fee", hint: "As a fraction, too.", required: true, inputmode: "decimal" },
  { name: "max_price_deviation", label: "Max price deviation", hint: "The collar as a fraction, at most 10. Empty: none.", inputmode: "decimal" },
  { name: "shard", label: "Shard", hint: "Which matcher. Empty: the one with the fewest symbols.", inputmode: "numeric" },
  { name: "status", label: "Status", hint: "In which it begins.", options: ["open", "cancel_only", "halted"] },
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
    preview: (data) => tell(data, "It would be listed", "It is listed just so already"),
    outcome: (data) => tell(data, "It is listed", "It was listed just so before"),
    done,
  });
}

function tell({ symbol, created }, anew, before) {
  return [["outcome", created ? anew : before], ...Object.entries(symbol).map(([name, value]) => [words(name), plain(value)])];
}

/** What was written as a body: what is empty is left out, whole numbers are numbers. */
function bodyOf(values) {
  const written = Object.entries(values).filter(([, text]) => text !== "");
  return Object.fromEntries(written.map(([name, text]) => [name, WHOLE.has(name) && /^-?\d{1,9}$/.test(text) ? Number(text) : text]));
}
