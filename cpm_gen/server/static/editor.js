// The editor: blocks of plain text in a contenteditable element, so that input methods, selection and screen readers find plain text.
// The CSS Custom Highlight API colours who wrote what without changing the document.

import { Blocks } from "./blocks.js";
import { BREAK, difference, MODEL, shown, withBreaks } from "./text.js";

const NEAR = 60; // px below the frame within which the view still follows the end of the text
const ROOM = 0.2; // part of the frame that stays free below the end of the text

export class Editor {
  // on: edit(from, to, string), compose(begins), history(-1 | 1), locked()
  constructor(element, scroller, on) {
    Object.assign(this, { element, scroller, on, composing: false, locked: false, following: true, reached: 0 });
    this.blocks = new Blocks(element, scroller, () => this.paint(...this.painted));
    this.painted = [[], null];
    this.marked = {}; // ranges that other parts of the page mark, by the highlight's name
    this.highlights = {};
    for (const name of ["model", "unseen", "unseen-model", "fault", "place"]) {
      if (!globalThis.Highlight) break; // an older browser shows the text alone
      this.highlights[name] = new Highlight();
      CSS.highlights.set(name, this.highlights[name]);
    }
    for (const [n, name] of ["unseen-model", "place", "fault"].entries()) if (this.highlights[name]) this.highlights[name].priority = n + 2;
    element.addEventListener("beforeinput", (event) => this.before(event));
    element.addEventListener("input", () => this.read());
    element.addEventListener("compositionstart", () => {
      const [from, to] = this.selection();
      if (!this.blocks.within(from, to)) this.gather(from, to);
      this.composing = true;
      this.on.compose(true);
    });
    element.addEventListener("compositionend", () => {
      // some browsers report the last characters only after this event
      setTimeout(() => this.settle());
    });
    element.addEventListener("paste", (event) => {
      event.preventDefault();
      this.insert(event.clipboardData.getData("text/plain"));
    });
    for (const kind of ["copy", "cut", "dragstart"]) {
      element.addEventListener(kind, (event) => this.give(event.clipboardData ?? event.dataTransfer, event));
    }
    element.addEventListener("keydown", (event) => {
      if (this.locked && event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey) this.on.locked();
    });
    scroller.addEventListener("scroll", () => {
      const end = this.box(this.length - 1);
      this.following = !end || end.top < scroller.getBoundingClientRect().bottom + NEAR;
    });
  }

  get length() {
    return this.blocks.length;
  }

  // Whether a line ends at `at`.
  endsLine(at) {
    const [node, offset] = this.blocks.place(at);
    return node.data[offset] === "\n";
  }

  // Accept what an input method has composed so far.
  settle() {
    if (!this.composing) return;
    this.composing = false;
    this.read();
    this.on.compose(false);
  }

  // Prevent the browser's own handling of some edits.
  before(event) {
    const kind = event.inputType;
    if (kind === "historyUndo" || kind === "historyRedo") {
      event.preventDefault();
      this.on.history(kind === "historyUndo" ? -1 : 1);
    } else if (this.composing) {
      return; // from an input method; read() takes the result
    } else if (kind === "insertParagraph" || kind === "insertLineBreak") {
      event.preventDefault();
      this.insert("\n");
    } else if (kind === "insertFromDrop") {
      event.preventDefault();
      const [range] = event.getTargetRanges();
      if (range) this.select(this.blocks.offset(range.startContainer, range.startOffset));
      this.insert(event.dataTransfer.getData("text/plain"));
    } else if (kind.startsWith("format")) {
      event.preventDefault();
    } else if (kind === "insertText" || kind.startsWith("delete")) {
      this.guard(event);
    }
  }

  // An edit that reaches over the end of a block is made here, others by the browser.
  guard(event) {
    if (this.locked) return;
    const kind = event.inputType;
    let [from, to] = this.selection();
    if (kind.startsWith("delete") && from === to) {
      const [begins, ends] = this.blocks.borders(from);
      if (kind.endsWith("Backward") && begins) from--;
      else if (kind.endsWith("Forward") && ends) to++;
      else return;
    } else if (this.blocks.within(from, to) && (from !== to || this.blocks.holds(getSelection().anchorNode, from))) return;
    event.preventDefault();
    this.change(from, to, event.data ?? "");
  }

  // What the user copies is the text, without the blocks.
  give(data, event) {
    const [from, to] = this.selection();
    if (from === to || !data) return;
    data.setData("text/plain", this.blocks.string.slice(from, to));
    if (event.type === "dragstart") return;
    event.preventDefault();
    if (event.type === "cut") this.insert("");
  }

  // An input method begins inside [from, to) and needs one text node.
  gather(from, to) {
    this.blocks.join(from, to);
    this.select(from, to);
  }

  // Read the text as the browser or the input method changed it.
  read() {
    if (this.locked) return;
    const caret = this.caret();
    const [start, before, after] = this.blocks.taken();
    const { from, to, text } = difference(before, after, caret - start);
    this.blocks.note();
    if (!this.composing && this.blocks.mend()) this.select(caret);
    if (from !== to || text) this.on.edit(start + from, start + to, text);
  }

  // Replace the selection with a string written by the user.
  insert(string) {
    if (!this.locked) this.change(...this.selection(), string);
  }

  change(from, to, string) {
    const clean = withBreaks(string.replace(/\r\n?|[\u2028\u2029]/g, "\n").replaceAll("\0", ""));
    if (!clean && from === to) return;
    this.blocks.replace(from, to, shown(clean));
    this.on.edit(from, to, clean);
    this.select(from + clean.length);
    this.reveal();
  }

  // Show another text.
  show(string) {
    this.blocks.set(shown(string));
    this.element.classList.toggle("empty", !string);
  }

  // Show a changed text. The caret stays where it was.
  renew(string) {
    const { from, to, text } = difference(this.blocks.string, shown(string), 0);
    if (from === to && !text) return;
    const moved = (at) => (at <= from ? at : at >= to ? at + text.length - (to - from) : from + text.length);
    const selected = this.selected;
    const at = selected && this.selection().map(moved);
    this.blocks.replace(from, to, text);
    if (selected) this.select(...at);
    this.element.classList.toggle("empty", !string);
  }

  // Append the model's text.
  append(string) {
    this.blocks.replace(this.length, this.length, shown(string));
    this.element.classList.remove("empty");
  }

  toEnd() {
    const end = this.box(this.length - 1);
    const frame = this.scroller.getBoundingClientRect();
    if (end) this.scroller.scrollTop += end.bottom - frame.bottom + ROOM * frame.height;
    this.reached = this.scroller.scrollTop;
  }

  // Scroll to the end, unless the reader has scrolled away. That scroll event may not have arrived yet.
  follow() {
    if (this.scroller.scrollTop < this.reached - 1) this.following = false;
    if (this.following) this.toEnd();
  }

  // Colour what the model wrote, and the part [from, to) outside the window. What is far from the visible part is left out: the browser
  // looks at all of them after a key.
  paint(spans, unseen) {
    this.painted = [spans, unseen];
    this.element.classList.toggle("empty", !this.length);
    if (!this.highlights.model) return;
    for (const highlight of Object.values(this.highlights)) highlight.clear();
    const near = this.blocks.near();
    const add = (name, from, to) => {
      for (const [node, start, end] of near) {
        const [first, last] = [Math.max(from, start) - start, Math.min(to, end) - start];
        if (first >= last) continue;
        const at = { startContainer: node, startOffset: first, endContainer: node, endOffset: last };
        this.highlights[name].add(new StaticRange(at));
      }
    };
    let at = 0;
    for (const { who, text } of spans) {
      const to = at + text.length;
      if (who === MODEL) {
        add("model", at, to);
        if (unseen) add("unseen-model", Math.max(at, unseen[0]), Math.min(to, unseen[1]));
      }
      at = to;
    }
    if (unseen) add("unseen", ...unseen);
    for (const [name, ranges] of Object.entries(this.marked)) for (const [from, to] of ranges) add(name, from, to);
  }

  // Mark faults, or the place of choices.
  mark(name, ranges) {
    this.marked[name] = ranges;
    this.paint(...this.painted);
  }

  // While the model writes, the text can be read and copied but not changed.
  lock(locked) {
    if (this.locked === locked) return;
    this.locked = locked;
    this.element.contentEditable = locked ? "false" : "plaintext-only";
    this.element.setAttribute("aria-readonly", String(locked));
  }

  // Whether the selection is in the text.
  get selected() {
    const selection = getSelection();
    return selection.rangeCount > 0 && this.element.contains(selection.anchorNode);
  }

  selection() {
    if (!this.selected) return [this.length, this.length];
    const { startContainer, startOffset, endContainer, endOffset } = getSelection().getRangeAt(0);
    return [this.blocks.offset(startContainer, startOffset), this.blocks.offset(endContainer, endOffset)];
  }

  caret() {
    return this.selection()[1];
  }

  select(from, to = from) {
    getSelection().setBaseAndExtent(...this.blocks.place(from), ...this.blocks.place(to));
  }

  reveal() {
    const box = this.box(Math.max(this.caret() - 1, 0));
    const frame = this.scroller.getBoundingClientRect();
    if (box && box.bottom > frame.bottom - 20) this.scroller.scrollTop += box.bottom - frame.bottom + 60;
    else if (box && box.top < frame.top) this.scroller.scrollTop -= frame.top - box.top + 60;
  }

  // The screen position of the character at `at`.
  box(at) {
    if (at < 0) return null;
    const range = document.createRange();
    const [node, offset] = this.blocks.place(at);
    range.setStart(node, offset);
    range.setEnd(node, Math.min(offset + 1, node.length));
    const boxes = range.getClientRects();
    return boxes[boxes.length - 1] || null;
  }
}
