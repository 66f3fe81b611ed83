// The text in the document: blocks of whole paragraphs, one text node each. A key lays out one block, not the whole text.
// One node for each paragraph costs 21 ms a key at 200,000 characters, blocks of 2,000 characters 8 ms, a single node 87 ms.

const FULL = 2_000; // characters after which a block ends with its paragraph
const NEAR = "1000px 0px"; // around the visible part
const MOST = 2 * FULL; // characters from which a block is divided

export class Blocks {
  // `moved` is called when other blocks come near the visible part.
  constructor(element, scroller, moved) {
    this.element = element;
    this.far = new Set(); // elements of blocks
    this.watch = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting: near } of seen) near || !target.isConnected ? this.far.delete(target) : this.far.add(target);
      moved();
    }, { root: scroller, rootMargin: NEAR });
    this.loose = null; // the text, while an input method has changed the nodes
    this.end = document.createElement("br"); // gives the caret a place in an empty last line
    // the first block has no element of its own: a short text is a single text node, which every input method handles
    this.list = [{ box: null, node: document.createTextNode(""), text: "" }];
    this.set("");
  }

  get length() {
    return this.list.reduce((sum, { text }) => sum + text.length, 0);
  }

  get string() {
    return this.list.map(({ text }) => text).join("");
  }

  // Replace everything. The caret is lost.
  set(string) {
    const [first, ...rest] = parts(string);
    const { node } = this.list[0];
    this.loose = null;
    node.data = first;
    this.watch.disconnect();
    this.far.clear();
    this.list = [{ box: null, node, text: first }, ...rest.map((text) => this.made(text))];
    this.element.replaceChildren(node, ...this.list.slice(1).map(({ box }) => box));
    this.putEnd();
  }

  // Replace [from, to). Only the blocks that hold this part are touched.
  replace(from, to, string) {
    const [first, at] = this.find(from);
    const [last, till] = this.find(to);
    const block = this.list[first];
    const text = block.text.slice(0, at) + string + this.list[last].text.slice(till);
    if (first === last && (text.length <= MOST || parts(text).length === 1)) {
      block.node.replaceData(at, till - at, string);
      block.text = text;
      return;
    }
    this.rebuild(first, last, text);
  }

  // Make the blocks `first` to `last` from `text`; with the next ones if it does not end with a line break.
  rebuild(first, last, text) {
    const { list } = this;
    const block = list[first];
    while (last < list.length - 1 && !text.endsWith("\n")) text += list[++last].text;
    const [head, ...rest] = parts(text);
    const fresh = rest.map((text) => this.made(text));
    for (const { box } of list.slice(first + 1, last + 1)) this.drop(box);
    block.node.data = head;
    block.text = head;
    (block.box ?? block.node).after(...fresh.map(({ box }) => box));
    list.splice(first + 1, last - first, ...fresh);
    this.putEnd();
  }

  made(text) {
    const box = document.createElement("div");
    const node = document.createTextNode(text);
    box.append(node);
    this.watch.observe(box);
    return { box, node, text };
  }

  drop(box) {
    this.watch.unobserve(box);
    this.far.delete(box);
    box.remove();
  }

  // The blocks that can be seen, or soon can: [node, start, end].
  near() {
    let start = 0;
    const out = [];
    for (const { box, node, text } of this.list) {
      if (!this.far.has(box)) out.push([node, start, start + text.length]);
      start += text.length;
    }
    return out;
  }

  putEnd() {
    const { box, node } = this.list[this.list.length - 1];
    if (node.nextSibling !== this.end) (box ?? this.element).append(this.end);
  }

  // The number of the block that holds the character at `at`, and its place there.
  find(at) {
    let left = Math.max(at, 0);
    const last = this.list.length - 1;
    for (let n = 0; n < last; n++) {
      const { length } = this.list[n].text;
      if (left < length) return [n, left];
      left -= length;
    }
    return [last, Math.min(left, this.list[last].text.length)];
  }

  // The same as a text node and an offset.
  place(at) {
    const [n, offset] = this.find(at);
    return [this.list[n].node, offset];
  }

  // The number of characters before a position of the document.
  offset(container, offset) {
    let start = 0;
    for (const { box, node, text } of this.list) {
      if (node === container) return start + offset;
      if (box === container) return start + (offset ? text.length : 0);
      start += text.length;
    }
    if (container === this.element && this.intact) return this.list.slice(0, offset).reduce((sum, { text }) => sum + text.length, 0);
    const range = document.createRange();
    range.setStart(this.element, 0);
    range.setEnd(container, offset);
    return Math.min(textOf(range.cloneContents(), null).length, this.element.textContent.length); // not after the last <br>
  }

  // Whether [from, to) is inside one block, whose element remains: the browser may edit it itself.
  within(from, to) {
    const [first, at] = this.find(from);
    const [last, till] = this.find(to);
    const { text } = this.list[first];
    return first === last && text.length > 0 && !(at === 0 && till === text.length);
  }

  // Whether the character at `at` is in this node. The browser's caret may be behind the line break of the block before.
  holds(node, at) {
    return node === this.place(at)[0];
  }

  // Whether a block that is not the first one begins at `at`, and whether one that is not the last one ends there, before its line break.
  borders(at) {
    const [n, offset] = this.find(at);
    return [n > 0 && offset === 0, n < this.list.length - 1 && offset === this.list[n].text.length - 1];
  }

  // Make the blocks of [from, to) one, so that the browser finds one text node.
  join(from, to) {
    const [first] = this.find(from);
    const [last] = this.find(to);
    if (first === last) return;
    const block = this.list[first];
    for (const { box, text } of this.list.splice(first + 1, last - first)) {
      this.drop(box);
      block.text += text;
    }
    block.node.data = block.text;
    this.putEnd();
  }

  // Whether the browser left all nodes in their places.
  get intact() {
    const { list, element, end } = this;
    let next = element.firstChild;
    for (const { box, node } of list) {
      if (next !== (box ?? node)) return false;
      const after = node === list[list.length - 1].node ? end : null;
      if (box ? box.firstChild !== node || node.nextSibling !== after : after && node.nextSibling !== after) return false;
      next = next.nextSibling;
    }
    return next === (list.length === 1 ? end : null) && !end.nextSibling;
  }

  // What the browser or an input method changed: where, before and after.
  taken() {
    if (this.loose !== null || !this.intact) return [0, this.loose ?? this.string, textOf(this.element, this.end)];
    let start = 0;
    let [first, before, after, kept] = [null, "", "", ""];
    for (const { node, text } of this.list) {
      const now = node.data;
      if (now !== text) {
        first ??= start;
        before += kept + text;
        after += kept + now;
        kept = "";
      } else if (first !== null) kept += text;
      start += text.length;
    }
    return [first ?? 0, before, after];
  }

  // Accept it, and leave the nodes to the input method.
  note() {
    if (this.loose !== null || !this.intact) this.loose = textOf(this.element, this.end);
    else for (const block of this.list) block.text = block.node.data;
  }

  // Repair the nodes after an edit. Returns whether there was something to repair, so that the caret is lost.
  mend() {
    if (this.loose !== null) {
      this.set(this.loose);
      return true;
    }
    let torn = false;
    for (let n = 0; n < this.list.length; n++) {
      const { text } = this.list[n];
      const open = n < this.list.length - 1 && !text.endsWith("\n");
      if (!open && (text.length <= MOST || parts(text).length === 1)) continue;
      this.rebuild(n, n, text);
      torn = true;
    }
    return torn;
  }
}

// Divide at line breaks, which end the parts. Only the last part may be without one.
function parts(text) {
  const out = [];
  let at = 0;
  while (text.length - at > MOST) {
    const cut = text.indexOf("\n", at + FULL - 1) + 1;
    if (!cut || cut === text.length) break;
    out.push(text.slice(at, cut));
    at = cut;
  }
  out.push(text.slice(at));
  return out;
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
