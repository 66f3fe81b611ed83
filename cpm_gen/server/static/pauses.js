// Works that are to pause. The service is told as soon as it can hear, whatever is on the desk by then, also by the next page.

import { Lost, pause } from "./api.js";
import { loadPauses, savePauses } from "./store.js";

export class Pauses {
  // heard(id, state): the service was told; `state` is how the work stands by now, null where there is none to pause
  constructor(api, heard) {
    Object.assign(this, { api, heard, telling: false });
    this.repeat();
  }

  // Now. Returns what the service answered; null where it did not hear: then it is told later.
  async ask(id) {
    this.note(id);
    const now = await this.tell(id);
    if (!now) this.repeat();
    return now;
  }

  later(id) {
    this.note(id);
    this.repeat();
  }

  // Whether the service has yet to be told.
  late(id) {
    return this.telling && loadPauses().includes(id);
  }

  note(id) {
    savePauses([...loadPauses().filter((one) => one !== id), id]);
  }

  drop(id) {
    savePauses(loadPauses().filter((one) => one !== id));
  }

  async tell(id) {
    let now = { state: null };
    try {
      now = await this.api.json("POST", `/works/${id}/pause`);
    } catch (error) {
      if (error instanceof Lost || error.status >= 429) return null;
      if (error.status === 409) now.state = "finished";
    }
    this.drop(id);
    this.heard(id, now.state);
    return now;
  }

  async repeat() {
    if (this.telling) return;
    this.telling = true;
    for (let wait = 1_000; loadPauses().length; wait = Math.min(2 * wait, 10_000)) {
      await pause(wait);
      for (const id of loadPauses()) await this.tell(id);
    }
    this.telling = false;
  }
}
