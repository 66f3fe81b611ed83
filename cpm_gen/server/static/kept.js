// The browser's storage. If it is full or forbidden, values are held in memory while the page is open.

class Kept {
  constructor(name) {
    this.name = name;
    this.held = new Map();
  }

  get(key) {
    try {
      return this.held.get(key) ?? globalThis[this.name].getItem(key);
    } catch {
      return null;
    }
  }

  // Whether values survive the page.
  set(key, value) {
    try {
      globalThis[this.name].setItem(key, value);
      this.held.delete(key);
      return true;
    } catch {
      this.held.set(key, value);
      return false;
    }
  }

  remove(key) {
    this.held.delete(key);
    try {
      globalThis[this.name].removeItem(key);
    } catch {
      // nothing is there
    }
  }

  keys() {
    let kept = [];
    try {
      kept = Object.keys(globalThis[this.name]);
    } catch {
      // nothing is there
    }
    return [...new Set([...kept, ...this.held.keys()])];
  }
}

export const forever = new Kept("localStorage");
export const visit = new Kept("sessionStorage"); // for one tab
