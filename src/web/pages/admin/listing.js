// Listing a symbol without a restart: for super administrators. What is asked for is what `config/symbols.toml` has.

import { openAction } from "./action.js";

const FIELDS = [
  { name: "symbol", label: "Symbol", hint: "As BASE/QUOTE, for example DOT/USDT.", required: true },
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
    done,
  });
}
