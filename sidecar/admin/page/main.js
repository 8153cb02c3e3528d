// The live page: reads the stream and shows the latest state every second.  Its memory is bounded: it keeps the last
// minutes of traffic, and the latest value of each part.

import { $, keyed, make, setAttribute, setText } from "./dom.js";
import * as advice from "./advice.js";
import { ask, toast } from "./ask.js";
import { History } from "./history.js";
import * as panels from "./panels.js";
import { Plots } from "./plots.js";
import { follow, post, setToken } from "./stream.js";
import * as theme from "./theme.js";
import * as verdict from "./verdict.js";
import * as whatif from "./whatif.js";
import { bytes, duration, number } from "./words.js";

const model = { parts: {}, history: new History(), route: "", now: Date.now() / 1000, cpu: null };
let plots = null;

// ----- from the stream

function full({ bounds, keep, seconds, parts }) {
  model.history.reset(bounds, keep, seconds);
  model.parts = parts;
  render();
}

function tick({ second, parts }) {
  const before = model.parts.about;
  model.history.add(second);
  for (const [name, part] of Object.entries(parts)) {
    if (part === null) delete model.parts[name];
    else model.parts[name] = part;
  }
  const now = model.parts.about;
  const passed = now.uptime_seconds - before.uptime_seconds;
  if (passed > 0) model.cpu = (now.process.cpu_seconds - before.process.cpu_seconds) / passed;
  render();
}

const LINKS = { live: ["live", "ok"], lost: ["connection lost, trying again", "bad"], locked: ["needs the token", "warn"] };

function link(state) {
  const [text, tone] = LINKS[state];
  setText($("#link"), text);
  setAttribute($("#link"), "data-tone", tone);
  setAttribute(document.body, "data-stale", state === "live" ? null : "");
}

async function token() {
  const given = await ask({ title: "Admin token", text: "This listener requires a token. It is stored until this tab is closed.", yes: "Continue", field: true });
  if (given) setToken(given);
  else await new Promise((wake) => $("#link").addEventListener("click", wake, { once: true }));
}

// ----- to the document

function render() {
  model.now = model.history.now;
  const { about = {}, policies = {} } = model.parts;
  const usage = about.process ?? {};
  setText($("#service"), policies.service || "sidecar");
  setText($("#facts"), [
    about.ready ? "ready" : "not ready", `up ${duration(about.uptime_seconds)}`, bytes(usage.rss_bytes),
    model.cpu == null ? "" : `CPU ${number(model.cpu * 100)} %`, `policies ${policies.digest ?? "–"}`,
  ].filter(Boolean).join(" · "));
  setText($("#version"), about.build ? `sidecar ${about.version} (${about.build})` : "sidecar");
  const { bad, warn } = verdict.show(model);
  document.title = `${bad ? `(${bad}) ` : warn ? "(!) " : ""}${policies.service || "sidecar"}`;
  scopes();
  plots?.show(model.history.columns(model.route), model.history.keep);
  panels.routes(model, pick);
  panels.rollouts(model);
  panels.breakers(model, force);
  panels.endpoints(model);
  panels.refusals(model);
  panels.observed(model);
  panels.limits(model);
  panels.rates(model);
  panels.budgets(model);
  panels.worth(model);
  panels.caches(model, purge);
  panels.keys(model);
  panels.reloads(model);
  panels.events(model);
}

function scopes() {
  const names = ["", ...Object.keys(model.parts.routes ?? {})];
  if (!names.includes(model.route)) model.route = "";
  const select = $("#scope");
  keyed(select, names, (name) => name, (name) => make("option", { value: name }, name || "all routes"), () => {});
  if (select.value !== model.route) select.value = model.route;
}

function pick(name) {
  model.route = model.route === name ? "" : name;
  render();
}

// ----- actions of the buttons

async function act(path, done) {
  try {
    toast(done(await post(path)));
  } catch (error) {
    toast(error.message);
  }
}

const FORCE = {
  open: ["Hold it open?", "The breaker refuses every request until it is set to auto.", "Hold open"],
  close: ["Hold it closed?", "The breaker lets every request through, even if all fail, until it is set to auto.", "Hold closed"],
};

async function force(name, mode) {
  const [title, text, yes] = FORCE[mode] ?? [];
  if (title && !(await ask({ title: `${name}: ${title}`, text, yes }))) return;
  await act(`/breakers/${encodeURIComponent(name)}/${mode}`, (b) => `${name} is ${b.state.replace("_", "-")}${b.forced ? ", held by hand" : ""}`);
}

async function purge(name) {
  if (!(await ask({ title: `Purge the cache ${name}?`, text: "All its answers are dropped and must be fetched again.", yes: "Purge" }))) return;
  await act(`/cache/purge?cache=${encodeURIComponent(name)}&everything=true`, () => `${name} is empty`);
}

async function reload() {
  await act("/reload", (result) => `Policies ${result.result}: ${result.digest}`);
}

$("#scope").addEventListener("change", (event) => pick(event.target.value === model.route ? "" : event.target.value));
$("#reload").addEventListener("click", reload);
advice.start();
whatif.start();
theme.follow(() => plots?.recolour());
plots = new Plots();
follow("/live", { full, tick, link, token });
