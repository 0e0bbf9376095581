// Users: look one up by name, see the limits, suspend and resume, change limits, cancel all orders.

import { openAction } from "./action.js";
import { inPath } from "./api.js";
import { make, setAttribute, setText } from "./dom.js";
import { count, moment, none } from "./format.js";

const LIMITS = [
  ["max_order_size", "Largest order", "What one order may be worth, in its quote asset. Empty: no limit."],
  ["max_daily_volume", "Daily volume", "Per quote asset and UTC day. Empty: no limit."],
  ["requires_2fa_above", "Second factor above", "An order worth more needs it. Empty: none does."],
  ["max_open_orders", "Open orders", "At a time. Empty: as many as the engine allows."],
];

/** Make the view. */
export function createUsers(context) {
  const { api } = context;
  const field = make("input", { id: "user-name", type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false", required: true });
  const trouble = make("p", { class: "trouble", role: "alert" });
  const card = make("article", { class: "user", hidden: true });
  const node = make(
    "section",
    { class: "view", "aria-label": "Users", hidden: true },
    make("h2", {}, "Users"),
    make("form", { class: "toolbar", onsubmit: (event) => { event.preventDefault(); void look(field.value.trim()); } }, make("div", { class: "field inline" }, make("label", { for: field.id }, "Name"), field), make("button", { type: "submit", class: "strong" }, "Look up")),
    make("p", { class: "hint" }, "The name is the sub of the user’s tokens, letter for letter."),
    trouble,
    card,
  );

  async function look(name) {
    setText(trouble, "");
    if (!name) return setText(trouble, "Which user? Write a name.");
    try {
      show((await api.get(`/admin/limits/user/${encodeURIComponent(name)}`)).data);
    } catch (error) {
      card.hidden = true;
      setText(trouble, error.status === 404 ? `There is no user “${name}”.` : error.message);
    }
  }

  function show(limits) {
    const name = limits.user;
    const again = () => look(name);
    const badge = make("span", { class: "badge", "data-tone": limits.suspended ? "bad" : "ok" }, is(limits.suspended));
    const rows = [...LIMITS.map(([key, label]) => [label, key === "max_open_orders" ? count(limits[key]) : limits[key]]), ["Changed", limits.updated_at ? `${moment(limits.updated_at)} UTC` : "never"]];
    card.replaceChildren(
      make("header", {}, make("h3", {}, name), badge),
      make("dl", { class: "facts" }, ...rows.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value === null || value === none ? "no limit" : String(value))))),
      make(
        "div",
        { class: "buttons" },
        limits.suspended
          ? make("button", { type: "button", onclick: () => stand(name, "resume", again) }, "Resume")
          : make("button", { type: "button", "data-tone": "bad", onclick: () => stand(name, "suspend", again) }, "Suspend"),
        make("button", { type: "button", onclick: () => changeLimits(limits, again) }, "Change limits"),
        make("button", { type: "button", onclick: () => cancelAll(name) }, "Cancel all orders"),
      ),
    );
    card.hidden = false;
    setAttribute(card, "data-user", name);
  }

  function stand(name, what, done) {
    const suspends = what === "suspend";
    openAction(context, {
      title: `${suspends ? "Suspend" : "Resume"} ${name}`,
      lead: suspends ? "At once, on every front, everything but cancels is refused, whatever tokens and keys are out. Open orders stay until somebody cancels them." : "The user may trade again, at once.",
      path: `/admin/users/${inPath(name)}/${what}`,
      verb: suspends ? "Suspend" : "Resume",
      tone: suspends ? "bad" : "ok",
      preview: (data) => [["User", data.user], ["Now", is(!suspends)], ["Then", is(data.suspended)]],
      outcome: (data) => [["User", data.user], ["Suspended", data.suspended ? "yes" : "no"]],
      done,
    });
  }

  function changeLimits(limits, done) {
    openAction(context, {
      title: `Limits of ${limits.user}`,
      lead: "They count on every front for orders that come then; open orders stay.",
      path: `/admin/limits/user/${inPath(limits.user)}`,
      verb: "Change limits",
      tone: "warn",
      hasReason: false,
      fields: LIMITS.map(([name, label, hint]) => ({ name, label, hint, value: limits[name] ?? "", inputmode: "decimal" })),
      bodyOf: limitsOf,
      preview: (data) => LIMITS.map(([key, label]) => [label, change(limits[key], data[key])]),
      outcome: (data) => LIMITS.map(([key, label]) => [label, data[key] ?? "no limit"]),
      done,
    });
  }

  function cancelAll(name) {
    openAction(context, {
      title: `Cancel all orders of ${name}`,
      lead: "Every open order and waiting stop, in all symbols. The user may place new ones unless suspended.",
      path: `/admin/orders/cancel-all/${inPath(name)}`,
      verb: "Cancel them",
      preview: (data) => [["Would be cancelled", count(data.total ?? data.cancelled)]],
      outcome: (data) => [["Cancelled", count(data.cancelled ?? data.total)]],
    });
  }

  return { node, shown: () => field.focus() };
}

function is(suspended) {
  return suspended ? "suspended" : "active";
}

function change(before, then) {
  const [from, to] = [before ?? "no limit", then ?? "no limit"];
  return String(from) === String(to) ? `stays ${from}` : `${from}, then ${to}`;
}

/** What was written into the fields as a body: empty is null, the count a number where it is one. */
function limitsOf(values) {
  const body = Object.fromEntries(Object.entries(values).map(([name, text]) => [name, text === "" ? null : text]));
  if (/^\d{1,15}$/.test(body.max_open_orders ?? "")) body.max_open_orders = Number(body.max_open_orders);
  return body;
}
