// One function for each panel, which shows parts of the stream as rows.  Rows with problems come first.

import { beside, besideRoute, ownerOf } from "./advice.js";
import { $, badge, bar, fill, keyed, make, setAttribute, setText, svg } from "./dom.js";
import { isFull } from "./verdict.js";
import { ago, bytes, clock, duration, number, percent, plural, rate, shortPlace } from "./words.js";

const SPAN = 60;
const TONES = { closed: "ok", half_open: "warn", open: "bad" };
const WORDS = { closed: "closed", half_open: "half-open", open: "open" };

const list = (things) => Object.entries(things ?? {}).map(([name, facts]) => ({ name, ...facts }));

// ----- routes

const SORTS = {
  route: (row) => row.name, rate: (row) => row.sum.calls, errors: (row) => row.sum.errors / (row.sum.calls || 1),
  fallback: (row) => row.sum.fallbacks / (row.sum.calls || 1),
  p50: (row) => row.p50 ?? -1, p90: (row) => row.p90 ?? -1, p99: (row) => row.p99 ?? -1,
};
let sort = { by: "", down: true };

// Upstream of a route, or the names of the parts of its answer.
const target = (route) => route?.upstream || Object.keys(route?.parts ?? {}).join(" + ");

export function routes(model, pick) {
  const recent = model.history.recent(SPAN);
  const names = new Set([...Object.keys(model.parts.routes ?? {}), ...model.history.routes()]);
  const seconds = Math.min(SPAN, Math.max(1, model.history.seconds.length));
  const rows = [...names].map((name) => {
    const sum = recent.get(name) ?? model.history.empty();
    const at = (share) => model.history.percentile(sum, share);
    return { name, sum, p50: at(0.5), p90: at(0.9), p99: at(0.99), upstream: target(model.parts.routes?.[name]) };
  });
  if (sort.by) {
    const of = SORTS[sort.by];
    rows.sort((a, b) => (of(a) > of(b) ? 1 : of(a) < of(b) ? -1 : 0) * (sort.down ? -1 : 1));
  }
  const table = $("#routes");
  header(table, () => routes(model, pick));
  keyed($("tbody", table), rows, (row) => row.name, (row) => routeRow(row, pick), (element, row) => {
    const [, upstream, sparkCell, calls, errors, fallback, p50, p90, p99] = element.children;
    setAttribute(element, "aria-selected", model.route === row.name && row.name !== "" ? "true" : "false");
    setText($(".says", element), besideRoute(row.name));
    setText(upstream, row.upstream);
    spark(sparkCell, model.history.spark(row.name));
    setText(calls, rate(row.sum.calls / seconds));
    const share = row.sum.calls ? row.sum.errors / row.sum.calls : null;
    setText(errors, percent(share));
    setAttribute(errors, "data-tone", share >= 0.05 ? "bad" : share > 0 ? "warn" : null);
    setText(fallback, row.sum.fallbacks ? percent(row.sum.fallbacks / (row.sum.calls || 1)) : "");
    setAttribute(fallback, "data-tone", row.sum.fallbacks ? "warn" : null);
    setText(p50, duration(row.p50));
    setText(p90, duration(row.p90));
    setText(p99, duration(row.p99));
  });
}

function routeRow(row, pick) {
  const name = row.name || "(no route)";
  const button = make("button", { class: "plain", type: "button", title: "Show this route in the plots", onclick: () => pick(row.name) }, name);
  const cells = ["wide-only muted", "fit wide-only", "n", "n", "n wide-only", "n", "n wide-only", "n"].map((kind) => make("td", { class: kind }));
  return make("tr", {}, make("td", {}, row.name ? button : name, make("div", { class: "says muted" })), ...cells);
}

function header(table, again) {
  const head = $("thead", table);
  const columns = [
    ["route", "Route"], ["", "Upstream", "wide-only"], ["", "5 minutes", "wide-only"], ["rate", "Requests/s", "n"],
    ["errors", "Errors", "n"], ["fallback", "Fallback", "n wide-only"], ["p50", "p50", "n"], ["p90", "p90", "n wide-only"], ["p99", "p99", "n"],
  ];
  if (!head.firstElementChild) {
    head.append(make("tr", {}, ...columns.map(([by, title, kind]) => {
      const turn = () => {
        sort = sort.by !== by ? { by, down: by !== "route" } : sort.down === (by !== "route") ? { by, down: !sort.down } : { by: "", down: true };
        again();
      };
      return make("th", { scope: "col", class: kind, "data-by": by }, by ? make("button", { class: "plain", type: "button", onclick: turn }, title) : title);
    })));
  }
  for (const th of head.firstElementChild.children) {
    setAttribute(th, "aria-sort", sort.by && th.dataset.by === sort.by ? (sort.down ? "descending" : "ascending") : null);
  }
}

function spark(td, { calls, errors }) {
  let picture = td.firstElementChild;
  if (!picture) {
    picture = svg("svg", { class: "spark", viewBox: "0 0 120 20", preserveAspectRatio: "none", "aria-hidden": "true" });
    picture.append(svg("path", {}), svg("path", { class: "red" }));
    td.append(picture);
  }
  const top = Math.max(1, ...calls);
  const point = (v, i) => `${((i * 120) / (calls.length - 1)).toFixed(1)} ${(19 - (18 * v) / top).toFixed(1)}`;
  setAttribute(picture.children[0], "d", "M" + calls.map(point).join("L"));
  const touched = (i) => errors[i] || errors[i - 1] || errors[i + 1]; // no red line along the bottom where there are no errors
  setAttribute(picture.children[1], "d", errors.map((v, i) => (touched(i) ? (touched(i - 1) ? "L" : "M") + point(v, i) : "")).join("") || null);
}

// ----- rollouts

/* One row for each arm, the stable one first; p99 is that of the last minute, the counts are since the rollout began. */
export function rollouts(model) {
  const all = list(model.parts["state.rollout"]);
  $("#rollouts").hidden = !all.length;
  const recent = model.history.recent(SPAN);
  const p99 = (name) => (recent.has(name) ? model.history.percentile(recent.get(name), 0.99) : null);
  const rows = all.flatMap(({ route, stable, candidates }) => {
    const rest = Math.max(0, 1 - candidates.reduce((sum, each) => sum + each.share, 0));
    const first = { route, arm: stable, share: rest, ...candidates[0].stable, p99: p99(stable), said: "stable", tone: "idle", why: "" };
    return [first, ...candidates.map((each) => ({
      route, arm: each.name, share: each.share, ...each.candidate, p99: p99(each.name), ...judged(each, model.now),
    }))];
  });
  const returned = rows.filter((row) => row.tone === "bad").length;
  setText($("#rollouts-sum"), returned ? `${plural(returned, "candidate")} taken back` : "none taken back");
  fill($("#rollouts"), [
    { title: "Route", value: (r) => r.route, kind: "name" },
    { title: "Arm", value: (r) => r.arm, kind: "mono" },
    { title: "Share", value: (r) => percent(r.share), kind: "n" },
    { title: "Requests", value: (r) => number(r.requests), kind: "n" },
    { title: "Errors", value: (r) => percent(r.requests ? r.errors / r.requests : null), kind: "n", tone: (r) => (r.tone === "bad" ? "bad" : null) },
    { title: "p99", value: (r) => duration(r.p99), kind: "n" },
    { title: "Verdict", value: (r, td) => badge(td, r.said, r.tone), kind: "fit" },
    { title: "Evidence", value: (r) => r.why || "–", kind: "words" },
  ], rows, (r) => `${r.route} ${r.arm}`, "No rollouts.");
}

/* Verdict on a candidate, and its evidence as a share of what takes it back. */
function judged(candidate, now) {
  if (candidate.returned) return { said: "taken back", tone: "bad", why: `${candidate.returned.reason} (${ago(candidate.returned.at, now)})` };
  const tests = ["errors", "p99"].filter((name) => candidate[name]);
  if (!tests.length) return { said: "not judged", tone: "idle", why: "" };
  const why = tests.map((name) => {
    const test = candidate[name];
    const part = percent(Math.min(1, Math.max(0, test.evidence / test.threshold)));
    return `${name}: worse in ${number(test.worse)} and better in ${number(test.better)} of ${plural(test.pairs, "pair")}, ${part} of the evidence that takes it back`;
  });
  return { said: "no worse so far", tone: "ok", why: why.join("; ") };
}

// ----- breakers

export function breakers(model, act) {
  const weight = { open: 0, half_open: 1, closed: 2 };
  const all = list(model.parts["state.breaker"]).filter((b) => b.state);
  all.sort((a, b) => weight[a.state] - weight[b.state]);
  const open = all.filter((b) => b.state === "open").length;
  setText($("#breakers-sum"), all.length ? `${plural(all.length, "breaker")}${open ? `, ${open} open` : ", none open"}` : "");
  $("#breakers").hidden = !all.length;
  keyed($("#breakers .list"), all, (b) => b.name, (b) => breakerRow(b, act), (element, b) => {
    const [, state, why, actions, details] = element.children;
    badge(state, WORDS[b.state] + (b.forced ? ", held" : "") + (b.observed ? ", observed" : ""), b.forced && b.state === "closed" ? "warn" : TONES[b.state]);
    setText(why.children[0], reason(b));
    setText(why.children[1], figures(b, model.now));
    for (const button of actions.children) {
      const mode = button.dataset.mode;
      setAttribute(button, "aria-pressed", mode === "auto" ? String(!b.forced) : String(b.forced && b.state === (mode === "open" ? "open" : "closed")));
    }
    details.hidden = !b.history?.length;
    setText($("summary", details), `History (${b.history?.length ?? 0})`);
    if (details.open) past($("ol", details), b.history ?? []);
    details.ontoggle = () => past($("ol", details), b.history ?? []);
  });
}

function breakerRow(b, act) {
  const button = (mode, title) => make("button", {
    type: "button", "data-mode": mode, "aria-label": `${title}: breaker ${b.name}`, onclick: () => act(b.name, mode),
  }, title);
  return make("article", { class: "breaker", "aria-label": `breaker ${b.name}` },
    make("div", { class: "name" }, b.name), make("div"), make("div", { class: "why" }, make("div"), make("div", { class: "numbers" })),
    make("div", { class: "actions" }, button("open", "Open"), button("close", "Close"), button("auto", "Auto")),
    make("details", {}, make("summary"), make("ol")));
}

function reason(b) {
  if (b.state === "closed") return b.forced ? b.why : b.why === "it is new" ? "no transition so far" : b.why;
  if (b.state === "half_open" && b.next_probe_in != null) return `${b.why}; had opened because: ${b.opened_because}`;
  return b.state === "open" ? b.why : `probing; had opened because: ${b.opened_because ?? b.why}`;
}

function figures(b, now) {
  const said = [];
  if (b.state === "open") said.push(b.next_probe_in == null ? "no probe until it is set to auto" : `next probe in ${duration(Math.ceil(b.next_probe_in))}`);
  if (b.share != null) said.push(`lets through ${percent(b.share)}`);
  if (b.probes) said.push(`probes: ${b.probes.results} done, ${b.probes.under_way} under way, ${b.probes.failed} failed`);
  if (b.state === "closed" && b.calls) said.push(`${plural(b.calls, "call")} in the window, ${percent(b.failure_rate)} failed, ${percent(b.slow_rate)} slow`);
  if (beside(`${ownerOf(b.name)}.circuit_breaker.failure_rate`)) said.push(`opens at a failure rate that differs${beside(`${ownerOf(b.name)}.circuit_breaker.failure_rate`)}`);
  if (b.failures_in_a_row) said.push(`${plural(b.failures_in_a_row, "failure")} in a row`);
  if (b.refused) said.push(`${b.observed ? "would have refused" : "refused"} ${number(b.refused)}`);
  if (b.history?.length) said.push(`since ${clock(b.since)} (${ago(b.since, now)})`);
  return said.join(" · ");
}

function past(ol, history) {
  keyed(ol, [...history].reverse(), (step) => `${step.at} ${step.after} ${step.why}`, (step) => {
    const mark = make("span", { class: "badge", "data-tone": TONES[step.after] }, WORDS[step.after] ?? step.after);
    return make("li", {}, make("span", { class: "num muted" }, clock(step.at)), mark, make("span", {}, step.why));
  }, () => {});
}

// ----- the smaller tables

const UP = { up: "ok", failing: "bad", unhealthy: "bad", ejected: "bad" };

function connections(pool) {
  if (!pool) return "0";
  const most = pool.max_streams ? ` of ${number(pool.max_streams)}` : ""; // streams that the open connections take
  const streams = pool.streams === undefined ? "" : `, ${number(pool.streams)}${most} ${pool.streams === 1 && !most ? "stream" : "streams"}`;
  return `${pool.open} of ${pool.max}${streams}`;
}

export function endpoints(model) {
  const all = list(model.parts["state.endpoints"]).flatMap((set) => (set.endpoints ?? []).map((e) => ({ ...e, upstream: set.upstream })));
  const pools = Object.assign({}, ...list(model.parts["state.pools"]).map((p) => p.pools ?? {}));
  all.sort((a, b) => (a.state === "up") - (b.state === "up"));
  const out = all.filter((e) => e.state !== "up").length;
  const others = list(model.parts["state.endpoints"]).reduce((sum, set) => sum + (set.subset ? Math.max(0, set.subset.of - set.endpoints.length) : 0), 0);
  const beyond = others ? `, ${number(others)} left to other sidecars` : "";
  setText($("#endpoints-sum"), all.length ? `${all.length - out} of ${all.length} up${beyond}` : "");
  fill($("#endpoints"), [
    { title: "Upstream", value: (e) => e.upstream },
    { title: "Endpoint", value: (e) => e.url, kind: "mono name" },
    { title: "State", value: (e, td) => badge(td, e.ejected_for > 0 ? `${e.state}, ${duration(Math.ceil(e.ejected_for))}` : e.state, UP[e.state] ?? "warn") },
    { title: "In flight", value: (e) => number(e.in_flight), kind: "n" },
    { title: "Failures", value: (e) => number(e.consecutive_failures), kind: "n wide-only", tone: (e) => (e.consecutive_failures ? "warn" : null) },
    { title: "Ejected", value: (e) => number(e.ejections), kind: "n wide-only" },
    { title: "Connections", value: (e) => connections(pools[e.url]), kind: "n wide-only" },
  ], all, (e) => `${e.upstream} ${e.url}`, "No upstreams.");
}

export function refusals(model) {
  const rows = (model.parts.refusals ?? []).slice(0, 30);
  fill($("#refusals"), [
    { title: "Last", value: (r) => ago(r.at, model.now), kind: "fit" },
    { title: "Times", value: (r) => number(r.count), kind: "n" },
    { title: "Route", value: (r) => r.route || "(no route)" },
    { title: "Reason", value: (r, td) => badge(td, r.reason, model.now - r.at < 60 ? "warn" : "idle"), kind: "fit" },
    { title: "What happened", value: (r) => r.detail || "–", kind: "words" },
    { title: "Policy", value: (r, td) => { setAttribute(td, "title", r.where); setText(td, r.where ? `${r.policy} ${shortPlace(r.where)}` : r.policy || "–"); }, kind: "mono words" },
  ], rows, (r) => `${r.route} ${r.reason} ${r.where}`, "Nothing has been refused.");
}

export function observed(model) {
  const rows = model.parts.observed ?? [];
  $("#observed").hidden = !rows.length;
  fill($("#observed"), [
    { title: "Route or upstream", value: (r) => r.owner, kind: "name" },
    { title: "Policy", value: (r) => r.policy, kind: "mono" },
    { title: "Would have refused", value: (r) => number(r.count), kind: "n" },
  ], rows, (r) => `${r.owner} ${r.policy}`, "");
}

export function limits(model) {
  const rows = list(model.parts["state.concurrency"]);
  $("#limits").hidden = !rows.length;
  const waiting = (r) => Object.values(r.waiting ?? {}).reduce((sum, count) => sum + count, 0);
  const tone = (r) => (r.active >= r.limit ? "bad" : r.active >= 0.8 * r.limit ? "warn" : null);
  fill($("#limits"), [
    { title: "Limit of", value: (r) => r.name, kind: "name" },
    { title: "", value: (r, td) => bar(td, r.active / (r.limit || 1), tone(r), `${r.active} of ${r.limit}`), kind: "fit wide-only" },
    { title: "In flight", value: (r) => `${number(r.active)} of ${number(r.limit)}${r.adaptive ? ", adaptive" : ""}${beside(`${ownerOf(r.name)}.concurrency.max`)}`, kind: "n", tone },
    { title: "Queue", value: (r) => `${number(waiting(r))} of ${number(r.queue)}`, kind: "n", tone: (r) => (waiting(r) ? "warn" : null) },
  ], rows, (r) => r.name, "No limits.");
}

const SHARED_BY = { process: "in each process", workers: "in all workers", fleet: "in store" };

export function rates(model) {
  const rows = [...list(model.parts["state.rate_limit"]), ...list(model.parts["state.quota"])];
  $("#rates").hidden = !rows.length;
  const away = (r) => r.store_up === false;
  const over = (r) => (r.mode === "observe" ? `${number(r.observed)} observed` : `${number(r.refused)}${r.delayed ? `, ${number(r.delayed)} delayed` : ""}`);
  fill($("#rates"), [
    { title: "Limit of", value: (r) => r.name.replace(/:in [^:]*$/, ""), kind: "name" },
    { title: "At most", value: (r) => r.limit ?? r.quota, kind: "words" },
    { title: "Counted", value: (r) => `${SHARED_BY[r.shared_by]}${r.shared_by === "fleet" ? ` ${r.store}` : ""}${away(r) ? ", which is away" : ""}`, tone: (r) => (away(r) ? "warn" : null) },
    { title: "Keys", value: (r) => `${number(r.keys)} of ${number(r.max_keys)}`, kind: "n", tone: (r) => (isFull(r) ? "warn" : null) },
    { title: "Refused", value: over, kind: "n" },
  ], rows, (r) => r.name, "No limits.");
}

export function budgets(model) {
  const rows = list(model.parts["state.retry_budget"]);
  $("#budgets").hidden = !rows.length;
  const full = (b) => Math.max(b.floor, b.floor + b.ratio * b.first_attempts) || 1;
  const tone = (b) => (b.tokens < 1 ? "bad" : b.tokens < 0.25 * full(b) ? "warn" : null);
  fill($("#budgets"), [
    { title: "Upstream", value: (b) => b.name, kind: "name" },
    { title: "", value: (b, td) => bar(td, b.tokens / full(b), tone(b), `${number(b.tokens, 1)} tokens left`), kind: "fit wide-only" },
    { title: "Left", value: (b) => number(b.tokens, 1), kind: "n", tone },
    { title: "Retries / requests", value: (b) => `${number(b.retries)} / ${number(b.first_attempts)} in ${duration(b.window)}${beside(`upstreams.${b.name}.retry_budget.ratio`)}`, kind: "n" },
  ], rows, (b) => b.name, "No retries are configured.");
}

export function worth(model) {
  const rows = list(model.parts["state.retry_worth"]).filter((w) => w.requests);
  $("#worth").hidden = !rows.length;
  fill($("#worth"), [
    { title: "Route", value: (w) => w.name.slice(0, w.name.lastIndexOf(":")), kind: "name" },
    { title: "By", value: (w) => w.name.slice(w.name.lastIndexOf(":") + 1) },
    { title: "Requests", value: (w) => number(w.requests), kind: "n" },
    { title: "Rescued", value: (w) => percent(w.rescued / w.requests), kind: "n", tone: (w) => (w.is_useless ? "warn" : null) },
    { title: "Attempts for one", value: (w) => (w.rescued ? number(w.attempts / w.rescued, 1) : "–"), kind: "n" },
  ], rows, (w) => w.name, "Nothing was repeated.");
}

export function caches(model, purge) {
  const rows = list(model.parts["state.cache"]);
  $("#caches").hidden = !rows.length;
  fill($("#caches"), [
    { title: "Cache", value: (c) => c.name, kind: "name" },
    { title: "Hits", value: (c) => percent(hitRatio(c)), kind: "n" },
    { title: "Entries", value: (c) => number(c.entries), kind: "n" },
    { title: "Memory", value: (c) => `${bytes(c.bytes)} of ${bytes(c.max_bytes)}`, kind: "n" },
    { title: "Redis", value: (c, td) => (c.redis ? badge(td, c.redis.up ? "up" : "down", c.redis.up ? "ok" : "bad") : "–"), kind: "fit wide-only" },
    { title: "", value: (c, td) => { td.firstElementChild ?? td.append(make("button", { type: "button", onclick: () => purge(c.name) }, "Purge")); }, kind: "fit" },
  ], rows, (c) => c.name, "No caches.");
}

/* Rows of key sets of issuers and of the sidecar's own credentials; none of them has a secret. */
export function keyRows(parts) {
  const sets = list(parts["state.key_set"]).map((k) => ({
    id: `key_set ${k.name}`, name: k.identity, what: plural((k.keys ?? []).length, "key"), age: k.age, problem: k.problem,
    failures: k.failures, is_missing: !(k.keys ?? []).length,
  }));
  const own = list(parts["state.credentials"]).map((c) => ({
    id: `credentials ${c.name}`, name: c.upstream, what: c.kind === "oauth2" ? "token for the upstream" : `field ${c.field}`,
    age: c.age, left: c.left, problem: c.problem, failures: c.failures, is_missing: c.has_token === false,
  }));
  return [...sets, ...own];
}

export function keys(model) {
  const rows = keyRows(model.parts);
  $("#keys").hidden = !rows.length;
  const tone = (r) => (r.is_missing ? "bad" : r.problem ? "warn" : null);
  fill($("#keys"), [
    { title: "Of", value: (r) => r.name, kind: "name" },
    { title: "What", value: (r) => r.what, kind: "fit", tone },
    { title: "Renewed", value: (r) => (r.age == null ? "–" : `${duration(r.age)} ago`), kind: "n" },
    { title: "Ends in", value: (r) => (r.left ? duration(r.left) : "–"), kind: "n" },
    { title: "Failures", value: (r) => (r.failures == null ? "–" : number(r.failures)), kind: "n", tone: (r) => (r.failures ? "warn" : null) },
    { title: "Problem", value: (r) => r.problem || "–", kind: "words" },
  ], rows, (r) => r.id, "No keys.");
}

const FROM_CACHE = new Set(["hit", "stale", "revalidated", "coalesced"]);

/* Share of look-ups that the cache answered, without those that bypassed it. */
export function hitRatio(cache) {
  let hits = 0, all = 0;
  for (const results of Object.values(cache.lookups ?? {})) {
    for (const [result, count] of Object.entries(results)) {
      if (result === "bypass") continue;
      all += count;
      if (FROM_CACHE.has(result)) hits += count;
    }
  }
  return all ? hits / all : null;
}

const RESULTS = { applied: "ok", unchanged: "idle", rejected: "bad" };

export function reloads(model) {
  const rows = [...(model.parts.reloads ?? [])].reverse().slice(0, 20);
  const what = (r) => [
    ...(r.problems ?? []), ...["added", "changed", "removed"].filter((k) => r[k]).map((k) => `${k}: ${r[k].join(", ")}`),
    ...(r.meaning ?? []),
    ...(r.warnings ?? []).map((w) => `warning: ${w}`),
  ].join("; ");
  fill($("#reloads"), [
    { title: "When", value: (r) => clock(r.at), kind: "fit" },
    { title: "Result", value: (r, td) => badge(td, r.result, RESULTS[r.result] ?? "idle"), kind: "fit" },
    { title: "Trigger", value: (r) => r.trigger, kind: "fit" },
    { title: "Changes", value: (r) => what(r) || "–", kind: "words" },
    { title: "Digest", value: (r) => r.digest, kind: "mono fit wide-only" },
  ], rows, (r) => `${r.at} ${r.trigger}`, "No reload so far.");
}

export function events(model) {
  const rows = [...(model.parts.events ?? [])].slice(-100).reverse();
  const rest = ({ time, level, event, stack, ...others }) =>
    Object.entries(others).map(([k, v]) => `${k}=${typeof v === "object" ? JSON.stringify(v) : v}`).join("  ");
  fill($("#events"), [
    { title: "When", value: (e) => (e.time ? clock(Date.parse(e.time) / 1000) : "–"), kind: "fit" },
    { title: "Event", value: (e, td) => badge(td, e.event, { error: "bad", warning: "warn" }[e.level] ?? "idle"), kind: "fit" },
    { title: "", value: rest, kind: "words" },
  ], rows, (e) => `${e.time} ${e.event} ${rest(e)}`, "No events so far.");
}


