// The first view: what goes through the engine, and the picture of how.

import { make } from "./dom.js";
import { createDetails } from "./details.js";
import { count, milliseconds, rate } from "./format.js";
import { createPipeline } from "./pipeline.js";
import { createTile } from "./spark.js";
import { ringsOf } from "./topology.js";

/** Make the view. */
export function createOverview(context) {
  const { feeds, rates } = context;
  const tiles = {
    commands: createTile("Commands"),
    events: createTile("Events"),
    latency: createTile("Matching latency, p50"),
    lag: createTile("Settlement behind"),
    orders: createTile("Open orders"),
    clients: createTile("Stream clients"),
  };
  const details = createDetails(context);
  const pipeline = createPipeline(context, details.show);
  const node = make(
    "section",
    { class: "view overview", "aria-label": "Pipeline" },
    make("h2", { class: "unseen" }, "Pipeline"),
    make("div", { class: "tiles" }, ...Object.values(tiles).map((tile) => tile.node)),
    pipeline.node,
  );

  feeds.actors.listen(({ data, error }) => {
    if (error !== null) return;
    pipeline.update(data);
    const matchers = data.filter((actor) => actor.role === "matcher");
    const [taken, given] = ["in", "out"].map((way) => total(matchers.map((actor) => rates.of(`${way} ${actor.name}`))));
    tiles.commands.update(rate(taken), taken, `matched by ${count(matchers.length)} ${matchers.length === 1 ? "shard" : "shards"}`);
    tiles.events.update(rate(given), given, "published");
    const lag = settlementLag(data);
    tiles.lag.update(lag === null ? "–" : `${count(lag)}`, lag, "events");
  });
  feeds.performance.listen(({ data, error }) => {
    if (error !== null) return;
    const matching = data.matching_engine ?? {};
    tiles.latency.update(milliseconds(matching.p50_ms ?? matching.avg_latency_ms), matching.p50_ms ?? matching.avg_latency_ms ?? null, `p99 ${milliseconds(matching.p99_ms)}`);
    tiles.orders.update(count(data.order_book?.active_orders), data.order_book?.active_orders, symbolsOf(data.order_book));
    tiles.clients.update(count(data.websocket?.total_connections), data.websocket?.total_connections, `${rate(data.websocket?.messages_per_second)} messages`);
  });
  return { node, feeds: [feeds.performance], closed: pipeline.close };
}

function symbolsOf({ total_symbols: all, open_symbols: open } = {}) {
  return open < all ? `${count(all - open)} of ${count(all)} symbols not open` : `${count(all)} symbols`;
}

function settlementLag(actors) {
  const lags = [...ringsOf(actors).values()].flatMap((ring) => ring.gates.filter((gate) => gate.name === "settlement").map((gate) => gate.lag));
  return lags.length ? lags.reduce((sum, lag) => sum + lag, 0) : null;
}

function total(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) : null;
}
