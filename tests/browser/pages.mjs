// What a page with a list that is older than it looks shows in the end, and how busy changes keep a page: the widget's
// page in a real browser, as its guide shows it. Takes about five minutes.
//
//   node pages.mjs ../../target/debug/examples/scheduler [--only NAME]... [--delivery plain]
//
// The names are those of the parts: back, slow, deploy, import, restart. With a delivery the import shows,
// for comparison, what the vendor's bare broadcast costs. The browser is /usr/bin/chromium, or $CHROMIUM.
// Exit status: 0 when every check passed, 1 when one failed, 2 when nothing could be checked.

import { execFileSync } from "node:child_process";
import { constants } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { launch } from "./browser.mjs";
import { handshake, save } from "./clients.mjs";
import { present, seconds } from "./common.mjs";
import { close, fail, ok, until } from "./report.mjs";
import { killAll } from "./server.mjs";
import { Calendar, DEMO, FILES, Page, RESYNCS, STOCK, numbered } from "./stock.mjs";
import { pause } from "./wire.mjs";

/** The layer replays to a page that has just been loaded everything since a minute before: this is longer. */
const LONG_AGO = 65_000;
const AWAY = 1500;
/** Longer than a page counts as one that has been loaded lately. */
const OLD = 135_000;
/** By then a page that was sent something has been pinged, and Chromium has answered for it. */
const PINGED = 35_000;
/** How soon after coming back a page must be right. The client connects two seconds after it has lost its socket. */
const BACK_WITHIN = 10_000;

const MANY = 4000;
const RATE = 60_000;
const CHANGED_AFTER = 6000;
/** The layer repeats when the list's last byte has gone, 30 seconds later, and 2 minutes later. */
const REPEATED_WITHIN = 30_000;
const REPEATED_AT_LAST = 120_000;
const MARGIN = 15_000;

/** By then a page has acknowledged what it was sent when it was loaded. */
const SETTLED = 25_000;

const IMPORTED = 1000;
const AFTER_IMPORT = 30_000;
const IMPORT_BUSY = 1000;

const RESTART_WITHIN = 90_000;
const RESTART_SHARE = 0.5;
/** The share of its time that a page is busy is that of so many milliseconds. */
const SHARE_OF = 5000;
const QUIET = 8000;

const DEPLOY_AFTER = 20_000;
const DEPLOY_FRAMES = 10;
/** A page that is asked to load its list anew is sent little else. */
const RESYNC_FRAMES = 50;

// Far more than a run takes: only one that hangs is ended.
const LONGEST_RUN = 600_000;

/** One line for a check: what was found, and why that is wrong if it is. */
async function measured(name, job) {
  try {
    ok(`${name}: ${await job()}`);
  } catch (error) {
    fail(name, String(error?.message ?? error).split("\n")[0]);
  }
}

function counts(page, since) {
  return `${page.received(since)} frames of events (${JSON.stringify(page.types(since)).slice(1, -1).replaceAll('"', "")})`;
}

// ---- The Back button -------------------------------------------------------------------------------------------

/** A page is left and come back to, which Chromium either loads anew, out of its cache, or has kept as it was. */
async function back({ program, browser, keeping }) {
  await Promise.all([
    backOf("a page that is loaded anew", program, browser, STOCK, false),
    backOf("the demo's page, which is loaded anew", program, browser, DEMO, false),
    backOf("a page that was kept", program, keeping, STOCK, true),
    backOfOld("an old page that was kept", program, keeping),
  ]);
}

async function backOf(name, program, browser, path, kept) {
  const calendar = new Calendar(program);
  try {
    await calendar.start();
    const ids = await calendar.fill(20);
    const page = await Page.open(browser, name, await calendar.wire(), path);
    await watchKeeping(page);
    const wanted = Object.fromEntries(ids.map((id, number) => [id, numbered(number).text]));
    const change = (number, text) => {
      wanted[ids[number]] = text;
      return text === null ? calendar.remove(ids[number]) : calendar.change(ids[number], numbered(number, text));
    };
    const changes = async (from, text) => {
      await change(from, `new text, ${text}`);
      await change(from + 1, null);
      const number = 100 + from;
      wanted[await calendar.create(numbered(number))] = numbered(number).text;
    };

    await changes(0, "shown long before it left");
    await page.holds(wanted, BACK_WITHIN);
    await pause(LONG_AGO);
    await changes(2, "shown just before it left");
    await page.holds(wanted, BACK_WITHIN);
    await measured(`Back to ${name}, right after it left`, async () => {
      await leave(page, () => change(4, "new text, while it left"));
      await changes(6, "while it was away");
      await pause(AWAY);
      return goBack(page, wanted, kept);
    });
    await measured(`Back to ${name}, long after a change`, async () => {
      await leave(page);
      await changes(8, "while it was away, long ago");
      await pause(LONG_AGO);
      return goBack(page, wanted, kept);
    });
    await measured(`in the end ${name} equals the server`, async () => {
      const list = await calendar.list();
      const differs = await page.differs(list);
      if (differs) throw new Error(differs);
      return `${list.length} events`;
    });
  } finally {
    await calendar.close();
  }
}

/**
 * Chromium leaves the socket of a page that it keeps open, and answers pings for it; what has come meanwhile it throws
 * away when the page is shown again. The second replay to pages that have been loaded lately does not help here.
 */
async function backOfOld(name, program, browser) {
  const calendar = new Calendar(program);
  try {
    await calendar.start();
    const ids = await calendar.fill(20);
    const page = await Page.open(browser, name, await calendar.wire(), STOCK);
    await watchKeeping(page);
    await pause(OLD);
    await measured(`Back to ${name}`, async () => {
      await leave(page);
      await calendar.change(ids[0], numbered(0, "new text"));
      await calendar.remove(ids[1]);
      const texts = { [ids[0]]: "new text", [ids[1]]: null };
      texts[await calendar.create(numbered(20))] = numbered(20).text;
      await pause(PINGED);
      return goBack(page, texts, true);
    });
  } finally {
    await calendar.close();
  }
}

function watchKeeping(page) {
  return page.page.evaluate(() => addEventListener("pageshow", ({ persisted }) => { globalThis.wasKept = persisted; }));
}

async function leave(page, meanwhile = () => {}) {
  await Promise.all([page.page.goto("about:blank"), meanwhile()]);
}

async function goBack(page, wanted, kept) {
  // Playwright's goBack waits for a load, which a page that was kept has behind it.
  await page.page.evaluate(() => setTimeout(() => history.back()));
  await until("the page is back", () => page.page.evaluate(() =>
    document.querySelector("#status") && document.readyState === "complete").catch(() => false));
  const wasKept = await page.page.evaluate(() => globalThis.wasKept === true);
  const took = await page.holds(wanted, BACK_WITHIN);
  if (wasKept !== kept) throw new Error(`the browser ${wasKept ? "has" : "has not"} kept it (pageshow.persisted)`);
  return `right after ${seconds(took)}, ${kept ? "kept" : "loaded anew"}`;
}

// ---- A slow link -----------------------------------------------------------------------------------------------

/** A list takes so long to arrive that the page has received newer changes meanwhile. */
async function slow({ program, browser }) {
  const model = new Calendar(program);
  try {
    await model.start();
    await model.fill(MANY, { notes: "Long enough to make a list of more than a megabyte. ".repeat(3) });
    await model.stop();
    const links = [
      ["a slow link", { rate: RATE, waits: true, within: REPEATED_WITHIN }],
      ["a slow link behind a buffer", { rate: RATE, waits: false, within: REPEATED_WITHIN }],
      ["a slower link behind a buffer", { rate: RATE / 2, waits: false, within: REPEATED_AT_LAST }],
    ];
    await Promise.all(links.map(([name, link]) =>
      measured(`a list over ${name}`, () => slowList(name, browser, model.copy(), link))));
  } finally {
    await model.close();
  }
}

async function slowList(name, browser, calendar, { rate, waits, within }) {
  try {
    await calendar.start();
    const ids = (await calendar.list()).map(({ id }) => id);
    // The list above is one more that is read; the page comes when that no longer counts.
    await pause(3000);
    const wire = await calendar.wire();
    Object.assign(wire, { listRate: rate, listWaits: waits });
    const began = Date.now();
    const page = await Page.open(browser, `the page over ${name}`, wire, STOCK, { wait: false });
    await page.connected();
    await pause(began + CHANGED_AFTER - Date.now());
    const mark = page.mark;
    const [changed, removed] = [ids[2000], ids[2001]];
    await calendar.change(changed, numbered(2000, "new text"));
    await calendar.remove(removed);
    const texts = { [changed]: "new text", [removed]: null };
    texts[await calendar.create(numbered(MANY))] = numbered(MANY).text;
    await until("the page has received that", () => page.received(mark) >= 3);
    if (wire.listEnded) throw new Error("the list has arrived too early");
    await until("the list has arrived", () => wire.listEnded, 90_000);
    const ended = wire.listEnded;
    await page.loaded(60_000);
    const stale = await page.holds(texts, 0).then(() => false, () => true);
    const found = `${ids.length} events took ${seconds(ended - began)}, the page was ${stale ? "stale" : "right"} then`;
    // Behind a buffer the server knows only when the list has left; its repeat may be due before the list has arrived.
    const limit = Math.max(waits ? ended + within : wire.listRead + within, ended) + MARGIN;
    await page.holds(texts, limit - Date.now())
      .catch(error => { throw new Error(`${found}; ${error.message}; ${counts(page)}`); });
    const right = Date.now();
    // No later message may undo it.
    const differs = await page.differs(await calendar.list());
    if (differs) throw new Error(`${found}; it ${differs}`);
    return `${found}, right ${seconds(right - ended)} after the last byte, ${counts(page)}`;
  } finally {
    await calendar.close();
  }
}

// ---- An import -------------------------------------------------------------------------------------------------

/** Many events are created while a page is open. */
async function imports({ program, browser, delivery }) {
  await Promise.all([["one after another", 1], ["eight at a time", 8]].map(([how, atATime]) =>
    measured(`an import of ${IMPORTED} events, ${how}, keeps a page busy for at most ${seconds(IMPORT_BUSY)}`,
      () => importWith(new Calendar(program, ...delivery), browser, atATime))));
}

async function importWith(calendar, browser, atATime) {
  try {
    await calendar.start();
    const page = await Page.open(browser, "the page", await calendar.wire(), STOCK);
    await pause(3000);
    const [mark, before] = [page.mark, await page.busy()];
    await calendar.fill(IMPORTED, { atATime });
    const took = Date.now() - before.time;
    await pause(AFTER_IMPORT);
    const after = await page.busy();
    const differs = await page.differs(await calendar.list());
    if (differs) throw new Error(differs);
    const [work, long] = [after.work - before.work, after.long - before.long];
    const found = `busy ${seconds(work)} of ${seconds(after.time - before.time)} (import ${seconds(took)}), `
      + `of that ${seconds(long)} in long tasks, ${counts(page, mark)}`;
    if (Math.max(work, long) > IMPORT_BUSY) throw new Error(found);
    return found;
  } finally {
    await calendar.close();
  }
}

// ---- A restart without a history -------------------------------------------------------------------------------

/** The server ends and starts again, and remembers nothing but what its database holds. */
async function restart({ program, browser }) {
  const calendar = new Calendar(program);
  try {
    await calendar.start();
    const ids = await calendar.fill(IMPORTED);
    // The pages are to miss what happens from here on, not what they have just been loaded with.
    const stock = await Page.open(browser, "the page", await calendar.wire(), STOCK);
    const resyncs = await Page.open(browser, "the page that loads its list anew", await calendar.wire(), RESYNCS);
    const pages = [stock, resyncs];
    await pause(SETTLED);
    await calendar.stop();
    await calendar.unheard(async address => {
      await save(address, "PUT", ids[500], numbered(500, "new text"));
      await save(address, "DELETE", ids[501]);
      await save(address, "POST", undefined, numbered(IMPORTED));
    });
    const marks = pages.map(page => page.mark);
    const subscriptions = pages.map(page => page.subscriptions);
    await calendar.start();
    await Promise.all(pages.map((page, index) => until(`${page.name} is connected again`, () =>
      page.live && page.subscriptions > subscriptions[index])));
    const samples = await followed(pages, RESTART_WITHIN);
    const list = await calendar.list();
    for (const [index, page] of pages.entries()) {
      await measured(`after a restart ${page.name} equals the server`, async () => {
        const differs = await page.differs(list);
        if (differs) throw new Error(differs);
        return `${list.length} events`;
      });
      await measured(`a restart keeps ${page.name} busy for at most half of its time`, async () => {
        const { most, work, long, time, wide } = shares(samples[index]);
        const found = `${percent(most)} of the busiest ${seconds(wide)}, ${seconds(work)} of ${seconds(time)} in all, `
          + `of that ${seconds(long)} in long tasks, ${counts(page, marks[index])}`;
        if (most > RESTART_SHARE) throw new Error(found);
        return found;
      });
    }
    await measured(`${resyncs.name} is asked to do so, instead of every event`, async () => {
      const found = counts(resyncs, marks[1]);
      if (!resyncs.types(marks[1]).resync || resyncs.received(marks[1]) > RESYNC_FRAMES) throw new Error(found);
      return found;
    });
  } finally {
    await calendar.close();
  }
}

/** Samples of each page's work, until nothing has come for some time, and the repeats of half a minute are over. */
async function followed(pages, within) {
  const began = Date.now();
  const samples = await Promise.all(pages.map(async page => [await page.busy()]));
  let [received, since] = [0, Date.now()];
  for (;;) {
    await pause(500);
    await Promise.all(pages.map(async (page, index) => samples[index].push(await page.busy())));
    const now = pages.reduce((sum, page) => sum + page.mark, 0);
    if (now !== received) [received, since] = [now, Date.now()];
    const [followed, quiet] = [Date.now() - began, Date.now() - since];
    if (followed > within || followed > REPEATED_WITHIN + MARGIN && quiet > QUIET) return samples;
  }
}

function shares(samples) {
  let [most, wide] = [0, SHARE_OF];
  for (const [index, from] of samples.entries()) {
    const to = samples.slice(index).find(sample => sample.time - from.time >= SHARE_OF);
    if (!to) break;
    const share = (to.work - from.work) / (to.time - from.time);
    if (share > most) [most, wide] = [share, to.time - from.time];
  }
  const [first, last] = [samples[0], samples.at(-1)];
  return { most, wide, work: last.work - first.work, long: last.long - first.long, time: last.time - first.time };
}

function percent(share) {
  return `${Math.round(share * 100)} %`;
}

// ---- A deploy --------------------------------------------------------------------------------------------------

/** The server ends and starts again with the history that it has kept in a file. */
async function deploy({ program, browser }) {
  const calendar = new Calendar(program);
  const help = execFileSync(program, ["--help"], { encoding: "utf8" });
  const keeps = help.includes("--log-file");
  const options = keeps ? ["--log-file", calendar.file("log")] : [];
  await measured("the demo can keep its history in a file", async () => {
    if (!keeps) throw new Error("it has no option --log-file; the figures below are without one");
    return "--log-file";
  });
  try {
    await calendar.start(...options);
    const ids = await calendar.fill(IMPORTED);
    const pages = [];
    for (const [name, path] of [["page 1", STOCK], ["page 2", STOCK], ["the demo's page", DEMO]]) {
      pages.push(await Page.open(browser, name, await calendar.wire(), path));
    }
    const key = async () => (await handshake(calendar.address, "demo")).key;
    const before = await key();
    await pause(SETTLED);
    const texts = { [ids[11]]: "changed just before", [ids[12]]: "changed just after" };
    await calendar.change(ids[11], numbered(11, texts[ids[11]]));
    const marks = pages.map(page => page.mark);
    const sockets = pages.map(page => page.sockets);
    const subscriptions = pages.map(page => page.subscriptions);
    await calendar.stop();
    await calendar.start(...options);
    await calendar.change(ids[12], numbered(12, texts[ids[12]]));
    await Promise.all(pages.map((page, index) => until(`${page.name} is connected again`, () =>
      page.live && page.subscriptions > subscriptions[index])));
    await pause(DEPLOY_AFTER);
    for (const [index, page] of pages.entries()) {
      await measured(`after a deploy ${page.name} is sent fewer than ${DEPLOY_FRAMES} frames`, async () => {
        const found = counts(page, marks[index]);
        if (page.received(marks[index]) >= DEPLOY_FRAMES) throw new Error(found);
        return found;
      });
    }
    const list = await calendar.list();
    for (const page of pages) {
      await measured(`after a deploy ${page.name} equals the server`, async () => {
        await page.holds(texts, 0);
        const differs = await page.differs(list);
        if (differs) throw new Error(differs);
        return `${list.length} events`;
      });
    }
    await measured("after a deploy keys are of the same log, and pages stay on one socket", async () => {
      const epoch = key => key.split(".").at(-2);
      const found = `epoch ${epoch(before).slice(0, 8)} then ${epoch(await key()).slice(0, 8)}, `
        + `sockets opened ${pages.map((page, index) => page.sockets - sockets[index]).join(", ")}`;
      const again = epoch(await key()) === epoch(before);
      // Those that met a server which was not there yet have tried more than once.
      if (!again || pages.some((page, index) => page.sockets - sockets[index] > 2)) throw new Error(found);
      return found;
    });
  } finally {
    await calendar.close();
  }
}

// ---- The run ---------------------------------------------------------------------------------------------------

/** Those that mostly wait go on at the same time; one that measures shares of time has the machine for itself. */
const WAITING = { back, slow, deploy, import: imports };
const MEASURING = { restart };

function options() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { only: { type: "string", multiple: true }, delivery: { type: "string" } },
  });
  const names = [...Object.keys(WAITING), ...Object.keys(MEASURING)];
  const unknown = values.only?.find(name => !names.includes(name));
  if (unknown) throw new Error(`there is no part ${unknown}; the parts are ${names.join(", ")}`);
  if (positionals.length !== 1) {
    throw new Error("name the demo's program: node pages.mjs ../../target/debug/examples/scheduler");
  }
  const program = resolve(positionals[0]);
  present(program, constants.X_OK, "build it with: cargo build --examples");
  for (const file of Object.values(FILES)) present(file, constants.R_OK, "run npm ci in examples/scheduler");
  return {
    program,
    wanted: name => !values.only || values.only.includes(name),
    delivery: values.delivery ? ["--delivery", values.delivery] : [],
  };
}

async function run() {
  const began = Date.now();
  const browsers = [];
  let chosen;
  try {
    chosen = options();
    browsers.push(await launch(), await launch({ keepPages: true }));
  } catch (error) {
    fail("the checks could start", error.message);
    for (const browser of browsers) await browser.close();
    close();
    return 2;
  }
  const guard = setTimeout(() => {
    fail("the run came to its end", `not within ${seconds(LONGEST_RUN)}`);
    close();
    process.exit(1);
  }, LONGEST_RUN);
  const tools = { ...chosen, browser: browsers[0], keeping: browsers[1] };
  const one = async ([name, job]) => {
    if (!chosen.wanted(name)) return;
    await job(tools).catch(error => fail(name, String(error?.message ?? error).split("\n")[0]));
  };
  try {
    await Promise.all(Object.entries(WAITING).map(one));
    for (const measuring of Object.entries(MEASURING)) await one(measuring);
  } finally {
    clearTimeout(guard);
    for (const browser of browsers) await browser.close();
    killAll();
  }
  console.log(`\nafter ${seconds(Date.now() - began)}`);
  return close();
}

process.on("exit", killAll);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.exit(await run());
