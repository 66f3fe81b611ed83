// The pattern of a form below the letters of a text: ○ ● ⊙, rhyme letters, what is still to be written, and a handle for each line.
// It is laid over the text, so that the text stays plain.

import { t } from "./language.js";
import { linesOf, placed } from "./verse.js";

const HANDLE = 36; // px
const BELOW = 0.96; // of the size of a letter: from its middle to that of its mark
const GAP = 10; // px between the longest line and its handle

export class Pattern {
  // on: menu(n, handle)
  constructor(marks, handles, editor, on) {
    Object.assign(this, { marks, handles, editor, on, shown: null, drawn: false });
    new ResizeObserver(() => this.draw()).observe(editor.element);
    handles.addEventListener("keydown", (event) => this.move(event));
  }

  // lines: the form's, or null; faults: [from, to, fault]; locks: numbers of lines.
  show(string, lines, faults, locks) {
    this.shown = { string, lines, faults, locks };
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.settle());
  }

  // Draw now what waits for the next frame.
  settle() {
    if (this.waiting) this.draw();
  }

  draw() {
    this.waiting = false;
    const { string, lines, faults, locks } = this.shown ?? {};
    if (!lines) {
      this.marks.replaceChildren();
      this.handles.replaceChildren();
      return;
    }
    const { element } = this.editor;
    const frame = element.parentElement.getBoundingClientRect();
    const outer = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    const [size, height, top] = [style.fontSize, style.lineHeight, style.paddingTop].map(parseFloat);
    const left = outer.left - frame.left;
    const limit = outer.right - frame.left - parseFloat(style.paddingRight);
    const step = size + parseFloat(style.letterSpacing);
    const wrong = new Set(faults.flatMap(([from, to]) => Array.from({ length: to - from }, (_, n) => from + n)));
    const own = linesOf(string);
    const spots = [];
    const heads = [];
    let middle = outer.top - frame.top + top - height / 2; // of the line before
    let most = left;
    lines.forEach((line, n) => {
      const text = own[n];
      let x = left;
      let y = middle + height;
      const lead = text ? text.text.length - text.text.trimStart().length : 0;
      const pairs = placed(line, text?.text ?? "");
      if (text) y = this.middle(text.at + lead, frame) ?? y;
      const begin = y;
      for (const [slot, letter] of pairs) {
        if (letter) {
          const box = this.editor.box(text.at + letter.at);
          if (box) [x, y] = [box.right - frame.left, (box.top + box.bottom) / 2 - frame.top];
          const at = box && { x: box.left - frame.left, y, width: box.width };
          if (at && slot && !slot.sign) spots.push({ ...slot, ...at, wrong: wrong.has(text.at + letter.at) });
        } else {
          if (x + step > limit + 1) [x, y] = [left, y + height];
          spots.push({ ...slot, x, y, width: step, free: true });
          x += step;
        }
        most = Math.max(most, x);
      }
      middle = y;
      heads.push({ n, y: begin, text, section: line.section, line });
    });
    this.put(spots, heads, size);
    this.hang(heads, Math.min(limit + 4, most + GAP), locks);
  }

  middle(at, frame) {
    const box = this.editor.box(at);
    return box && (box.top + box.bottom) / 2 - frame.top;
  }

  put(spots, heads, size) {
    const sections = heads.filter(({ section }) => section);
    fill(this.marks, spots.length + sections.length, () => document.createElement("i"));
    spots.forEach(({ mark, label, loose, cut, sign, free, wrong, x, y, width }, n) => {
      const element = this.marks.children[n];
      element.textContent = mark;
      element.className = [free && "free", wrong && "wrong", loose && "loose", sign && "sign", cut && "cut"].filter(Boolean).join(" ");
      if (label) element.dataset.label = label;
      else delete element.dataset.label;
      place(element, x, free ? y : y + BELOW * size, width);
    });
    sections.forEach(({ section, y }, n) => {
      const element = this.marks.children[spots.length + n];
      element.textContent = section;
      element.className = "section";
      delete element.dataset.label;
      place(element, 0, y, null);
    });
  }

  hang(heads, x, locks) {
    const written = heads.filter(({ text }) => text);
    fill(this.handles, written.length, () => this.handle());
    written.forEach(({ n, y, line }) => {
      const handle = this.handles.children[n];
      const locked = locks.includes(n);
      const name = t(locked ? "handle_locked" : "handle", { n: n + 1, pattern: words(line) });
      if (handle.title !== name) handle.title = name;
      if (handle.getAttribute("aria-label") !== name) handle.setAttribute("aria-label", name);
      handle.classList.toggle("locked", locked);
      place(handle, x, y - HANDLE / 2, null);
    });
    this.current(this.at ?? 0);
  }

  handle() {
    const button = document.createElement("button");
    button.setAttribute("aria-haspopup", "menu");
    button.append(drawing());
    button.addEventListener("click", () => this.on.menu([...this.handles.children].indexOf(button), button));
    return button;
  }

  // The line of the caret: its handle is the one that Tab reaches.
  current(n) {
    this.at = n;
    const { children } = this.handles;
    const now = Math.min(n, children.length - 1);
    for (let k = 0; k < children.length; k++) {
      children[k].tabIndex = k === now ? 0 : -1;
      children[k].classList.toggle("now", k === n);
    }
  }

  move(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = by && this.handles.children[[...this.handles.children].indexOf(document.activeElement) + by];
    if (!by) return;
    event.preventDefault();
    next?.focus();
  }
}

function words({ parts }) {
  return parts.map(({ slots, label, end }) => slots + (label ?? "") + (end === "+" ? "" : end)).join("");
}

function fill(parent, count, make) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(make());
}

function place(element, x, y, width) {
  const { style } = element;
  style.left = `${x}px`;
  style.top = `${y}px`;
  style.width = width === null ? "" : `${width}px`;
}

const SVG = "http://www.w3.org/2000/svg";

// Three dots, and a lock; the class of the button says which is shown.
function drawing() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, shape] of [["dots", "M4 10h.01M10 10h.01M16 10h.01"], ["lock", "M5 9h10v7H5zM7 9V6.5a3 3 0 0 1 6 0V9"]]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", shape);
    svg.append(path);
  }
  return svg;
}
