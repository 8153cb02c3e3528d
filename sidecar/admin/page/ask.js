// Dialogs: confirmation of an action, and input of the token.

import { $, setText } from "./dom.js";

/* Resolves to true, or to the entered text if `field` is set; to false if the person cancels. */
export function ask({ title, text, yes, field = false }) {
  const dialog = $("#ask"), input = $("#ask-input");
  setText($("#ask-title"), title);
  setText($("#ask-text"), text);
  setText($("#ask-yes"), yes);
  $("#ask-field").hidden = !field;
  input.value = "";
  input.required = field;
  dialog.returnValue = "no";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const answer = dialog.returnValue === "yes" && (field ? input.value : true);
      input.value = "";
      resolve(answer);
    };
  });
}

let hiding = 0;

export function toast(text) {
  const box = $("#toast");
  setText(box, text);
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (box.hidden = true), 8000);
}
