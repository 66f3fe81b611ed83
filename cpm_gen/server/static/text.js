// A text and who wrote which part: spans {who, text} of the user and of the model.

export const WRITER = "w";
export const MODEL = "m";
export const EOD = "<eod>"; // what ends a document, as the service writes it
export const BREAK = "\u2029"; // the same in a text: one character, shown as a line break

// A text of the service, as a document has it.
export const withBreaks = (string) => string.replaceAll(EOD, BREAK);

// A document's text, as the reader sees it.
export const shown = (string) => string.replaceAll(BREAK, "\n");

// Join neighbouring spans of the same author and drop empty ones.
function joined(spans) {
  const out = [];
  for (const { who, text } of spans) {
    if (!text) continue;
    const last = out[out.length - 1];
    if (last && last.who === who) last.text += text;
    else out.push({ who, text });
  }
  return out;
}

export class Text {
  constructor(spans = []) {
    this.spans = joined(spans);
    this.string = this.spans.map((span) => span.text).join("");
  }

  // Restore from a string and its marks(). If they do not match, the whole text counts as the user's.
  static marked(string, marks) {
    const spans = divided(string, marks) || divided(withBreaks(string), marks) || [{ who: WRITER, text: string }];
    return new Text(spans.map(({ who, text }) => ({ who, text: withBreaks(text) })));
  }

  // Lengths by author in the order of the text: "w12,m340".
  marks() {
    return this.spans.map((span) => span.who + span.text.length).join(",");
  }

  get length() {
    return this.string.length;
  }

  slice(from, to) {
    const out = [];
    let at = 0;
    for (const { who, text } of this.spans) {
      const begin = Math.max(from - at, 0);
      const end = Math.min(to - at, text.length);
      if (begin < end) out.push({ who, text: text.slice(begin, end) });
      at += text.length;
      if (at >= to) break;
    }
    return out;
  }

  // Replace [from, to) with spans; returns the replaced spans.
  replace(from, to, spans) {
    const removed = this.slice(from, to);
    if (from === this.length && to === from) {
      const last = this.spans[this.spans.length - 1]; // a model's run grows at the end, chunk by chunk
      for (const { who, text } of spans) {
        if (last && last.who === who && spans.length === 1) last.text += text;
        else this.spans = joined([...this.spans, { who, text }]);
        this.string += text;
      }
      return removed;
    }
    this.spans = joined([...this.slice(0, from), ...spans, ...this.slice(to, this.length)]);
    this.string = this.string.slice(0, from) + stringOf(spans) + this.string.slice(to);
    return removed;
  }

  toString() {
    return this.string;
  }
}

function divided(string, marks) {
  const spans = [];
  let at = 0;
  for (const mark of (marks || "").split(",")) {
    const length = Number(mark.slice(1));
    if ((mark[0] !== WRITER && mark[0] !== MODEL) || !(length > 0)) return null;
    spans.push({ who: mark[0], text: string.slice(at, at + length) });
    at += length;
  }
  return at === string.length ? spans : null;
}

function stringOf(spans) {
  return spans.map((span) => span.text).join("");
}

export function sizeOf(spans) {
  return spans.reduce((sum, span) => sum + span.text.length, 0);
}

// The smallest change from `before` to `after`: {from, to, text}, where text replaces [from, to).
// `caret` is where the change ends in `after`; it decides between equal characters ("aa|" or "a|a").
export function difference(before, after, caret = after.length) {
  const tail = after.length - Math.min(Math.max(caret, 0), after.length);
  let end = 0;
  const most = Math.min(before.length, after.length);
  while (end < Math.min(most, tail) && before[before.length - 1 - end] === after[after.length - 1 - end]) end++;
  let from = 0;
  while (from < most - end && before[from] === after[from]) from++;
  while (end < most - from && before[before.length - 1 - end] === after[after.length - 1 - end]) end++;
  return { from, to: before.length - end, text: after.slice(from, after.length - end) };
}

// The first words, as the text's name.
export function title(string) {
  const [words] = string.replace(/^(?:\s|<eod>)+/, "").split(/[\n\u2029]|<eod>/, 1);
  const cut = words.search(/[。！？；!?;]/);
  const first = (cut > 3 ? words.slice(0, cut) : words).trim();
  const letters = [...first];
  return letters.length > 22 ? letters.slice(0, 22).join("") + "…" : first;
}

// The index itself, or the next one if it is inside a surrogate pair.
export function letterAt(string, at) {
  const code = string.charCodeAt(at);
  return code >= 0xdc00 && code <= 0xdfff ? at + 1 : at;
}

// The index of the n-th character of the service's text: it counts characters, and the letters of <eod>; JavaScript counts UTF-16 units.
export function unitsOf(string, from, characters) {
  let at = from;
  for (let n = 0; n < characters && at < string.length; n += string[at] === BREAK ? EOD.length : 1, at++) {
    if (string.codePointAt(at) > 0xffff) at++;
  }
  return at;
}
