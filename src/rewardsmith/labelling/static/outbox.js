"use strict";
// What was decided and is not known to be on the server's disk yet. Each entry lies in this browser's storage from the
// key press until the server has answered, so that it outlives a server that dies, a lost connection and a closed page.
//
// An entry has a name that only this press has ("key"); the server keeps a name once, so sending it again is harmless.
// Entries are sent one after the other, in the order of the presses. Several tabs share them: each sends what it finds.

const FIRST_PAUSE_MS = 400;
const LONGEST_PAUSE_MS = 15_000;
const AGAIN = new Set([408, 425, 429, 500, 502, 503, 504]);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
// crypto.randomUUID is there on https and localhost only.
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

class Shelf {
  // Texts by name in localStorage; in memory where the browser keeps nothing (`lasting` is then false).
  constructor(prefix) {
    this.prefix = prefix;
    this.held = new Map();
    this.lasting = true;
  }

  put(name, value) {
    const text = JSON.stringify(value);
    try {
      localStorage.setItem(this.prefix + name, text);
      this.held.delete(name);
    } catch {
      this.held.set(name, text);
      this.lasting = false;
    }
  }

  drop(name) {
    this.held.delete(name);
    try {
      localStorage.removeItem(this.prefix + name);
    } catch {
      // nothing was kept there
    }
  }

  get(name) {
    let text = this.held.get(name) ?? null;
    try {
      text ??= localStorage.getItem(this.prefix + name);
    } catch {
      // as if empty
    }
    try {
      return text === null ? null : JSON.parse(text);
    } catch {
      return null;
    }
  }

  names() {
    const found = new Set(this.held.keys());
    try {
      for (let n = 0; n < localStorage.length; n += 1) {
        const name = localStorage.key(n);
        if (name.startsWith(this.prefix)) found.add(name.slice(this.prefix.length));
      }
    } catch {
      // as if empty
    }
    return [...found].sort();
  }
}

class Outbox {
  // ask(path, body): the server's answer, or an error with `status` (none: it was not reached).
  constructor(project, annotator, ask, on) {
    this.shelf = new Shelf(`rewardsmith.unsent.${project}.`);
    this.refused = new Shelf(`rewardsmith.refused.${project}.`);
    this.annotator = annotator;
    this.ask = ask;
    this.on = on; // {kept(entry, answer), refused(entry, error), changed(trouble), unknown()}
    this.count = 0;
    this.running = false;
    this.closed = false;
    this.wake = () => {};
  }

  entries() {
    return this.shelf.names().map((name) => [name, this.shelf.get(name)]).filter(([, entry]) => entry);
  }

  mine() {
    return this.entries().filter(([, entry]) => entry.body.annotator === this.annotator);
  }

  ofOthers() {
    return [...new Set(this.entries().map(([, entry]) => entry.body.annotator))].filter((a) => a !== this.annotator);
  }

  add(path, body) {
    this.count += 1;
    const place = `${Date.now().toString().padStart(14, "0")}-${this.count.toString().padStart(6, "0")}-${newKey().slice(0, 8)}`;
    this.shelf.put(place, { path, body });
    this.on.changed("");
    this.send();
  }

  async send() {
    if (this.running || this.closed) return this.wake();
    this.running = true;
    let pause = FIRST_PAUSE_MS;
    try {
      for (;;) {
        const [first] = this.mine();
        if (!first || this.closed) return undefined;
        const [name, entry] = first;
        try {
          const answer = await this.ask(entry.path, entry.body);
          this.shelf.drop(name);
          pause = FIRST_PAUSE_MS;
          this.on.kept(entry, answer);
          this.on.changed("");
        } catch (error) {
          if (error.status === 401) {
            this.on.unknown();
            return undefined;
          }
          if (error.status && !AGAIN.has(error.status)) {
            this.refused.put(name, { ...entry, why: error.message });
            this.shelf.drop(name);
            this.on.refused(entry, error);
            this.on.changed("");
            continue;
          }
          const wait = Math.max(pause * (0.5 + Math.random() / 2), 1000 * (error.retryAfter ?? 0));
          this.on.changed(error.message);
          await Promise.race([sleep(wait), new Promise((resolve) => { this.wake = resolve; })]);
          this.wake = () => {};
          pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
        }
      }
    } finally {
      this.running = false;
    }
  }

  close() {
    this.closed = true;
    this.wake();
  }
}
