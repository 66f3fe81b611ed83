// What a writer keeps for all texts: presets of their own, and words that the model is not to write.

import { Lost } from "./api.js";
import { askLine } from "./dialogs.js";
import { t } from "./language.js";
import { loadOwn, saveOwn } from "./store.js";

const PAUSE = 500; // ms without a key press after which words are looked up

export class Personal {
  constructor(section, api, settings) {
    Object.assign(this, { section, api, settings });
    this.kept = { presets: {}, words: "", ids: [], ...loadOwn() };
    const find = (id) => section.querySelector(id);
    [this.select, this.words, this.said] = [find("#own"), find("#banned"), find("#banned-said")];
    this.words.value = this.kept.words;
    settings.banned = this.kept.ids;
    // the form takes its own fields only
    section.addEventListener("input", (event) => event.stopPropagation());
    this.select.addEventListener("change", () => this.choose());
    find("#own-save").addEventListener("click", () => this.save());
    find("#own-remove").addEventListener("click", () => this.remove());
    this.words.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.look(), PAUSE);
    });
    this.show();
  }

  show(name = "") {
    const names = Object.keys(this.kept.presets);
    this.select.replaceChildren(...[["", t("own_none")], ...names.map((one) => [one, one])].map(([value, text]) => new Option(text, value)));
    this.select.value = name;
    this.section.querySelector("#own-remove").disabled = !name;
  }

  choose() {
    const name = this.select.value;
    if (name) this.settings.put(this.kept.presets[name]);
    this.show(name);
  }

  async save() {
    const name = (await askLine(t("own_save"), t("own_name"), this.select.value))?.trim();
    if (!name) return;
    this.kept.presets = { ...this.kept.presets, [name]: { ...this.settings.values } };
    saveOwn(this.kept);
    this.show(name);
  }

  remove() {
    delete this.kept.presets[this.select.value];
    saveOwn(this.kept);
    this.show();
  }

  // Find the token of each word. The service bans single tokens.
  async look() {
    const words = [...new Set(this.words.value.split("\n").map((word) => word.trim()).filter(Boolean))];
    const looked = (this.looked = {});
    const [ids, several] = [[], []];
    try {
      for (const word of words) {
        const { token_ids: tokens, pieces } = await this.api.json("POST", "/tokenize", { text: word, style: "plain" });
        if (this.looked !== looked) return;
        const own = tokens.filter((_, n) => pieces[n].replace("▁", "").trim()); // not the mark of a word's beginning
        if (own.length === 1) ids.push(own[0]);
        else several.push(word);
      }
    } catch (error) {
      if (this.looked === looked) this.said.textContent = error instanceof Lost ? t("banned_later") : error.message;
      return;
    }
    Object.assign(this.kept, { words: this.words.value, ids });
    saveOwn(this.kept);
    this.settings.banned = ids;
    this.settings.changed();
    const said = [];
    if (ids.length) said.push(t("banned_some", { n: ids.length }));
    if (several.length) said.push(t("banned_tokens", { words: several.join(t("between")) }));
    this.said.textContent = said.join(" ");
  }
}
