// Words for numbers: short, of even width where they move, and never a figure that was not measured (`none`).

export const none = "–";

/** A count in full up to 9,999, then with three digits and k, M or G. */
export function count(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return none;
  if (Math.abs(value) < 10_000) return Math.round(value).toLocaleString("en");
  const [unit, name] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => Math.abs(value) >= size);
  return digits(value / unit) + name;
}

/** Something per second. */
export function rate(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return `${none}/s`;
  if (value > 0 && value < 10) return `${value < 0.05 ? "<0.1" : value.toFixed(1)}/s`;
  return `${count(value)}/s`;
}

/** A share of 1 in percent. */
export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return none;
  if (share > 0 && share < 0.01) return "<1 %";
  return `${Math.round(share * 100)} %`;
}

/** Milliseconds in the unit that suits. */
export function milliseconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return none;
  if (value >= 1000) return `${digits(value / 1000)} s`;
  if (value >= 1 || value === 0) return `${digits(value)} ms`;
  return `${digits(value * 1000)} µs`;
}

/** A span of seconds in its two largest units. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return none;
  if (seconds < 10) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  const parts = [[Math.floor(whole / 86_400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = parts.findIndex(([amount]) => amount > 0);
  return parts.slice(first, first + 2).filter(([amount]) => amount > 0).map(([amount, unit]) => `${amount} ${unit}`).join(" ");
}

/** An RFC 3339 time as date and time of day in UTC. */
export function moment(text) {
  if (!text) return none;
  const [date, time = ""] = String(text).replace("Z", "").split("T");
  return `${date} ${time.slice(0, 8)}`;
}

/** A code as words: `cancel_only` is "cancel only". */
export function words(code) {
  return code === null || code === undefined ? none : String(code).replaceAll("_", " ");
}

/** Any value of an answer as text. */
export function plain(value) {
  if (value === null || value === undefined || value === "") return none;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}
