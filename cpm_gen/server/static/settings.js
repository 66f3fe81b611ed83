// How the model writes: styles with settings of their own, the few that matter in sight, the rest folded away. Which settings there
// are, their defaults, bounds and presets are the service's (GET /settings); a setting is shown if it has a label in both languages.

import { pause } from "./api.js";
import { loadSettings, saveSettings } from "./store.js";
import { has, say, t } from "./language.js";

const IN_SIGHT = ["style", "max_new_tokens", "temperature"];
const LENGTHS = [60, 200, 256, 500, 1000, 3000, null];

// What the service offers; tried again until it answers.
export async function offered(api) {
  for (;;) {
    try {
      return await api.json("GET", "/settings");
    } catch {
      await pause(1000);
    }
  }
}

export class Settings {
  // `elsewhere`: names of settings that a document has, not this form.
  constructor(form, { settings, presets }, changed, elsewhere) {
    this.form = form;
    this.presets = presets;
    this.banned = []; // ids of words
    this.changed = changed;
    this.fields = new Map();
    for (const length of LENGTHS) this.addLength(length);
    const folded = form.querySelector("#folded");
    for (const setting of settings) {
      if (IN_SIGHT.includes(setting.name)) this.fields.set(setting.name, setting);
      else if (has(`field.${setting.name}`) && !elsewhere.includes(setting.name)) folded.append(this.make(setting));
    }
    const kept = Object.entries(loadSettings()).filter(([name]) => this.fields.has(name));
    this.values = { ...this.preset("novel"), ...Object.fromEntries(kept) };
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
    const lines = field.type === "array" || field.type === "string";
    const input = document.createElement(field.choices ? "select" : lines ? "textarea" : "input");
    if (field.choices) {
      if (field.default === null) input.add(choice(field.name, null));
      for (const word of field.choices) input.add(choice(field.name, word));
    } else if (lines) input.rows = 2;
    else if (field.type === "boolean") input.type = "checkbox";
    else {
      const { min, max } = field;
      Object.assign(input, { type: "number", min: min ?? "", max: max ?? "", step: "any", inputMode: "decimal" });
    }
    input.name = field.name;
    const wrong = document.createElement("small");
    Object.assign(wrong, { id: `wrong-${field.name}`, className: "wrong" });
    input.setAttribute("aria-describedby", wrong.id);
    label.append(name, input, wrong);
    return label;
  }

  preset(style) {
    const values = [...this.fields.values()].map((field) => [field.name, initial(field)]);
    return { ...Object.fromEntries(values), style, ...this.presets[style] };
  }

  choose(style) {
    this.values = this.preset(style);
    this.show();
    this.store();
  }

  // The values of one of the user's own presets.
  put(values) {
    const known = Object.entries(values).filter(([name]) => this.fields.has(name));
    this.values = { ...this.preset(values.style), ...Object.fromEntries(known) };
    this.show();
    this.store();
  }

  show() {
    const { elements } = this.form;
    const length = this.values.max_new_tokens;
    if (![...elements.max_new_tokens.options].some((option) => option.value === String(length ?? ""))) this.addLength(length);
    for (const [name, field] of this.fields) {
      const value = this.values[name];
      if (field.type === "boolean") elements[name].checked = value;
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
    if (field.type === "boolean") this.values[name] = input.checked;
    else if (field.type === "array") this.values[name] = input.value;
    else if (name === "max_new_tokens") this.values[name] = input.value === "" ? null : Number(input.value);
    else if (input.value === "") this.values[name] = initial(field);
    else this.values[name] = field.choices || field.type === "string" ? input.value : Number(input.value);
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
      else if (this.fields.get(name)?.type === "array") body[name] = value.split("\n").filter(Boolean);
      else if (value === null) continue;
      else if (name.startsWith("window.")) (body.window ??= {})[name.slice(7)] = value;
      else body[name] = value;
    }
    if (this.banned.length) body.banned_ids = this.banned;
    return body;
  }

  // Those of a work that was opened; its drawn seed is its own.
  adopt(parameters) {
    for (const [name, field] of this.fields) {
      if (name === "seed") this.values.seed = null;
      else if (name.startsWith("window.")) this.values[name] = parameters.window?.[name.slice(7)] ?? null;
      else if (field.type === "array") this.values[name] = (parameters[name] || []).join("\n");
      else if (parameters[name] !== undefined) this.values[name] = parameters[name];
    }
    this.show();
    this.store();
  }

  // Mark the field that the service did not accept; whether there is one.
  complain(name, message = "") {
    const named = name?.replace(/\.\d+$/, "");
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

// The value of an empty field: null leaves it to the service; a list is a text of lines.
function initial(field) {
  return field.type === "array" ? field.default.join("\n") : field.default;
}

function choice(name, value) {
  const option = new Option("", value ?? "");
  say(option, `${name.split(".").pop()}.${value ?? "own"}`);
  return option;
}

export function fieldName(name) {
  const label = t(`field.${name}`);
  return label.startsWith("field.") ? name : label;
}
