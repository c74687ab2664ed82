// One window with the demo's page, used as a person would use it: with the mouse and the edit form.

import { PATIENCE, until } from "./report.mjs";

const HOUR = 3_600_000;

/** The first day that the checks use, a Wednesday; in the browser's time zone, which is UTC here. */
export const DAY = Date.UTC(2026, 4, 13);
export const at = (hour, day = 0) => DAY + day * 24 * HOUR + hour * HOUR;

export class Window {
  /** What the page has received from the server, as it came. */
  frames = [];
  /** What should not have happened. */
  scriptErrors = [];
  dialogs = [];
  strayRequests = [];
  failedSaves = [];
  sockets = 0;

  constructor(name, page) {
    this.name = name;
    this.page = page;
    page.on("pageerror", error => this.scriptErrors.push(error.message));
    page.on("dialog", dialog => { this.dialogs.push(dialog.message()); dialog.dismiss().catch(() => {}); });
    page.on("websocket", socket => {
      this.sockets += 1;
      this.#address(socket.url());
      socket.on("framereceived", ({ payload }) => this.frames.push(payload));
    });
    page.on("request", request => this.#address(request.url()));
    page.on("response", response => {
      if (isSave(response.request()) && response.status() !== 200) this.#failed(response.request(), response.status());
    });
    page.on("requestfailed", request => {
      if (isSave(request)) this.#failed(request, request.failure()?.errorText);
    });
  }

  static async open(browser, name, viewport, address, prepare = async () => {}) {
    const context = await browser.newContext({ timezoneId: "UTC", locale: "en-GB", viewport });
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    const window = new this(name, page);
    // The codes that sockets were closed with. The page builds on the class that it finds.
    await page.addInitScript(() => {
      globalThis.closeCodes = [];
      globalThis.WebSocket = class extends WebSocket {
        constructor(...address) {
          super(...address);
          this.addEventListener("close", event => closeCodes.push(event.code));
        }
      };
    });
    // The widget's messages lie over the calendar for a while, on a phone over the whole morning, and take the mouse for
    // themselves. They stay where they are: the widget removes each one by a timer, and fails when it is gone.
    await page.addInitScript(() => addEventListener("DOMContentLoaded", () => {
      const style = document.createElement("style");
      style.textContent = ".scheduler_message_area, .gantt_message_area { display: none; }";
      document.head.append(style);
    }));
    await prepare(page);
    await page.goto(address);
    await page.waitForSelector("#status");
    return window;
  }

  #address(url) {
    const { protocol, hostname } = new URL(url);
    if (protocol !== "data:" && hostname !== "127.0.0.1") this.strayRequests.push(url);
  }

  #failed(request, why) {
    this.failedSaves.push(`${request.method()} ${new URL(request.url()).pathname} ${why}`);
  }

  // ---- What it shows ---------------------------------------------------------------------------------------------

  status() {
    return this.page.$eval("#status", status => `${status.dataset.state}: ${status.textContent}`);
  }

  async hasStatus(status, within) {
    return until(`the ${this.name} shows “${status}”`, async () => (await this.status()) === status, within);
  }

  closeCodes() {
    return this.page.evaluate(() => closeCodes);
  }

  /** Turns to a day, in the view that fits the window. */
  show(day = 0) {
    return this.page.evaluate(date => scheduler.setCurrentView(new Date(date)), at(0, day));
  }

  /** What the calendar draws on the days it shows: id, text and times of each event whose text has `mark` in it. */
  drawn(mark) {
    return this.page.$$eval(".dhx_cal_event", (elements, mark) => elements.map(element => ({
      id: element.dataset.eventId,
      text: element.querySelector(".dhx_body").textContent,
      start: Number(element.dataset.barStart),
      end: Number(element.dataset.barEnd),
    })).filter(event => event.text.includes(mark)), mark);
  }

  /** What the calendar holds for four days, occurrences one by one, whether they are in view or not. */
  held(mark) {
    return this.page.evaluate(([mark, from, to]) => scheduler.getEvents(new Date(from), new Date(to))
      .filter(event => event.text?.includes(mark))
      .map(({ text, start_date, end_date }) => ({ text, start: +start_date, end: +end_date }))
      .sort((a, b) => a.start - b.start || a.text.localeCompare(b.text)), [mark, at(0), at(0, 4)]);
  }

  /** Every record whose text has `mark` in it, exceptions of a series too. */
  records(mark) {
    return this.page.evaluate(mark => scheduler.getEvents().filter(event => event.text?.includes(mark)).length, mark);
  }

  /** Lines under “What just changed”, the newest first. */
  activity() {
    return this.page.$$eval("#activity li", lines => lines.map(line => line.firstChild.textContent));
  }

  /** Whether all that was done in this window is saved. */
  settled() {
    return until(`the ${this.name} has saved everything`, () => this.page.evaluate(() => {
      const saving = scheduler._dataprocessor;
      return saving.updatedRows.length === 0 && Object.keys(saving._in_progress).length === 0
        && document.getElementById("unsaved").hidden;
    }));
  }

  savingIsOn() {
    return this.page.evaluate(() => !scheduler._dataprocessor._silent_mode);
  }

  /** The changes this page received, in order, as far as `wanted` picks them. */
  received(wanted) {
    return this.frames.map(frame => parsed(frame)).filter(frame => frame?.action === "event")
      .map(frame => frame.body.value).filter(value => wanted(value.event, value.type));
  }

  frameTrouble() {
    return this.frames.filter(frame => typeof frame !== "string" || typeof parsed(frame)?.action !== "string").map(String);
  }

  // ---- What a person does ----------------------------------------------------------------------------------------

  /** Double-clicks an empty time, fills in the form and saves. */
  async create(text, hour, { repeat } = {}) {
    await this.page.mouse.dblclick(...await this.#spot(hour));
    await this.#form();
    if (repeat) await this.page.locator(".dhx_form_repeat_pattern select").selectOption(repeat);
    await this.#save(text);
  }

  async rename(id, text, which) {
    await this.#openForm(id, which);
    await this.#save(text);
  }

  async remove(id, which) {
    await this.#openForm(id, which);
    await this.page.locator(".dhx_cal_light .dhx_delete_btn_set").click();
    await this.page.locator(".scheduler_modal_box [data-result=true]").click();
    await this.#form("hidden");
  }

  /**
   * Drags an event until it stands at another time, and then lets go. A change of this event that arrives meanwhile,
   * even one that the page knows, puts it back where it was: only then does a person drag it once more.
   */
  async drag(id, time) {
    // The answer to a save draws the event anew.
    await this.settled();
    for (;;) {
      const received = this.frames.length;
      const stands = await this.#dragOnce(id, time);
      if (stands === time) return;
      const changes = this.frames.slice(received).filter(frame => String(parsed(frame)?.body?.value?.event?.id) === id);
      if (!changes.length) throw new Error(`event ${id} was dragged to ${time}, and stands at ${stands}`);
    }
  }

  /** Returns at which time the event stands when the mouse has let it go. */
  async #dragOnce(id, time) {
    let [x, y] = await this.#body(id);
    const away = () => this.page.evaluate(([id, time]) => {
      const { drag_id, drag_mode } = scheduler.getState();
      const minutes = (time - scheduler.getEvent(id).start_date) / 60_000;
      return { held: drag_mode === "move" && drag_id, minutes, pixels: (minutes * scheduler.config.hour_size_px) / 60 };
    }, [id, time]);
    await this.page.mouse.move(x, y);
    await this.page.mouse.down();
    try {
      const { held, pixels } = await away();
      if (held !== id) throw new Error(`the mouse was pressed on event ${id}, and holds ${held}`);
      y += pixels;
      await this.page.mouse.move(x, y, { steps: 6 });
      // The calendar follows in steps of a quarter of an hour, and a little late.
      await until("it is dragged there", async () => {
        const { minutes } = await away();
        y += 2 * Math.sign(minutes);
        if (minutes) await this.page.mouse.move(x, y);
        return !minutes;
      });
    } finally {
      await this.page.mouse.up();
    }
    return this.page.evaluate(id => Number(scheduler.getEvent(id).start_date), id);
  }

  /** Clicks an event, and reads the small box about it. */
  async quickInfo(id) {
    await this.page.mouse.click(...await this.#body(id));
    const title = this.page.locator(".dhx_cal_quick_info:not(.dhx_qi_hidden) .dhx_cal_qi_tcontent");
    await title.waitFor();
    const text = await title.textContent();
    await this.page.evaluate(() => scheduler.hideQuickInfo());
    return text;
  }

  /** Opens the form on an event, and reads its heading and its text. */
  async readForm(id) {
    await this.#openForm(id);
    const form = this.page.locator(".dhx_cal_light");
    const read = [await form.locator(".dhx_title").textContent(), await form.locator("textarea").inputValue()];
    await form.locator(".dhx_cancel_btn_set").click();
    await this.#form("hidden");
    return read;
  }

  async #openForm(id, which) {
    await this.page.mouse.dblclick(...await this.#body(id));
    if (which) {
      const box = this.page.locator(".scheduler_modal_box");
      await box.locator(`input[value=${which}]`).check();
      await box.locator("[data-result=ok]").click();
    }
    await this.#form();
  }

  async #save(text) {
    await this.page.locator(".dhx_cal_light textarea").fill(text);
    await this.page.locator(".dhx_cal_light .dhx_save_btn_set").click();
    await this.#form("hidden");
  }

  #form(state = "visible") {
    return this.page.locator(".dhx_cal_light").waitFor({ state });
  }

  /** Where on the screen an hour of the first day is. */
  #spot(hour) {
    return this.#uncovered(`${hour}:00`, "[data-column-index], .dhx_scale_time_slot", ([day, hour]) => {
      const index = Math.round((day - scheduler.getState().min_date) / 86_400_000);
      const { left, top, width } = document.querySelector(`[data-column-index="${index}"]`).getBoundingClientRect();
      return [left + width / 2, top + hour * scheduler.config.hour_size_px + 3];
    }, [DAY, hour]);
  }

  /** Where on the screen the middle of an event's text is. */
  #body(id) {
    return this.#uncovered(`event ${id}`, `.dhx_cal_event[data-event-id="${id}"] .dhx_body`, id => {
      const body = document.querySelector(`.dhx_cal_event[data-event-id="${id}"] .dhx_body`);
      if (!body) return null;
      const { left, top, width, height } = body.getBoundingClientRect();
      return [left + width / 2, top + height / 2];
    }, id);
  }

  /**
   * The point that `find` finds in the page, once it rests there and nothing lies on it. (A locator would
   * scroll the calendar when something does, as no person would.)
   */
  async #uncovered(what, selector, find, argument) {
    let before, over;
    try {
      return await until("a free point", async () => {
        const point = await this.page.evaluate(find, argument);
        const rests = point && JSON.stringify(point) === JSON.stringify(before);
        before = point;
        if (!rests) return null;
        over = await this.page.evaluate(([[x, y], selector]) => {
          const found = document.elementFromPoint(x, y);
          return found?.matches(selector) ? null : `${found?.tagName} ${found?.className}`;
        }, [point, selector]);
        return over ? null : point;
      });
    } catch (error) {
      throw new Error(`the mouse cannot reach ${what} in the ${this.name}: ${over ?? error.message}`);
    }
  }
}

function isSave(request) {
  return request.method() !== "GET" && /^\/(events|data)\b/.test(new URL(request.url()).pathname);
}

export function parsed(frame) {
  try {
    return JSON.parse(frame);
  } catch {
    return undefined;
  }
}
