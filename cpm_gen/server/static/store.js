// Documents and settings in this browser. A document and the event id that its work has reached are stored in one write.

import { forever, visit } from "./kept.js";
import { storyOf } from "./story.js";
import { BREAK, EOD, letterAt, MODEL, shown, Text, title, withBreaks } from "./text.js";
import { FREE } from "./verse.js";

const DOCUMENT = "cpm-gen:document:";
const CURRENT = "cpm-gen:current";
const SETTINGS = "cpm-gen:settings";
const OWN = "cpm-gen:own";
const PAUSES = "cpm-gen:pauses";
const MOST = 150_000; // characters of a prompt; the service takes 200,000

function read(key) {
  try {
    return JSON.parse(forever.get(key));
  } catch {
    return null;
  }
}

// Whether it could be stored: a browser has room for some millions of characters, or forbids storage.
function write(key, value) {
  return forever.set(key, JSON.stringify(value));
}

// What a document has beside its text: a form with locked lines, a story.
const PLANS = { form: null, locks: [], story: null };
const planned = ({ form, locks, story }) => ({ form: form ?? null, locks: locks ?? [], story: story ?? null });

const fresh = () => crypto.getRandomValues(new Uint32Array(3)).join("-");

export function blank() {
  return { id: fresh(), text: new Text(), work: null, ...PLANS };
}

// A document's own title, or its first words.
export function titleOf({ title: own, text }) {
  return own || title(text.string);
}

// Store a document. `kept`: whether there was room; `lost`: whether another tab had stored a version that this one was not made from.
// That version becomes a draft of its own. `behind`: whether there was nothing to store, and another tab has stored a newer version.
export function save(document) {
  const { id, text, work, revision } = document;
  const stored = read(DOCUMENT + id);
  const lost = Boolean(stored) && stored.revision !== revision && document.saved !== content(document) && !holds(text, stored);
  let kept = !lost || draft(stored.revision, stored);
  if (!text.length && !work && !document.form && !document.story) {
    forget(id);
    return { kept, lost, behind: false };
  }
  visit.set(CURRENT, id); // each tab has its own
  const now = content(document);
  const behind = Boolean(stored) && document.saved === now && stored.revision !== revision;
  if (!stored || document.saved !== now) {
    document.revision = fresh();
    document.saved = now;
    const { string } = text;
    // `shown` is the text itself until it is edited
    const keptWork = work && { ...work, shown: undefined, inStep: work.shown === string };
    const { title: own } = document;
    const value = { id, string, title: own, marks: text.marks(), work: keptWork, updated: Date.now(), revision: document.revision, base: revision };
    Object.assign(value, planned(document));
    kept = write(DOCUMENT + id, value) && kept;
  } else if (!document.opened && !behind) write(DOCUMENT + id, { ...stored, updated: Date.now() }); // it comes first in the list
  document.opened = true;
  return { kept: write(CURRENT, id) && kept, lost, behind };
}

// What of a document is stored, to find out whether it changed.
function content(document) {
  const { text, work, title: own } = document;
  const parts = [own ?? null, work && { ...work, shown: work.shown === text.string }, text.marks(), planned(document)];
  return JSON.stringify(parts) + text.string;
}

// Whether nothing of a stored version is lost if `text` takes its place: the text begins with it, or the service has it.
function holds(text, { string, work }) {
  return (work?.inStep && !work.part) || text.string.startsWith(string) || !string.trim();
}

// Store a version as a document of its own. Its name is that of the version, so that it is stored once.
export function draft(revision, version) {
  const id = revision ?? fresh();
  const { string, marks, title: own } = version;
  return write(DOCUMENT + id, { id, string, title: own, marks, work: null, updated: Date.now(), ...planned(version) });
}

export function load(id) {
  const kept = read(DOCUMENT + id);
  if (typeof kept?.string !== "string") return null; // nothing, or not written by this page
  const { title: own, revision, base } = kept;
  const document = { id, text: Text.marked(kept.string, kept.marks), title: own, work: null, revision, base, ...planned(kept) };
  if (kept.work) {
    const { inStep, ...rest } = kept.work;
    const moved = (at) => withBreaks(kept.string.slice(0, at)).length; // stored before breaks were one character
    document.work = { ...rest, from: moved(rest.from), run: moved(rest.run), shown: inStep ? document.text.string : null };
  }
  document.saved = content(document);
  return document;
}

// Calls `on` when another tab has stored the document `id()`.
export function watch(id, on) {
  addEventListener("storage", ({ key, newValue }) => newValue && key === DOCUMENT + id() && on());
}

export function current() {
  const id = visit.get(CURRENT) || read(CURRENT);
  return (id && load(id)) || null;
}

export function forget(id) {
  forever.remove(DOCUMENT + id);
}

// This browser's documents that have no work yet or were edited since, newest first.
export function drafts() {
  const out = [];
  for (const key of forever.keys()) {
    const kept = key.startsWith(DOCUMENT) && read(key);
    if (!kept) continue;
    out.push({
      id: kept.id,
      work: kept.work?.id || null,
      inStep: Boolean(kept.work?.inStep),
      title: kept.title || title(kept.string),
      characters: kept.string.length,
      updated: kept.updated,
      string: shown(withBreaks(kept.string)),
    });
  }
  return out.sort((a, b) => b.updated - a.updated);
}

export const loadSettings = () => read(SETTINGS) || {};
export const saveSettings = (settings) => write(SETTINGS, settings);

export const loadOwn = () => read(OWN) || {};
export const saveOwn = (own) => write(OWN, own);

export const loadPauses = () => read(PAUSES) || [];
export const savePauses = (ids) => write(PAUSES, ids);

// Make a document from a work's JSON.
export function fromWork(work) {
  const { style, form, story } = work.parameters;
  const lyric = style === "lyric";
  const before = typeof work.prompt === "string" ? work.prompt : work.prompt[0];
  const text = form ? new Text() : Text.marked(shownPrompt(before, lyric), work.metadata.spans); // a verse begins after its prompt
  const prompt = text.string;
  const glue = glueOf(prompt, lyric);
  const choice = work.choices[0];
  const several = typeof work.prompt !== "string" && work.prompt.length > 1;
  text.replace(text.length, text.length, [{ who: MODEL, text: glue + withBreaks(choice.text) }]);
  return {
    ...blank(),
    text,
    title: named(work),
    form: form ? formOf(work, before) : null,
    story: story ? storyOf(story) : null,
    work: {
      id: work.id,
      title: named(work),
      state: work.state,
      event: work.event_id,
      from: prompt.length + glue.length,
      run: prompt.length,
      window: choice.window,
      slides: choice.window_slides,
      tokens: work.usage.completion_tokens,
      prompted: several ? null : work.usage.prompt_tokens, // counts all prompts together
      keep: work.parameters.window?.keep || 0,
      seed: work.parameters.seed,
      own: Boolean(work.metadata.desk),
      shown: text.string,
    },
  };
}

// The fields of a work's form, or its notation where another program made the work.
function formOf({ parameters, metadata }, prompt) {
  try {
    return { ...FREE, ...JSON.parse(metadata.form), prompt };
  } catch {
    return { ...FREE, form: parameters.form, prompt };
  }
}

// The title that a user gave a work; others are first words.
const named = ({ metadata }) => (metadata.named && metadata.title) || undefined;

// A break is <eod>. In the lyric style every line ends with it; a blank line is a single space.
export function promptOf(string, style) {
  if (style !== "lyric") return string.replaceAll(BREAK, EOD);
  return shown(string).split("\n").map((line) => line || " ").join(EOD);
}

// The part of a prompt that is sent: its end, beginning at a whole character and not inside an <eod>.
export function endOf(prompt) {
  const cut = prompt.length - MOST;
  if (cut <= 0) return prompt;
  const mark = prompt.lastIndexOf(EOD, cut - 1);
  const torn = mark >= 0 && mark + EOD.length > cut;
  return prompt.slice(torn ? mark + EOD.length : letterAt(prompt, cut));
}

function shownPrompt(prompt, lyric) {
  if (!lyric) return prompt;
  return prompt.split(EOD).map((line) => (line === " " ? "" : line)).join("\n");
}

// A lyric's prompt consists of whole lines; the model begins on the next one.
export function glueOf(string, lyric) {
  return lyric && string && !/[\n\u2029]$/.test(string.slice(-1)) ? "\n" : "";
}
