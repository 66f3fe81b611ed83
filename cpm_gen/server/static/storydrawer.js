// The drawer of a story: its fields, and what of it the model has in sight.

import { say, t } from "./language.js";
import { EMPTY, notationOf, PARTS } from "./story.js";

export class StoryDrawer {
  // changed(story) is called with the fields, or with null where they say nothing.
  constructor(dialog, button, changed) {
    Object.assign(this, { dialog, button, changed });
    this.fields = dialog.querySelector("form").elements;
    this.lore = dialog.querySelector("#lore");
    [this.sight, this.wrong] = ["#story-sight", "#story-wrong"].map((name) => dialog.querySelector(name));
    dialog.querySelector("#lore-add").addEventListener("click", () => this.add().querySelector("input").focus());
    dialog.addEventListener("input", () => this.take());
    dialog.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  }

  open(story) {
    const { lore, head, ...rest } = { ...EMPTY, ...story };
    this.head = head;
    for (const [name, value] of Object.entries(rest)) this.fields[name].value = value;
    this.lore.replaceChildren();
    for (const one of lore) this.add(one);
    this.dialog.showModal();
  }

  add({ keys = "", text = "", order = "", constant = false } = {}) {
    const item = document.createElement("li");
    const made = [["lore_keys", "input", keys], ["lore_text", "textarea", text], ["lore_order", "input", order], ["lore_constant", "input", constant]];
    for (const [name, tag, value] of made) {
      const label = document.createElement("label");
      const words = document.createElement("span");
      say(words, name);
      const input = document.createElement(tag);
      input.dataset.part = name.slice(5);
      input.lang = "zh-Hans";
      if (name === "lore_constant") Object.assign(input, { type: "checkbox", checked: value });
      else input.value = value;
      if (name === "lore_order") Object.assign(input, { type: "number", min: 0, step: 1, inputMode: "numeric" });
      if (tag === "textarea") input.rows = 3;
      label.append(words, input);
      item.append(label);
    }
    const drop = document.createElement("button");
    drop.className = "plain";
    drop.type = "button";
    say(drop, "lore_remove");
    drop.addEventListener("click", () => {
      const next = item.nextElementSibling ?? item.previousElementSibling;
      item.remove();
      this.take();
      (next?.querySelector("input") ?? this.dialog.querySelector("#lore-add")).focus();
    });
    item.append(drop);
    this.lore.append(item);
    return item;
  }

  take() {
    const story = { head: this.head, lore: [] };
    for (const name of [...Object.keys(PARTS), "depth", "outline"]) story[name] = this.fields[name].value;
    for (const item of this.lore.children) {
      const part = (name) => item.querySelector(`[data-part=${name}]`);
      const [keys, text, order] = ["keys", "text", "order"].map((name) => part(name).value);
      story.lore.push({ keys, text, order, constant: part("constant").checked });
    }
    this.complain("");
    const typed = notationOf(story) || story.lore.some(({ keys, text }) => keys || text);
    this.changed(typed ? story : null);
  }

  // sight: {in_sight, left_out} of the last window, or null.
  show(story, sight) {
    this.button.setAttribute("aria-pressed", String(Boolean(story)));
    const names = sight?.in_sight.join(t("sight_between"));
    const left = sight?.left_out.join(t("sight_between"));
    const said = !sight ? t("sight_none") : t("sight", { names: names || t("sight_nothing") }) + (left ? ` ${t("sight_left", { names: left })}` : "");
    if (this.sight.textContent !== said) this.sight.textContent = said;
  }

  complain(message) {
    this.wrong.textContent = message;
  }
}
