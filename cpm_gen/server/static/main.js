// The page: connects its parts.

import { Api } from "./api.js";
import { Candidates } from "./candidates.js";
import { Desk } from "./desk.js";
import { askKey } from "./dialogs.js";
import { Drawer } from "./drawer.js";
import { EdgeLine } from "./edge.js";
import { Editor } from "./editor.js";
import { number, speak, switchLanguage, t } from "./language.js";
import { Notices } from "./notices.js";
import { offered, Settings } from "./settings.js";
import { fillTable, listen } from "./shortcuts.js";
import * as store from "./store.js";
import { shown, title } from "./text.js";
import * as theme from "./theme.js";
import { download } from "./works.js";

const find = (id) => document.getElementById(id);

const api = new Api(askKey);
const notices = new Notices(find("notice"));
const settings = new Settings(find("settings"), await offered(api), () => desk.writing.settle());
const editor = new Editor(find("text"), find("scroll"), {
  edit: (from, to, string) => {
    candidates.dismiss(); // they continue another text
    desk.edited(from, to, string);
  },
  compose: (begins) => desk.compose(begins),
  history: (way) => press(way < 0 ? "undo" : "redo"),
  locked: () => notices.tell("locked"),
});
const edge = new EdgeLine(find("edge"), editor);
const desk = new Desk(api, editor, settings, {
  changed,
  state,
  refused,
  renewed: () => candidates.dismiss(),
  said: (name) => notices.tell(name),
});
const drawer = new Drawer(find("drawer"), api, desk, {
  open: (document, parameters) => {
    leave();
    if (parameters) {
      settings.adopt(parameters);
      document.work.asked = JSON.stringify(settings.body());
    }
    desk.put(document);
    find("said").textContent = t("opened", { title: title(desk.text.string) });
  },
  removed: () => {
    leave();
    desk.discard();
  },
});
const candidates = new Candidates(find("candidates"), api, {
  chosen: (string, style, n) => {
    desk.adopt(string, style);
    find("said").textContent = t("chosen", { n });
    find("text").focus({ preventScroll: true });
  },
  refused: (error) => refused(error, act.three), // for the text at that time
  ended: state,
});

new ResizeObserver(() => candidates.open && editor.toEnd()).observe(find("candidates"));

function changed() {
  const { text, history, work, range } = desk;
  find("title").textContent = title(text.string) || t("untitled");
  find("undo").disabled = !history.canUndo;
  find("redo").disabled = !history.canRedo;
  find("retry").disabled = !history.lastRun;
  find("export").disabled = !text.length;
  edge.put(range ? range[1] : null);
  facts(text, work);
}

function facts(text, work) {
  const rate = desk.writing.active ? desk.writing.rate.perSecond : null;
  const said = [];
  if (rate) said.push(t("rate", { n: number(Math.round(rate)) }));
  said.push(t("characters", { n: number(text.length) }));
  if (work && desk.inStep) {
    if (work.slides) said.push(t("slides", { n: number(work.slides) }));
    said.push(t("written", { n: number(work.tokens) }));
  }
  find("facts").textContent = said.join(" · ");
  find("drawn").textContent = work ? t("drawn", { seed: work.seed }) : "";
}

function state() {
  const { active, state: name } = desk.writing;
  document.body.dataset.state = name;
  find("write").hidden = active;
  find("stop").hidden = !active;
  find("stop").disabled = name === "stopping";
  find("three").setAttribute("aria-pressed", String(candidates.open));
  const words = t(`state.${name}`);
  if (find("status").textContent !== words) find("status").textContent = words;
  changed();
}

function refused(error, again) {
  if (error.status === 422 && error.field !== "prompt") settings.complain(error.field, error.message);
  notices.refused(error, again);
}

// Pending requests for the open document do not apply to another one.
function leave() {
  candidates.dismiss();
  notices.clear();
}

const act = {
  write: () => {
    notices.clear();
    settings.complain(null);
    candidates.dismiss();
    if (!desk.writing.active) desk.writing.write();
  },
  stop: () => {
    if (candidates.open) candidates.dismiss();
    else desk.writing.stop();
  },
  undo: () => {
    candidates.dismiss();
    desk.undo();
  },
  redo: () => {
    candidates.dismiss();
    desk.redo();
  },
  retry: () => {
    candidates.dismiss();
    desk.retry();
  },
  three: () => {
    notices.clear();
    settings.complain(null);
    editor.settle();
    desk.writing.abandon();
    if (desk.text.string.trim()) candidates.ask(desk.text.string, settings);
    else notices.tell("empty");
    state();
  },
  works: () => drawer.show(),
  new: () => {
    leave();
    desk.put(store.blank());
    find("text").focus();
  },
  export: () => download(shown(desk.text.string), title(desk.text.string)),
  help: () => find("keys").showModal(),
  language: () => {
    switchLanguage();
    words();
  },
  theme: () => {
    theme.next();
    words();
  },
};

// Whether there was a button to press.
function press(name) {
  if (name === "stop" && find("more").open) {
    find("more").open = false;
    return true;
  }
  if (name === "stop" && !candidates.open && !desk.writing.active) return false;
  if (find(name)?.disabled) return true;
  act[name]();
  return true;
}

function words() {
  speak();
  find("text").dataset.placeholder = t("placeholder");
  find("theme").textContent = t(`theme_${theme.following()}`);
  state();
}

for (const name of Object.keys(act)) {
  find(name).addEventListener("click", () => {
    find("menu").hidePopover();
    act[name]();
  });
}
fillTable(find("keys").querySelector("tbody"));
listen(press, (n) => {
  if (!candidates.open) return false;
  candidates.choose(n);
  return true;
});
document.addEventListener("pointerdown", (event) => {
  if (!find("more").contains(event.target)) find("more").open = false;
});
// a phone's keyboard leaves less height than the window has
function fit() {
  document.documentElement.style.setProperty("--height", `${visualViewport.height}px`);
  document.body.classList.toggle("low", visualViewport.height < 480);
}
visualViewport.addEventListener("resize", fit);
fit();
setInterval(() => desk.writing.active && facts(desk.text, desk.work), 500);
theme.apply();
desk.put(store.current() || store.blank());
words();
