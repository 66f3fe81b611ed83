// Follow a work's events across lost connections and restarts of the server, until it is finished, paused or failed.

import { events, Lost, pause, Refusal } from "./api.js";

const FIRST = 400; // ms until the first reconnection; doubled each time
const MOST = 5_000;
export const RESTING = ["paused", "failed"]; // states
const AGAIN = [429, 502, 503, 504]; // a proxy sends some of these while the service restarts

// `work.event` is the position to continue from. `on` receives connected(), lost(), state(data), token(data, id), window(data), done(data),
// and rest(work) with the whole work when it paused or failed, because its last tokens may arrive after that event.
// Returns when the work is finished, paused or failed. Raises Refusal if the work cannot be read.
export async function follow(api, work, on, signal) {
  let wait = FIRST;
  while (!signal.aborted) {
    try {
      const headers = work.event ? { "Last-Event-ID": work.event } : {};
      const response = await api.open("GET", `/works/${work.id}/events`, undefined, { signal, headers });
      if (response.status === 204) {
        on.done(null);
        return;
      }
      on.connected();
      for await (const { id, name, data } of events(response)) {
        if (signal.aborted) return;
        wait = FIRST;
        if (name === "token" && data.index === 0) on.token(data, id);
        else if (name === "window" && data.index === 0) on.window(data, id);
        else if (name === "state") {
          on.state(data);
          if (!RESTING.includes(data.state)) continue;
          const whole = await api.json("GET", `/works/${work.id}`, undefined, { signal });
          if (!RESTING.includes(whole.state)) continue;
          on.rest(whole);
          return;
        } else if (name === "done") {
          on.done(data);
          return;
        }
      }
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      const again = error instanceof Lost || (error instanceof Refusal && AGAIN.includes(error.status));
      if (!again) throw error;
      if (error.retryAfter) wait = Math.min(error.retryAfter * 1000, MOST);
    }
    on.lost();
    await pause(wait, signal);
    wait = Math.min(2 * wait, MOST);
  }
}
