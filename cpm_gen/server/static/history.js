// Undo and redo of a text: the writer's edits, joined into words, and whole runs of the model.

import { difference, sizeOf, Text, WRITER } from "./text.js";

const PAUSE = 1200; // ms without a key after which the next one begins a new edit

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

  // The run that stands at the end of the text, if nothing was done since.
  get lastRun() {
    const last = this.past[this.past.length - 1];
    return last && last.run ? last : null;
  }

  // The writer puts `string` in place of [from, to).
  edit(from, to, string) {
    const inserted = string ? [{ who: WRITER, text: string }] : [];
    const removed = this.text.replace(from, to, inserted);
    if (this.held) return; // a composition is one edit, whatever passes on the way
    this.record({ at: from, removed, inserted, time: Date.now() }, true);
  }

  // An input method composes; release() makes one edit of everything between.
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

  // A run of the model begins at the end of the text, or what `spans` holds is taken as one.
  begin() {
    this.record({ at: this.text.length, removed: [], inserted: [], run: true });
  }

  // The run goes on.
  grow(who, string) {
    const run = this.past[this.past.length - 1];
    this.text.replace(this.text.length, this.text.length, [{ who, text: string }]);
    const last = run.inserted[run.inserted.length - 1];
    if (last) last.text += string;
    else run.inserted.push({ who, text: string });
  }

  // After a reload: the end of the text from `at` on was one run.
  recall(at) {
    this.past.push({ at, removed: [], inserted: this.text.slice(at, this.text.length), run: true });
  }

  // A run that wrote nothing leaves nothing to undo.
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

// Typing goes on where it was, and so does deleting; a finished sentence is an edit of its own.
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
