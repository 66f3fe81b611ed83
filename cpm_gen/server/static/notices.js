// Notices: what went wrong and what to do about it.

import { Lost, Refusal } from "./api.js";
import { mistake } from "./formcheck.js";
import { fieldName } from "./settings.js";
import { has, say, t } from "./language.js";

const SHOWN = 9_000; // ms that a short notice stays

export class Notices {
  constructor(element) {
    this.element = element;
    this.timer = null;
    addEventListener("offline", () => this.tell("error.offline"));
    addEventListener("online", () => this.named === "error.offline" && this.clear());
  }

  // Show a short notice.
  tell(name, values) {
    this.show(t(name, values), []);
    this.named = name;
    this.timer = setTimeout(() => this.clear(), SHOWN);
  }

  // Show an error response or a lost connection. With `again`, retry automatically if waiting helps.
  refused(error, again) {
    const words = wordsFor(error);
    const waits = again && (error instanceof Lost || error.status === 429 || error.status === 503);
    if (!waits) {
      this.show(words, []);
      return;
    }
    const now = () => {
      this.clear();
      again();
    };
    this.show(words, [["again", now], ["give_up", () => this.clear()]]);
    let left = error.retryAfter ?? 3;
    const count = document.createElement("span");
    this.element.firstChild.append(" ", count);
    const tick = () => {
      count.textContent = t("in_seconds", { n: left });
      if (left-- <= 0) now();
    };
    tick();
    this.timer = setInterval(tick, 1000);
  }

  // Show a notice with something to do.
  offer(name, action, act) {
    const done = () => {
      this.clear();
      act();
    };
    this.show(t(name), [[action, done], ["close", () => this.clear()]]);
    this.named = name;
  }

  show(words, buttons) {
    this.clear();
    const text = document.createElement("p");
    text.textContent = words;
    this.element.append(text);
    for (const [name, act] of [...buttons, ...(buttons.length ? [] : [["close", () => this.clear()]])]) {
      const button = document.createElement("button");
      button.className = "plain";
      say(button, name);
      button.addEventListener("click", act);
      this.element.append(button);
    }
  }

  clear() {
    clearTimeout(this.timer); // also clears intervals
    this.named = null;
    this.element.replaceChildren();
  }
}

export function wordsFor(error) {
  if (error instanceof Lost) return t(navigator.onLine ? "error.lost" : "error.offline");
  if (!(error instanceof Refusal)) return String(error);
  if (["bad_form", "bad_story"].includes(error.code)) return mistake(error.message) ?? error.message;
  const values = { message: error.message, status: error.status, field: error.field ? fieldName(error.field) : "" };
  const name = [`error.${error.code}`, `error.${error.status}`].find(has) || "error.other";
  return error.field || !name.endsWith("invalid") ? t(name, values) : t("error.other", values);
}
