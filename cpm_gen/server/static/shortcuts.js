// Keyboard shortcuts. Each one presses a visible button.

import { say } from "./language.js";

const TABLE = [
  ["Ctrl+Enter", "key.write"],
  ["Esc", "key.stop"],
  ["Ctrl+Z", "key.undo"],
  ["Ctrl+Shift+Z", "key.redo"],
  ["Alt+R", "key.retry"],
  ["Ctrl+Shift+Enter", "key.three"],
  ["1 … 9", "key.choose"],
  ["Alt+G", "key.rewrite"],
  ["Alt+L", "key.line"],
  ["Alt+T", "key.forms"],
  ["Alt+S", "key.story"],
  ["Alt+W", "key.works"],
  ["Alt+N", "key.new"],
  ["Ctrl+S", "key.export"],
  ["Ctrl+P", "key.print"],
  ["? / Ctrl+/", "key.help"],
];

export function fillTable(body) {
  const apple = /Mac|iPhone|iPad/.test(navigator.platform);
  for (const [keys, name] of TABLE) {
    const row = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    for (const key of keys.split(" ")) {
      const one = document.createElement("kbd");
      one.textContent = apple ? key.replace("Ctrl", "⌘").replace("Alt", "⌥") : key;
      head.append(key === "/" ? " " : key === "…" ? "… " : one, " ");
    }
    row.append(head);
    say(row.insertCell(), name);
  }
}

// `press`: the action of each shortcut, by the id of its button. `choose(n)` returns whether there was a candidate to take.
export function listen(press, choose) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return; // this key belongs to an input method
    const name = named(event);
    const typing = event.target.closest?.("input, textarea, select, [contenteditable=plaintext-only]");
    const field = event.target.closest?.("input[type=number], textarea, select"); // a field that takes digits itself
    if (document.querySelector("dialog[open]")) return;
    const digit = /^[1-9]$/.test(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey;
    if (digit && !field && choose(Number(event.key) - 1)) {
      event.preventDefault();
    } else if (name === "?" ? !typing && press("help") : name && press(name)) {
      event.preventDefault();
    }
  });
}

function named(event) {
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (control && key === "enter") return event.shiftKey ? "three" : "write";
  if (key === "escape") return "stop";
  if (control && key === "z") return event.shiftKey ? "redo" : "undo";
  if (control && key === "y") return "redo";
  if (control && key === "s") return "export";
  if (control && key === "/") return "help";
  if (event.altKey && !control) return { KeyR: "retry", KeyW: "works", KeyN: "new", KeyG: "rewrite", KeyL: "line_menu", KeyT: "forms", KeyS: "story" }[event.code];
  return key === "?" ? "?" : null;
}
