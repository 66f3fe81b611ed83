// A panel that offers what one request of the service brings. A new request, or dismissal, ends the one before.

export class Offering {
  constructor(section, on) {
    Object.assign(this, { section, on, line: null });
  }

  get open() {
    return !this.section.hidden;
  }

  // The controller of a new request.
  begin() {
    this.line?.abort();
    this.line = new AbortController();
    this.section.setAttribute("aria-busy", "true");
    return this.line;
  }

  // Whether an answer or an error belongs to a request that was ended here.
  stale(line, error = null) {
    return this.line !== line || error?.name === "AbortError";
  }

  dismiss() {
    if (!this.open) return;
    this.line?.abort();
    this.line = null;
    this.section.hidden = true;
    this.on.ended();
  }
}
