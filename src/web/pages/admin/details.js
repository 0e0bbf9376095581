// All of one actor, in a dialog that goes on moving: what is on its card, and each ring that it is joined to.

import { utilisationOf } from "./card.js";
import { freshId, keyed, make, setText } from "./dom.js";
import { count, duration, milliseconds, none, percent, rate } from "./format.js";
import { healthOf } from "./topology.js";

const DUTIES = { command: "Command to events", settle: "Command to commit", publish: "Event to page", request: "Request to answer" };
const ACCESS = { write: "writes", gate: "reads, holds the writer back", follow: "follows, may be overtaken" };

/** Make the dialog; show(name) opens it. */
export function createDetails({ feeds, rates }) {
  const title = make("h2", { id: freshId("title") });
  const facts = make("dl", { class: "facts" });
  const rows = make("tbody");
  const dialog = make(
    "dialog",
    { class: "sheet wide", "aria-labelledby": title.id },
    title,
    facts,
    make("h3", {}, "Rings"),
    make(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Rings of this actor" },
      make("table", {}, make("thead", {}, make("tr", {}, ...["Ring", "Access", "Behind", "Holds", "Written"].map((name) => make("th", { scope: "col" }, name)))), rows),
    ),
    make("form", { method: "dialog", class: "buttons" }, make("button", { type: "submit" }, "Close")),
  );
  let name = null;

  function update() {
    const actor = feeds.actors.data?.find((each) => each.name === name);
    if (!dialog.open || actor === undefined) return;
    const told = factsOf(actor, rates);
    keyed(facts, told, ([term]) => term, () => make("div", {}, make("dt"), make("dd")), (row, [term, value]) => {
      setText(row.firstChild, term);
      setText(row.lastChild, value);
    });
    keyed(rows, actor.rings, (ring) => ring.name + ring.access, () => make("tr", {}, make("th", { scope: "row" }), ...[1, 2, 3, 4].map(() => make("td"))), (row, ring) => {
      const texts = [ring.name, ACCESS[ring.access] ?? ring.access, ring.lag === null ? none : count(ring.lag), count(ring.capacity), rate(rates.of(`ring ${ring.name}`))];
      texts.forEach((text, place) => setText(row.children[place], text));
    });
  }

  feeds.actors.listen(update);
  dialog.addEventListener("close", () => dialog.remove());
  return {
    show(wanted) {
      name = wanted;
      setText(title, wanted);
      document.body.append(dialog);
      dialog.showModal();
      update();
    },
  };
}

function factsOf(actor, rates) {
  const { latency } = actor;
  const what = latency ? DUTIES[latency.of] ?? latency.of : "Latency";
  return [
    ["State", healthOf(actor).word],
    ["It says", actor.message || none],
    ["Busy", percent(utilisationOf(actor, rates))],
    ["Takes", rate(rates.of(`in ${actor.name}`))],
    ["Gives", rate(rates.of(`out ${actor.name}`))],
    [`${what}, half within`, milliseconds(latency?.p50_ms)],
    [`${what}, 99 % within`, milliseconds(latency?.p99_ms)],
    ["Taken in all", count(actor.records_in)],
    ["Given in all", count(actor.records_out)],
    ["Errors", count(actor.errors)],
    ["Restarts", count(actor.restarts)],
    ["Runs for", actor.pid ? duration(actor.uptime_seconds) : none],
    ["Last heartbeat", actor.heartbeat_age_seconds === null ? none : `${duration(actor.heartbeat_age_seconds)} ago`],
    ["Process", actor.pid || none],
  ];
}
