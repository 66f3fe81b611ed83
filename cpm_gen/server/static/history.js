// Undo and redo: the user's edits, joined into words, and whole runs of the model.

import { difference, MODEL, sizeOf, Text, WRITER } from "./text.js";

const PAUSE = 1200; // ms without a key press after which a new edit begins

export class History {
  constructor(text) {
    this.text = text;
    this.past = [];
    this.future = [];
    this.held = null;
  }

  get canUndo() {
    return this.past.length > 0;
  }

  get canRedo() {
    return this.future.length > 0;
  }

  // The run at the end of the text, if nothing was changed since.
  get lastRun() {
    const last = this.past[this.past.length - 1];
    return last && last.run ? last : null;
  }

  // The user replaces [from, to) with `string`, which may be the model's.
  edit(from, to, string, who = WRITER) {
    const inserted = string ? [{ who, text: string }] : [];
    const removed = this.text.replace(from, to, inserted);
    if (this.held) return; // a composition is one edit, whatever its intermediate states
    this.record({ at: from, removed, inserted, time: who === WRITER ? Date.now() : 0 }, who === WRITER);
  }

  // An input method begins a composition; release() records everything since as one edit.
  hold() {
    this.held = new Text(this.text.spans.map((span) => ({ ...span })));
  }

  release() {
    const before = this.held;
    this.held = null;
    if (!before || before.string === this.text.string) return;
    const { from, to, text } = difference(before.string, this.text.string);
    this.record(
      { at: from, removed: before.slice(from, to), inserted: this.text.slice(from, from + text.length), time: Date.now() },
      true,
    );
  }

  // Begin a run of the model at the end of the text, or record `spans` as one.
  begin() {
    this.record({ at: this.text.length, removed: [], inserted: [], run: true });
  }

  // Append to the run.
  grow(who, string) {
    const run = this.past[this.past.length - 1];
    this.text.replace(this.text.length, this.text.length, [{ who, text: string }]);
    const last = run.inserted[run.inserted.length - 1];
    if (last) last.text += string;
    else run.inserted.push({ who, text: string });
  }

  // Say who wrote a part of the run at the end.
  remark(at, spans) {
    const { lastRun: run, text } = this;
    if (!run || at < run.at) return;
    text.replace(at, at + sizeOf(spans), spans);
    run.inserted = text.slice(run.at, text.length);
  }

  // After a reload: record the text from `at` on as one run.
  recall(at) {
    this.past.push({ at, removed: [], inserted: this.text.slice(at, this.text.length), run: true });
  }

  // Another tab changed the text: record it as an edit, and as a run what the model wrote from `run` on.
  renew(text, run) {
    const { lastRun } = this;
    if (lastRun && lastRun.at === run && text.string.startsWith(this.text.string)) {
      this.grow(MODEL, text.string.slice(this.text.length));
      return;
    }
    const before = this.text.string;
    const edit = difference(before, text.string.slice(0, run ?? text.length));
    const inserted = text.slice(edit.from, edit.from + edit.text.length);
    const removed = this.text.replace(edit.from, edit.to, inserted);
    if (edit.from !== edit.to || edit.text) this.record({ at: edit.from, removed, inserted });
    if (run === null || run >= text.length) return;
    this.begin();
    this.grow(MODEL, text.string.slice(run));
  }

  // Drop a run that wrote nothing: there is nothing to undo.
  end() {
    const run = this.lastRun;
    if (run && !sizeOf(run.inserted)) this.past.pop();
  }

  undo() {
    const entry = this.past.pop();
    if (!entry) return null;
    this.text.replace(entry.at, entry.at + sizeOf(entry.inserted), entry.removed);
    this.future.push(entry);
    return { caret: entry.at + sizeOf(entry.removed), run: entry.run };
  }

  redo() {
    const entry = this.future.pop();
    if (!entry) return null;
    this.text.replace(entry.at, entry.at + sizeOf(entry.removed), entry.inserted);
    this.past.push(entry);
    return { caret: entry.at + sizeOf(entry.inserted), run: entry.run };
  }

  record(entry, mayJoin = false) {
    this.future = [];
    const last = this.past[this.past.length - 1];
    if (mayJoin && last && !last.run && entry.time - last.time < PAUSE && joins(last, entry)) {
      last.time = entry.time;
      return;
    }
    this.past.push(entry);
  }
}

// Whether an edit extends the previous one: typing or deleting that continues there. A finished sentence ends an edit.
function joins(last, next) {
  const end = last.at + sizeOf(last.inserted);
  const typed = sizeOf(next.inserted);
  const deleted = sizeOf(next.removed);
  if (typed && !deleted && next.at === end && sizeOf(last.inserted) && !/[。！？\n]$/.test(last.inserted.at(-1).text)) {
    last.inserted = new Text([...last.inserted, ...next.inserted]).spans;
    return true;
  }
  if (deleted && !typed && !sizeOf(last.inserted) && next.at + deleted === last.at) {
    last.removed = new Text([...next.removed, ...last.removed]).spans;
    last.at = next.at;
    return true;
  }
  return false;
}
