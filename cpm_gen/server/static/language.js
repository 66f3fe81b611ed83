// The page's texts in the user's language.

import { en } from "./en.js";
import { forever } from "./kept.js";
import { inLetters } from "./lengths.js";
import { zh } from "./zh.js";

const TABLES = { zh, en };
const KEPT = "cpm-gen:language";

let language = forever.get(KEPT) || (navigator.language.startsWith("zh") ? "zh" : "en");
if (!TABLES[language]) language = "en";

// The text named `name` with its `{value}`s filled in; the name itself if there is none.
export function t(name, values = {}) {
  const words = TABLES[language][name] ?? name;
  return words.replace(/\{(\w+)\}/g, (_, value) => values[value] ?? "");
}

export const has = (name) => name in TABLES[language];

// An element whose text changes with the language.
export function say(element, name) {
  element.dataset.say = name;
  element.textContent = t(name);
}

export function speak(root = document) {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  document.title = t("page");
  for (const element of root.querySelectorAll("[data-say]")) element.textContent = t(element.dataset.say);
  for (const element of root.querySelectorAll("[data-name]")) {
    const name = t(element.dataset.name);
    element.setAttribute("aria-label", name);
    const keys = element.getAttribute("aria-keyshortcuts");
    element.title = keys ? `${name} (${keys.split(" ")[0].replace("Control", "Ctrl")})` : name;
  }
  for (const element of root.querySelectorAll("[data-hint]")) element.title = t(element.dataset.hint);
  for (const element of root.querySelectorAll("[data-tokens]")) {
    const n = element.dataset.tokens;
    element.textContent = t("letters", { z: number(inLetters(n)) });
    element.title = t("tokens", { n: number(n) });
  }
}

// The language of the page, as a browser names it: that of the service's messages.
export const tongue = () => (language === "zh" ? "zh-CN" : "en");

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  speak();
  forever.set(KEPT, language);
}

const formats = { zh: new Intl.NumberFormat("zh"), en: new Intl.NumberFormat("en") };

export function number(value) {
  return formats[language].format(value);
}

export function when(seconds) {
  const date = new Date(seconds * 1000);
  const today = new Date().toDateString() === date.toDateString();
  const style = today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(language, style).format(date);
}
