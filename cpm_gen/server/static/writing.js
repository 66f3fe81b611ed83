// The work that writes the document on the desk: begun, followed, stopped, gone on with.

import { pause, Refusal } from "./api.js";
import { follow, RESTING } from "./follow.js";
import { Pauses } from "./pauses.js";
import { Rate } from "./rate.js";
import { endOf, glueOf, promptOf } from "./store.js";
import { MODEL, title, unitsOf } from "./text.js";
import { make, sweep } from "./works.js";

const SPANS = 24_000; // bytes that the marks may take of a work's metadata
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

  // A document came onto the desk.
  arrive() {
    this.settle();
    const { work, inStep } = this.desk;
    if (!inStep || this.pauses.late(work.id)) return;
    if (MOVING.includes(work.state)) this.run();
    else this.compare();
  }

  // What this browser remembers of a work at rest may be old: it may have gone on elsewhere.
  async compare() {
    const { desk } = this;
    const { work } = desk;
    const now = await this.api.json("GET", `/works/${work.id}`).catch(() => null); // then the next run finds out
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

  // Go on at the end of the text. `dice`: a seed that is not the settings'.
  async write(dice = null) {
    const { desk } = this;
    if (this.active) return;
    this.editor.settle();
    if (!desk.text.string.trim()) {
      desk.on.said("empty");
      return;
    }
    const asked = this.settings.body();
    const { work } = desk;
    const goesOn = desk.inStep && dice === null && work.asked === key(asked, work);
    const line = (this.line = new AbortController());
    this.editor.lock(true);
    this.setState("connecting");
    this.resumes = goesOn;
    this.asking = true; // the service has not answered yet
    try {
      await (goesOn ? this.goOn(asked) : this.begin(asked, dice));
    } catch (error) {
      if (this.line !== line) return; // stopped meanwhile
      if (goesOn && error.status === 404) work.shown = null;
      this.rest();
      desk.on.refused(error, () => this.write(dice));
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
    // else it goes on already, or did: elsewhere, or because it was asked before and the answer was lost
    if (RESTING.includes(now.state)) now = await ask("POST", "/resume");
    else if (now.state === "finished" && !ahead(now, work)) now = await ask("POST", "/continue", { max_new_tokens: asked.max_new_tokens });
    Object.assign(work, { state: now.state, asked: JSON.stringify(asked), run: desk.text.length });
    desk.history.begin();
    desk.keep();
  }

  async begin(asked, dice) {
    const { desk } = this;
    const { text, work: old } = desk;
    const { signal } = this.line;
    const lyric = asked.style === "lyric";
    const whole = promptOf(text.string, asked.style);
    const prompt = endOf(whole);
    const part = prompt.length < whole.length;
    const spans = text.marks();
    const metadata = { title: title(text.string) };
    if (!part && spans.length < SPANS) metadata.spans = spans;
    const body = { ...asked, prompt, truncate_prompt: true, metadata };
    if (dice !== null) body.seed = dice;
    const work = await make(this.api, body, signal, () => this.setState("lost"));
    const run = text.length;
    desk.history.begin();
    const glue = glueOf(text.string, lyric);
    if (glue) {
      desk.history.grow(MODEL, glue);
      this.editor.append(glue);
    }
    desk.document.work = {
      id: work.id, state: work.state, event: null, from: text.length, run, window: null, slides: 0, tokens: 0,
      prompted: work.usage.prompt_tokens, keep: asked.window?.keep || 0, asked: JSON.stringify(asked),
      seed: work.parameters.seed, part, own: true, shown: text.string,
    };
    desk.range = null;
    desk.changed();
    desk.keep();
    if (part) desk.on.said("part");
    else if (old?.own && !old.part) this.api.json("DELETE", `/works/${old.id}`).catch(() => {}); // else it stays in the list
  }

  // Follow the work until it rests.
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
        if (state === "deleted") return; // the line ends, and the next one says that there is no such work
        work.state = state;
        if (this.state !== "stopping" && !RESTING.includes(state)) this.setState(state); // it rests with its last words
        if (state === "failed" && error) desk.on.refused(new Refusal(500, error, null), null);
      },
      token: (data, id) => {
        work.tokens += data.token_ids.length;
        this.rate.add(data.token_ids.length);
        this.take(data.text, id);
      },
      window: (data, id) => {
        this.flush();
        Object.assign(work, { window: { start: data.start, text_start: data.text_start }, slides: data.slides });
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
      if (error.status === 404) work.shown = null; // deleted elsewhere: the text stays, the next run is another work
      desk.on.refused(error, null);
    }
    if (this.line === line) this.rest();
  }

  // Text arrives in pieces; the page takes them as often as it can draw them.
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
    const { text, event } = this.pending;
    if (!event) return;
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

  // The work as the service has it: what the line did not bring yet comes onto the desk.
  complete({ event_id: event, choices: [{ text, window, window_slides: slides }] }) {
    this.flush();
    const { desk } = this;
    const { work } = desk;
    const [tokens, characters] = (work.event ?? "0:0").split(":").map((number) => parseInt(number));
    const more = parseInt(event) - tokens;
    if (more < 0) return; // the process died after it told more than it had kept
    Object.assign(work, { window, slides, tokens: work.tokens + more });
    this.take(text.slice(unitsOf(text, 0, characters)), event);
    this.flush();
    desk.look();
  }

  // No line any more; what came is on the desk.
  cut() {
    this.flush();
    this.line?.abort();
    this.line = null;
    if (this.asking && !this.resumes) sweep(this.api); // the service may make it all the same
    this.asking = false;
    this.desk.history.end();
    this.editor.lock(false);
  }

  rest() {
    this.cut();
    this.settle();
    this.desk.keep();
    this.desk.on.changed();
  }

  // The work pauses; its last words are in the answer.
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
    else if (now) await pause(3_000, line.signal); // it had ended: until the line says so
    if (this.line === line) this.rest();
  }

  // The service was told to pause a work.
  paused(id, state) {
    const { work } = this.desk;
    if (work?.id !== id) return;
    if (state) work.state = state;
    this.settle();
  }

  // What was asked for may have reached the service or not: it is told to let it be.
  giveUp() {
    if (this.resumes) this.pauses.later(this.desk.work.id);
    this.rest();
  }

  // Whose text is about to change: its work need not go on.
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

// Whether a work has words that have not come to the desk. An event's id begins with the tokens up to it.
function ahead(now, work) {
  return parseInt(now.event_id) > parseInt(work.event ?? "0");
}

// What was asked for; a finished work may go on by another length, a paused one keeps its own.
function key(asked, work) {
  if (work.state !== "finished") return JSON.stringify(asked);
  const { max_new_tokens: length } = work.asked ? JSON.parse(work.asked) : {};
  return JSON.stringify({ ...asked, max_new_tokens: length });
}
