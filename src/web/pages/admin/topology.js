// The picture's plan: who stands where, made of nothing but the answer of `/admin/actors`.
//
// Whatever the engine has (one shard or eight, one front or four, a wallet or none) is placed by the rings that join it,
// and what is unknown stands aside; so nothing that runs is ever missing from the picture.

import { duration } from "./format.js";

const STATES = {
  ready: { word: "ready", weight: 0 },
  starting: { word: "starting", weight: 1 },
  stopping: { word: "stopping", weight: 1 },
  stopped: { word: "stopped", weight: 2 },
  stalled: { word: "stalled", weight: 2 },
  restarting: { word: "restarting", weight: 2 },
  blocked: { word: "blocked", weight: 3 },
  failed: { word: "failed", weight: 3 },
};
export const SILENCE_S_MAX = 3;
export const FILL_WARNING = 0.5;
export const FILL_ALARM = 0.8;

/** How an actor is: its word, and how bad that is, from 0 (well) to 3 (somebody must act). */
export function healthOf(actor) {
  const known = STATES[actor.state] ?? { word: actor.state, weight: 2 };
  if (known.weight === 0 && actor.heartbeat_age_seconds > SILENCE_S_MAX) return { word: "silent", weight: 2 };
  return known;
}

/** What an actor that is not well says of itself, or what is seen of it; empty when it is well. */
export function troubleOf(actor) {
  const health = healthOf(actor);
  if (health.weight === 0) return "";
  return actor.message || (health.word === "silent" ? `no heartbeat for ${duration(actor.heartbeat_age_seconds)}` : "");
}

/** All rings by name: capacity, head, writer, and its gating readers with how far each is behind. */
export function ringsOf(actors) {
  const rings = new Map();
  for (const actor of actors) {
    for (const end of actor.rings) {
      const ring = rings.get(end.name) ?? { name: end.name, capacity: end.capacity, head: end.head, writer: null, gates: [], followers: [] };
      if (end.access === "write") ring.writer = actor.name;
      else if (end.access === "gate") ring.gates.push({ name: actor.name, lag: end.lag ?? 0 });
      else ring.followers.push(actor.name);
      rings.set(end.name, ring);
    }
  }
  for (const ring of rings.values()) {
    ring.lag = ring.gates.length ? Math.max(...ring.gates.map((gate) => gate.lag)) : null;
    ring.fill = ring.lag === null ? null : Math.min(ring.lag / ring.capacity, 1);
  }
  return rings;
}

/**
 * Place everything: `entries` ({actor, ring}), `risk`, `lanes` ({shard, commands, matcher, events}), `answers` (rings),
 * `settlement`, `publisher`, `feed`, `fronts`, `aside`. What is not there is null.
 */
export function planOf(actors) {
  const rings = ringsOf(actors);
  const byName = new Map(actors.map((actor) => [actor.name, actor]));
  const placed = new Set();
  const take = (name) => {
    if (byName.has(name)) placed.add(name);
    return byName.get(name) ?? null;
  };
  const fronts = actors.filter((actor) => actor.role === "front").sort(byNumber);
  const entries = [...rings.values()].filter((ring) => ring.name.startsWith("ingress.")).map((ring) => entryOf(ring, byName));
  const shards = new Set([...rings.keys(), ...byName.keys()].map(shardOf).filter((shard) => shard !== null));
  const lanes = [...shards].sort((one, other) => one - other).map((shard) => ({
    shard,
    commands: rings.get(`commands.${shard}`) ?? null,
    matcher: take(`matcher-${shard}`),
    events: rings.get(`events.${shard}`) ?? null,
  }));
  const plan = {
    rings,
    fronts,
    entries: entries.sort((one, other) => rank(one) - rank(other) || byNumber(one, other) || isSide(one) - isSide(other)),
    risk: take("risk"),
    lanes,
    answers: ["events.risk", "refusals"].map((name) => rings.get(name)).filter(Boolean),
    settlement: take("settlement"),
    publisher: take("publisher"),
    feed: rings.get("feed") ?? null,
  };
  for (const front of fronts) placed.add(front.name);
  plan.aside = actors.filter((actor) => !placed.has(actor.name));
  return plan;
}

/** What the plan consists of, without figures: when this is another text, the picture is drawn anew. */
export function shapeOf(plan) {
  return JSON.stringify([
    plan.entries.map((entry) => entry.ring.name),
    plan.lanes.map((lane) => lane.shard),
    plan.fronts.map((front) => front.name),
    plan.aside.map((actor) => actor.name),
    plan.answers.map((ring) => ring.name),
    [plan.risk, plan.settlement, plan.publisher, plan.feed].map(Boolean),
  ]);
}

/** Who asks through an ingress ring: a front, or somebody who has another place in the picture, or a local program. */
function entryOf(ring, byName) {
  const writer = byName.get(ring.writer) ?? null;
  return { name: ring.writer ?? ring.name, ring, actor: writer?.role === "front" ? writer : null, isLocal: writer === null };
}

function rank(entry) {
  return entry.actor !== null ? 0 : entry.isLocal ? 2 : 1;
}

/** Whether an entry is not the main one of who asks: a front has another ring for what administrators want. */
function isSide(entry) {
  return entry.ring.name !== `ingress.${entry.name}`;
}

function shardOf(name) {
  const found = /^(?:commands\.|events\.|matcher-)(\d+)$/.exec(name);
  return found ? Number(found[1]) : null;
}

function byNumber(one, other) {
  return one.name.localeCompare(other.name, "en", { numeric: true });
}
