// Dialogs: for a key, for yes or no.

import { t } from "./language.js";

const find = (id) => document.getElementById(id);

// Show a dialog. Resolves when it is closed: to the value passed to `finish`, or to null.
function ask(dialog, prepare) {
  return new Promise((resolve) => {
    let answer = null;
    const finish = (value) => {
      answer = value;
      dialog.close();
    };
    prepare(finish);
    dialog.addEventListener("close", () => resolve(answer), { once: true });
    dialog.showModal();
  });
}

export function askKey(code) {
  const input = find("key-value");
  input.value = "";
  find("key-why").textContent = t(code === "key_unknown" ? "key_unknown" : "key_missing");
  return ask(find("key"), (finish) => {
    const send = () => input.value.trim() && finish(input.value.trim());
    find("key-send").onclick = send;
    input.onkeydown = (event) => event.key === "Enter" && send();
  });
}

// A line of text; null if the dialog was dismissed.
export function askLine(title, label, value = "") {
  const input = find("line-value");
  find("line-title").textContent = title;
  find("line-label").textContent = label;
  input.value = value;
  return ask(find("line"), (finish) => {
    const send = () => finish(input.value);
    find("line-send").onclick = send;
    input.onkeydown = (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault(); // or Enter presses the button that gets the focus back
      send();
    };
  });
}

export function confirmed(title, text, yes) {
  find("confirm-title").textContent = title;
  find("confirm-text").textContent = text;
  find("confirm-yes").textContent = yes;
  return ask(find("confirm"), (finish) => (find("confirm-yes").onclick = () => finish(true)));
}

for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
// a click beside a dialog closes it
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
