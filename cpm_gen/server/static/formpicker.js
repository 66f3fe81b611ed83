// Choose a form: by its name or an alias, or in notation; with rhyme book, first characters and words. The pattern is shown below.

import { FormCheck, mistake } from "./formcheck.js";
import { say, t } from "./language.js";
import { FREE, isName } from "./verse.js";

const SHOWN = 60; // names in the list
const VARIANTS = ["仄起", "平起", "仄起入韵", "平起入韵"]; // of regulated verse; those of a 词牌 are numbers
const LONG = ["10", "12", "16", "20", "24"]; // lines of 排律
const BOOKS = "rhyme_book";

export class FormPicker {
  // `books`: the rhyme books that the service knows. chosen(form) is called with fields, or with null for free text.
  constructor(dialog, api, books, chosen) {
    Object.assign(this, { dialog, api, chosen, names: null, at: 0 });
    this.find = (name) => dialog.querySelector(`#form-${name}`);
    this.fields = dialog.querySelector("form").elements;
    [this.search, this.list, this.shown, this.wrong] = ["search", "names", "pattern", "wrong"].map(this.find);
    this.check = new FormCheck(api, () => this.show());
    for (const book of books) this.fields[BOOKS].add(new Option(book, book));
    dialog.addEventListener("input", (event) => this.take(event.target));
    this.search.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("click", ({ target }) => target.dataset.name && this.choose(target));
    this.find("free").addEventListener("click", () => this.close(null));
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.form.form.trim()) this.close(this.form);
      else (this.own ? this.fields.form : this.search).focus();
    });
  }

  get own() {
    return this.fields.by.value === "own";
  }

  get form() {
    const { rhyme_book: book, acrostic, include, exclude, prompt, variant } = this.fields;
    const name = [this.name, variant.value].filter(Boolean).join(" ");
    const rest = { rhyme_book: book.value, acrostic: acrostic.value, include: include.value, exclude: exclude.value, prompt: prompt.value };
    return { form: this.own ? this.fields.form.value : this.name && name, ...rest };
  }

  async open(form) {
    const { form: text, ...rest } = { ...FREE, ...form };
    const named = text && isName(text);
    this.fields.by.value = text && !named ? "own" : "name";
    for (const [name, value] of Object.entries(rest)) this.fields[name].value = value;
    this.fields.form.value = named ? "" : text;
    this.name = "";
    this.search.value = "";
    this.fold();
    this.dialog.showModal();
    await this.load();
    if (named) {
      const [name, variant = ""] = text.split(" ");
      this.pick(name, variant);
    } else this.typed(); // perhaps a name that was typed before the list came
    this.look();
  }

  async load() {
    try {
      this.names ??= (await this.api.json("GET", "/forms")).forms;
    } catch {
      this.names = null; // asked again at the next opening; a name can be typed all the same
    }
  }

  take(target) {
    if (target.name === "by") this.fold();
    else if (target === this.search) this.typed();
    this.look();
  }

  typed() {
    this.name = this.search.value.trim();
    this.variants("");
    this.offer();
  }

  fold() {
    this.find("by-name").hidden = this.own;
    this.find("by-own").hidden = !this.own;
  }

  // The names that begin with what is typed, then those that hold it.
  offer() {
    const typed = this.search.value.trim();
    const found = [];
    for (const { name, aliases } of this.names ?? []) {
      const all = [name, ...aliases];
      const known = all.find((one) => one === typed) ?? all.find((one) => one.includes(typed));
      if (known) found.push([known === name ? "" : known, name, known.startsWith(typed) ? 0 : 1]);
    }
    found.sort((a, b) => a[2] - b[2]);
    this.list.replaceChildren(...found.slice(0, SHOWN).map(([alias, name], n) => {
      const item = document.createElement("li");
      Object.assign(item, { id: `form-name-${n}`, textContent: alias ? t("form_alias", { name, alias }) : name });
      item.setAttribute("role", "option");
      Object.assign(item.dataset, { name, alias });
      return item;
    }));
    this.mark(found.findIndex(([, name]) => name === this.name));
  }

  mark(at) {
    this.at = at;
    for (const [n, item] of [...this.list.children].entries()) item.setAttribute("aria-selected", String(n === at));
    const item = this.list.children[at];
    if (item) this.search.setAttribute("aria-activedescendant", item.id);
    else this.search.removeAttribute("aria-activedescendant");
    item?.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    if (event.isComposing) return;
    const { length } = this.list.children;
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && length) {
      event.preventDefault();
      this.mark((this.at + by + length) % length);
    } else if (event.key === "Enter" && this.list.children[this.at] && this.list.children[this.at].dataset.name !== this.name) {
      event.preventDefault();
      this.choose(this.list.children[this.at]);
    }
  }

  choose({ dataset: { name, alias } }) {
    this.pick(alias || name);
  }

  // Another name may mean a variant: 钗头凤 is 撷芳词 4.
  pick(name, variant = "") {
    const known = this.names?.find((one) => one.name === name || one.aliases.includes(name));
    this.name = known?.name ?? name;
    this.search.value = this.name;
    this.variants(variant || String(known?.alias_variants[name] ?? ""));
    this.offer();
    this.look();
  }

  variants(chosen) {
    const { variant } = this.fields;
    const known = this.names?.find((one) => one.name === this.name);
    const regulated = /^[五七][绝律]$/.test(this.name);
    const numbers = Array.from({ length: known?.variants ?? 0 }, (_, n) => String(n + 1));
    const choices = !known ? [] : regulated ? VARIANTS : known.lines ? LONG : numbers;
    variant.replaceChildren(...[...new Set([...choices, ...(chosen ? [chosen] : [])])].map((one) => new Option(one, one)));
    variant.closest("label").hidden = variant.options.length < 2;
    if (chosen) variant.value = chosen;
    else variant.selectedIndex = 0;
  }

  look() {
    const { form } = this;
    this.find("use").disabled = !form.form.trim();
    this.check.look(form.form.trim() ? form : null, "");
    this.show();
  }

  // The pattern, or what is wrong.
  show() {
    const { lines, refused } = this.check;
    this.wrong.textContent = refused ? (mistake(refused) ?? refused) : "";
    this.shown.replaceChildren(...(lines ?? []).map(({ section, parts }) => {
      const row = document.createElement("li");
      if (section) row.dataset.section = section;
      for (const { slots, label, same, end } of parts) {
        row.append(slots);
        if (label) row.append(Object.assign(document.createElement("b"), { textContent: label + (same ? "*" : "") }));
        if (end) row.append(end === "+" ? " " : end);
      }
      return row;
    }));
    say(this.find("book-own"), "form_book_own");
  }

  close(form) {
    this.dialog.close();
    this.chosen(form);
  }
}
