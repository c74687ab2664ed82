// A page that is worked with by script, much faster than a person could, and can be read out.

import { PATIENCE, until } from "./report.mjs";
import { Window, at } from "./window.mjs";

/** What is compared: some days around those that are worked on. */
const SHOWN = [at(0, -2), at(0, 12)];
const FIELDS = ["text", "start_date", "end_date", "rrule", "duration", "recurring_event_id", "original_start",
  "deleted", "owner", "private", "notes"];

export class Editor {
  sockets = 0;
  subscriptions = 0;
  #subscribed = null;

  constructor(name, wire) {
    this.name = name;
    this.wire = wire;
  }

  /**
   * Opens the page at a path; with `wait: false`, before it has its events and its subscription. `enter` is awaited
   * before that, in the same page.
   */
  static async open(browser, name, wire, path, { wait = true, live = true, enter = async () => {} } = {}) {
    const editor = new this(name, wire);
    const size = { width: 1280, height: 800 };
    editor.window = await Window.open(browser, name, size, wire.address + path, async page => {
      await page.addInitScript(hands);
      page.on("websocket", socket => editor.#watch(socket));
      await enter(page);
    });
    editor.page = editor.window.page;
    if (wait) await editor.loaded();
    if (wait && live) await editor.connected();
    return editor;
  }

  #watch(socket) {
    this.sockets += 1;
    socket.on("framesent", ({ payload }) => {
      if (!String(payload).includes('"subscribe"')) return;
      this.subscriptions += 1;
      this.#subscribed = socket;
    });
    socket.on("close", () => {
      if (this.#subscribed === socket) this.#subscribed = null;
    });
  }

  get live() {
    return this.#subscribed !== null;
  }

  async loaded(within = PATIENCE) {
    await until(`${this.name} has its events`, () =>
      this.page.$eval("#status", ({ dataset }) => ["loaded", "live"].includes(dataset.state)), within);
    // The widget works out the occurrences of series for the days around those in view.
    await this.window.show();
  }

  connected(within = PATIENCE) {
    return until(`${this.name} has subscribed`, () => this.live, within);
  }

  // ---- What is done in it ----------------------------------------------------------------------------------------

  /** Calls one of the functions below, in the page. */
  does(what, ...details) {
    return this.page.evaluate(([what, details]) => hands[what](...details), [what, details]);
  }

  /** Every answer to a save has arrived. (A refused one is not sent again.) */
  saved(within = PATIENCE) {
    return until(`${this.name} has the answers to its saves`, () => this.does("waitsForNothing"), within);
  }

  /** Waits until the page shows an event of this text. */
  shows(text, within = PATIENCE) {
    return until(`${this.name} shows “${text}”`, () => this.does("has", text), within);
  }

  // ---- What it holds ---------------------------------------------------------------------------------------------

  async state() {
    const { records, ...rest } = await this.does("everything", SHOWN, FIELDS);
    return { ...rest, records: byId(records) };
  }
}

/** Events by their ids, in words that are the same for a page's and the server's. */
export function byId(rows) {
  return new Map(rows.map(row => [String(row.id), Object.fromEntries(FIELDS.map(name => [name, plain(row[name])]))]));
}

/** What one holds and the other does not, a line for each event. */
export function differences(found, expected) {
  const lines = [];
  for (const [id, wanted] of expected) {
    const here = found.get(id);
    if (!here) {
      lines.push(`lacks ${id} “${wanted.text}”`);
      continue;
    }
    const wrong = FIELDS.filter(name => here[name] !== wanted[name])
      .map(name => `${name} is ${here[name]}, not ${wanted[name]}`);
    if (wrong.length) lines.push(`has ${id} “${wanted.text}” otherwise: ${wrong.join("; ")}`);
  }
  for (const [id, here] of found) {
    // A deleted occurrence of a series that is gone hides nothing and is not seen; the widget may keep it.
    const leftover = here.deleted && here.recurring_event_id && !expected.has(here.recurring_event_id);
    if (!expected.has(id) && !leftover) lines.push(`still has ${id} “${here.text}”`);
  }
  return lines;
}

/** No difference is made between what is empty, missing, null or false, and dates are compared to the minute. */
function plain(value) {
  if (value === undefined || value === null || value === "" || value === false || value === "false") return null;
  return String(value).replace(/^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d(\.\d+)?)?Z?$/, "$1 $2");
}

/** Runs in the page, and does there what its forms and its mouse handlers do. */
function hands() {
  const DAY = 86_400_000;
  const dates = ({ start, end, ...others }) => ({
    ...others,
    ...(start && { start_date: new Date(start) }),
    ...(end && { end_date: new Date(end) }),
  });
  // Occurrences that the widget has worked out are no records; deleted ones, which it does not list, are.
  const records = () => Object.values(scheduler._events).filter(({ id }) => !/[#$]/.test(id));
  const named = text => records().find(event => event.text === text);
  const occurrence = (text, day) => scheduler.getEvents(new Date(day), new Date(day + DAY))
    .find(event => event.text === text && String(event.id).includes("#"));
  const change = (event, fields) => {
    if (!event) return false;
    Object.assign(event, dates(fields));
    scheduler.callEvent("onEventChanged", [event.id, event]);
    scheduler.updateEvent(event.id);
    return true;
  };

  globalThis.hands = {
    /** Plain events, the oldest first; those that wait for their ids come last. */
    ids: () => records().filter(event => !event.rrule && !event.recurring_event_id)
      .map(({ id }) => id).sort((a, b) => a - b),
    /** The same, with whose they are. */
    owned: () => globalThis.hands.ids().map(id => scheduler.getEvent(id))
      .map(({ id, text, owner, private: isPrivate }) => ({ id: String(id), text, owner, isPrivate })),
    has: text => Boolean(named(text)),
    idOf: text => named(text)?.id,
    create: fields => void scheduler.addEvent(dates(fields)),
    change: (id, fields) => change(scheduler.getEvent(id), fields),
    changeNamed: (text, fields) => change(named(text), fields),
    remove(id) {
      if (!scheduler.getEvent(id)) return false;
      scheduler.deleteEvent(id);
      return true;
    },
    changeOccurrence(text, day, fields) {
      const event = occurrence(text, day);
      if (!event) return false;
      Object.assign(event, dates(fields));
      scheduler._events[event.id] ??= event;
      scheduler.callEvent("onEventChanged", [event.id, event]);
      return true;
    },
    removeOccurrence(text, day) {
      const event = occurrence(text, day);
      if (!event) return false;
      scheduler._events[event.id] ??= event;
      scheduler.deleteEvent(event.id);
      return true;
    },
    openForm: id => scheduler.showLightbox(id),
    /** Closes the form, and at once makes an event. */
    closeFormAndCreate(fields) {
      try {
        if (scheduler.getState().lightbox_id) scheduler.cancel_lightbox();
      } catch (error) {
        reportError(error);
      }
      scheduler.addEvent(dates(fields));
    },
    waitsForNothing: () => Object.keys(scheduler._dataprocessor._in_progress).length === 0,
    everything([from, to], fields) {
      const saving = scheduler._dataprocessor;
      const shown = value => (value instanceof Date ? (isNaN(value) ? "no date" : value.toISOString()) : value);
      return {
        records: records().map(event => ({
          id: String(event.id),
          ...Object.fromEntries(fields.map(name => [name, shown(event[name])])),
        })),
        shown: scheduler.getEvents(new Date(from), new Date(to))
          .map(({ id, text, start_date, end_date }) => `${id} “${text}” ${shown(start_date)} to ${shown(end_date)}`)
          .sort(),
        unsaved: saving.updatedRows.map(String).filter(id => scheduler.getEvent(id)),
        savingIsOff: Boolean(saving._silent_mode),
      };
    },
  };
}
