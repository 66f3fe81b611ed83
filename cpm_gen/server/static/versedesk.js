// A verse at the desk: its form, the pattern over the text, faults, locked lines, and the menu of a line.

import { FormCheck, faultWords, mistake } from "./formcheck.js";
import { FormPicker } from "./formpicker.js";
import { number, say, t } from "./language.js";
import { LineMenu } from "./linemenu.js";
import { Pattern } from "./pattern.js";
import { rhymesOf, waysOf } from "./rewriting.js";
import { begun, keptLines, linesOf, moved, nameOf } from "./verse.js";

const find = (id) => document.getElementById(id);

export class VerseDesk {
  // on: chosen(form)
  constructor(api, desk, editor, choices, books, on) {
    Object.assign(this, { api, desk, editor, choices, at: 0, locks: null, seen: [], was: false });
    this.check = new FormCheck(api, () => this.show());
    this.pattern = new Pattern(find("slots"), find("handles"), editor, { menu: (n, handle) => this.open(n, handle) });
    this.menu = new LineMenu(find("line-menu"), {
      ways: (n) => this.ways(n),
      lock: (n) => this.lock(n),
      rhymes: (n) => this.rhymes(n),
    });
    this.picker = new FormPicker(find("form-picker"), api, books, (form) => {
      desk.plan({ form, locks: [] });
      on.chosen(form);
    });
    find("verse-form").addEventListener("click", () => this.pick());
    find("verse-fault").addEventListener("click", () => this.next());
    document.addEventListener("selectionchange", () => this.form && editor.selected && this.caret());
  }

  get form() {
    return this.desk.document?.form ?? null;
  }

  get lines() {
    return linesOf(this.desk.text.string);
  }

  // The text, the form or the language changed.
  changed() {
    const { document, text, history } = this.desk;
    const { form, locks } = document;
    if (!form && !this.was) return; // prose, which may be long
    this.was = Boolean(form);
    const texts = this.lines.map((line) => line.text);
    if (locks === this.locks && locks.length) { // others came with their text: of another document, or from another tab
      const now = moved(locks, this.seen, texts);
      if (now.some((n, k) => n !== locks[k])) document.locks = now;
    }
    Object.assign(this, { locks: document.locks, seen: texts });
    window.document.body.classList.toggle("verse", Boolean(form));
    if (!history.held) this.check.look(form, text.string); // not what an input method has so far
    this.show();
  }

  show() {
    const { desk, check, form } = this;
    find("verse").hidden = !form;
    const { string } = desk.text;
    const faults = form ? check.faults(string) : [];
    this.editor.mark("fault", faults.filter(([from, to]) => to > from));
    this.pattern.show(string, form && check.lines, faults, desk.document.locks);
    const name = !form || !string.trim() ? "write" : this.whole ? "write_again" : "write_on";
    if (find("write").dataset.say !== name) say(find("write"), name);
    if (!form) return;
    delete find("verse-form").dataset.say;
    find("verse-form").textContent = nameOf(form) || t("form_name_own");
    this.verdict(faults);
  }

  verdict(faults) {
    const { check } = this;
    const said = find("verse-said");
    const here = this.lines[this.at]?.number;
    const [, , fault] = faults.find(([, , { line }]) => line === here) ?? faults[0] ?? [];
    let words = "";
    if (check.refused) words = mistake(check.refused) ?? check.refused;
    else if (fault) words = (faults.length > 1 ? t("verse_faults", { n: number(faults.length) }) : "") + faultWords(fault);
    else if (check.lines && !this.desk.text.string.trim()) words = t("verse_empty", { n: number(check.lines.length) });
    else if (check.torn) words = t("verse_unfinished");
    else if (this.missing) words = t("verse_missing", { n: number(this.missing) });
    else if (check.lines) words = t("verse_kept");
    if (said.textContent !== words) said.textContent = words;
    said.classList.toggle("wrong", Boolean(check.refused || fault));
    find("verse-fault").hidden = !faults.length;
  }

  // How many lines are still to be written, and whether the text has all of its form.
  get missing() {
    return Math.max((this.check.lines?.length ?? 0) - this.lines.length, 0);
  }

  get whole() {
    return Boolean(this.check.lines) && !this.missing && !this.check.torn;
  }

  // Call `write` with what a request keeps, unless another document is opened before the text is checked.
  async prepare(write, fresh = false) {
    const { document } = this.desk;
    if (!this.form) return write(null);
    await this.check.settle();
    if (document === this.desk.document) write(this.form && this.kept(fresh));
  }

  // The locked lines; and all that is written, where something is missing and `fresh` does not say otherwise.
  kept(fresh) {
    const { locks } = this.desk.document;
    const { check, lines } = this;
    const torn = check.torn && lines.length > 0;
    const last = lines.length - (torn ? 1 : 0);
    const writes = !fresh && !this.whole;
    const kept = keptLines(this.desk.text.string, (n) => n < last && (writes || locks.includes(n)));
    const form = writes && torn ? begun(check.notation, check.lines, last, lines[last].text) : null;
    return { lines: kept, form };
  }

  // The caret moved: the handle of its line, and what is wrong there.
  caret() {
    const at = this.editor.caret();
    const { lines } = this;
    const n = Math.max(lines.findLastIndex((line) => line.at <= at), 0);
    if (n === this.at) return;
    this.at = n;
    this.pattern.current(n);
    this.verdict(this.check.faults(this.desk.text.string));
  }

  // The caret goes to the next fault.
  next() {
    const faults = this.check.faults(this.desk.text.string);
    const at = this.editor.caret();
    const [from, to] = faults.find(([from]) => from > at) ?? faults[0] ?? [];
    if (from === undefined) return;
    this.editor.element.focus({ preventScroll: true });
    this.editor.select(from, to);
    this.editor.reveal();
  }

  pick() {
    this.picker.open(this.form);
  }

  // The menu of line `n`; without a handle, of the line of the caret.
  open(n = this.at, handle = null) {
    this.pattern.settle(); // a line just written has its handle from the next frame on
    handle ??= find("handles").children[n];
    if (!handle || this.desk.writing.active) return;
    const line = this.check.lines?.[n];
    const rhymes = Boolean(line?.parts.at(-1)?.label);
    this.menu.open(n, handle, { locked: this.desk.document.locks.includes(n), rhymes });
  }

  lock(n) {
    const { locks } = this.desk.document;
    this.desk.plan({ locks: locks.includes(n) ? locks.filter((one) => one !== n) : [...locks, n].sort((a, b) => a - b) });
  }

  ways(n) {
    const line = this.lines[n];
    if (!line) return;
    const lead = line.text.length - line.text.trimStart().length;
    this.passage([line.at + lead, line.at + line.text.trimEnd().length]);
  }

  // Other ways to write [from, to), a line of a verse or a part of a text.
  passage(range) {
    const { api, desk, choices } = this;
    choices.show(waysOf(api, desk.asked(), desk.document, range, (from, to, words) => desk.replace(from, to, words)));
  }

  rhymes(n) {
    const { api, desk, choices, lines, check } = this;
    const torn = check.torn && n === lines.length - 1;
    if (lines[n]) choices.show(rhymesOf(api, desk.asked(), desk.document, lines[n], torn, (from, to, word) => desk.replace(from, to, word)));
  }
}
