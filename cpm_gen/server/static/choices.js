// Choices for a place in the text, such as other ways to write a line: asked for, shown with their scores, taken by click or number.

import { number, t } from "./language.js";
import { wordsFor } from "./notices.js";
import { Offering } from "./offering.js";

export class Choices extends Offering {
  // on: opened(), ended()
  constructor(section, on) {
    super(section, on);
    Object.assign(this, { found: [], round: 0 });
    const find = (name) => section.querySelector(`#choices-${name}`);
    [this.title, this.said, this.list, this.more] = ["title", "said", "list", "again"].map(find);
    this.more.addEventListener("click", () => this.ask(this.round + 1));
    find("dismiss").addEventListener("click", () => this.dismiss());
  }

  // `source.ask(round, signal)` resolves to [{text, score, note}]; `source.take(choice)` puts one in its place.
  show(source) {
    this.dismiss();
    this.source = source;
    this.section.hidden = false;
    this.section.dataset.kind = source.kind;
    this.on.opened();
    return this.ask(0);
  }

  async ask(round) {
    const line = this.begin();
    this.round = round;
    this.found = [];
    this.error = null;
    this.list.replaceChildren();
    this.more.disabled = true;
    this.words();
    try {
      const found = await this.source.ask(round, line.signal);
      if (this.stale(line)) return;
      this.found = found;
    } catch (error) {
      if (this.stale(line, error)) return;
      this.error = error;
    }
    this.section.removeAttribute("aria-busy");
    this.more.disabled = false;
    this.words();
    this.list.replaceChildren(...this.found.map((choice, n) => this.item(choice, n)));
  }

  // In the language of the page.
  words() {
    const { kind } = this.source;
    const busy = this.section.getAttribute("aria-busy");
    this.title.textContent = t(`choices.${kind}`);
    this.more.hidden = kind === "rhymes";
    const last = Math.min(this.found.length, 9);
    if (busy) this.said.textContent = t("choices_busy");
    else if (this.error) this.said.textContent = wordsFor(this.error);
    else this.said.textContent = last ? t("choices_take", { n: last }) : t("choices_none");
    this.said.classList.toggle("wrong", Boolean(this.error));
  }

  item({ text, score, note }, n) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    const [digit, words, scored] = ["b", "span", "small"].map((tag) => document.createElement(tag));
    digit.textContent = number(n + 1);
    digit.hidden = n > 8;
    words.lang = "zh-Hans";
    words.textContent = text;
    scored.textContent = score;
    if (note) scored.title = note;
    button.append(digit, words, scored);
    button.addEventListener("click", () => this.choose(n));
    row.append(button);
    return row;
  }

  // Whether there is such a choice.
  choose(n) {
    const choice = this.open && this.found[n];
    if (!choice) return false;
    const { source } = this;
    this.dismiss();
    source.take(choice);
    return true;
  }
}
