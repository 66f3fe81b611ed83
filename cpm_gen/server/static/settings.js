// How the model writes: styles with settings of their own, the few that matter in sight, the rest folded away.

import { loadSettings, saveSettings } from "./store.js";
import { say, t } from "./language.js";

const WRITTEN = { temperature: 0.95, top_k: 50, top_p: 0.95 }; // configs/lyric.yaml and novel.yaml
const PRESETS = {
  lyric: { ...WRITTEN, max_new_tokens: 200, "window.boundary": "eod" },
  novel: { ...WRITTEN, max_new_tokens: 500, "window.boundary": "sentence" },
  plain: { temperature: 1, max_new_tokens: 256 },
};
const LENGTHS = [60, 200, 256, 500, 1000, 3000, null];

// name, default, range of what the service takes; a default of null leaves the value to the service
const FOLDED = [
  { name: "top_p", is: 0, min: 0, max: 1, step: 0.01 },
  { name: "top_k", is: 0, min: 0, max: 2 ** 31 - 1, step: 1 },
  { name: "min_p", is: 0, min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", is: 1, min: 0.01, max: 100, step: 0.01 },
  { name: "presence_penalty", is: 0, min: -100, max: 100, step: 0.1 },
  { name: "frequency_penalty", is: 0, min: -100, max: 100, step: 0.1 },
  { name: "no_repeat_ngram", is: 0, min: 0, max: 1024, step: 1 },
  { name: "seed", is: null, min: 0, max: 2 ** 53 - 1, step: 1 },
  { name: "window.hop", is: null, min: 1, max: 2 ** 31 - 1, step: 1 },
  { name: "window.keep", is: null, min: 0, max: 2 ** 31 - 1, step: 1 },
  { name: "window.boundary", is: null, options: [null, "token", "sentence", "eod"] },
  { name: "stop", is: "", text: true },
  { name: "stop_at_eod", is: false, check: true },
];

export class Settings {
  constructor(form, changed) {
    this.form = form;
    this.changed = changed;
    this.fields = new Map();
    for (const name of ["style", "max_new_tokens", "temperature"]) this.fields.set(name, { name });
    for (const length of LENGTHS) this.addLength(length);
    const folded = form.querySelector("#folded");
    for (const field of FOLDED) folded.append(this.make(field));
    this.values = { ...preset("novel"), ...loadSettings() };
    this.show();
    form.addEventListener("input", (event) => this.take(event.target));
    form.querySelector("#reset").addEventListener("click", () => this.choose(this.values.style));
  }

  addLength(length) {
    const option = new Option(length ?? "", length ?? "");
    if (length === null) say(option, "endless");
    else option.dataset.tokens = length;
    this.form.elements.max_new_tokens.add(option);
  }

  make(field) {
    this.fields.set(field.name, field);
    const label = document.createElement("label");
    const name = document.createElement("span");
    say(name, `field.${field.name}`);
    let input = document.createElement(field.options ? "select" : field.text ? "textarea" : "input");
    if (field.options) for (const option of field.options) input.add(boundary(option));
    else if (field.check) input.type = "checkbox";
    else if (field.text) input.rows = 2;
    else Object.assign(input, { type: "number", min: field.min, max: field.max, step: "any", inputMode: "decimal" });
    input.name = field.name;
    const wrong = document.createElement("small");
    Object.assign(wrong, { id: `wrong-${field.name}`, className: "wrong" });
    input.setAttribute("aria-describedby", wrong.id);
    label.append(name, input, wrong);
    return label;
  }

  choose(style) {
    this.values = preset(style);
    this.show();
    this.store();
  }

  show() {
    const { elements } = this.form;
    const length = this.values.max_new_tokens;
    if (![...elements.max_new_tokens.options].some((option) => option.value === String(length ?? ""))) this.addLength(length);
    for (const [name, field] of this.fields) {
      const value = this.values[name];
      if (field.check) elements[name].checked = value;
      else elements[name].value = value ?? "";
    }
    this.form.querySelector("#warmth").value = this.values.temperature.toFixed(2);
    this.complain(null);
  }

  take({ name }) {
    if (name === "style") {
      this.choose(this.form.elements.style.value);
      return;
    }
    const input = this.form.elements[name];
    const field = this.fields.get(name);
    if (field.check) this.values[name] = input.checked;
    else if (field.text || field.options) this.values[name] = input.value || field.is;
    else this.values[name] = input.value === "" ? (field.is ?? null) : Number(input.value);
    this.form.querySelector("#warmth").value = this.values.temperature.toFixed(2);
    this.complain(null);
    this.store();
  }

  store() {
    saveSettings(this.values);
    this.changed();
  }

  // As a request has them; what is left to the service is left out.
  body() {
    const body = {};
    for (const [name, value] of Object.entries(this.values)) {
      if (name === "max_new_tokens") body[name] = value;
      else if (name === "stop") body.stop = value ? value.split("\n").filter(Boolean) : [];
      else if (value === null) continue;
      else if (name.startsWith("window.")) (body.window ??= {})[name.slice(7)] = value;
      else body[name] = value;
    }
    return body;
  }

  // Those of a work that was opened; its drawn seed is its own.
  adopt(parameters) {
    for (const name of this.fields.keys()) {
      if (name === "seed") this.values.seed = null;
      else if (name.startsWith("window.")) this.values[name] = parameters.window?.[name.slice(7)] ?? null;
      else if (name === "stop") this.values.stop = (parameters.stop || []).join("\n");
      else if (parameters[name] !== undefined) this.values[name] = parameters[name];
    }
    this.show();
    this.store();
  }

  // Mark the field that the service did not accept; whether there is one.
  complain(name, message = "") {
    const named = name?.replace(/^stop\.\d+$/, "stop");
    for (const field of this.fields.keys()) {
      const wrong = document.getElementById(`wrong-${field}`);
      if (wrong) wrong.textContent = field === named ? message : "";
      const input = this.form.elements[field];
      if (input.setAttribute) input.setAttribute("aria-invalid", String(field === named));
    }
    const known = this.fields.has(named);
    if (known && document.getElementById(`wrong-${named}`)) {
      document.getElementById("more").open = true;
      this.form.elements[named].focus();
    }
    return known;
  }
}

function preset(style) {
  const values = { style, ...Object.fromEntries(FOLDED.map(({ name, is }) => [name, is])), ...PRESETS[style] };
  return values;
}

function boundary(value) {
  const option = new Option("", value ?? "");
  say(option, `boundary.${value ?? "own"}`);
  return option;
}

export function fieldName(name) {
  const label = t(`field.${name}`);
  return label.startsWith("field.") ? name : label;
}
