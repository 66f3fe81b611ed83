// Verse in a form: the fields of a form as the writer typed them, the lines of a text, and what requests say of both.

import { shown } from "./text.js";

const SEPARATORS = /[\s,，、;；]+/;

// `form`: a name or the notation; `prompt`: words that the model reads first and that are no part of the verse.
export const FREE = { form: "", rhyme_book: "", acrostic: "", include: "", exclude: "", prompt: "" };

const wordsOf = (string) => string.split(SEPARATORS).filter(Boolean);

// The fields of a request.
export function fieldsOf({ form, rhyme_book: book, acrostic, include, exclude }) {
  const fields = { form };
  if (book) fields.rhyme_book = book;
  if (acrostic.trim()) fields.acrostic = wordsOf(acrostic).join("");
  if (wordsOf(include).length) fields.include = wordsOf(include);
  if (wordsOf(exclude).length) fields.exclude = wordsOf(exclude);
  return fields;
}

// The lines of a text that are not blank: `number` counts all lines from 1, `at` is where the line begins.
export function linesOf(string) {
  const lines = [];
  let at = 0;
  shown(string).split("\n").forEach((text, n) => {
    if (text.trim()) lines.push({ number: n + 1, at, text });
    at += text.length + 1;
  });
  return lines;
}

// Locks are numbers of lines. After an edit they stay with their lines: those below move with the lines added or removed above them.
export function moved(locks, before, after) {
  const most = Math.min(before.length, after.length);
  let head = 0;
  while (head < most && before[head] === after[head]) head++;
  let tail = 0;
  while (tail < most - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
  const shift = after.length - before.length;
  return locks.map((n) => (n < before.length && n >= before.length - tail ? n + shift : n));
}

const isHan = (letter) => /\p{Script=Han}/u.test(letter);

// What a line of text holds of a line of the form: [slot, letter] in order. A slot is null where the form has none, a letter where the
// text has none yet. Slots of a clause that the text has left are dropped.
export function placed(line, text) {
  const letters = [];
  let at = 0;
  for (const letter of text) {
    letters.push({ letter, at });
    at += letter.length;
  }
  while (letters.length && !letters[0].letter.trim()) letters.shift();
  while (letters.length && !letters.at(-1).letter.trim()) letters.pop();
  const pairs = [];
  for (const { slots, end } of clauses(line)) {
    let n = 0;
    while (letters.length && isHan(letters[0].letter)) pairs.push([slots[n++] ?? null, letters.shift()]);
    if (!letters.length) for (; n < slots.length; n++) pairs.push([slots[n], null]);
    if (end) pairs.push([{ mark: end, sign: true }, letters.shift() ?? null]);
  }
  for (const letter of letters) pairs.push([null, letter]);
  return pairs;
}

// The clauses of a form's line up to its signs: slots {mark, label, loose}, and the sign. `loose`: the place may stay empty.
function clauses({ parts }) {
  const found = [];
  let slots = [];
  for (const { slots: marks, least, label, same, echo, end } of parts) {
    const letters = [...marks];
    letters.forEach((mark, n) => {
      const last = n === letters.length - 1;
      slots.push({ mark: echo ? "〃" : mark, label: last && label ? label + (same ? "*" : "") : "", loose: n >= least, cut: last && end === "+" });
    });
    if (end === "+") continue;
    found.push({ slots, end });
    slots = [];
  }
  return found;
}

// The lines of a text that a request keeps, each in its place, null for those to be written.
export function keptLines(string, keep) {
  const kept = linesOf(string).map(({ text }, n) => (keep(n) ? text.trim() : null));
  while (kept.length && kept.at(-1) === null) kept.pop();
  return kept;
}

// A form's name; nothing for a notation.
export const nameOf = ({ form }) => (isName(form) ? form.trim() : "");

export const isName = (form) => !/[\n:：\[\]「」0-9a-z+○●⊙]/.test(form.trim().replace(/\s+\d+$/, "")) && !/^[平仄中]+$/.test(form.trim());

const SETTING = /^(?:韵|必含|禁用|重字|读音|轻声): /;

// The notation of a form whose line `n` begins with what is typed; null where that does not fit.
export function begun(notation, lines, n, typed) {
  const first = lines[n] && !lines[n].repeated ? lineFrom(lines[n], [...typed.trim()]) : null;
  if (!first) return null;
  let left = lines.slice(0, n).filter(({ repeated }) => !repeated).length;
  const rows = notation.trim().split("\n").map((row) => (SETTING.test(row) || row.startsWith("[") || left-- !== 0 ? row : first));
  return rows.join("\n");
}

function lineFrom({ parts }, letters) {
  let written = "";
  for (const { slots, least, label, same, echo, end } of parts) {
    const marks = [...slots];
    const given = marks.filter(isHan);
    if (echo || least < marks.length) {
      if (letters.length) return null;
      const range = `${given.length ? `「${given.join("")}」` : ""}${least - given.length}-${marks.length - given.length}`;
      written += echo ? `叠${marks.length}` : range;
    } else {
      for (const mark of marks) {
        const letter = letters.length && isHan(letters[0]) ? letters.shift() : null;
        if (!letter && letters.length) return null; // a sign where a character belongs
        written += letter || isHan(mark) ? `「${letter ?? mark}」` : mark;
      }
    }
    written += (label ?? "") + (same ? "*" : "") + end;
    if (end && end !== "+" && letters.length && letters.shift() !== end) return null;
  }
  return letters.length ? null : written;
}
