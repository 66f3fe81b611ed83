// The page: connects its parts.

import { Api } from "./api.js";
import { askedOf } from "./asked.js";
import { Candidates } from "./candidates.js";
import { Choices } from "./choices.js";
import { Desk } from "./desk.js";
import { askKey, askLine } from "./dialogs.js";
import { Drawer } from "./drawer.js";
import { EdgeLine } from "./edge.js";
import { Editor } from "./editor.js";
import { download } from "./exports.js";
import { Facts, put } from "./facts.js";
import * as fontsize from "./fontsize.js";
import { read } from "./imports.js";
import { speak, switchLanguage, t } from "./language.js";
import { Notices } from "./notices.js";
import { Personal } from "./personal.js";
import { offered, Settings } from "./settings.js";
import { fillTable, listen } from "./shortcuts.js";
import * as store from "./store.js";
import { StoryDrawer } from "./storydrawer.js";
import { Text, withBreaks, WRITER } from "./text.js";
import * as theme from "./theme.js";
import { FREE } from "./verse.js";
import { VerseDesk } from "./versedesk.js";

const find = (id) => document.getElementById(id);

const api = new Api(askKey);
const notices = new Notices(find("notice"));
const offer = await offered(api);
const settings = new Settings(find("settings"), offer, () => desk.writing.settle(), [...Object.keys(FREE), "keep_lines", "story"]);
const editor = new Editor(find("text"), find("scroll"), {
  edit: (from, to, string) => {
    dismiss(); // they belong to another text
    desk.edited(from, to, string);
  },
  compose: (begins) => desk.compose(begins),
  history: (way) => press(way < 0 ? "undo" : "redo"),
  locked: () => notices.tell("locked"),
});
const personal = new Personal(find("personal"), api, settings);
const edge = new EdgeLine(find("edge"), editor);
const desk = new Desk(api, editor, settings, {
  changed,
  state,
  refused,
  renewed: dismiss,
  said: (name) => notices.tell(name),
});
const facts = new Facts(find("facts"), find("drawn"), desk);
const drawer = new Drawer(find("drawer"), api, desk, {
  open: (document, parameters) => {
    leave();
    if (parameters) {
      settings.adopt(parameters);
      document.work.asked = JSON.stringify(askedOf(settings, document));
    }
    desk.put(document);
    find("said").textContent = t("opened", { title: store.titleOf(desk.document) });
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
const choices = new Choices(find("choices"), {
  opened: () => {
    candidates.dismiss();
    editor.mark("place", [choices.source.range]);
  },
  ended: () => editor.mark("place", []),
});
const verse = new VerseDesk(api, desk, editor, choices, offer.settings.find(({ name }) => name === "rhyme_book")?.choices ?? [], {
  chosen: (form) => {
    dismiss(); // they keep to the form before
    if (form && settings.values.style === "novel") settings.choose("lyric"); // prose has other settings
  },
});
const story = new StoryDrawer(find("story-drawer"), find("story"), (fields) => desk.plan({ story: fields }));

new ResizeObserver(() => candidates.open && editor.toEnd()).observe(find("candidates"));

function changed() {
  const { text, history, work, range } = desk;
  put(find("rename"), store.titleOf(desk.document) || t("untitled"));
  find("undo").disabled = !history.canUndo;
  find("redo").disabled = !history.canRedo;
  find("retry").disabled = desk.document.form ? !text.string.trim() : !history.lastRun;
  story.show(desk.document.story, (desk.inStep && work?.window?.story) || null);
  verse.changed();
  for (const name of ["export", "export_md", "export_epub", "print"]) find(name).disabled = !text.length;
  edge.put(range ? range[1] : null);
  facts.show();
}

// While words are selected, they can be rewritten.
function selected() {
  const [from, to] = editor.selection();
  const some = from < to && !desk.writing.active;
  find("rewrite").hidden = !some;
  find("three").hidden = some;
}

function state() {
  const { active, state: name } = desk.writing;
  document.body.dataset.state = name;
  find("write").hidden = active;
  find("stop").hidden = !active;
  find("stop").disabled = name === "stopping";
  for (const id of ["forms", "verse-form"]) find(id).disabled = active;
  find("three").setAttribute("aria-pressed", String(candidates.open));
  put(find("status"), t(name === "finished" && desk.endsItself ? "state.whole" : `state.${name}`));
  selected();
  changed();
}

function refused(error, again) {
  if (error.status === 422 && error.field === "story") story.complain(error.message);
  else if (error.status === 422 && error.field !== "prompt") settings.complain(error.field, error.message);
  notices.refused(error, again);
}

function dismiss() {
  candidates.dismiss();
  choices.dismiss();
}

// What was asked and refused for the open document does not apply to another one, or to what is asked next.
function leave() {
  dismiss();
  notices.clear();
  settings.complain(null);
  story.complain("");
}

// Do it, unless the model would begin without a word: then ask first. `needless`: it needs none.
function begun(write, needless = desk.endsItself) {
  leave();
  editor.settle();
  if (needless || desk.text.string.trim()) write();
  else notices.offer("empty", "write_free", write);
}

const act = {
  write: () => begun(() => verse.prepare((kept) => desk.writing.write(null, kept))),
  stop: () => {
    if (candidates.open || choices.open) dismiss();
    else desk.writing.stop();
  },
  undo: () => {
    dismiss();
    desk.undo();
  },
  redo: () => {
    dismiss();
    desk.redo();
  },
  retry: () => {
    leave();
    if (!verse.form) return desk.retry();
    desk.writing.abandon();
    verse.prepare((kept) => desk.writing.write(Math.floor(Math.random() * 2 ** 48), kept), true);
  },
  three: () => begun(() => {
    desk.writing.abandon();
    verse.prepare((kept) => {
      candidates.ask(desk.sample(kept));
      state();
    });
  }, Boolean(verse.form)),
  rewrite: () => {
    const [from, to] = editor.selection();
    if (from < to && !desk.writing.active) verse.passage([from, to]);
  },
  line_menu: () => verse.form && verse.open(),
  forms: () => verse.pick(),
  story: () => story.open(desk.document.story),
  works: () => drawer.show(),
  new: () => {
    leave();
    desk.put(store.blank());
    find("text").focus();
  },
  export: () => save("txt"),
  export_md: () => save("md"),
  export_epub: () => save("epub"),
  print: () => print(),
  import: () => find("file").click(),
  rename: async () => {
    const { document } = desk;
    const name = await askLine(t("rename"), t("rename_label"), store.titleOf(document));
    if (name !== null && document === desk.document) desk.rename(name);
  },
  larger: () => fontsize.step(1),
  smaller: () => fontsize.step(-1),
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

function save(format) {
  download(desk.text.string, store.titleOf(desk.document), format);
}

// A file becomes a new text with the file's name.
async function open(file) {
  const name = file.name.replace(/\.txt$/i, "");
  try {
    const { text, encoding } = await read(file);
    leave();
    desk.put({ ...store.blank(), text: new Text([{ who: WRITER, text: withBreaks(text) }]), title: name.slice(0, 80) });
    notices.tell("imported", { name, encoding: encoding.toUpperCase() });
  } catch (error) {
    notices.tell(error.message, { name });
  }
}

// Whether there was a button to press.
function press(name) {
  if (name === "stop" && find("more").open) {
    find("more").open = false;
    return true;
  }
  if (name === "stop" && !candidates.open && !choices.open && !desk.writing.active) return false;
  if (find(name)?.disabled || (name === "line_menu" && !verse.form)) return true;
  act[name]();
  return true;
}

function words() {
  speak();
  personal.show(find("own").value);
  if (choices.open) choices.words();
  find("text").dataset.placeholder = t("placeholder");
  find("theme").textContent = t(`theme_${theme.following()}`);
  state();
}

for (const name of Object.keys(act)) {
  find(name)?.addEventListener("click", () => {
    if (!["larger", "smaller"].includes(name)) for (const menu of ["menu", "exports"]) find(menu).hidePopover();
    act[name]();
  });
}
find("file").addEventListener("change", () => {
  const [file] = find("file").files;
  if (file) open(file);
  find("file").value = ""; // the same file may be chosen again
});
fillTable(find("keys").querySelector("tbody"));
listen(press, (n) => {
  if (choices.open) return choices.choose(n);
  if (!candidates.open || n > 2) return false;
  candidates.choose(n);
  return true;
});
document.addEventListener("selectionchange", selected);
find("rewrite").addEventListener("pointerdown", (event) => event.preventDefault()); // the selection stays
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
setInterval(() => desk.writing.active && facts.show(), 500);
theme.apply();
fontsize.apply();
desk.put(store.current() || store.blank());
words();
