// Light, dark, or the system's choice.

import { forever } from "./kept.js";

const KEPT = "cpm-gen:theme";
const WAYS = ["auto", "light", "dark"];

let chosen = WAYS.includes(forever.get(KEPT)) ? forever.get(KEPT) : "auto";

// What next() would choose.
export const following = () => WAYS[(WAYS.indexOf(chosen) + 1) % WAYS.length];

export function next() {
  chosen = following();
  apply();
  forever.set(KEPT, chosen);
}

export function apply() {
  document.documentElement.dataset.theme = chosen;
}
