// Numbers and times, formatted for people.

export const number = (value, digits = 0) =>
  value == null || Number.isNaN(value) ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });

export const rate = (value) => (value == null ? "–" : value >= 100 ? number(value) : number(value, 1));

/** Words for a rate in 1/s that may be far below one. */
export function often(value) {
  const [unit, seconds] = [["second", 1], ["minute", 60], ["hour", 3600]].find(([, each]) => value * each >= 1) ?? ["day", 86400];
  return `${rate(value * seconds)} per ${unit}`;
}

export const percent = (share) =>
  share == null || Number.isNaN(share) ? "–" : share > 0 && share < 0.0005 ? "<0.1 %" : `${number(share * 100, 1)} %`;

export function duration(seconds) {
  if (seconds == null || seconds === "inf") return "–";
  if (seconds < 0.001) return `${number(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${number(seconds * 1e3, 1)} ms`;
  if (seconds < 1) return `${number(seconds * 1e3)} ms`;
  if (seconds < 10) return `${number(seconds, 1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function bytes(value) {
  if (value == null || typeof value !== "number") return "–";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024 || unit === "GiB") return `${number(value, value < 10 && unit !== "B" ? 1 : 0)} ${unit}`;
    value /= 1024;
  }
}

export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString("en-GB");

export function ago(unix, now) {
  const seconds = Math.max(0, now - unix);
  return seconds < 1.5 ? "now" : `${duration(Math.round(seconds))} ago`;
}

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

export const shortPlace = (where) => (where ? where.split("/").slice(-2).join("/") : "");
