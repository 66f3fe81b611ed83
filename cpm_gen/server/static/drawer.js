// The list: works of the service, and drafts in this browser.

import { confirmed } from "./dialogs.js";
import { download } from "./exports.js";
import { number, t, when } from "./language.js";
import { wordsFor } from "./notices.js";
import { drafts, forget, fromWork, load } from "./store.js";
import { shown, title, withBreaks } from "./text.js";

const PAGE = 30;

export class Drawer {
  // on: open(document, parameters), removed()
  constructor(dialog, api, desk, on) {
    Object.assign(this, { dialog, api, desk, on });
    this.list = dialog.querySelector("#list");
    this.older = dialog.querySelector("#older");
    this.wrong = dialog.querySelector("#works-wrong");
    this.older.addEventListener("click", () => this.more());
  }

  async show() {
    this.desk.keep();
    this.next = null;
    this.wrong.textContent = "";
    this.list.replaceChildren();
    this.older.hidden = true;
    if (!this.dialog.open) this.dialog.showModal();
    this.local = drafts();
    for (const draft of this.local) if (!draft.inStep) this.list.append(this.draft(draft));
    await this.more();
  }

  async more() {
    const before = this.next ? `&before=${encodeURIComponent(this.next)}` : "";
    try {
      const { works, next } = await this.api.json("GET", `/works?limit=${PAGE}${before}`);
      const stale = new Set(this.local.filter((draft) => !draft.inStep).map((draft) => draft.work));
      for (const work of works) if (!stale.has(work.id)) this.list.append(this.work(work));
      this.next = next;
      this.older.hidden = !next;
    } catch (error) {
      this.wrong.textContent = wordsFor(error);
      return;
    }
    if (!this.list.children.length) this.wrong.textContent = t("no_works");
  }

  draft(draft) {
    return this.item({
      name: draft.title || t("untitled"),
      facts: [t(draft.work ? "edited" : "draft"), t("characters", { n: number(draft.characters) }), when(draft.updated / 1000)],
      tail: draft.string.slice(-80),
      current: draft.id === this.desk.document.id,
      open: () => this.open(load(draft.id)),
      save: () => download(draft.string, draft.title),
      remove: async () => {
        if (draft.work) await this.api.json("DELETE", `/works/${draft.work}`).catch(unlessGone);
        forget(draft.id);
      },
    });
  }

  work(work) {
    const { id } = work;
    const prompt = typeof work.prompt === "string" ? work.prompt : work.prompt[0];
    const kept = this.local.find((draft) => draft.work === id);
    const name = kept?.title || work.metadata.title || title(prompt) || t("untitled");
    return this.item({
      name,
      state: work.state,
      facts: [t(`work.${work.state}`), t("characters", { n: number(work.characters) }), when(work.updated)],
      tail: shown(withBreaks(work.tail)).slice(-80),
      current: this.desk.inStep && this.desk.work.id === id,
      open: async () => {
        const whole = kept ? null : await this.api.json("GET", `/works/${id}`);
        this.open(kept ? load(kept.id) : fromWork(whole), whole?.parameters);
      },
      save: async () => download(fromWork(await this.api.json("GET", `/works/${id}`)).text.string, name),
      remove: async () => {
        await this.api.json("DELETE", `/works/${id}`).catch(unlessGone);
        if (kept) forget(kept.id);
      },
    });
  }

  open(document, parameters) {
    this.dialog.close();
    this.on.open(document, parameters);
  }

  item({ name, facts, tail, current, state = "draft", open, save, remove }) {
    const item = document.createElement("li");
    if (current) item.setAttribute("aria-current", "true");
    const main = button("work", () => this.tried(open));
    for (const [tag, text] of [["strong", name], ["small", facts.join(" · ")], ["q", tail]]) {
      const element = document.createElement(tag);
      element.textContent = text;
      if (tag !== "small") element.lang = "zh-Hans";
      main.append(element);
    }
    item.dataset.state = state;
    const buttons = document.createElement("span");
    const [keep, drop] = [button("plain", () => this.tried(save)), button("plain", () => this.tried(sure))];
    const sure = async () => {
      if (!(await confirmed(t("remove_title", { title: name }), t("remove_text"), t("remove")))) return;
      await remove(); // if this fails, the text is still here
      if (current) this.on.removed();
      await this.show();
    };
    keep.textContent = t("save");
    drop.textContent = t("remove");
    keep.setAttribute("aria-label", `${t("save")} ${name}`);
    drop.setAttribute("aria-label", `${t("remove")} ${name}`);
    buttons.append(keep, drop);
    item.append(main, buttons);
    return item;
  }

  async tried(act) {
    try {
      await act();
    } catch (error) {
      this.wrong.textContent = wordsFor(error);
    }
  }
}

function button(kind, act) {
  const element = document.createElement("button");
  element.className = kind;
  element.addEventListener("click", act);
  return element;
}

function unlessGone(error) {
  if (error.status !== 404) throw error;
}
