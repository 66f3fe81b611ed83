// Lengths in 字: letters and punctuation without spaces; and how many of them a token gives with this model.

import { forever } from "./kept.js";

const KEPT = "cpm-gen:letters";
const USUAL = 1.5; // a token of CPM's vocabulary
const ENOUGH = 50; // tokens

export function letters(string) {
  let count = 0;
  for (let at = 0; at < string.length; at++) {
    const code = string.charCodeAt(at);
    if (code > 32 && code !== 0xa0 && code !== 0x3000 && code !== 0x2029 && (code < 0xdc00 || code > 0xdfff)) count++;
  }
  return count;
}

// Learn from a work's text, which has `tokens` tokens.
export function learn(string, tokens) {
  if (tokens >= ENOUGH) forever.set(KEPT, String(letters(string) / tokens));
}

export function inLetters(tokens) {
  const each = Number(forever.get(KEPT)) || USUAL;
  const count = each * tokens;
  const step = count < 100 ? 10 : 50;
  return Math.max(step, Math.round(count / step) * step);
}
