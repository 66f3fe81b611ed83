// Light, dark, or as the system has it.

const KEPT = "cpm-gen:theme";
const WAYS = ["auto", "light", "dark"];

const chosen = () => (WAYS.includes(localStorage.getItem(KEPT)) ? localStorage.getItem(KEPT) : "auto");

// What next() will choose.
export const following = () => WAYS[(WAYS.indexOf(chosen()) + 1) % WAYS.length];

export function next() {
  localStorage.setItem(KEPT, following());
  apply();
}

export function apply() {
  document.documentElement.dataset.theme = chosen();
}
