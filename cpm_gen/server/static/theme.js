// Light, dark, or as the system has it.

const KEPT = "cpm-gen:theme";
const WAYS = ["auto", "light", "dark"];

let chosen = WAYS.includes(localStorage.getItem(KEPT)) ? localStorage.getItem(KEPT) : "auto";

// What next() will choose.
export const following = () => WAYS[(WAYS.indexOf(chosen) + 1) % WAYS.length];

export function next() {
  chosen = following();
  apply();
  try {
    localStorage.setItem(KEPT, chosen);
  } catch {
    // the browser's store is full: it is so for this visit
  }
}

export function apply() {
  document.documentElement.dataset.theme = chosen;
}
