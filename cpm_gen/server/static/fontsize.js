// The size of the text.

import { forever } from "./kept.js";

const KEPT = "cpm-gen:size";
const SIZES = [0.8, 0.9, 1, 1.15, 1.3, 1.5, 1.75, 2]; // times the usual one

let chosen = SIZES.includes(Number(forever.get(KEPT))) ? Number(forever.get(KEPT)) : 1;

export function step(way) {
  chosen = SIZES[Math.min(Math.max(SIZES.indexOf(chosen) + way, 0), SIZES.length - 1)];
  apply();
  forever.set(KEPT, String(chosen));
}

export function apply() {
  document.documentElement.style.setProperty("--times", chosen);
}
