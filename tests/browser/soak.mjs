// Three pages edit one calendar at the same time, while their connections break and the server ends and comes back;
// then all is left alone for a while, and every page must be equal to the server. Takes about a minute, and two on a
// busy machine.
//
//   node soak.mjs ../../target/debug/examples/scheduler [--seed N]
//   node soak.mjs --base http://127.0.0.1:3000 [--seed N]
//
// The second form takes a server that is running already and that has no other users; its events stay on it, and it is
// not restarted. The same seed makes the same choices again, though never at quite the same moments. The browser is
// /usr/bin/chromium, or $CHROMIUM. Exit status: 0 when every check passed, 1 when one failed, 2 when nothing could be
// checked.

import { constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { launch } from "./browser.mjs";
import { save } from "./clients.mjs";
import { chance, present, seconds, some } from "./common.mjs";
import { Editor, byId, differences } from "./editor.mjs";
import { check, close, fail, ok, part, same, until } from "./report.mjs";
import { kill, killAll, startOn, stop } from "./server.mjs";
import { DEMO, FILES, STOCK } from "./stock.mjs";
import { at } from "./window.mjs";
import { Wire, pause } from "./wire.mjs";

const STILL = "/soak/?still";
const SEED = 20260513;
const EDITING = 14_000;
// The layer repeats what a page may have overwritten with a late list 5 seconds after the page has subscribed.
const LIST_HELD = 2500;
const FORM_OPEN = 3000;
// Deletes that a page could not take, as its form was open, are repeated every 30 seconds.
const REST = 75_000;
// Far more than a run takes: only one that hangs is ended.
const LONGEST_RUN = 900_000;

class Soak {
  editors = [];
  wires = [];
  edits = 0;
  clashes = 0;
  editingEnds = 0;
  server = null;
  #folder = null;

  constructor(browser, seed, { program, base }) {
    this.browser = browser;
    this.seed = seed;
    this.program = program;
    this.address = base;
    this.mark = base ? `Run ${Date.now() % 100_000_000}` : "Soak";
  }

  // ---- The server ------------------------------------------------------------------------------------------------

  async start() {
    if (!this.program) return;
    if (!this.#folder) {
      this.#folder = mkdtempSync(join(tmpdir(), "soak-"));
      process.on("exit", () => rmSync(this.#folder, { recursive: true, force: true }));
    }
    const listen = this.address ? new URL(this.address).host : "127.0.0.1:0";
    this.server = await startOn(listen, this.program, "--db", join(this.#folder, "events.sqlite"));
    this.address = this.server.address;
  }

  async list() {
    const response = await fetch(`${this.address}/events`);
    if (response.status !== 200) throw new Error(`the list was answered with ${response.status}`);
    return response.json();
  }

  stored(text) {
    return until(`“${text}” is on the server`, async () => (await this.list()).some(event => event.text === text));
  }

  // ---- Pages -----------------------------------------------------------------------------------------------------

  async wire() {
    const wire = await new Wire(this.address, FILES).listen();
    this.wires.push(wire);
    return wire;
  }

  async open(name, path, options) {
    const wire = await this.wire();
    const random = chance(this.seed, `saves of ${name}`);
    wire.saveDelay = () => 200 + 200 * random();
    await options?.prepare?.(wire);
    const editor = await Editor.open(this.browser, name, wire, path, options);
    this.editors.push(editor);
    return editor;
  }

  together(job) {
    return Promise.all(this.editors.map(job));
  }

  /** Every save has been answered. */
  saved() {
    return this.together(editor => editor.saved());
  }

  async close() {
    for (const wire of this.wires) wire.close();
    if (this.server && !this.server.exit) await kill(this.server);
  }

  // ---- Edits -----------------------------------------------------------------------------------------------------

  /** A text that nothing else has. */
  text(who) {
    this.edits += 1;
    return `${this.mark} ${this.edits} ${who}`;
  }

  time(random) {
    const start = at(8 + Math.floor(random() * 9), Math.floor(random() * 5));
    return { start, end: start + (1 + Math.floor(random() * 2)) * 3_600_000 };
  }

  create(editor, random) {
    return editor.does("create", { text: this.text(editor.name), ...this.time(random) });
  }

  /** One edit of any kind; more often than not of an event that others edit too. */
  async edit(editor, random) {
    const [what, which, where] = [random(), random(), random()];
    const ids = await editor.does("ids");
    const id = ids[Math.floor(which * (where < 0.6 ? Math.min(4, ids.length) : ids.length))];
    if (what < 0.2 || ids.length < 5) await this.create(editor, random);
    else if (what < 0.5) await editor.does("change", id, this.time(random));
    else if (what < 0.87) await editor.does("change", id, { text: this.text(editor.name) });
    else await editor.does("remove", id);
  }

  /** All pages edit within a fifth of a second: the same event, or each makes one. */
  async clash(random) {
    const ids = await this.editors[0].does("ids");
    const id = ids[Math.floor(random() * Math.min(4, ids.length))];
    const kinds = [
      editor => editor.does("change", id, { text: this.text(editor.name) }),
      editor => this.create(editor, random),
      (editor, index) => (index === 0
        ? editor.does("change", id, this.time(random))
        : editor.does("change", id, { text: this.text(editor.name) })),
      (editor, index) => (index === 1
        ? editor.does("remove", id)
        : editor.does("change", id, { text: this.text(editor.name) })),
    ];
    await this.together(async (editor, index) => {
      await pause(random() * 200);
      await kinds[this.clashes % kinds.length](editor, index);
    });
    this.clashes += 1;
  }

  async editAllTheTime(editor) {
    const random = chance(this.seed, editor.name);
    while (Date.now() < this.editingEnds) {
      await pause(300 + 700 * random());
      await this.edit(editor, random);
    }
  }

  async clashAllTheTime() {
    const random = chance(this.seed, "clashes");
    while (Date.now() < this.editingEnds) {
      await pause(700 + 900 * random());
      await this.clash(random);
    }
  }
}

/** Breaks one page's socket after the other, until it is asked to end. */
class Weather {
  #over = false;
  #ended;

  constructor(soak, name) {
    this.soak = soak;
    this.#ended = this.#blow(chance(soak.seed, name));
  }

  async #blow(random) {
    for (let number = 0; !this.#over; number += 1) {
      await pause(500 + 1000 * random());
      if (this.#over) return;
      // One whose socket is away has nothing to lose.
      const connected = this.soak.editors.filter(editor => editor.live);
      const struck = connected[Math.floor(random() * connected.length)]?.wire;
      const time = 800 + 1200 * random();
      [() => struck?.cut(), () => struck?.dark(time), () => struck?.reset()][number % 3]();
    }
  }

  async end() {
    this.#over = true;
    await this.#ended;
    for (const { wire } of this.soak.editors) wire.mend();
  }
}

// ---- What happens ----------------------------------------------------------------------------------------------

async function concurrentEdits(soak) {
  await check("two pages open", async () => {
    for (let number = 0; number < 8; number += 1) {
      const hour = 8 + number;
      await save(soak.address, "POST", undefined, {
        text: soak.text("seed"), start_date: `2026-05-13 ${pad(hour)}:00`, end_date: `2026-05-13 ${pad(hour + 1)}:00`,
      });
    }
    await soak.open("page 1", STOCK);
    // The page that the demo shows to people, where there is one.
    await soak.open("page 2", soak.program ? DEMO : STOCK);
  });
  const weather = new Weather(soak, "weather over edits");
  soak.editingEnds = Date.now() + EDITING;
  const editing = [soak.clashAllTheTime(), ...soak.editors.map(editor => soak.editAllTheTime(editor))];
  // Failures are reported below.
  for (const job of editing) job.catch(() => {});
  try {
    await pause(EDITING / 4);
    const late = await check("a third page opens, and gets its list after its subscription", () => latePage(soak));
    editing.push(soak.editAllTheTime(late));
    await check("they edit, often the same event, while their sockets break", () => Promise.all(editing));
  } finally {
    soak.editingEnds = 0;
    await Promise.allSettled(editing);
    await weather.end();
  }
  await check("every save has been answered", () => soak.saved());
}

/** What changes between a page's list and its subscription, and between that and the arrival of the list. */
async function latePage(soak) {
  const random = chance(soak.seed, "late page");
  const changes = async editor => {
    const ids = await editor.does("ids");
    await editor.does("change", ids[0], { text: soak.text(editor.name), ...soak.time(random) });
    await editor.does("change", ids[1], { text: soak.text(editor.name) });
    await editor.does("remove", ids[2]);
    await soak.create(editor, random);
    await editor.saved();
  };
  const [first, second] = soak.editors;
  let answered = false;
  let mayHave;
  const have = new Promise(done => { mayHave = done; });
  const late = await soak.open("page 3", STOCK, {
    wait: false,
    prepare: wire => {
      wire.beforeList = () => {
        answered = true;
        return have;
      };
    },
  });
  try {
    await until("the list has been answered", () => answered);
    await changes(first);
    await late.connected();
    const changed = changes(second);
    await Promise.race([changed.then(() => pause(500)), pause(LIST_HELD)]);
    mayHave();
    await changed;
  } finally {
    mayHave();
    late.wire.beforeList = async () => {};
  }
  await late.loaded();
  await late.connected();
  return late;
}

async function series(soak) {
  const [one, two, three] = soak.editors;
  const weather = new Weather(soak, "weather over series");
  const daily = text => ({ text, start: at(6), end: at(6, 40), duration: 3600, rrule: "FREQ=DAILY;INTERVAL=1" });
  // An hour later than it would be.
  const shifted = (text, day) => ({ text, start: at(7, day), end: at(8, day) });
  const done = async (what, answer) => {
    if (!(await answer)) throw new Error(`the page did not have ${what}`);
  };
  try {
    const walk = soak.text("walk"), swim = soak.text("swim");
    await check("two series appear on every page", async () => {
      await one.does("create", daily(walk));
      await two.does("create", daily(swim));
      await soak.together(async editor => {
        await editor.shows(walk);
        await editor.shows(swim);
      });
      await soak.saved();
    });
    await check("one page changes an occurrence, another deletes one, then a third deletes the series", async () => {
      await Promise.all([
        done("the occurrence", two.does("changeOccurrence", walk, at(0, 2), shifted(`${walk} later`, 2))),
        done("the occurrence", three.does("removeOccurrence", walk, at(0, 3))),
      ]);
      await soak.saved();
      await done("the series", one.does("remove", await one.does("idOf", walk)));
    });
    await check("those of the other come back with a new name of the series, and change again", async () => {
      await Promise.all([
        done("the occurrence", three.does("changeOccurrence", swim, at(0, 2), shifted(`${swim} later`, 2))),
        done("the occurrence", one.does("removeOccurrence", swim, at(0, 3))),
      ]);
      await soak.saved();
      const renamed = `${swim} in the lake`;
      await done("the series", two.does("changeNamed", swim, { text: renamed }));
      await soak.saved();
      await soak.together(editor => editor.shows(renamed));
      await Promise.all([
        done("the occurrence", one.does("changeOccurrence", renamed, at(0, 4), shifted(`${renamed} later`, 4))),
        done("the occurrence", three.does("removeOccurrence", renamed, at(0, 5))),
      ]);
    });
  } finally {
    await weather.end();
  }
  await check("every save has been answered", () => soak.saved());
}

/** Ends the server by `end`, while a page has missed changes and does not know it, and starts it again. */
async function restart(soak, how, end) {
  const random = chance(soak.seed, how);
  const [one, two, three] = soak.editors;
  let before;
  await check(`one page misses changes, and then the server ends by ${how} and starts again`, async () => {
    await soak.together(editor => editor.connected());
    three.wire.dark(60_000);
    const ids = await one.does("ids");
    await Promise.all([
      one.does("change", ids[0], { text: soak.text(one.name), ...soak.time(random) }),
      one.does("remove", ids[1]),
      two.does("change", ids[2], { text: soak.text(two.name) }),
      soak.create(two, random),
    ]);
    await soak.saved();
    before = soak.editors.map(editor => editor.subscriptions);
    await end(soak.server);
    await soak.start();
    three.wire.mend();
  });
  await check("pages that are not connected yet go on", async () => {
    await soak.edit(two, random);
    await three.does("change", (await three.does("ids"))[3], soak.time(random));
    await soak.saved();
  });
  await check("they connect by themselves, and go on", async () => {
    await soak.together((editor, index) => until(`${editor.name} has subscribed again`, () =>
      editor.live && editor.subscriptions > before[index]));
    await soak.together(editor => soak.edit(editor, random));
    await soak.saved();
  });
}

async function forms(soak) {
  const [one, ...others] = soak.editors;
  const texts = others.map(editor => soak.text(`for ${editor.name}`));
  const after = others.map(editor => soak.text(`after the form of ${editor.name}`));
  await check("two pages open their edit forms on events, which the third deletes", async () => {
    for (const text of texts) await one.does("create", { text, start: at(12), end: at(13) });
    await one.saved();
    await Promise.all(others.map(async (editor, index) => {
      await editor.shows(texts[index]);
      await editor.saved();
      await editor.does("openForm", await editor.does("idOf", texts[index]));
      await editor.page.locator(".dhx_cal_light").waitFor();
    }));
    const ids = await Promise.all(texts.map(text => one.does("idOf", text)));
    for (const id of ids) await one.does("remove", id);
    await one.saved();
    await Promise.all(others.map((editor, index) => until(`${editor.name} has received the deletion`, () =>
      editor.window.received((event, type) => type === "delete-event"
        && String(event.id) === String(ids[index])).length)));
    await pause(FORM_OPEN);
  });
  await check("what they make as soon as their forms are closed is saved", async () => {
    await Promise.all(others.map((editor, index) =>
      editor.does("closeFormAndCreate", { text: after[index], start: at(14), end: at(15) })));
    for (const text of after) {
      await soak.stored(text);
    }
  });
}

/** Leaves all alone, and compares. */
async function rest(soak) {
  await check("every save has been answered", () => soak.saved());
  const began = Date.now();
  const list = await soak.list();
  const server = byId(list);
  const still = await Editor.open(soak.browser, "page opened now", await soak.wire(), STILL, { live: false });
  const fresh = await still.state();
  await still.page.context().close();
  await check(`a page opened now shows the ${list.length} events of the list`, () => {
    const lines = differences(fresh.records, server);
    if (lines.length) throw new Error(some(lines).join("\n"));
  });
  const trouble = async editor => {
    const found = await editor.state();
    const lines = differences(found.records, server);
    const [here, there] = [new Set(found.shown), new Set(fresh.shown)];
    // What is listed already need not be reported twice.
    if (!lines.length) {
      lines.push(...found.shown.filter(line => !there.has(line)).map(line => `shows ${line}`));
      lines.push(...fresh.shown.filter(line => !here.has(line)).map(line => `does not show ${line}`));
    }
    if (found.unsaved.length) lines.push(`has not saved ${found.unsaved.join(", ")}`);
    if (found.savingIsOff) lines.push("does not save any more");
    if (!editor.live) lines.push("is not connected");
    return lines;
  };
  let left;
  const equal = soak.editors.map(() => null);
  await until("all are equal", async () => {
    await pause(250);
    left = await soak.together(trouble);
    left.forEach((lines, index) => { equal[index] = lines.length ? null : equal[index] ?? Date.now() - began; });
    return left.every(lines => !lines.length);
  }, REST).catch(() => {});
  soak.editors.forEach((editor, index) => {
    const lines = left[index];
    const name = `${editor.name} is equal to the server`;
    if (!lines.length) ok(`${name} (after ${seconds(equal[index])} of rest)`);
    else fail(name, [`not within ${seconds(REST)}: ${lines.length} differences`, ...some(lines)].join("\n       "));
  });
  await check("the server's list has stayed as it was", async () => {
    const lines = differences(byId(await soak.list()), server);
    if (lines.length) throw new Error(lines.join("; "));
  });
}

async function lastEdits(soak) {
  for (const editor of soak.editors) {
    const made = soak.text(`last of ${editor.name}`), changed = `${made}, changed`;
    const everywhere = async text => {
      await soak.together(other => other.shows(text));
      await soak.stored(text);
    };
    try {
      await editor.does("create", { text: made, start: at(18), end: at(19) });
      await everywhere(made);
      if (!(await editor.does("changeNamed", made, { text: changed }))) throw new Error("it is gone");
      await everywhere(changed);
      ok(`what ${editor.name} makes and changes appears everywhere`);
    } catch (error) {
      fail(`what ${editor.name} makes and changes appears everywhere`, error.message);
    }
  }
}

/** What must not happen even on the way. Events that another page has deleted cannot be saved: that is all right. */
async function allTheWhile(soak) {
  for (const editor of soak.editors) {
    await check(`no trouble in ${editor.name}`, () => {
      const { window } = editor;
      same({
        dialogs: window.dialogs,
        failedSaves: window.failedSaves.filter(line => !/^(PUT|DELETE) .* 404$/.test(line)),
        framesThatAreNoText: window.frameTrouble(),
        requestsThatLeft: window.strayRequests,
      }, { dialogs: [], failedSaves: [], framesThatAreNoText: [], requestsThatLeft: [] }, "it");
    });
  }
}

/** A run in which nothing went wrong on the way would prove nothing. */
async function tally(soak) {
  const total = { cut: 0, dark: 0, reset: 0 };
  for (const { wire } of soak.editors) for (const how of Object.keys(total)) total[how] += wire.broken[how];
  const { cut, dark, reset } = total;
  const sockets = `${cut} sockets cut, ${dark} left in the dark and ${reset} reset`;
  await check(`${soak.edits} edits, ${soak.clashes} clashes, ${sockets}`, () => {
    if (!(soak.clashes && cut && dark && reset)) throw new Error("some of that should have happened");
  });
}

async function soakIt(soak) {
  await part("Pages that edit at the same time, while their sockets break", () => concurrentEdits(soak));
  if (soak.editors.length < 3) return;
  await part("Series, while sockets break", () => series(soak));
  if (soak.program) {
    await part("A server that is killed", () => restart(soak, "SIGKILL", kill));
    await part("A server that is ended", () => restart(soak, "SIGTERM", async server => {
      same(await stop(server), { code: 0, signal: null }, "its end");
    }));
  }
  await part("Events that are deleted under a form", () => forms(soak));
  await part("What that was", () => tally(soak));
  await part("Rest", () => rest(soak));
  await part("Afterwards", () => lastEdits(soak));
  await part("All the while", () => allTheWhile(soak));
}

// ---- The run ---------------------------------------------------------------------------------------------------

function pad(number) {
  return String(number).padStart(2, "0");
}

function options() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seed: { type: "string", default: String(SEED) }, base: { type: "string" } },
  });
  if (!/^\d+$/.test(values.seed)) throw new Error("a seed is a whole number");
  if (positionals.length !== (values.base ? 0 : 1)) {
    throw new Error("name the demo's program: node soak.mjs ../../target/debug/examples/scheduler");
  }
  const program = values.base ? undefined : resolve(positionals[0]);
  if (program) present(program, constants.X_OK, "build it with: cargo build --examples");
  for (const file of Object.values(FILES)) present(file, constants.R_OK, "run npm ci in examples/scheduler");
  return { seed: Number(values.seed), program, base: values.base && new URL(values.base).origin };
}

async function run() {
  const began = Date.now();
  let chosen, browser, soak;
  try {
    chosen = options();
    browser = await launch();
    soak = new Soak(browser, chosen.seed, chosen);
    await soak.start();
    await soak.list();
  } catch (error) {
    fail("the soak could start", error.message);
    await soak?.close();
    await browser?.close();
    close();
    return 2;
  }
  console.log(`seed ${chosen.seed}`);
  const end = () => {
    console.log(`\nafter ${seconds(Date.now() - began)}, with seed ${chosen.seed}`);
    const status = close();
    const what = chosen.program ?? `--base ${chosen.base}`;
    if (status) console.log(`once more: node ${process.argv[1]} ${what} --seed ${chosen.seed}`);
    return status;
  };
  const guard = setTimeout(() => {
    fail("the run came to its end", `not within ${seconds(LONGEST_RUN)}`);
    process.exit(end());
  }, LONGEST_RUN);
  try {
    await soakIt(soak);
  } catch (error) {
    fail("the run came to its end", error.stack);
  } finally {
    clearTimeout(guard);
    await browser.close();
    await soak.close();
  }
  return end();
}

process.on("exit", killAll);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.exit(await run());
