// The facts below the text: the rate of writing, the length in letters, what the model sees, the seed.

import { number, t } from "./language.js";
import { letters } from "./lengths.js";

const LONG = 20_000; // characters that are not counted at every key
const LATER = 400; // ms

// Unchanged text is not laid out again.
export function put(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

export class Facts {
  constructor(element, seed, desk) {
    Object.assign(this, { element, seed, desk, count: { string: "", letters: 0 }, recount: null });
  }

  show() {
    const { text, work, writing, inStep } = this.desk;
    const rate = writing.active ? writing.rate.perSecond : null;
    const said = [];
    if (rate) said.push(t("rate", { n: number(Math.round(rate)) }));
    said.push(t("characters", { n: number(this.counted(text.string)) }));
    if (work && inStep) {
      const sight = work.window?.story;
      if (sight) said.push(t("sight", { names: sight.in_sight.join(t("sight_between")) || t("sight_nothing") }));
      if (work.slides) said.push(t("slides", { n: number(work.slides) }));
      said.push(t("written", { n: number(work.tokens) }));
    }
    put(this.element, said.join(" · "));
    put(this.seed, work ? t("drawn", { seed: work.seed }) : "");
  }

  // The length in letters. That of a long text follows a moment after the keys.
  counted(string) {
    if (this.count.string === string) return this.count.letters;
    if (string.length < LONG) this.count = { string, letters: letters(string) };
    else this.recount ??= setTimeout(() => {
      this.recount = null;
      const now = this.desk.text.string;
      this.count = { string: now, letters: letters(now) };
      this.show();
    }, LATER);
    return this.count.letters;
  }
}
