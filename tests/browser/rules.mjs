// Compares which recurrence rules the layer lets through with what the real Scheduler does with them.
//
//   node rules.mjs ../../target/debug/examples/scheduler [--seed N] [--count N]
//
// Each rule is put into a page of its own that shows the week in which the series starts, as the layer would put it
// there: handed to the client's own handler. Then the page must answer, draw, and save a new event of its own. What the
// layer thinks of the rule is the demo's answer to a POST, whose list must not hold what is refused. Besides a table of
// rules that are always asked about there are COUNT others, made from a grammar: the same ones for the same seed.
// Exit status: 0 when both agree on all, 1 when they do not, 2 when nothing could be checked.

import { constants } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { launch } from "./browser.mjs";
import { chance, present, seconds, some } from "./common.mjs";
import { check, close, fail, ok, same } from "./report.mjs";
import { grammar, HANGS, READS, THROWS } from "./rules.table.mjs";
import { killAll, start, stop } from "./server.mjs";

const SEED = 1;
const COUNT = 60;
/** A page that has not drawn by then has stopped, if the layer thinks so too. */
const STOPPED = 2000;
/** If the layer thinks that it bears the rule, it gets more time: other programs may be busy. */
const PATIENT = 20_000;
/** What takes it longer than this, and ends, may be refused: where the line is depends on the machine. */
const NEAR = 400;
const LONGEST_RUN = 1_200_000;
const AT_ONCE = 2;
const SERIES = { text: "series", start_date: "2025-04-21 10:00", end_date: "2026-04-21 00:00", duration: 3600 };

// ---- What the layer thinks ---------------------------------------------------------------------------------------

async function isLetThrough(address, rule) {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ ...SERIES, rrule: rule });
  const response = await fetch(`${address}/events`, { method: "POST", headers, body });
  if (response.status === 400) return false;
  if (response.status !== 200) throw new Error(`${rule}: the POST was answered with ${response.status}`);
  const { tid, item } = await response.json();
  same(item.rrule, rule, "the stored rule");
  await fetch(`${address}/events/${tid}`, { method: "DELETE" });
  return true;
}

// ---- What the client does ----------------------------------------------------------------------------------------

/** Pages in processes of their own: one that has stopped is ended, and takes no other with it. */
class Pages {
  #browser;
  #address;
  #ready;

  constructor(browser, address) {
    this.#browser = browser;
    this.#address = address;
  }

  async #open() {
    const context = await this.#browser.newContext({ timezoneId: "UTC", viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    const session = await context.newCDPSession(page);
    // The events of the other rules are none of this page's business.
    await page.route("**/api/v1", route => route.fulfill({ status: 401, body: "{}" }));
    await page.route("**/events", (route, request) => (request.method() === "GET" ? route.fulfill({ json: [] })
      : route.fulfill({ json: { action: "inserted", tid: 77 } })));
    await page.goto(this.#address);
    await page.waitForFunction(() => globalThis.scheduler?._dataprocessor && document.querySelector(".dhx_scale_holder"));
    return { context, page, session };
  }

  /** `reads`, `throws` or `hangs`, and for how long it has drawn. */
  async verdict(rule, within) {
    const opening = this.#ready ?? this.#open();
    this.#ready = null;
    const { context, page, session } = await opening;
    let timer;
    const late = new Promise(done => { timer = setTimeout(done, within, { verdict: "hangs", time: within }); });
    const asked = page.evaluate(show, { ...SERIES, id: "7", rrule: rule }).catch(error => ({ verdict: "hangs", why: error.message }));
    const found = await Promise.race([asked, late]);
    clearTimeout(timer);
    // Its script is ended first: a page that is busy does not close.
    if (found.verdict === "hangs") await session.send("Runtime.terminateExecution").catch(() => {});
    await Promise.race([context.close(), new Promise(done => setTimeout(done, 3000))]);
    return found;
  }

  /** Opens the next page while something else is waited for. */
  prepare() {
    this.#ready ??= this.#open();
    this.#ready.catch(() => {});
  }
}

/** Runs in the page. */
async function show(event) {
  scheduler.setCurrentView(new Date(2025, 3, 21), "week");
  const began = performance.now();
  const trouble = [];
  const attempt = job => {
    try {
      job();
    } catch (error) {
      trouble.push(error.message);
    }
  };
  attempt(() => scheduler.ext.liveUpdates.remoteUpdates.events({ type: "add-event", event }));
  attempt(() => scheduler.updateView());
  const time = performance.now() - began;
  attempt(() => scheduler.getEvents(new Date(2025, 3, 21), new Date(2025, 3, 28)));
  // A new event of its own: its temporary id gives way to the server's.
  let own;
  attempt(() => { own = scheduler.addEvent({ start_date: new Date(2025, 3, 22, 8), end_date: new Date(2025, 3, 22, 9), text: "own" }); });
  // After an error it would not be saved, or late at best.
  const end = performance.now() + (trouble.length ? 0 : 10_000);
  while (!scheduler._events[77] && performance.now() < end) await new Promise(done => setTimeout(done, 10));
  const drawn = Boolean(document.querySelector(".dhx_cal_event[data-event-id='77']"));
  if (!scheduler._events[77]) trouble.push("its own new event is not saved");
  else if (!drawn) trouble.push("its own new event is not drawn");
  return { verdict: trouble.length ? "throws" : "reads", time, why: trouble[0] };
}

// ---- Both --------------------------------------------------------------------------------------------------------

async function compare(browser, address, rules) {
  const counts = { reads: 0, throws: 0, hangs: 0, near: 0 };
  const disagreements = [];
  const queue = [...rules];
  const work = async () => {
    const pages = new Pages(browser, address);
    for (let next = queue.shift(); next; next = queue.shift()) {
      const { rule, expected } = next;
      const through = await isLetThrough(address, rule);
      const { verdict, time, why } = await pages.verdict(rule, through || expected === "throws" ? PATIENT : STOPPED);
      if (queue.length) pages.prepare();
      counts[verdict] += 1;
      const line = `${JSON.stringify(rule)}: the client ${verdict}${why ? ` (${why})` : ""}, after ${seconds(time ?? 0)}`;
      if (expected && verdict !== expected) disagreements.push(`${line}; in the table it ${expected}`);
      else if (verdict === "reads" && time > NEAR && !expected) counts.near += 1;
      else if (through !== (verdict === "reads")) {
        disagreements.push(`${line}; the layer ${through ? "lets it through" : "refuses it"}`);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return { counts, disagreements };
}

async function group(browser, address, name, rules) {
  console.log(`\n${name}`);
  const { counts, disagreements } = await compare(browser, address, rules);
  const { reads, throws, hangs, near } = counts;
  const what = `${rules.length} rules: layer and client agree (${reads} read, ${throws} throw, ${hangs} hang, ${near} slow)`;
  if (disagreements.length) fail(what, `not on ${disagreements.length}\n     ${some(disagreements).join("\n     ")}`);
  else ok(what);
}

function options() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seed: { type: "string", default: String(SEED) }, count: { type: "string", default: String(COUNT) } },
  });
  if (![values.seed, values.count].every(number => /^\d+$/.test(number))) {
    throw new Error("seed and count are whole numbers");
  }
  if (positionals.length !== 1) {
    throw new Error("name the demo's program: node rules.mjs ../../target/debug/examples/scheduler");
  }
  const program = resolve(positionals[0]);
  present(program, constants.X_OK, "build it with: cargo build --example scheduler");
  return { seed: Number(values.seed), count: Number(values.count), program };
}

async function run() {
  const began = Date.now();
  let chosen, browser, server;
  try {
    chosen = options();
    browser = await launch();
    server = await start(chosen.program);
  } catch (error) {
    fail("the check could start", error.message);
    close();
    return 2;
  }
  const { seed, count } = chosen;
  console.log(`seed ${seed}`);
  const guard = setTimeout(() => {
    fail("the run came to its end", `not within ${seconds(LONGEST_RUN)}`);
    process.exit(close());
  }, LONGEST_RUN);
  try {
    const named = (rules, expected) => rules.map(rule => ({ rule, expected }));
    if (count > 0) {
      const random = chance(seed, "rules");
      await group(browser, server.address, "Rules of a grammar", named(Array.from({ length: count }, () => grammar(random))));
    }
    await group(browser, server.address, "What the client reads", named(READS, "reads"));
    await group(browser, server.address, "What it throws on", named(THROWS, "throws"));
    await group(browser, server.address, "What it does not come back from", named(HANGS, "hangs"));
    await check("the list holds none of them", async () => {
      const list = await fetch(`${server.address}/events`);
      same(await list.json(), [], "the list");
    });
    await check("at SIGTERM the process ends by itself, with code 0", async () => {
      same(await stop(server), { code: 0, signal: null }, "its end");
    });
  } catch (error) {
    fail("the run came to its end", error.message);
  } finally {
    clearTimeout(guard);
    await browser.close();
    killAll();
  }
  console.log(`\nafter ${seconds(Date.now() - began)}, with seed ${seed}`);
  return close();
}

process.on("exit", killAll);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.exit(await run());
