// Where the window begins. The model does not see the text before it.

import { BREAK, EOD, letterAt, unitsOf } from "./text.js";

const AHEAD = 6; // characters that a token may be off: the vocabulary normalises some characters
const REACH = 8_000; // characters at each end of a prompt that are searched; a window holds about a thousand tokens

const LINE_END = new RegExp(`[\n${BREAK}]`);

const plain = (letter) => letter.normalize("NFKC").toLowerCase();

// For each token, its beginning in `string`.
export function beginnings(pieces, string) {
  let at = 0;
  return pieces.map((piece) => {
    const begin = at;
    if (piece === EOD) {
      const end = string.slice(at, at + AHEAD).search(LINE_END);
      at += end + 1;
      return begin;
    }
    for (const letter of piece) {
      for (let k = at; k < Math.min(at + AHEAD, string.length); k++) {
        if (plain(string[k]) !== plain(letter)) continue;
        at = k + 1;
        break;
      }
    }
    return begin;
  });
}

// The part [from, to) of a document outside its work's window; null if all of it is inside. `pieces` gives the tokens of a text.
export async function unseen(document, pieces) {
  const { work, text } = document;
  const { start = 0, text_start: written = 0 } = work.window || {};
  if (start <= work.keep && !written) return null;
  const prompt = text.string.slice(0, work.from);
  let to = written ? unitsOf(text.string, work.from, written) : work.from;
  const prompted = written ? 0 : (work.prompted ?? (await pieces(prompt)).length);
  if (start < prompted) {
    const cut = letterAt(prompt, Math.max(0, prompt.length - REACH));
    const tail = prompt.slice(cut);
    const begins = beginnings(await pieces(tail), tail);
    to = cut + begins[Math.max(0, begins.length - (prompted - start))];
  }
  let from = 0;
  if (work.keep) {
    const head = prompt.slice(0, letterAt(prompt, REACH));
    from = beginnings(await pieces(head), head)[work.keep] ?? work.from;
  }
  return to > from ? [from, to] : null;
}

// The line that marks the edge; it has a step if the edge is inside a line of text.
export class EdgeLine {
  constructor(element, editor) {
    Object.assign(this, { element, editor, at: null });
    [this.above, this.below, this.label] = element.children;
    new ResizeObserver(() => this.draw()).observe(editor.element);
  }

  put(at) {
    if (at === this.at) return;
    this.at = at;
    this.draw();
  }

  draw() {
    const box = this.at !== null && this.at < this.editor.length ? this.editor.box(this.at) : null;
    this.element.hidden = !box;
    if (!box) return;
    const frame = this.element.parentElement.getBoundingClientRect();
    const line = parseFloat(getComputedStyle(this.editor.element).lineHeight);
    const top = box.top - frame.top - (line - box.height) / 2;
    const left = this.editor.endsLine(this.at) ? frame.width : box.left - frame.left;
    const right = Math.max(frame.width - left, 0);
    Object.assign(this.above.style, { left: `${left}px`, width: `${right}px`, top: `${top}px`, height: `${line}px` });
    Object.assign(this.below.style, { width: `${left}px`, top: `${top + line}px` });
    this.element.classList.toggle("whole", left < 2);
    // on the longer of the two lines
    this.element.classList.toggle("late", left > right);
    this.label.style.top = `${left > right ? top + line : top}px`;
  }
}
