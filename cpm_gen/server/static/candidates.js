// Three continuations side by side.

import { events, Lost, Refusal } from "./api.js";
import { say, t } from "./language.js";
import { Offering } from "./offering.js";
import { shown, withBreaks } from "./text.js";

const COUNT = 3;
const LENGTH = 120; // tokens

export class Candidates extends Offering {
  // on: chosen(string, style, n), refused(error), ended()
  constructor(section, api, on) {
    super(section, on);
    Object.assign(this, { api, texts: [] });
    this.cards = section.querySelector(".cards");
    section.querySelector("#dismiss").addEventListener("click", () => this.dismiss());
  }

  // The request: that of Desk.sample().
  async ask({ max_new_tokens: length, ...rest }) {
    this.dismiss();
    this.style = rest.style;
    const line = this.begin();
    this.texts = Array(COUNT).fill("");
    this.cards.replaceChildren(...this.texts.map((_, n) => this.card(n)));
    this.section.hidden = false;
    const tokens = Math.min(length ?? LENGTH, LENGTH);
    const body = { ...rest, n: COUNT, stream: true, max_new_tokens: tokens };
    if (body.seed !== undefined) body.seed += 1; // so that it differs from what Write writes
    try {
      const response = await this.api.open("POST", "/generate", body, { signal: line.signal });
      let done = false;
      for await (const { name, data } of events(response)) {
        if (this.stale(line)) return;
        if (name === "token") this.add(data);
        else if (name === "error") throw new Refusal(503, data.error, null);
        else if (name === "done") done = true;
      }
      if (!done) throw new Lost("the stream broke off");
      this.section.removeAttribute("aria-busy");
    } catch (error) {
      if (this.stale(line, error)) return;
      if (this.texts.every((text) => !text)) this.dismiss();
      this.on.refused(error);
    }
  }

  card(n) {
    const card = document.createElement("button");
    card.className = "card writing";
    const number = document.createElement("b");
    number.textContent = n + 1;
    const text = document.createElement("span");
    text.lang = "zh-Hans";
    const name = document.createElement("span");
    name.className = "hidden";
    say(name, "candidate");
    name.textContent = t("candidate", { n: n + 1 });
    name.removeAttribute("data-say");
    card.append(name, number, text);
    card.addEventListener("click", () => this.choose(n));
    return card;
  }

  add({ index, text, finish_reason: reason }) {
    this.texts[index] += withBreaks(text);
    const card = this.cards.children[index];
    card.lastChild.append(shown(withBreaks(text)));
    if (reason) card.classList.remove("writing");
  }

  choose(n) {
    const text = this.texts[n];
    if (!this.open || !text) return;
    const { style } = this;
    this.dismiss();
    this.on.chosen(text, style, n + 1);
  }
}
