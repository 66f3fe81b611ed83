// The work that writes the open document: create, follow, stop, resume.

import { pause, Refusal } from "./api.js";
import { follow, RESTING } from "./follow.js";
import { learn } from "./lengths.js";
import { Pauses } from "./pauses.js";
import { Rate } from "./rate.js";
import { endOf, glueOf, promptOf, titleOf } from "./store.js";
import { MODEL, unitsOf, withBreaks } from "./text.js";
import { nameOf } from "./verse.js";
import { make, sweep } from "./works.js";

const SPANS = 24_000; // bytes of a work's metadata that the marks may take
const MOVING = ["queued", "running"]; // states

export class Writing {
  constructor(desk, api, editor, settings) {
    Object.assign(this, { desk, api, editor, settings, state: "idle", rate: new Rate(), line: null });
    this.pending = { text: "", event: null };
    this.pauses = new Pauses(api, (id, state) => this.paused(id, state));
  }

  get active() {
    return this.line !== null;
  }

  setState(state) {
    this.state = state;
    this.desk.on.state();
  }

  // A document was opened.
  arrive() {
    this.settle();
    const { work, inStep } = this.desk;
    if (!inStep || this.pauses.late(work.id)) return;
    if (MOVING.includes(work.state)) this.run();
    else this.compare();
  }

  // Refresh a paused or finished work: another browser may have continued it.
  async compare() {
    const { desk } = this;
    const { work } = desk;
    const now = await this.api.json("GET", `/works/${work.id}`).catch(() => null); // the next run finds out
    if (!now || this.active || desk.history.held || work !== desk.work || !desk.inStep) return;
    work.state = now.state;
    if (!ahead(now, work) && !MOVING.includes(now.state)) {
      this.settle();
      return;
    }
    desk.on.renewed();
    this.run();
  }

  settle() {
    if (this.active) return;
    const { work, inStep } = this.desk;
    if (!inStep) this.setState("idle");
    else this.setState(this.pauses.late(work.id) ? "lost" : work.state);
  }

  // Continue at the end of the text, or write a verse. `dice`: a seed other than the settings'. `kept`: the verse's lines that stay.
  async write(dice = null, kept = null) {
    const { desk } = this;
    if (this.active) return;
    this.editor.settle();
    const asked = desk.asked();
    const { work } = desk;
    const goesOn = desk.inStep && dice === null && work.asked === key(asked, work) && !(desk.endsItself && work.state === "finished");
    const line = (this.line = new AbortController());
    this.editor.lock(true);
    this.setState("connecting");
    this.resumes = goesOn;
    this.asking = true; // the service has not responded yet
    try {
      await (goesOn ? this.goOn(asked) : this.begin(asked, dice, kept));
    } catch (error) {
      if (this.line !== line) return; // stopped while waiting
      if (goesOn && error.status === 404) work.shown = null;
      this.rest();
      desk.on.refused(error, () => this.write(dice, kept));
      return;
    }
    this.asking = false;
    await this.run();
  }

  async goOn(asked) {
    const { desk } = this;
    const { work } = desk;
    const { signal } = this.line;
    const ask = (method, what, body) => this.api.json(method, `/works/${work.id}${what}`, body, { signal });
    let now = await ask("GET", "");
    this.pauses.drop(work.id);
    // otherwise it is or was already continued: elsewhere, or by an earlier request whose response was lost
    if (RESTING.includes(now.state)) now = await ask("POST", "/resume");
    else if (now.state === "finished" && !ahead(now, work)) now = await ask("POST", "/continue", { max_new_tokens: asked.max_new_tokens });
    Object.assign(work, { state: now.state, asked: JSON.stringify(asked), run: desk.text.length });
    desk.history.begin();
    desk.keep();
  }

  async begin(asked, dice, kept) {
    const { desk } = this;
    const { text, work: old } = desk;
    const { signal } = this.line;
    const lyric = asked.style === "lyric";
    const { title, form } = desk.document;
    const whole = form ? "" : promptOf(text.string, asked.style);
    const part = endOf(whole).length < whole.length;
    const spans = text.marks();
    const metadata = { title: titleOf(desk.document) };
    if (title) metadata.named = "yes";
    if (form) Object.assign(metadata, { title: metadata.title || nameOf(form), form: JSON.stringify({ ...form, prompt: "" }) });
    else if (!part && spans.length < SPANS) metadata.spans = spans;
    const body = { ...desk.body(asked, kept), metadata };
    if (dice !== null) body.seed = dice;
    const work = await make(this.api, body, signal, () => this.setState("lost"));
    if (form) desk.clear();
    const run = text.length;
    desk.history.begin();
    const glue = glueOf(text.string, lyric);
    if (glue) {
      desk.history.grow(MODEL, glue);
      this.editor.append(glue);
    }
    desk.document.work = {
      id: work.id, title, state: work.state, event: null, from: text.length, run, window: null, slides: 0, tokens: 0,
      prompted: work.usage.prompt_tokens, keep: asked.window?.keep || 0, asked: JSON.stringify(asked),
      seed: work.parameters.seed, part, own: true, shown: text.string,
    };
    desk.range = null;
    desk.changed();
    desk.keep();
    if (part) desk.on.said("part");
    else if (old?.own && !old.part) this.api.json("DELETE", `/works/${old.id}`).catch(() => {}); // otherwise it stays in the list
  }

  // Follow the work until it is finished, paused or failed.
  async run() {
    const { desk } = this;
    const { work } = desk;
    const line = (this.line ??= new AbortController());
    if (!desk.history.lastRun) desk.history.begin();
    this.editor.lock(true);
    this.editor.following = true;
    this.editor.toEnd();
    this.setState(work.state === "queued" ? "queued" : "running");
    const on = {
      connected: () => this.rate.reset(),
      lost: () => this.setState("lost"),
      state: ({ state, error }) => {
        if (state === "deleted") return; // the connection ends, and the next one gets 404
        work.state = state;
        if (this.state !== "stopping" && !RESTING.includes(state)) this.setState(state); // else shown with its last tokens
        if (RESTING.includes(state) && error) desk.on.refused(new Refusal(500, error, null), null);
      },
      token: (data, id) => {
        work.tokens += data.token_ids.length;
        this.rate.add(data.token_ids.length);
        this.take(data.text, id);
      },
      window: (data, id) => {
        this.flush();
        const { start, text_start: begin, story } = data;
        Object.assign(work, { window: { start, text_start: begin, story }, slides: data.slides });
        if (id) work.event = id;
        desk.look();
      },
      done: () => (work.state = "finished"),
      rest: (whole) => this.complete(whole),
    };
    try {
      await follow(this.api, work, on, line.signal);
    } catch (error) {
      if (this.line !== line) return;
      if (error.status === 404) work.shown = null; // deleted elsewhere: the text stays, and the next run creates another work
      desk.on.refused(error, null);
    }
    if (this.line === line) this.rest();
  }

  // Text arrives in chunks; the page applies them once per frame.
  take(string, event) {
    this.pending.text += string;
    this.pending.event = event;
    if (this.drawing) return;
    this.drawing = true;
    const draw = () => this.flush();
    if (document.hidden || this.slow > 12) setTimeout(draw, 4 * (this.slow || 10));
    else requestAnimationFrame(draw);
  }

  flush() {
    this.drawing = false;
    const { text: written, event } = this.pending;
    if (!event) return;
    const text = withBreaks(written);
    const began = performance.now();
    const { desk } = this;
    this.pending = { text: "", event: null };
    desk.history.grow(MODEL, text);
    Object.assign(desk.work, { event, shown: desk.text.string });
    this.editor.append(text);
    desk.changed();
    this.editor.follow();
    this.slow = performance.now() - began;
  }

  // Add the text that the service has and the connection has not delivered yet.
  complete({ event_id: event, choices: [{ text, window, window_slides: slides }] }) {
    this.flush();
    const { desk } = this;
    const { work } = desk;
    const [tokens, characters] = (work.event ?? "0:0").split(":").map((number) => parseInt(number));
    const more = parseInt(event) - tokens;
    if (more < 0) return; // the process died after sending more than it had committed
    Object.assign(work, { window, slides, tokens: work.tokens + more });
    this.take(text.slice(unitsOf(text, 0, characters)), event);
    this.flush();
    desk.look();
  }

  // Close the connection and show what arrived.
  cut() {
    this.flush();
    this.line?.abort();
    this.line = null;
    if (this.asking && !this.resumes) sweep(this.api); // the service may create it anyway
    this.asking = false;
    this.desk.history.end();
    this.editor.lock(false);
  }

  rest() {
    this.cut();
    const { text, work, inStep } = this.desk;
    if (inStep) learn(text.string.slice(work.from), work.tokens);
    this.desk.restore();
    this.settle();
    this.desk.keep();
    this.desk.on.changed();
  }

  // The work was paused; its last tokens are in the response.
  async stop() {
    const { line, desk, state } = this;
    const { work } = desk;
    if (!line || state === "stopping") return;
    if (this.asking) {
      this.giveUp();
      return;
    }
    this.setState("stopping");
    const now = await this.pauses.ask(work.id);
    if (this.line !== line) return;
    if (now?.choices) this.complete(now);
    else if (now) await pause(3_000, line.signal); // it had already ended: wait for the event that says so
    if (this.line === line) this.rest();
  }

  // The pause of a work was sent.
  paused(id, state) {
    const { work } = this.desk;
    if (work?.id !== id) return;
    if (state) work.state = state;
    this.settle();
  }

  // The request may or may not have reached the service: ask it to pause.
  giveUp() {
    if (this.resumes) this.pauses.later(this.desk.work.id);
    this.rest();
  }

  // The text is about to change: its work need not continue.
  abandon() {
    if (!this.active) return;
    const { work } = this.desk;
    if (this.asking) {
      this.giveUp();
      return;
    }
    work.state = "paused";
    this.rest();
    this.pauses.ask(work.id).then(() => this.settle());
  }
}

// Whether a work has text that has not arrived here. An event's id begins with the number of tokens up to it.
function ahead(now, work) {
  return parseInt(now.event_id) > parseInt(work.event ?? "0");
}

// The request's parameters. A finished work may be continued by another length; a paused one keeps its own.
function key(asked, work) {
  if (work.state !== "finished") return JSON.stringify(asked);
  const { max_new_tokens: length } = work.asked ? JSON.parse(work.asked) : {};
  return JSON.stringify({ ...asked, max_new_tokens: length });
}
