// The page of the widget's guide, on a demo with many events, and how busy it is.

import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { save } from "./clients.mjs";
import { some } from "./common.mjs";
import { Editor, byId, differences } from "./editor.mjs";
import { until } from "./report.mjs";
import { kill, startOn, stop } from "./server.mjs";
import { Wire, pause } from "./wire.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const WIDGET = join(HERE, "../../examples/scheduler/node_modules/dhtmlx-scheduler/codebase");
/** What pages get from disk. */
export const FILES = {
  "/soak/": join(HERE, "soak.html"),
  "/soak/dhtmlxscheduler.js": join(WIDGET, "dhtmlxscheduler.js"),
  "/soak/dhtmlxscheduler.css": join(WIDGET, "dhtmlxscheduler.css"),
};
export const STOCK = "/soak/";
/** The same page, which loads its list anew on resync. */
export const RESYNCS = "/soak/?resync";
export const DEMO = "/";

/** As many requests at a time as a browser makes. */
const AT_A_TIME = 6;
const FIRST_DAY = Date.UTC(2026, 0, 20);
const DAY = 86_400_000;
const HOUR = DAY / 24;

/** An event of a number: four on each day of some months, so that a week has about thirty. */
export function numbered(number, text = `old text ${number}`) {
  const start = FIRST_DAY + Math.floor(number / 4) % 250 * DAY + (8 + 2 * (number % 4)) * HOUR;
  const written = time => new Date(time).toISOString().slice(0, 16).replace("T", " ");
  return { text, start_date: written(start), end_date: written(start + HOUR) };
}

const folders = new Set();
process.on("exit", () => [...folders].forEach(forget));

function forget(folder) {
  rmSync(folder, { recursive: true, force: true });
  folders.delete(folder);
}

/** One demo with a database of its own. */
export class Calendar {
  #folder = mkdtempSync(join(tmpdir(), "calendar-"));
  #wires = [];
  #program;
  #options;

  constructor(program, ...options) {
    this.#program = program;
    this.#options = options;
    folders.add(this.#folder);
  }

  /** Where this calendar may keep a file. */
  file(name) {
    return join(this.#folder, name);
  }

  /** Starts the demo, the second time on the same address. */
  async start(...more) {
    this.server = await this.#startOn(this.address ? new URL(this.address).host : "127.0.0.1:0", more);
    this.address = this.server.address;
    return this;
  }

  #startOn(listen, more) {
    return startOn(listen, this.#program, "--db", this.file("events.sqlite"), ...this.#options, ...more);
  }

  async stop() {
    const exit = await stop(this.server);
    if (exit.code !== 0) throw new Error(`the demo ended with ${JSON.stringify(exit)} ${this.server.output}`);
  }

  /** Changes events while no page can receive it: another process does it, on an address of its own. */
  async unheard(job) {
    const other = await this.#startOn("127.0.0.1:0", []);
    await job(other.address);
    await stop(other);
  }

  /** A calendar that begins with the events that this one, which must have ended, has. */
  copy(...options) {
    const other = new Calendar(this.#program, ...options);
    cpSync(this.#folder, other.#folder, { recursive: true });
    return other;
  }

  async wire() {
    const wire = await new Wire(this.address, FILES).listen();
    this.#wires.push(wire);
    return wire;
  }

  async close() {
    for (const wire of this.#wires) wire.close();
    if (this.server && !this.server.exit) await kill(this.server);
    forget(this.#folder);
  }

  async list() {
    const response = await fetch(`${this.address}/events`);
    if (response.status !== 200) throw new Error(`the list was answered with ${response.status}`);
    return response.json();
  }

  async create(event) {
    return (await save(this.address, "POST", undefined, event)).tid;
  }

  change(id, event) {
    return save(this.address, "PUT", id, event);
  }

  remove(id) {
    return save(this.address, "DELETE", id);
  }

  /** Creates the events of the numbers below `count`, several at a time, and returns their ids. */
  async fill(count, { atATime = AT_A_TIME, ...fields } = {}) {
    const ids = [];
    let next = 0;
    const worker = async () => {
      while (next < count) {
        const number = next++;
        ids[number] = await this.create({ ...numbered(number), ...fields });
      }
    };
    await Promise.all(Array.from({ length: atATime }, worker));
    return ids;
  }
}

/** A page, the frames that it has been sent, and the time that its main thread has worked. */
export class Page extends Editor {
  #devtools;

  static async open(browser, name, wire, path, options = {}) {
    const page = await super.open(browser, name, wire, path, { ...options, enter: watchLongTasks });
    page.#devtools = await page.page.context().newCDPSession(page.page);
    // CPU time: other programs on the machine do not count.
    await page.#devtools.send("Performance.enable", { timeDomain: "threadTicks" });
    return page;
  }

  /** How many frames it has been sent, for `since`. */
  get mark() {
    return this.window.frames.length;
  }

  /** How often each type of frame has come. */
  types(since = 0) {
    const counts = {};
    for (const frame of this.window.frames.slice(since)) {
      const { action, body } = JSON.parse(frame);
      const type = action === "event" ? body.value?.type ?? body.name : action;
      counts[type] = (counts[type] ?? 0) + 1;
    }
    return counts;
  }

  /** How many frames of events it has received. */
  received(since = 0) {
    return Object.entries(this.types(since)).reduce((sum, [type, count]) =>
      sum + (/^(add|update|delete)-/.test(type) ? count : 0), 0);
  }

  /** Until now: the milliseconds its main thread has worked, but for what this asks of it, and those in long tasks. */
  async busy() {
    const { metrics } = await this.#devtools.send("Performance.getMetrics");
    const value = name => metrics.find(metric => metric.name === name).value * 1000;
    const long = await this.page.evaluate(() => longTasks.reduce((sum, time) => sum + time, 0));
    return { time: Date.now(), work: value("TaskDuration") - value("DevToolsCommandDuration"), long };
  }

  /** What differs from a list of the server's. */
  async differs(list) {
    const lines = differences((await this.state()).records, byId(list));
    return lines.length ? some(lines, 3).join("; ") : null;
  }

  /**
   * Waits until events have these texts in the page, or are gone where null is given, and returns how many milliseconds
   * that took. The server is not asked for its list meanwhile: each list that is read makes the layer repeat things.
   */
  async holds(texts, within) {
    const began = Date.now();
    let wrong;
    const right = async () => {
      wrong = await this.page.evaluate(texts => Object.entries(texts)
        .map(([id, text]) => [id, globalThis.scheduler?.getEvent(id)?.text ?? null, text])
        .filter(([, found, text]) => found !== text), texts);
      return !wrong.length || pause(100);
    };
    try {
      await until("right", right, within);
    } catch {
      throw new Error(`still wrong in ${this.name} after ${within / 1000} s: `
        + some(wrong.map(([id, found, text]) => `event ${id} is ${quoted(found)}, not ${quoted(text)}`), 3).join("; "));
    }
    return Date.now() - began;
  }

  close() {
    return this.page.context().close();
  }
}

function watchLongTasks(page) {
  return page.addInitScript(() => {
    globalThis.longTasks = [];
    const observer = new PerformanceObserver(list => {
      for (const { duration } of list.getEntries()) longTasks.push(duration);
    });
    observer.observe({ type: "longtask", buffered: true });
  });
}

function quoted(text) {
  return text === null ? "not there" : `“${text}”`;
}
