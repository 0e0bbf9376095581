// The picture: actors as cards and rings as pipes, from the left to the right as an order goes, on a narrow screen from
// the top down. `topology.js` says who stands where; `wires.js` draws the lines between them.
//
// It is drawn anew only when the engine has other parts than before; else figures are changed in place.

import { createCard, updateCard } from "./card.js";
import { make, setText } from "./dom.js";
import { count } from "./format.js";
import { createPipe, flowThrough, updatePipe } from "./pipe.js";
import { planOf, shapeOf } from "./topology.js";
import { createWires } from "./wires.js";

const COMPACT_LANES = 5;

/** Make the picture. opened(name): somebody wants to know more of an actor. */
export function createPipeline({ rates }, opened) {
  const node = make("div", { class: "pipeline-frame" });
  let shape = null;
  let drawn = null;

  function update(actors) {
    const plan = planOf(actors);
    const wanted = shapeOf(plan);
    if (wanted !== shape) {
      drawn?.close();
      drawn = drawPlan(plan, opened);
      node.replaceChildren(drawn.node);
      shape = wanted;
    }
    drawn.update(plan, actors, rates);
  }

  return { node, update, close: () => drawn?.close() };
}

function drawPlan(plan, opened) {
  const cards = new Map();
  const pipes = new Map();
  const card = (name) => {
    const made = createCard(name, opened);
    cards.set(name, made);
    return made;
  };
  const pipe = (key, title) => {
    const made = createPipe(title);
    pipes.set(key, made);
    return made;
  };
  const locals = plan.entries.filter((entry) => entry.isLocal);
  const ownPipes = (name) => plan.entries.filter((entry) => entry.name === name).map((entry) => pipe(entry.ring.name, entry.ring.name));
  const others = new Set(plan.entries.filter((entry) => entry.actor === null && !entry.isLocal).map((entry) => entry.name));
  const entryLanes = [
    ...plan.fronts.map((front) => make("li", { class: "lane" }, card(front.name), make("div", { class: "pipes" }, ...ownPipes(front.name)))),
    ...[...others].map((name) => make("li", { class: "lane" }, stub(name, purposeOf(name)), make("div", { class: "pipes" }, ...ownPipes(name)))),
    ...(locals.length ? [make("li", { class: "lane" }, stub("local clients", `${locals.length} places`), pipe("locals", "ingress.client-…"))] : []),
  ];
  const shardLanes = plan.lanes.map((lane) =>
    make("li", { class: "lane" }, pipe(`commands.${lane.shard}`, `commands.${lane.shard}`), card(`matcher-${lane.shard}`), pipe(`events.${lane.shard}`, `events.${lane.shard}`)),
  );
  const answers = plan.answers.map((ring) => make("li", { class: "lane alone" }, pipe(ring.name, ring.name)));
  const groups = {
    entry: group("entry", "Who asks", entryLanes),
    risk: group("risk", "Checks and holds", [make("li", { class: "lane" }, card("risk"))]),
    shards: group("shards", "Shards: journal, sync, match", [...shardLanes, ...answers]),
    readers: group("readers", "Settle and tell", [
      make("li", { class: "lane" }, card("settlement")),
      make("li", { class: "lane" }, card("publisher")),
      ...(plan.feed ? [make("li", { class: "lane" }, pipe("feed", "feed"))] : []),
      make("li", { class: "lane" }, stub(plan.fronts.length === 1 ? "front" : `${plan.fronts.length} fronts`, "answers, streams")),
    ]),
  };
  const wires = createWires(groups);
  const picture = make("div", { class: "pipeline", "data-lanes": plan.lanes.length >= COMPACT_LANES ? "many" : "few" }, wires.node, ...Object.values(groups));
  const aside = group("aside", "Beside the way", plan.aside.map((actor) => make("li", {}, card(actor.name))));
  wires.join(wiresOf(plan, groups, cards, pipes));

  return {
    node: make("div", { class: "picture" }, picture, aside),
    close: () => wires.close(),
    update(now, actors, rates) {
      const byName = new Map(actors.map((actor) => [actor.name, actor]));
      for (const [name, made] of cards) {
        updateCard(made, byName.get(name) ?? null, rates);
      }
      for (const [key, made] of pipes) {
        const shown = key === "locals" ? now.entries.filter((entry) => entry.isLocal).map((entry) => entry.ring) : [now.rings.get(key)].filter(Boolean);
        updatePipe(made, shown, rates);
      }
      wires.flow((names) => flowThrough(names.map((name) => now.rings.get(name)).filter(Boolean), rates));
    },
  };
}

/** Every line: from one node to another, and the rings whose records go there. */
function wiresOf(plan, groups, cards, pipes) {
  const events = plan.lanes.map((lane) => `events.${lane.shard}`);
  const commands = plan.lanes.map((lane) => `commands.${lane.shard}`);
  const ingress = plan.entries.map((entry) => entry.ring.name);
  const answers = plan.answers.map((ring) => ring.name);
  const toFronts = [...events, ...answers.filter((name) => name === "refusals")];
  const toSettlement = [...events, ...answers.filter((name) => name !== "refusals")];
  const at = (key) => pipes.get(key) ?? cards.get(key);
  const fronts = groups.readers.querySelector(".stub");
  const inside = [
    ...plan.entries.filter((entry) => !entry.isLocal).map((entry) => [entry.ring.name, "risk", [entry.ring.name]]),
    ["locals", "risk", plan.entries.filter((entry) => entry.isLocal).map((entry) => entry.ring.name)],
    ...plan.lanes.flatMap((lane) => {
      const [command, matcher, event] = [`commands.${lane.shard}`, `matcher-${lane.shard}`, `events.${lane.shard}`];
      return [["risk", command, [command]], [command, matcher, [command]], [matcher, event, [event]]];
    }),
    ...answers.map((name) => ["risk", name, [name]]),
    ...plan.entries.filter((entry) => entry.actor !== null).map((entry) => [entry.name, entry.ring.name, [entry.ring.name]]),
  ].map(([from, to, rings]) => ({ from: at(from), to: at(to), rings, kind: "lane" }));
  return [
    ...inside.filter((wire) => wire.from && wire.to),
    ...events.map((name) => ({ from: at(name), to: "hub", rings: [name], kind: "lane" })),
    ...answers.map((name) => ({ from: at(name), to: "hub", rings: [name], kind: "low" })),
    { from: "hub", to: at("settlement"), rings: toSettlement, kind: "lane" },
    { from: "hub", to: at("publisher"), rings: events, kind: "lane" },
    { from: "hub", to: fronts, rings: toFronts, kind: "lane" },
    { from: "hub", to: at("risk"), rings: events, kind: "return" },
    { from: groups.entry, to: groups.risk, rings: ingress, kind: "group" },
    { from: groups.risk, to: groups.shards, rings: commands, kind: "group" },
    { from: groups.shards, to: groups.readers, rings: [...events, ...answers], kind: "group" },
  ].filter((wire) => wire.from && wire.to);
}

function group(name, title, lanes) {
  return make("section", { class: `group ${name}`, "aria-label": title }, make("h3", {}, title), make("ul", { class: "lanes" }, ...lanes));
}

/** A place that has its card elsewhere, or none. */
function stub(name, purpose) {
  return make("div", { class: "stub" }, make("span", { class: "stub-name" }, name), make("span", { class: "stub-purpose" }, purpose));
}

function purposeOf(name) {
  return { settlement: "deposits, withdrawals", operator: "symbols, settings" }[name] ?? "";
}
