// Section "What the data says": values that the figures of the last hours suggest, each with its evidence.  The server
// computes them when asked, and keeps them for a minute; they also stand beside the limits, budgets and breakers.

import { $, fill, setText } from "./dom.js";
import { get } from "./stream.js";
import { duration, number, plural } from "./words.js";

let known = new Map();

/* Words beside the value in force at a path, such as `upstreams.payments.concurrency.max`; empty without a suggestion. */
export const beside = (path) => (known.has(path) ? `, the data says ${known.get(path)}` : "");

/* Keys that lead to the owner of a state object, such as `upstreams.payments` for `upstream:payments`. */
export const ownerOf = (name) => name.replace(/^(route|upstream):/, "$1s.").replace(/:.*/, "");

function show({ suggestions, requests, seconds, unknown }) {
  known = new Map(suggestions.map((each) => [each.path, each.new]));
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
