// Pending pauses of works. Each is sent as soon as the service can be reached, whatever document is open then, also by the next page.

import { Lost, pause } from "./api.js";
import { loadPauses, savePauses } from "./store.js";

export class Pauses {
  // heard(id, state): the pause was sent; `state` is the work's state now, null if there is no work to pause
  constructor(api, heard) {
    Object.assign(this, { api, heard, telling: false });
    this.repeat();
  }

  // Pause now. Returns the service's response; null if it could not be reached, then the pause is sent later.
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

  // Whether a pause is still to be sent.
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
