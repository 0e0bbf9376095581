// The desk: what is around the views. It knows which view is open, asks what that view needs, and says how the engine is.
//
// Rule 1: a feed is asked only while an open view needs it; the actors and the readiness always.
// Rule 2: whatever is shown is marked as old when its feed has had no answer for a while.

import { createAttention } from "./attention.js";
import { createAudit } from "./audit.js";
import { announce, make, setAttribute, setText } from "./dom.js";
import { duration } from "./format.js";
import { createHealth } from "./health.js";
import { createMoney } from "./money.js";
import { createOverview } from "./overview.js";
import { Poll } from "./poll.js";
import { Rates, totalsOf } from "./rates.js";
import { createSymbols } from "./symbols.js";
import { createUsers } from "./users.js";

const VIEWS = [
  ["pipeline", "Pipeline", createOverview],
  ["symbols", "Symbols", createSymbols],
  ["health", "Health", createHealth],
  ["money", "Money", createMoney],
  ["users", "Users", createUsers],
  ["audit", "Audit", createAudit],
];
const TICK_MS = 500;

/** Make the desk of somebody who has signed in. left(farewell) is called when they are not any more. */
export function openDesk(api, claims, left) {
  const context = contextOf(api, claims);
  const views = new Map(VIEWS.map(([name, title, create]) => [name, { name, title, ...create(context) }]));
  const attention = createAttention(context);
  const links = new Map([...views.values()].map((view) => [view.name, make("a", { href: `#${view.name}` }, view.title)]));
  const state = make("span", { class: "engine-state", "data-tone": "unknown" }, "asking");
  const age = make("span", { class: "age" });
  const ends = make("span", { class: "ends" });
  const main = make("main", { id: "view", tabindex: "-1" }, ...[...views.values()].map((view) => view.node));
  const node = make(
    "div",
    { class: "desk" },
    make("a", { class: "skip", href: "#view", onclick: skip }, "Skip to content"),
    make("h1", { class: "unseen" }, "Trade engine operations"),
    make(
      "header",
      { class: "bar" },
      make("div", { class: "brand" }, make("img", { src: "/admin/icon.svg", alt: "", width: "28", height: "28" }), make("span", {}, "Trade engine")),
      make("nav", { "aria-label": "Views" }, ...links.values()),
      make("div", { class: "engine" }, state, age),
      make(
        "div",
        { class: "who" },
        make("span", { class: "name" }, claims.name),
        make("span", { class: "tag" }, claims.role.replace("_", " ")),
        ends,
        make("a", { href: "/docs", target: "_blank", rel: "noopener" }, "API"),
        make("button", { type: "button", class: "quiet", onclick: () => leave("You have signed out.") }, "Sign out"),
      ),
    ),
    attention.node,
    main,
  );
  const always = [context.feeds.actors, context.feeds.ready];
  let open = null;
  let ticker = 0;

  function show() {
    const wanted = views.get(location.hash.slice(1)) ?? open ?? views.get("pipeline");
    if (wanted === open) return;
    for (const view of views.values()) view.node.hidden = view !== wanted;
    for (const [name, link] of links) setAttribute(link, "aria-current", name === wanted.name ? "page" : null);
    const feeds = new Set([...always, ...(wanted.feeds ?? [])]);
    for (const feed of Object.values(context.feeds)) if (!feeds.has(feed)) feed.stop();
    for (const feed of feeds) feed.start();
    open?.hidden?.();
    if (open !== null) announce(`${wanted.title} is shown.`);
    open = wanted;
    open.shown?.();
    document.title = `${wanted.title} · Trade engine operations`;
  }

  function tick() {
    const actors = context.feeds.actors;
    const stale = actors.isStale;
    setAttribute(node, "data-stale", stale);
    setText(age, stale ? `as of ${duration(actors.ageMs / 1000)} ago` : "live");
    if (claims.endsAtMs) {
      const leftS = (claims.endsAtMs - Date.now()) / 1000;
      setText(ends, leftS < 900 ? `token ends in ${duration(Math.max(leftS, 0))}` : "");
    }
    open?.tick?.();
  }

  function tellState(feed) {
    if (feed.error !== null && !feed.isDown && feed.error.status !== 503) return;
    const { word, tone } = stateOf(feed);
    setText(state, word);
    setAttribute(state, "data-tone", tone);
  }

  function leave(farewell) {
    left(farewell);
  }

  function skip(event) {
    event.preventDefault();
    main.focus();
  }

  return {
    node,
    leave,
    open() {
      context.feeds.ready.listen(tellState);
      window.addEventListener("hashchange", show);
      ticker = setInterval(tick, TICK_MS);
      show();
      tick();
    },
    close() {
      clearInterval(ticker);
      window.removeEventListener("hashchange", show);
      for (const feed of Object.values(context.feeds)) feed.stop();
      for (const view of views.values()) view.closed?.();
      for (const dialog of document.querySelectorAll("dialog")) dialog.remove();
    },
  };
}

/** What all views share: the API, who is signed in, the feeds, and the rates made of the actors' totals. */
function contextOf(api, claims) {
  const ask = (path, options) => () => api.get(path, {}, options);
  const feeds = {
    actors: new Poll(ask("/admin/actors"), 1000),
    ready: new Poll(ask("/ready", { root: true }), 2000),
    performance: new Poll(ask("/admin/performance"), 2000),
    symbols: new Poll(ask("/admin/symbols"), 1000),
    health: new Poll(ask("/admin/health/detailed"), 3000),
    settlement: new Poll(ask("/admin/settlement/queue"), 2000),
    connections: new Poll(ask("/admin/websocket/connections"), 3000),
  };
  const rates = new Rates();
  feeds.actors.listen(({ data, meta, error }) => {
    if (error === null) rates.add(Date.parse(meta.timestamp), totalsOf(data));
  });
  return { api, claims, feeds, rates, isSuper: claims.role === "super_admin" };
}

function stateOf(feed) {
  if (feed.error === null) {
    return feed.data.status === "ready" ? { word: "ready", tone: "ok" } : { word: "degraded", tone: "warn" };
  }
  if (feed.error.status === 503) return { word: "not accepting orders", tone: "bad" };
  return { word: "unreachable", tone: "bad" };
}
