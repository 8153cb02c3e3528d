// Section "What the data says": values that the figures of the last hours suggest, each with its evidence.  The server
// computes them when asked, and keeps them for a minute; they also stand beside routes, limits, budgets and breakers.

import { $, fill, setText } from "./dom.js";
import { get } from "./stream.js";
import { duration, number, plural } from "./words.js";

// Blocks of a route that no other section has a row for.
const BLOCKS = ["timeout", "hedge", "cache"];

let known = new Map();

/* Words beside the value in force at a path, such as `upstreams.payments.concurrency.max`; empty without a suggestion. */
export const beside = (path) => (known.has(path) ? `, the data says ${known.get(path).new}` : "");

/* Times of a route with what the data says about each, such as `timeout.attempt 5s, the data says 250ms`. */
export const besideRoute = (name) => BLOCKS.flatMap((block) => [...known.values()]
  .filter((each) => each.path.startsWith(`routes.${name}.${block}.`))
  .map((each) => `${each.path.slice(`routes.${name}.`.length)} ${each.old ?? "not set"}${beside(each.path)}`)).join("; ");

/* Keys that lead to the owner of a state object, such as `upstreams.payments` for `upstream:payments`. */
export const ownerOf = (name) => name.replace(/^(route|upstream):/, "$1s.").replace(/:.*/, "");

function show({ suggestions, requests, seconds, unknown }) {
  known = new Map(suggestions.map((each) => [each.path, each]));
  fill($("#advice"), [
    { title: "Policy", value: (s) => s.path, kind: "mono name" },
    { title: "In force", value: (s) => s.old ?? "–", kind: "n" },
    { title: "The data says", value: (s) => s.new, kind: "n" },
    { title: "Evidence", value: (s) => s.why, kind: "words" },
  ], suggestions, (s) => s.path, "Nothing differs from the data.");
  setText($("#advice-note"), `${plural(suggestions.length, "value")} from ${number(requests)} requests in ${duration(seconds)}`);
  setText($("#advice-unknown"), unknown.length ? `Not in these figures: ${unknown.join("; ")}.` : "");
}

async function ask() {
  const button = $("#advice-ask");
  button.disabled = true;
  setText($("#advice-note"), "computing …");
  try {
    show(await get("/advice"));
  } catch (error) {
    setText($("#advice-note"), error.message);
  }
  button.disabled = false;
}

export function start() {
  $("#advice-ask").addEventListener("click", ask);
}
