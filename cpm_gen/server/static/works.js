// Requests about works.

import { Lost, pause } from "./api.js";

const marks = new Set(); // of works whose creation was abandoned although the service may have received it

// Create a work exactly once. If the connection is lost before the response, look for its mark before creating it again.
export async function make(api, body, signal, lost) {
  const mark = crypto.getRandomValues(new Uint32Array(2)).join("-");
  const marked = { ...body, metadata: { ...body.metadata, desk: mark } };
  const givenUp = () => marks.add(mark);
  signal.addEventListener("abort", givenUp);
  try {
    return await made(api, marked, signal, lost);
  } finally {
    signal.removeEventListener("abort", givenUp);
  }
}

async function made(api, body, signal, lost) {
  for (let wait = 400; ; wait = Math.min(2 * wait, 5_000)) {
    try {
      return await api.json("POST", "/works", body, { signal });
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
    }
    for (let list = null; !list; wait = Math.min(2 * wait, 5_000)) {
      lost();
      await pause(wait, signal);
      signal.throwIfAborted();
      list = await api.json("GET", "/works?limit=20", undefined, { signal }).catch(unlessRefused);
      const ours = list?.works.find((work) => work.metadata.desk === body.metadata.desk);
      if (ours) return api.json("GET", `/works/${ours.id}`, undefined, { signal });
    }
  }
}

function unlessRefused(error) {
  if (error instanceof Lost || [429, 502, 503, 504].includes(error.status)) return null;
  throw error;
}

// Delete the works whose creation was abandoned.
export async function sweep(api) {
  for (let tries = 0; marks.size && tries < 8; tries++) {
    await pause(500 * 2 ** tries);
    const list = await api.json("GET", "/works?limit=20").catch(() => null);
    for (const { id, metadata } of list?.works || []) {
      if (marks.has(metadata.desk)) await api.json("DELETE", `/works/${id}`).then(() => marks.delete(metadata.desk), () => {});
    }
  }
}
