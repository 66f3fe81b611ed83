// What the service says of a document's form and of its text: the pattern, the faults, or why the form cannot be read.

import { Refusal } from "./api.js";
import { t, tongue } from "./language.js";
import { shown, unitsOf } from "./text.js";
import { fieldsOf, linesOf } from "./verse.js";

const PAUSE = 300; // ms without a change after which the text is checked
const AGAIN = 3_000; // ms after which the service is asked again where it did not answer
const MOST = 20_000; // characters of a text that the service checks

export class FormCheck {
  // `changed` is called when there is something new to show.
  constructor(api, changed) {
    Object.assign(this, { api, changed, lines: null, notation: "", refused: null, found: [], asked: null, of: null, running: null, unfinished: false, torn: false });
  }

  // The form and the text of the open document.
  look(form, string) {
    const of = form && JSON.stringify(fieldsOf(form));
    const asked = of && tongue() + of + string; // the message of a refusal is in the language of the page
    if (asked === this.asked) return;
    this.asked = asked;
    clearTimeout(this.timer);
    this.due = null;
    const other = of !== this.of;
    const first = !this.lines && !this.refused;
    if (other) Object.assign(this, { of, found: [] });
    if (!form) Object.assign(this, { lines: null, refused: null });
    else this.later(form, shown(string), first ? 0 : PAUSE);
    if (other) this.changed();
  }

  later(form, string, wait) {
    this.due = () => (this.running = this.ask(form, string));
    this.timer = setTimeout(this.due, wait);
  }

  // Ask now what is to be asked, and wait for the answer.
  async settle() {
    clearTimeout(this.timer);
    await (this.due ? this.due() : this.running);
  }

  async ask(form, string) {
    const { asked } = this;
    this.due = null;
    const text = string.length <= MOST ? string : undefined;
    try {
      const { lines, form: notation, faults } = await this.api.json("POST", "/forms/check", { ...fieldsOf(form), text });
      if (asked !== this.asked) return;
      Object.assign(this, { lines, notation, refused: null, found: faults.map((fault) => placed(fault, string)) });
      this.sort(linesOf(string));
    } catch (error) {
      if (asked !== this.asked) return;
      if (error instanceof Refusal && error.status === 422) Object.assign(this, { refused: error.message, found: [], lines: null });
      else this.later(form, string, AGAIN);
    }
    this.changed();
  }

  // What is only not written yet is no fault.
  sort(lines) {
    const last = lines.length ? lines.at(-1).number : 1;
    const short = ({ kind, expected, found, line }) =>
      (kind === "length" && line === last && Number(found) < parseInt(expected)) || (kind === "sign" && line === last && !found) ||
      (kind === "lines" && Number(found) < Number(expected));
    this.unfinished = this.found.some(short);
    this.torn = this.found.some((fault) => short(fault) && fault.kind !== "lines"); // the last line is not complete
    this.found = this.found.filter((fault) => !short(fault) && !(this.unfinished && fault.kind === "missing"));
  }

  // The faults of a text: [from, to, fault]. A line that was changed since is left out until it is checked again.
  faults(string) {
    const lines = shown(string).split("\n");
    const begins = [];
    let at = 0;
    for (const line of lines) {
      begins.push(at);
      at += line.length + 1;
    }
    return this.found
      .filter(({ line, text }) => lines[line - 1] === text)
      .map((fault) => [begins[fault.line - 1] + fault.from, begins[fault.line - 1] + fault.to, fault]);
  }
}

// A fault with its place in its line.
function placed(fault, string) {
  const { line, column, kind, found } = fault;
  const text = string.split("\n")[line - 1] ?? "";
  if (!column) return { ...fault, text, from: 0, to: kind === "missing" ? 0 : text.length };
  const from = unitsOf(text, 0, column - 1);
  const width = kind === "length" ? Number(found) : ["unwanted", "again"].includes(kind) ? [...found].length : 1;
  const to = unitsOf(text, from, Math.max(width, 1));
  return from < text.length ? { ...fault, text, from, to } : { ...fault, text, from: Math.max(from - 1, 0), to: from };
}

export function faultWords({ line, kind, expected, found }) {
  const values = { expected: kind === "tone" ? t(`tone.${expected}`) : expected.replace(" to ", "–").replace(/ and | or /g, "、"), found };
  const name = kind === "sign" ? `fault.sign${expected ? "" : "_none"}` : kind === "again" && !found ? "fault.again" : `fault.${kind}`;
  return t("fault", { line, fault: t(name, values) });
}

const MISTAKE = /^(form|keep_lines)(?:, line (\d+))?(?:, column (\d+))?: (.*)$/s;

// The service's message on a form or on kept lines, with its place in the language of the page; null for other messages.
export function mistake(message) {
  const [, what, line, column, words] = MISTAKE.exec(message) ?? [];
  return what ? t(`wrong_${column ? "at" : line ? "line" : "form"}`, { what: t(`field.${what}`), line, column, message: words }) : null;
}
