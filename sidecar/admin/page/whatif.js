// Section "What if": sends policies to be tried, and shows their problems, what they change, the route of
// a request, and cascades that they contain.

import { $, make, setText } from "./dom.js";
import { post } from "./stream.js";
import { plural } from "./words.js";

const line = (tone, text) => make("li", { "data-tone": tone }, text);

function show({ problems, diff, explained, cascades }) {
  const lines = problems.map((p) => line(p.severity === "error" ? "bad" : "warn", `line ${p.line}: ${p.path} ${p.rule ?? ""} ${p.message}`));
  const subjects = diff?.subjects ?? [];
  for (const subject of subjects) lines.push(line(subject.risk ? "warn" : "ok", subject.sentence));
  for (const { scenario, title, missed } of cascades ?? []) {
    lines.push(line(missed.length ? "warn" : "ok", `cascade ${scenario} (${title}): ${missed.length ? `not contained: ${missed.join("; ")}` : "contained"}`));
  }
  $("#what-if-lines").replaceChildren(...lines);
  const errors = problems.filter((p) => p.severity === "error").length;
  setText($("#what-if-note"), errors ? plural(errors, "error") : subjects.length ? `${plural(subjects.length, "change")} to what runs` : "behaves as what runs");
  $("#what-if-route").hidden = !explained;
  setText($("#what-if-route"), explained ?? "");
}

async function tryIt() {
  const button = $("#what-if-try");
  button.disabled = true;
  setText($("#what-if-note"), "trying …");
  try {
    show(await post("/what-if", {
      policies: $("#what-if-text").value, method: $("#what-if-method").value.trim() || "GET",
      url: $("#what-if-url").value.trim(), deep: $("#what-if-deep").checked, cascades: $("#what-if-cascades").checked,
    }));
  } catch (error) {
    setText($("#what-if-note"), error.message);
  }
  button.disabled = false;
}

export function start() {
  $("#what-if-try").addEventListener("click", tryIt);
}
