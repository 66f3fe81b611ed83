// Tokens per second over the last few seconds.

const SPAN = 3_000; // ms
const SETTLE = 250; // ms after connecting in which earlier text may arrive at once

export class Rate {
  constructor() {
    this.reset();
  }

  reset() {
    this.since = performance.now() + SETTLE;
    this.seen = [];
  }

  add(tokens) {
    const now = performance.now();
    if (now < this.since) return;
    this.seen.push([now, tokens]);
    while (now - this.seen[0][0] > SPAN) this.seen.shift();
  }

  get perSecond() {
    if (this.seen.length < 2) return null;
    const [[first], rest] = [this.seen[0], this.seen.slice(1)];
    const last = rest[rest.length - 1][0];
    return last > first ? (1000 * rest.reduce((sum, [, tokens]) => sum + tokens, 0)) / (last - first) : null;
  }
}
