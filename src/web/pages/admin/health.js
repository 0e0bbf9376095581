// Health: each part of the engine as the engine itself sees it, and who listens to its streams.

import { keyed, make, setAttribute, setText } from "./dom.js";
import { count, duration, milliseconds, moment, none, plain, words } from "./format.js";
import { createTable, troubleLine } from "./table.js";

const TONES = { healthy: "ok", degraded: "warn", unhealthy: "bad" };

/** Make the view. */
export function createHealth({ feeds }) {
  const trouble = make("p", { class: "trouble" });
  const summary = make("p", { class: "headline" });
  const parts = make("ul", { class: "components" });
  const noClients = make("p", { class: "trouble" });
  const clients = createTable("Stream clients", CLIENT_COLUMNS, (client) => client.id);
  const node = make(
    "section",
    { class: "view", "aria-label": "Health", hidden: true },
    make("h2", {}, "Health"),
    trouble,
    summary,
    parts,
    make("h2", {}, "Stream clients"),
    noClients,
    clients.node,
  );

  feeds.health.listen((feed) => {
    setText(trouble, troubleLine(feed, "Health"));
    if (feed.data === null) return;
    const { status, version, uptime_seconds: uptime, components } = feed.data;
    setAttribute(summary, "data-tone", TONES[status] ?? "note");
    setText(summary, `${words(status)}, version ${version}, up for ${duration(uptime)}`);
    const worst = (status_) => -["healthy", "degraded", "unhealthy"].indexOf(status_);
    const sorted = Object.entries(components).sort(([, one], [, other]) => worst(one.status) - worst(other.status));
    keyed(parts, sorted, ([name]) => name, createPart, updatePart);
  });
  feeds.connections.listen((feed) => {
    setText(noClients, troubleLine(feed, "Stream clients"));
    if (feed.data !== null) clients.update(feed.data, "Nobody listens.");
  });
  return { node, feeds: [feeds.health, feeds.connections] };
}

const CLIENT_COLUMNS = [
  { title: "User", text: (client) => client.user ?? "not named" },
  { title: "Address", text: (client) => client.address },
  { title: "Since", text: (client) => moment(client.since) },
  { title: "Channels", number: true, text: (client) => count(client.channel_count) },
  { title: "Which", text: (client) => client.channels.join(", ") || none },
  { title: "Sent", number: true, text: (client) => count(client.messages) },
  { title: "Waiting bytes", number: true, text: (client) => count(client.queued_bytes) },
  { title: "Front", number: true, text: (client) => client.front },
];

function createPart() {
  return make(
    "li",
    { class: "component" },
    make("header", {}, make("h3"), make("span", { class: "badge" })),
    make("p", { class: "prose" }),
    make("details", {}, make("summary", {}, "Details"), make("dl", { class: "facts" })),
  );
}

function updatePart(item, [name, part]) {
  const [header, message, more] = item.children;
  setAttribute(item, "data-tone", TONES[part.status] ?? "note");
  setText(header.children[0], words(name));
  setText(header.children[1], words(part.status));
  setAttribute(header.children[1], "data-tone", TONES[part.status] ?? "note");
  setText(message, part.message);
  const told = [...(part.latency_ms === null ? [] : [["latency", milliseconds(part.latency_ms)]]), ...flatten(part.details ?? {})];
  keyed(more.lastChild, told, ([term]) => term, () => make("div", {}, make("dt"), make("dd")), (row, [term, value]) => {
    setText(row.firstChild, term);
    setText(row.lastChild, value);
  });
}

/** Details within details, by the names on the way to them. */
function flatten(details, way = "") {
  return Object.entries(details).flatMap(([name, value]) => {
    const path = way ? `${way} ${words(name)}` : words(name);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? flatten(value, path) : [[path, plain(value)]];
  });
}
