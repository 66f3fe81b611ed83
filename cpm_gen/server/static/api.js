// Requests to the service. An error response raises Refusal, a lost connection raises Lost; a key is asked for if one is needed.

import { visit } from "./kept.js";
import { tongue } from "./language.js";

const KEY = "cpm-gen:key";
const ROOT = new URL("..", import.meta.url); // the service may be below a path of a proxy
const SILENCE = 45_000; // ms; the service sends something every fifteen seconds

export class Refusal extends Error {
  constructor(status, error, retryAfter) {
    super(error.message);
    Object.assign(this, { status, code: error.code, field: error.field, retryAfter });
  }
}

export class Lost extends Error {}

async function refusal(response) {
  let error = { code: `http_${response.status}`, message: response.statusText, field: null };
  try {
    error = (await response.json()).error || error;
  } catch {
    // a proxy's response, not the service's
  }
  const after = Number(response.headers.get("Retry-After"));
  return new Refusal(response.status, error, after > 0 ? after : null);
}

export class Api {
  // askKey(code) shows a form and resolves to a key, or to null when it is dismissed.
  constructor(askKey) {
    this.askKey = askKey;
    this.asking = null;
  }

  // A response that is not an error. Raises Refusal or Lost, and AbortError if `signal` aborts.
  async open(method, path, body, { signal, headers } = {}) {
    for (;;) {
      const key = visit.get(KEY);
      const all = { "Accept-Language": tongue(), ...headers };
      if (key) all.Authorization = `Bearer ${key}`;
      if (body !== undefined) all["Content-Type"] = "application/json";
      let response;
      try {
        const content = body === undefined ? undefined : JSON.stringify(body);
        response = await fetch(new URL(path.slice(1), ROOT), { method, headers: all, body: content, signal, cache: "no-store" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Lost(String(error));
      }
      if (response.ok) return response;
      const refused = await refusal(response);
      if (response.status !== 401 || !(await this.renewed(key, refused.code))) throw refused;
    }
  }

  // Whether there is another key to try. Several requests share one dialog.
  async renewed(tried, code) {
    if (visit.get(KEY) !== tried) return true;
    this.asking ??= this.askKey(code).finally(() => (this.asking = null));
    const key = await this.asking;
    if (key) visit.set(KEY, key);
    return Boolean(key);
  }

  async json(method, path, body, options) {
    const response = await this.open(method, path, body, options);
    if (response.status === 204) return null;
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Lost(String(error));
    }
  }
}

// The server-sent events of a response: {id, name, data}. Raises Lost if the connection breaks or is silent for too long.
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await heard(reader);
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function heard(reader) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Lost("silence")), SILENCE);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Lost) throw error;
    throw new Lost(String(error));
  } finally {
    clearTimeout(timer);
  }
}

function parse(block) {
  const event = { id: null, name: "message", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("id: ")) event.id = line.slice(4);
    else if (line.startsWith("event: ")) event.name = line.slice(7);
    else if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null;
}

// Wait until `ms` have passed, the machine is online again, or `signal` aborts.
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    addEventListener("online", end);
    signal?.addEventListener("abort", end);
  });
}
