// The editor: one text node in a contenteditable element, so that input methods, selection and screen readers find plain text.
// The CSS Custom Highlight API colours who wrote what without changing the document; 200,000 characters
// cost a few milliseconds more than two hundred.

import { difference, MODEL } from "./text.js";

const NEAR = 60; // px below the frame within which the view still follows the end of the text
const ROOM = 0.2; // part of the frame that stays free below the end of the text

export class Editor {
  // on: edit(from, to, string), compose(begins), history(-1 | 1), locked()
  constructor(element, scroller, on) {
    Object.assign(this, { element, scroller, on, composing: false, locked: false, following: true, reached: 0 });
    this.node = document.createTextNode("");
    this.end = document.createElement("br"); // gives the caret a place in an empty last line
    this.highlights = {};
    for (const name of ["model", "unseen", "unseen-model"]) {
      if (!globalThis.Highlight) break; // an older browser shows the text alone
      this.highlights[name] = new Highlight();
      CSS.highlights.set(name, this.highlights[name]);
    }
    this.highlights["unseen-model"] && (this.highlights["unseen-model"].priority = 2);
    element.replaceChildren(this.node, this.end);
    element.addEventListener("beforeinput", (event) => this.before(event));
    element.addEventListener("input", () => this.read());
    element.addEventListener("compositionstart", () => {
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
    element.addEventListener("keydown", (event) => {
      if (this.locked && event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey) this.on.locked();
    });
    scroller.addEventListener("scroll", () => {
      const end = this.box(this.node.length - 1);
      this.following = !end || end.top < scroller.getBoundingClientRect().bottom + NEAR;
    });
  }

  get string() {
    return this.node.data;
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
      if (range) this.select(this.offset(range.startContainer, range.startOffset));
      this.insert(event.dataTransfer.getData("text/plain"));
    } else if (kind.startsWith("format")) {
      event.preventDefault();
    }
  }

  // Read the text as the browser or the input method changed it.
  read() {
    if (this.locked) return;
    const plain = this.element.firstChild === this.node && this.node.nextSibling === this.end && !this.end.nextSibling;
    const caret = this.caret();
    const after = plain ? this.node.data : textOf(this.element, this.end);
    const { from, to, text } = difference(this.known, after, caret);
    if (from !== to || text) {
      this.known = after;
      this.on.edit(from, to, text);
    }
    if (!plain && !this.composing) {
      this.show(after);
      this.select(caret);
    }
  }

  // Replace the selection with a string written by the user.
  insert(string) {
    if (this.locked) return;
    const [from, to] = this.selection();
    const clean = string.replace(/\r\n?/g, "\n").replaceAll("\0", "");
    if (!clean && from === to) return;
    this.node.replaceData(from, to - from, clean);
    this.known = this.node.data;
    this.on.edit(from, to, clean);
    this.select(from + clean.length);
    this.reveal();
  }

  show(string) {
    this.node.data = string;
    this.known = string;
    this.element.replaceChildren(this.node, this.end);
    this.element.classList.toggle("empty", !string);
  }

  // Append the model's text.
  append(string) {
    this.node.appendData(string);
    this.known = this.node.data;
    this.element.classList.remove("empty");
  }

  toEnd() {
    const end = this.box(this.node.length - 1);
    const frame = this.scroller.getBoundingClientRect();
    if (end) this.scroller.scrollTop += end.bottom - frame.bottom + ROOM * frame.height;
    this.reached = this.scroller.scrollTop;
  }

  // Scroll to the end, unless the reader has scrolled away. That scroll event may not have arrived yet.
  follow() {
    if (this.scroller.scrollTop < this.reached - 1) this.following = false;
    if (this.following) this.toEnd();
  }

  // Colour what the model wrote, and the part [from, to) outside the window.
  paint(spans, unseen) {
    this.element.classList.toggle("empty", !this.node.data);
    if (!this.highlights.model) return;
    for (const highlight of Object.values(this.highlights)) highlight.clear();
    const size = this.node.data.length;
    const add = (name, from, to) => {
      if (from >= Math.min(to, size)) return;
      const at = { startContainer: this.node, startOffset: from, endContainer: this.node, endOffset: Math.min(to, size) };
      this.highlights[name].add(new StaticRange(at));
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
  }

  // While the model writes, the text can be read and copied but not changed.
  lock(locked) {
    if (this.locked === locked) return;
    this.locked = locked;
    this.element.contentEditable = locked ? "false" : "plaintext-only";
    this.element.setAttribute("aria-readonly", String(locked));
  }

  offset(container, offset) {
    if (container === this.node) return offset;
    const range = document.createRange();
    range.setStart(this.element, 0);
    range.setEnd(container, offset);
    return Math.min(textOf(range.cloneContents(), null).length, this.element.textContent.length); // not after the last <br>
  }

  selection() {
    const selection = getSelection();
    if (!selection.rangeCount || !this.element.contains(selection.anchorNode)) return [this.node.length, this.node.length];
    const range = selection.getRangeAt(0);
    return [this.offset(range.startContainer, range.startOffset), this.offset(range.endContainer, range.endOffset)];
  }

  caret() {
    return this.selection()[1];
  }

  select(at) {
    getSelection().collapse(this.node, Math.min(at, this.node.length));
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
    range.setStart(this.node, Math.min(at, this.node.length));
    range.setEnd(this.node, Math.min(at + 1, this.node.length));
    const boxes = range.getClientRects();
    return boxes[boxes.length - 1] || null;
  }
}

function textOf(root, end) {
  let out = "";
  for (const child of root.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) out += child.data;
    else if (child.nodeName === "BR") out += child === end ? "" : "\n";
    else out += (out && !out.endsWith("\n") ? "\n" : "") + textOf(child, end);
  }
  return out;
}
