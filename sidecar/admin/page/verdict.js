// Summary of all problems as sentences, worst first, at the top of the page.

import { $, keyed, make, setAttribute, setText } from "./dom.js";
import { clock, duration, number, often, percent, plural } from "./words.js";

const MANY_ERRORS = 0.05;
const ENOUGH_CALLS = 20;
const RECENT = 60;

/* True while further keys of a limit share one count.  Keys that say nothing any more are in the table until others come. */
export const isFull = (limit) => limit.is_full ?? limit.keys >= limit.max_keys;

const entries = (things) => Object.entries(things ?? {});

/* Returns the problems as {tone, at, text}; `at` is the id of the panel with the details. */
export function problems({ parts, history, now }) {
  const found = [];
  const say = (tone, at, text) => found.push({ tone, at, text });
  if (parts.about && !parts.about.ready) say("bad", "events", `Not ready for traffic: ${parts.about.not_ready_because}`);
  const last = parts.reloads?.at(-1);
  if (last?.result === "rejected") {
    say("bad", "reloads", `The policies on disk are not in force since ${clock(last.at)}: ${plural(last.problems?.length ?? 0, "problem")}`);
  }
  for (const [name, b] of entries(parts["state.breaker"])) {
    if (b.forced) say("warn", "breakers", `Breaker ${name} is held ${b.state === "open" ? "open" : "closed"} by hand until it is set to auto`);
    else if (b.observed && b.state === "open") say("warn", "breakers", `Breaker ${name} would be open (mode: observe): ${b.why}`);
    else if (b.state === "open") say("bad", "breakers", `Breaker ${name} is open: ${b.why}${b.next_probe_in == null ? "" : `; next probe in ${duration(Math.ceil(b.next_probe_in))}`}`);
    else if (b.state === "half_open" && b.next_probe_in != null) say("warn", "breakers", `Breaker ${name} is half-open: ${b.why}`);
    else if (b.state === "half_open") say("warn", "breakers", `Breaker ${name} is half-open and lets through ${b.share == null ? "probes only" : percent(b.share)}`);
  }
  for (const [name, set] of entries(parts["state.endpoints"])) {
    const all = set.endpoints ?? [];
    const isUp = all.some((e) => e.state === "up");   // pods that start and end are no news while others serve
    const out = all.filter((e) => e.state !== "up" && !(isUp && (e.state === "draining" || e.state === "not_ready")));
    const told = out.slice(0, 5).map((e) => `${e.url} ${e.state}`).join(", ") + (out.length > 5 ? ", …" : "");
    if (!all.length) say("bad", "endpoints", `Upstream ${name} has no endpoints`);
    else if (out.length) say(out.length === all.length && out.some((e) => e.state !== "on_trial") ? "bad" : "warn", "endpoints", `Upstream ${name}: ${out.length} of ${plural(all.length, "endpoint")} out (${told})`);
  }
  for (const [name, rollout] of entries(parts["state.rollout"])) {
    for (const { name: arm, returned } of rollout.candidates) {
      if (returned) say("warn", "rollouts", `Rollout of ${name}: the candidate ${arm} was taken back at ${clock(returned.at)}: ${returned.reason}`);
    }
  }
  for (const [name, sum] of history.recent(RECENT)) {
    const share = sum.errors / (sum.calls || 1);
    if (sum.fallbacks) say("warn", "traffic", `Route ${name || "(none)"}: a fallback answered ${percent(sum.fallbacks / (sum.calls || 1))} of ${plural(sum.calls, "request")} in the last minute`);
    if (sum.calls >= ENOUGH_CALLS && share >= MANY_ERRORS) say("bad", "traffic", `Route ${name || "(none)"}: ${percent(share)} of ${plural(sum.calls, "request")} failed in the last minute`);
  }
  for (const [name, b] of entries(parts["state.retry_budget"])) {
    if (b.tokens < 1) say("warn", "budgets", `The retry budget of ${name} is spent: its failures are not retried for now`);
  }
  for (const [name, w] of entries(parts["state.retry_worth"])) {
    if (w.is_useless) say("warn", "worth", `${name.replace(/:(\w+)$/, ": a $1")} hardly ever helps: ${number(w.rescued)} of ${plural(w.requests, "request")} rescued in ${duration(w.window)}`);
  }
  for (const [name, limit] of entries(parts["state.concurrency"])) {
    const waiting = Object.values(limit.waiting ?? {}).reduce((sum, count) => sum + count, 0);
    if (limit.active >= limit.limit) say("warn", "limits", `${name} is at its limit of ${number(limit.limit)} in flight${waiting ? `, ${number(waiting)} wait` : ""}`);
  }
  for (const [name, limit] of entries(parts["state.rate_limit"])) {
    if (isFull(limit)) say("warn", "rates", `Rate limit ${name} has all ${number(limit.max_keys)} keys in use: further ones share one count`);
  }
  for (const [name, quota] of entries(parts["state.quota"])) {
    if (quota.keys >= quota.max_keys) say("warn", "rates", `Quota ${name} has all ${number(quota.max_keys)} keys in use: further ones share one count`);
  }
  for (const [name, throttle] of entries(parts["state.throttle"])) {
    const refused = entries(throttle.by_criticality).filter(([, each]) => each.attempts && each.refusal_probability > 0);
    const shares = refused.map(([rank, each]) => `${percent(each.refusal_probability)} of the ${rank} ones`).join(", ");
    const verb = throttle.mode === "observe" ? "would be refused (mode: observe)" : "are refused";
    if (shares) say("warn", "refusals", `Throttle ${name}: the upstream accepts too few attempts, ${shares} ${verb}`);
  }
  for (const [name, pacing] of entries(parts["state.pacing"])) {
    const verb = pacing.mode === "observe" ? "would be sent at most (mode: observe)" : "are sent at most";
    if (pacing.rate != null) say("warn", "refusals", `Pacing ${name}: the upstream has asked for less, ${often(pacing.rate)} ${verb}`);
  }
  for (const [name, store] of entries(parts["state.store"])) {
    if (!store.up) say("warn", "rates", `Store ${name} cannot be reached: its limits hold as on_store_failure says`);
  }
  for (const [name, cache] of entries(parts["state.cache"])) {
    if (cache.redis && !cache.redis.up) say("warn", "caches", `Cache ${name} cannot reach its Redis and uses only its own memory`);
  }
  for (const [, set] of entries(parts["state.key_set"])) {
    if (!set.problem || set.failures === 0) continue;
    if (!set.keys?.length) say("bad", "keys", `Identity ${set.identity} has no keys, its tokens cannot be verified: ${set.problem}`);
    else say("warn", "keys", `Identity ${set.identity} uses its last good keys: ${set.problem}`);
  }
  for (const [, own] of entries(parts["state.credentials"])) {
    if (!own.problem || own.failures === 0) continue;
    if (own.has_token === false) say("bad", "keys", `Upstream ${own.upstream} gets no requests, there is no token for it: ${own.problem}`);
    else say("warn", "keys", `Upstream ${own.upstream} gets the last good credential: ${own.problem}`);
  }
  for (const [name, listener] of entries(parts.listeners)) {
    if (listener.certificates?.problem) say("warn", "events", `Listener ${name}: ${listener.certificates.problem}`);
  }
  for (const kind of ["state.tls", "state.discovery"]) {
    for (const [name, thing] of entries(parts[kind])) if (thing.problem) say("warn", "events", `${name}: ${thing.problem}`);
  }
  return found.sort((a, b) => (a.tone === "bad" ? 0 : 1) - (b.tone === "bad" ? 0 : 1));
}

export function show(model) {
  const found = problems(model);
  const bad = found.filter((p) => p.tone === "bad").length;
  const section = $("#verdict");
  setAttribute(section, "data-tone", bad ? "bad" : found.length ? "warn" : "ok");
  const warn = found.length - bad;
  const counts = [bad ? `${plural(bad, "problem")}` : "", warn ? `${plural(warn, "warning")}` : ""].filter(Boolean).join(", ");
  setText($("#verdict-text"), found.length ? counts : "Nothing is wrong");
  keyed($("#problems"), found.slice(0, 20), (p) => `${p.at} ${p.text.replace(/\d+(\.\d+)? ?\S*/g, "#")}`,
    (p) => make("li", {}, make("span", { class: "badge", "data-tone": p.tone }, p.tone === "bad" ? "problem" : "warning"), make("a", { href: `#${p.at}` })),
    (li, p) => setText(li.children[1], p.text));
  return { bad, warn };
}
