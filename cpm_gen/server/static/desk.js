// The open document: its text, who wrote which part, its history, and the work of the service that writes it.

import { askedOf, bodyOf } from "./asked.js";
import { unseen } from "./edge.js";
import { History } from "./history.js";
import * as store from "./store.js";
import { MODEL, withBreaks } from "./text.js";
import { linesOf } from "./verse.js";
import { Writing } from "./writing.js";

const KEPT = 1_000; // ms between two writes to the browser's store, at least

export class Desk {
  // on: changed(), state(), renewed(), refused(error, again), said(name)
  constructor(api, editor, settings, on) {
    Object.assign(this, { api, editor, settings, on, timer: null, wait: KEPT, range: null, document: null, former: [] });
    this.writing = new Writing(this, api, editor, settings);
    addEventListener("pagehide", () => this.keep());
    document.addEventListener("visibilitychange", () => document.hidden && this.keep());
    store.watch(() => this.document.id, () => this.renew());
  }

  get text() {
    return this.document.text;
  }

  get work() {
    return this.document.work;
  }

  // The parameters of a request for this document, and the request with its text.
  asked() {
    return askedOf(this.settings, this.document);
  }

  body(asked, kept) {
    return bodyOf(asked, this.document, kept);
  }

  // The request of a few words. An outline would write all of its chapters, so it is left out.
  sample(kept) {
    const { story } = this.document;
    return this.body(askedOf(this.settings, { ...this.document, story: story && { ...story, outline: "" } }), kept);
  }

  // The text was not edited since its work wrote.
  get inStep() {
    return Boolean(this.work) && this.work.shown === this.text.string;
  }

  put(document) {
    this.leave();
    this.show(document);
    this.changed();
  }

  show(document) {
    this.document = document;
    this.history = new History(document.text);
    this.former = [];
    this.range = null;
    this.editor.show(document.text.string);
    if (this.inStep && this.work.run < document.text.length) this.history.recall(this.work.run);
    this.paint();
    this.look();
    this.writing.arrive();
  }

  // Another tab has this document open and changed it. The last change wins; what it takes from this one becomes a draft.
  renew() {
    if (this.timer || this.history.held || this.writing.active) return;
    const other = store.load(this.document.id);
    if (!other) return;
    const { text, title, work, revision, saved, base, form, locks, story } = other;
    const mine = this.document;
    const same = ["id", "event", "state"].every((name) => work?.[name] === mine.work?.[name]) && text.string === mine.text.string && title === mine.title;
    const lost = base !== mine.revision && !this.inStep && mine.text.string.trim() && !text.string.startsWith(mine.text.string);
    if (lost) store.draft(mine.revision, { ...mine, string: mine.text.string, marks: mine.text.marks() });
    if (!same) this.on.renewed();
    Object.assign(mine, { revision, saved, title, form, locks, story });
    if (same) return this.on.changed();
    mine.work = work;
    this.history.renew(text, work && work.shown !== null ? work.run : null);
    this.range = null;
    this.editor.renew(this.text.string);
    this.paint();
    this.look();
    this.writing.arrive();
    if (lost) this.on.said("overtaken");
  }

  // Open another document. The service has this one whole, or this browser keeps it.
  leave() {
    if (!this.document) return;
    this.writing.cut();
    const behind = this.keep(false);
    if (!behind && this.inStep && !this.work.part && this.work.title === this.document.title && !this.planned) store.forget(this.document.id);
  }

  // The service does not keep all of it.
  get planned() {
    return Boolean(this.document.form || this.document.story);
  }

  // A form and the chapters of an outline need no word to begin with, and are complete at their end.
  get endsItself() {
    return Boolean(this.document.form || this.document.story?.outline.trim());
  }

  // The form, the locked lines or the story were changed: not an edit of the text.
  plan(changes) {
    Object.assign(this.document, changes);
    this.changed();
    this.writing.settle();
  }

  // The document was deleted together with its work.
  discard() {
    this.writing.cut();
    store.forget(this.document.id);
    this.document = null;
    this.put(store.blank());
  }

  paint() {
    this.editor.paint(this.text.spans, this.range);
    this.on.changed();
  }

  changed() {
    this.paint();
    this.timer ??= setTimeout(() => this.keep(), this.wait);
  }

  // Store the document. Returns whether another tab has stored a newer version, which is then shown if the document stays open.
  keep(stays = true) {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.history.held) return false; // an unfinished composition is not stored
    const began = performance.now();
    const { kept, lost, behind } = store.save(this.document);
    this.wait = Math.max(KEPT, 100 * (performance.now() - began)); // a long text takes its time
    if (lost) this.on.said("overtook");
    if (!kept && !this.full) this.on.said("not_kept");
    this.full = !kept;
    if (behind && stays) this.renew(); // it came while a save was due
    return behind;
  }

  edited(from, to, string) {
    this.history.edit(from, to, string);
    if (this.history.held) this.changed();
    else this.settle();
  }

  // An input method begins or ends a composition.
  compose(begins) {
    if (begins) return this.history.hold();
    this.history.release();
    return this.settle();
  }

  // After any change that did not come from its work: does the text still match the work?
  settle() {
    this.range = null;
    this.changed();
    if (this.inStep) this.look();
    this.writing.settle();
  }

  // Name the text; without a name its first words stand for one.
  rename(title) {
    this.document.title = title.trim() || undefined;
    this.changed();
  }

  undo() {
    this.step(() => this.history.undo());
  }

  redo() {
    this.step(() => this.history.redo());
  }

  step(take) {
    this.editor.settle();
    this.writing.abandon();
    const done = take();
    if (!done) return;
    this.editor.renew(this.text.string);
    this.settle();
    this.editor.select(done.caret);
    if (done.run) this.editor.toEnd();
    else this.editor.reveal();
  }

  // Write the last run again with another seed. Undoing twice restores the first one.
  async retry() {
    this.writing.abandon();
    const run = this.history.lastRun;
    if (!run) return;
    this.history.edit(run.at, this.text.length, "");
    this.editor.renew(this.text.string);
    this.settle();
    await this.writing.write(Math.floor(Math.random() * 2 ** 48));
  }

  // One of the candidates becomes a run; a verse takes the place of the text.
  adopt(string, style) {
    if (this.document.form) this.clear();
    this.history.begin();
    this.history.grow(MODEL, store.glueOf(this.text.string, style === "lyric") + string);
    this.restore();
    this.editor.renew(this.text.string);
    this.settle();
    this.editor.toEnd();
  }

  // A verse is written in the place of the text.
  clear() {
    if (!this.text.length) return;
    this.former = linesOf(this.text.string).map(({ at, text }) => [text, this.text.slice(at, at + text.length)]);
    this.history.edit(0, this.text.length, "");
    this.editor.renew("");
  }

  // Lines of a verse that stayed, or were begun, keep their author.
  restore() {
    for (const [n, { at, text }] of linesOf(this.text.string).entries()) {
      const [old, spans] = this.former[n] ?? [];
      if (old && text.startsWith(old)) this.history.remark(at, spans);
    }
    if (this.former.length) this.paint();
    this.former = [];
  }

  // The model's words in the place of [from, to).
  replace(from, to, string) {
    this.editor.settle();
    this.history.edit(from, to, withBreaks(string), MODEL);
    this.editor.renew(this.text.string);
    this.settle();
    this.editor.select(from + string.length);
    this.editor.reveal();
  }

  // Find where the window begins.
  async look() {
    const { document: seen, work } = this;
    if (!this.inStep || !work.window || (seen.form && !work.window.text_start)) return;
    const { style } = JSON.parse(work.asked || '{"style": "plain"}');
    const pieces = async (prompt) => {
      const text = store.promptOf(prompt.replace(/\n$/, ""), style);
      return (await this.api.json("POST", "/tokenize", { text, style })).pieces;
    };
    try {
      const range = await unseen(seen, pieces);
      if (seen !== this.document || work !== this.work || !this.inStep) return;
      this.range = range;
      this.paint();
    } catch {
      // the connection is lost: the next slide asks again
    }
  }
}
