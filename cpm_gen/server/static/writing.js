// The work that writes the document on the desk: begun, followed, stopped, gone on with.

import { Lost, pause, Refusal } from "./api.js";
import { follow } from "./follow.js";
import { Rate } from "./rate.js";
import { glueOf, promptOf } from "./store.js";
import { MODEL, title } from "./text.js";
import { make, sweep } from "./works.js";

const MOST = 150_000; // characters of a prompt; the service takes 200,000
const SPANS = 24_000; // bytes that the marks may take of a work's metadata

export class Writing {
  constructor(desk, api, editor, settings) {
    Object.assign(this, { desk, api, editor, settings, state: "idle", rate: new Rate(), line: null });
    this.pending = { text: "", event: null };
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
    if (inStep && work.stop) this.halt();
    else if (inStep && ["queued", "running"].includes(work.state)) this.run();
  }

  settle() {
    if (!this.active) this.setState(this.desk.inStep ? this.desk.work.state : "idle");
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
    const goesOn = desk.inStep && !work.stop && dice === null && work.asked === key(asked, work);
    const line = (this.line = new AbortController());
    this.editor.lock(true);
    this.setState("connecting");
    this.resumes = goesOn;
    this.asking = true; // the service has not answered yet
    try {
      await (goesOn ? this.goOn(asked) : this.begin(asked, dice));
    } catch (error) {
      if (this.line !== line) return; // stopped meanwhile
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
    const post = (what, body) => this.api.json("POST", `/works/${work.id}/${what}`, body, { signal });
    let now = work.state === "finished" ? work : null;
    try {
      now ??= await post("resume");
    } catch (error) {
      if (error.status !== 409) throw error;
      now = await this.api.json("GET", `/works/${work.id}`, undefined, { signal }); // it ended as it was paused
    }
    if (now.state === "finished") now = await post("continue", { max_new_tokens: asked.max_new_tokens });
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
    const part = whole.length > MOST;
    const spans = text.marks();
    const metadata = { title: title(text.string) };
    if (!part && spans.length < SPANS) metadata.spans = spans;
    const body = { ...asked, prompt: whole.slice(-MOST), truncate_prompt: true, metadata };
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
        if (this.state !== "stopping") this.setState(state);
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
    if (this.editor.following) this.editor.toEnd();
    this.slow = performance.now() - began;
  }

  // No line any more; what came is on the desk.
  cut() {
    this.flush();
    this.line?.abort();
    this.line = null;
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

  // The work pauses; its last words still come.
  async stop() {
    const { line, desk, state } = this;
    const { work } = desk;
    if (!line || state === "stopping") return;
    if (this.asking) {
      this.giveUp();
      return;
    }
    this.setState("stopping");
    try {
      await this.api.json("POST", `/works/${work.id}/pause`);
      await pause(3_000, line.signal); // until the line says so
      if (this.line === line) work.state = "paused";
    } catch (error) {
      work.stop = error instanceof Lost || error.status >= 429;
    }
    if (this.line === line) this.rest();
    if (work.stop) this.halt();
  }

  // What was asked for may have reached the service or not: it is told to let it be.
  giveUp() {
    const { work } = this.desk;
    this.rest();
    if (this.resumes) {
      work.stop = true;
      this.halt();
    } else sweep(this.api);
  }

  // The service could not hear "stop": it is told as soon as it can.
  async halt() {
    const { desk } = this;
    const { work } = desk;
    for (let wait = 1_000; work === desk.work && work.stop; wait = Math.min(2 * wait, 10_000)) {
      if (!this.active) this.setState("lost");
      await pause(wait);
      try {
        const { state } = await this.api.json("POST", `/works/${work.id}/pause`);
        Object.assign(work, { state, stop: false });
      } catch (error) {
        if (error.status === 409) work.state = "finished";
        if (error.status === 409 || error.status === 404) work.stop = false;
      }
    }
    if (work === desk.work) this.rest();
  }

  // Whose text is about to change: its work need not go on.
  abandon() {
    if (!this.active) return;
    const { work } = this.desk;
    if (this.asking) {
      this.giveUp();
      return;
    }
    this.rest();
    work.state = "paused";
    this.api.json("POST", `/works/${work.id}/pause`).catch(() => {
      work.stop = true;
      this.halt();
    });
  }
}

// What was asked for; a finished work may go on by another length, a paused one keeps its own.
function key(asked, work) {
  if (work.state !== "finished") return JSON.stringify(asked);
  const { max_new_tokens: length } = work.asked ? JSON.parse(work.asked) : {};
  return JSON.stringify({ ...asked, max_new_tokens: length });
}
