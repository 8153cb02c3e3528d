// Theme: light, dark, or that of the system.  The choice is stored in this browser.

import { $, setText } from "./dom.js";

const KEY = "sidecar.theme";
const ORDER = ["system", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");

export function follow(changed) {
  let chosen = localStorage.getItem(KEY) ?? "system";
  const apply = () => {
    document.documentElement.dataset.theme = chosen === "system" ? (dark.matches ? "dark" : "light") : chosen;
    setText($("#theme"), `Theme: ${chosen}`);
    changed();
  };
  $("#theme").addEventListener("click", () => {
    chosen = ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length];
    localStorage.setItem(KEY, chosen);
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}
