// The menu of a line of verse: other ways to write it, a lock, rhyme words.

import { say } from "./language.js";

export class LineMenu {
  // on: ways(n), lock(n), rhymes(n)
  constructor(element, on) {
    Object.assign(this, { element, on, n: 0 });
    this.items = [...element.querySelectorAll("button")];
    for (const item of this.items) {
      item.addEventListener("click", () => {
        element.hidePopover();
        on[item.dataset.act](this.n);
      });
    }
    element.addEventListener("keydown", (event) => this.move(event));
    element.addEventListener("toggle", ({ newState }) => {
      this.handle?.setAttribute("aria-expanded", String(newState === "open"));
      if (newState === "closed" && element.contains(document.activeElement)) this.handle?.focus();
    });
  }

  // `locked`: whether line `n` is; `rhymes`: whether its end has a rhyme.
  open(n, handle, { locked, rhymes }) {
    Object.assign(this, { n, handle });
    const [, lock, words] = this.items;
    lock.setAttribute("aria-checked", String(locked));
    say(lock, locked ? "unlock" : "lock");
    words.disabled = !rhymes;
    this.element.showPopover();
    const box = handle.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const room = document.documentElement.clientWidth - 8;
    const left = Math.max(8, Math.min(box.left, room - width));
    const below = box.bottom + 4 + height < innerHeight;
    Object.assign(this.element.style, { left: `${left}px`, top: `${below ? box.bottom + 4 : Math.max(8, box.top - height - 4)}px` });
    this.items[0].focus();
  }

  move(event) {
    const items = this.items.filter((item) => !item.disabled);
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    items[to % items.length].focus();
  }
}
