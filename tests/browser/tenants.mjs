// Two companies share one calendar server: four people, two of each, edit at the same time, and whatever a page is
// sent is looked through for what is none of its business. Takes about a minute and a half.
//
//   node tenants.mjs ../../target/debug/examples/tenants [--seed N]
//
// The same seed makes the same choices again, though never at quite the same moments. The browser is
// /usr/bin/chromium, or $CHROMIUM. Exit status: 0 when every check passed, 1 when one failed, 2 when nothing could be
// checked.

import { constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { launch } from "./browser.mjs";
import { rejected } from "./clients.mjs";
import { chance, present, seconds, some } from "./common.mjs";
import { Editor, byId, differences } from "./editor.mjs";
import { PATIENCE, check, close, fail, ok, part, same, until } from "./report.mjs";
import { kill, killAll, startOn, stop } from "./server.mjs";
import { at } from "./window.mjs";
import { Wire, pause } from "./wire.mjs";

const USERS = [["ann", "north"], ["ben", "north"], ["cid", "south"], ["dee", "south"]];
const SECRETS = ["--token-secret", "tokens of a browser check, and of nothing else",
  "--session-secret", "sessions of a browser check, and of nothing else"];
const SEED = 20260513;
const EDITING = 20_000;
const ENOUGH = 60;
// Debounced repeats come when this has passed without writes, 4 s at most; then all is quiet.
const QUIET = 6000;
// Deletions are repeated every 30 seconds, and must not remove what was added again since.
const REPEATS = 33_000;
// Far more than a run takes: only one that hangs is ended.
const LONGEST_RUN = 900_000;

let server;
let texts = 0;

/** One of the users, with a page and with a program of one's own. */
class Person {
  /** The addresses of the page's sockets. */
  sockets = [];
  /** Ids of the events made here, and of those among them that have never been public. */
  made = new Set();
  hushed = new Set();
  token = null;

  constructor(name, tenant) {
    this.name = name;
    this.tenant = tenant;
  }

  // ---- The program -----------------------------------------------------------------------------------------------

  async logIn(address = server.address) {
    const headers = { "content-type": "application/json" };
    const body = JSON.stringify({ user: this.name, password: `${this.name}-demo` });
    const answer = await fetch(`${address}/login`, { method: "POST", headers, body });
    if (answer.status !== 200) throw new Error(`the login of ${this.name} was answered with ${answer.status}`);
    this.token = (await answer.json()).token;
  }

  ask(method, path, body, address = server.address) {
    const headers = { "authorization": `Bearer ${this.token}`, "content-type": "application/json" };
    return fetch(address + path, { method, headers, body: body && JSON.stringify(body) });
  }

  async list() {
    const answer = await this.ask("GET", "/events");
    if (answer.status !== 200) throw new Error(`the list of ${this.name} was answered with ${answer.status}`);
    return answer.json();
  }

  async post(event, address) {
    const answer = await this.ask("POST", "/events", event, address);
    if (answer.status !== 200) throw new Error(`a create of ${this.name} was answered with ${answer.status}`);
    const { tid } = await answer.json();
    this.#note(tid, event.text);
    return tid;
  }

  #note(id, text) {
    this.made.add(id);
    if (text.includes("hush")) this.hushed.add(id);
  }

  // ---- The page --------------------------------------------------------------------------------------------------

  async open(browser, wire) {
    this.wire = wire;
    this.editor = await Editor.open(browser, this.name, wire, "/", { enter: page => this.#enter(page) });
    this.window = this.editor.window;
  }

  async #enter(page) {
    page.on("websocket", socket => this.sockets.push(socket.url()));
    page.on("response", async response => {
      const request = response.request();
      if (request.method() !== "POST" || !request.url().endsWith("/events") || response.status() !== 200) return;
      // A page that has been left cannot be asked any more.
      const answer = await response.json().catch(() => null);
      if (answer) this.#note(answer.tid, request.postDataJSON().text);
    });
    await page.goto(this.wire.address);
    await this.fillIn(page);
  }

  /** Logs in by the form. */
  async fillIn(page = this.window.page) {
    await page.fill("[name=user]", this.name);
    await page.fill("[name=password]", `${this.name}-demo`);
    await page.click("[type=submit]");
    await page.waitForSelector("#scheduler");
  }

  does(what, ...details) {
    return this.editor.does(what, ...details);
  }

  /** What the page received from a moment on, everything included. */
  received(since = 0) {
    return this.window.frames.slice(since);
  }

  get now() {
    return this.window.frames.length;
  }

  // ---- The content of events -------------------------------------------------------------------------------------

  /** A text that nothing else has, which names the owner of the event, and whether other users may see it. */
  text(kind = "open") {
    texts += 1;
    const mark = { open: "", secret: ` secret-${this.name}`, hush: ` secret-${this.name} hush` }[kind];
    return `${this.tenant}-${this.name}-${texts}${mark}`;
  }

  event(kind, hour = 10) {
    return {
      text: this.text(kind), start_date: `2026-05-13 ${hour}:00`, end_date: `2026-05-13 ${hour + 1}:00`,
      private: kind !== "open" && kind !== undefined, notes: `note-${this.name}-${texts}`,
    };
  }

  /** The same for a page, where an event has its owner from the start. */
  drawn(kind, random) {
    const { start_date, end_date, ...event } = this.event(kind);
    return { ...event, ...time(random), owner: this.name };
  }
}

function time(random) {
  const start = at(8 + Math.floor(random() * 9), Math.floor(random() * 5));
  return { start, end: start + 3_600_000 };
}

/** What in a page's frames is none of its business. */
function leaks(person, people, frames = person.received()) {
  const others = people.filter(other => other !== person);
  const strangers = others.filter(other => other.tenant !== person.tenant);
  const marks = [
    ...strangers.map(other => `${other.tenant}-`),
    ...others.flatMap(other => [`secret-${other.name}`, `note-${other.name}`]),
  ];
  const ids = new Set([...strangers.flatMap(other => [...other.made]), ...others.flatMap(other => [...other.hushed])]);
  return frames.filter(frame => marks.some(mark => frame.includes(mark)) || ids.has(String(idIn(frame))));
}

function idIn(frame) {
  return JSON.parse(frame).body?.value?.event?.id;
}

/** What is not about any of these events: what a page knows may be repeated at any time. */
function besides(frames, ids) {
  return frames.filter(frame => !ids.has(String(idIn(frame))));
}

// ---- What happens ----------------------------------------------------------------------------------------------

async function logins(people, browser, wires) {
  await check("without a login there are no events, and a form of another site is no login", async () => {
    same((await fetch(`${server.address}/events`)).status, 401, "the list");
    const form = new URLSearchParams({ user: "ann", password: "ann-demo" });
    same((await fetch(`${server.address}/login`, { method: "POST", body: form })).status, 415, "the form");
    const [ann] = people;
    const body = JSON.stringify({ user: "ann", password: "ben-demo" });
    const headers = { "content-type": "application/json" };
    same((await fetch(`${server.address}/login`, { method: "POST", headers, body })).status, 401, "a wrong password");
    ann.token = "not-a-token";
    same((await ann.ask("GET", "/events")).status, 401, "a wrong token");
  });
  await check("each user makes a public and a private event", async () => {
    for (const person of people) {
      await person.logIn();
      await person.post(person.event("open"));
      await person.post(person.event("hush", 12));
    }
  });
  await check("what a user may not see cannot be changed either", async () => {
    const [ann, ben, cid] = people;
    const [open, hush] = ann.made;
    for (const [person, id] of [[cid, open], [cid, hush], [ben, hush]]) {
      same((await person.ask("PUT", `/events/${id}`, person.event())).status, 404, `a change by ${person.name}`);
      same((await person.ask("DELETE", `/events/${id}`)).status, 404, `a delete by ${person.name}`);
    }
  });
  await check("four people log in, each with a browser of their own", async () => {
    await Promise.all(people.map((person, index) => person.open(browser, wires[index])));
    for (const { window } of people) {
      const [cookie] = await window.page.context().cookies();
      same([cookie.name, cookie.httpOnly, cookie.sameSite], ["login", true, "Strict"], "the cookie");
    }
  });
  for (const person of people) {
    const colleague = people.find(other => other.tenant === person.tenant && other !== person);
    await check(`${person.name} sees the three events that are for ${person.name}`, async () => {
      await equal(person);
      const { records } = await person.editor.state();
      same([...records.keys()].sort(), [...person.made, [...colleague.made][0]].sort(), "events");
    });
  }
  await check("the cookie alone is enough for a page that sends no header", async () => {
    same(await people[0].window.page.evaluate(async () => (await fetch("/events")).status), 200, "the list");
  });
}

async function visibility(people) {
  const [ann, ben, ...south] = people;
  const start = { start: at(14), end: at(15) };
  await pause(QUIET);
  const quiet = south.map(person => person.now);
  const known = await Promise.all([ben, ...south].map(async person => new Set(await person.does("ids"))));
  let since = ben.now;

  const open = { ...ann.event(), owner: "ann", ...start };
  await check("a public event that ann makes appears with ben, without its notes", async () => {
    await ann.does("create", open);
    await ben.editor.shows(open.text);
    await ann.editor.saved();
    same(leaks(ben, people, ben.received(since)), [], "what ben received besides");
  });
  const id = await ann.does("idOf", open.text);
  known[0].add(id);

  since = ben.now;
  await check("of a private event that ann makes, changes and deletes, ben is not sent a byte", async () => {
    const secret = { ...ann.event("hush"), owner: "ann", ...start };
    await ann.does("create", secret);
    await until("it is saved", async () => (await ann.list()).some(event => event.text === secret.text));
    await ann.editor.saved();
    await ann.does("changeNamed", secret.text, { start: at(15), end: at(16) });
    await ann.editor.saved();
    await ann.does("remove", await ann.does("idOf", secret.text));
    await ann.editor.saved();
    await pause(QUIET);
    same(besides(ben.received(since), known[0]), [], "what ben received");
  });

  since = ben.now;
  await check("when ann keeps the public one for herself, it leaves ben's page", async () => {
    await ann.does("change", id, { private: true, text: ann.text("secret") });
    await until("ben's page has lost it", async () => !(await ben.does("has", open.text)));
    await ann.editor.saved();
    same(leaks(ben, people, ben.received(since)), [], "what ben received besides");
    await equal(ben);
  });
  await check("when she makes it public again, ben's page gets it whole", async () => {
    const text = ann.text();
    await ann.does("change", id, { private: false, text });
    await ben.editor.shows(text);
    await ann.editor.saved();
    await equal(ben);
    same(leaks(ben, people), [], "what ben received besides");
  });
  await check("ben's page can still save, and ann keeps her notes", async () => {
    const text = `${ann.text()} renamed`;
    await ben.does("change", id, { text });
    await ben.editor.saved();
    await ann.editor.shows(text);
    const stored = (await ann.list()).find(event => event.id === id);
    same([stored.text, stored.notes], [text, open.notes], "the event");
    await equal(ann);
  });
  await check("all that time, cid and dee were not sent a byte about it", () => {
    const received = south.map((person, index) => besides(person.received(quiet[index]), known[index + 1]));
    same(received, [[], []], "what they received");
  });
}

async function edits(people, seed) {
  const end = Date.now() + EDITING;
  let done = 0;
  const edit = async (person, random) => {
    const events = await person.does("owned");
    const few = random() < 0.5 ? 4 : events.length;
    const { id, text, owner, isPrivate } = events[Math.floor(random() * Math.min(few, events.length))] ?? {};
    const mine = owner === person.name && !text.includes("hush");
    const what = random();
    if (what < 0.25 || events.length < 4) {
      const kind = random() < 0.6 ? "open" : random() < 0.5 ? "secret" : "hush";
      await person.does("create", person.drawn(kind, random));
    } else if (what < 0.45) {
      await person.does("change", id, time(random));
    } else if (what < 0.88 && mine) {
      // A change and its receivers always belong together, whatever arrives meanwhile.
      const hide = what < 0.6 ? isPrivate : !isPrivate;
      await person.does("change", id, { private: hide, text: person.text(hide ? "secret" : "open") });
    } else if (what < 0.88 && owner !== person.name) {
      const whose = people.find(other => other.name === owner);
      await person.does("change", id, { text: `${whose.text()} by ${person.name}` });
    } else if (what >= 0.88) {
      await person.does("remove", id);
    }
    done += 1;
  };
  const weather = async () => {
    const random = chance(seed, "weather");
    for (let number = 0; Date.now() < end - 1500; number += 1) {
      await pause(600 + 900 * random());
      const { wire } = people[Math.floor(random() * people.length)];
      [() => wire.reset(), () => wire.cut(), () => wire.dark(700 + 800 * random())][number % 3]();
    }
    for (const { wire } of people) wire.mend();
  };
  await check("all four edit at once, while their sockets break", async () => {
    await Promise.all([weather(), ...people.map(async person => {
      const random = chance(seed, person.name);
      person.wire.saveDelay = () => 100 + 200 * random();
      while (Date.now() < end || done < ENOUGH && Date.now() < end + PATIENCE) {
        await pause(150 + 500 * random());
        await edit(person, random);
      }
      person.wire.saveDelay = () => 0;
    })]);
    for (const { editor } of people) await editor.saved();
  });
  const total = { reset: 0, cut: 0, dark: 0 };
  for (const { wire } of people) for (const how of Object.keys(total)) total[how] += wire.broken[how];
  const sockets = `${total.reset} sockets reset, ${total.cut} cut and ${total.dark} left in the dark`;
  await check(`${done} edits; ${sockets}; ${people.map(person => person.now)} frames`, () => {
    if (done < ENOUGH || !total.reset || !total.cut || !total.dark) throw new Error("more of that should have happened");
  });
}

/** Waits until a page shows what its user's own list holds, has saved everything, and can go on. */
async function equal(person, within = PATIENCE) {
  const began = Date.now();
  let lines;
  await until("equal", async () => {
    const found = await person.editor.state();
    lines = differences(found.records, byId(await person.list()));
    if (found.unsaved.length) lines.push(`has not saved ${found.unsaved.join(", ")}`);
    if (found.savingIsOff) lines.push("does not save any more");
    if (!person.editor.live) lines.push("is not connected");
    return !lines.length;
  }, within).catch(() => {
    throw new Error(`${person.name} is not equal to the list within ${seconds(within)}: ${some(lines).join("; ")}`);
  });
  return Date.now() - began;
}

async function allEqual(people) {
  for (const person of people) {
    const name = `${person.name}'s page is equal to the list of ${person.name}`;
    try {
      const time = await equal(person);
      ok(`${name} (after ${seconds(time)}, ${(await person.list()).length} events)`);
    } catch (error) {
      fail(name, error.message);
    }
  }
}

async function nothingLeaked(people) {
  for (const person of people) {
    const { name, now } = person;
    await check(`whatever stands in the ${now} frames that ${name} was sent is ${name}'s business`, () => {
      same(leaks(person, people).slice(0, 3), [], "frames");
      const own = person.received().filter(frame => frame.includes(`${person.tenant}-`));
      if (own.length < 10) throw new Error(`only ${own.length} speak of ${person.tenant} at all`);
    });
  }
}

async function stillSaving(people) {
  for (const person of people) {
    const colleague = people.find(other => other.tenant === person.tenant && other !== person);
    await check(`what ${person.name} makes and changes is saved, and appears with ${colleague.name}`, async () => {
      const made = { ...person.event(), owner: person.name, start: at(18), end: at(19) };
      await person.does("create", made);
      await colleague.editor.shows(made.text);
      await person.editor.saved();
      const text = person.text();
      await person.does("changeNamed", made.text, { text });
      await colleague.editor.shows(text);
      await person.editor.saved();
      if (!(await person.list()).some(event => event.text === text)) throw new Error("it is not on the server");
    });
  }
}

/** The socket's address may be logged by others: it must not hold what opens everything else. */
async function addresses(people) {
  await check("every socket's address holds a sealed key, and never a token", () => {
    for (const { name, sockets } of people) {
      for (const address of sockets) {
        const key = new URL(address).searchParams.get("token");
        const [kind, payload] = key.split(".");
        const principal = Buffer.from(payload, "base64url").toString("latin1").split(".").slice(4).join(".");
        if (kind !== "lu2" || !/^\w+\.\d+$/.test(principal) || !principal.startsWith(`${name}.`)) {
          throw new Error(`${name}: ${address}`);
        }
        if (/eyJ/.test(address)) throw new Error(`a token: ${address}`);
      }
    }
  });
}

async function revocation(people) {
  const [ann, ben, ...south] = people;
  const others = [ann, ...south];
  const sockets = others.map(person => person.sockets.length);
  const key = new URL(ben.sockets.at(-1)).searchParams.get("token");
  let since;
  await check("ben logs out everywhere, elsewhere: his socket is closed with 1008, and his page shows so", async () => {
    same((await ben.ask("POST", "/logout-everywhere")).status, 204, "the answer");
    await ben.window.hasStatus("offline: Logged out");
    same((await ben.window.closeCodes()).at(-1), 1008, "the close code");
    since = ben.now;
  });
  await check("neither his old token nor his old session is good for anything", async () => {
    same((await ben.ask("GET", "/events")).status, 401, "the list");
    const { end, frames } = await rejected(server.address, key);
    if (![1008, 401, 403].includes(end) || frames.length) throw new Error(`the socket: ${end}, ${frames}`);
  });
  const made = { ...ann.event(), owner: "ann", start: at(7), end: at(8) };
  await check("what ann does from now on never reaches his page, however often that comes back", async () => {
    const before = ben.sockets.length;
    await ann.does("create", made);
    await ann.editor.saved();
    await until("his page has tried three times", () => ben.sockets.length >= before + 3);
    await ann.does("changeNamed", made.text, { start: at(6), end: at(7) });
    await ann.editor.saved();
    await pause(1000);
    same(ben.received(since), [], "what ben received");
  });
  await check("the others did not notice", async () => {
    same(others.map(person => person.editor.live), [true, true, true], "connected");
    same(others.map(person => person.sockets.length), sockets, "sockets");
  });
  await check("ben logs in again, and is where the others are", async () => {
    await ben.window.page.reload();
    await ben.fillIn();
    await ben.editor.loaded();
    await ben.editor.connected();
    await ben.logIn();
    await ben.editor.shows(made.text);
    await equal(ben);
    same((await rejected(server.address, key)).frames, [], "what the old session receives");
  });
}

/** With nothing but its sealed key, a page comes to another process, which knows only what is in the store. */
async function restart(people, start) {
  const [ann, ben, cid] = people;
  const events = [1, 2, 3].map(() => ({ ...ann.event(), owner: "ann", start: at(9), end: at(10) }));
  await check("ben misses that an event is made private, one deleted, one changed; the server is killed", async () => {
    for (const event of events) {
      await ann.does("create", event);
      await ben.editor.shows(event.text);
    }
    await ann.editor.saved();
    ben.wire.dark(60_000);
    const [left, deleted, changed] = await Promise.all(events.map(event => ann.does("idOf", event.text)));
    await ann.does("change", left, { private: true, text: ann.text("secret") });
    await ann.does("remove", deleted);
    await ann.does("change", changed, { text: ann.text() });
    await cid.does("create", cid.drawn("open", () => 0.5));
    for (const { editor } of [ann, cid]) await editor.saved();
    await kill(server);
    server = await start();
    ben.wire.mend();
    for (const { editor } of people) await editor.connected();
  });
  await allEqual(people);
}

/** On a server whose tokens are good for a minute: the page that was opened on it is older than that. */
async function outlived(ann, short) {
  await check("ann's token has expired meanwhile, and her page cannot save with it", async () => {
    await until("it has expired", async () =>
      (await ann.ask("GET", "/events", undefined, short.address)).status === 401, 60_000);
    await ann.does("create", { ...ann.event(), owner: "ann", start: at(9), end: at(10) });
    await ann.window.page.locator("#unsaved", { hasText: "expired" }).waitFor();
  });
  await check("her socket breaks, comes back by its sealed key, and receives what ben does", async () => {
    const before = ann.sockets.length;
    ann.wire.reset();
    await until("there is another socket", () => ann.sockets.length > before && ann.editor.live);
    const ben = new Person("ben", "north");
    await ben.logIn(short.address);
    const event = ben.event();
    await ben.post(event, short.address);
    await ann.editor.shows(event.text);
  });
}

async function noTrouble(people) {
  for (const { name, window } of people) {
    await check(`no trouble in the page of ${name}`, () => {
      same({
        scriptErrors: window.scriptErrors,
        dialogs: window.dialogs,
        failedSaves: window.failedSaves.filter(line => !/^(PUT|DELETE) .* 404$/.test(line)),
        framesThatAreNoText: window.frameTrouble(),
        requestsThatLeft: window.strayRequests,
      }, { scriptErrors: [], dialogs: [], failedSaves: [], framesThatAreNoText: [], requestsThatLeft: [] }, "it");
    });
  }
}

async function checkIt(browser, program, seed, wires) {
  const folder = mkdtempSync(join(tmpdir(), "tenants-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const start = () => startOn(server ? new URL(server.address).host : "127.0.0.1:0", program,
    "--db", join(folder, "events.sqlite"), ...SECRETS);
  const wire = async address => {
    wires.push(await new Wire(address, {}).listen());
    return wires.at(-1);
  };
  server = await start();
  const short = await startOn("127.0.0.1:0", program, "--token-minutes", "1");
  const people = USERS.map(([name, tenant]) => new Person(name, tenant));
  const early = new Person("ann", "north");
  await early.logIn(short.address);
  await early.open(browser, await wire(short.address));
  const own = [];
  for (const _ of people) own.push(await wire(server.address));

  let entered = false;
  await part("Logging in", async () => {
    await logins(people, browser, own);
    entered = true;
  });
  if (!entered) return;
  await part("Who receives what", () => visibility(people));
  let quietSince;
  await part("All at once", async () => {
    await edits(people, seed);
    quietSince = Date.now();
  });
  await part("Rest", () => allEqual(people));
  await part("Nothing leaks to other users", () => nothingLeaked(people));
  await part("Logging out everywhere", () => revocation(people));
  await part("Afterwards", () => stillSaving(people));
  await part("When deletions have been repeated", async () => {
    await pause(quietSince + REPEATS - Date.now());
    await allEqual(people);
  });
  await part("Another process", () => restart(people, start));
  await part("A session outlives its token", () => outlived(early, short));
  await part("All the while", async () => {
    await nothingLeaked(people);
    await addresses([...people, early]);
    await noTrouble(people);
  });
  await part("The end", () => check("at SIGTERM the process ends by itself, with code 0", async () => {
    same(await stop(server), { code: 0, signal: null }, "its end");
  }));
}

// ---- The run ---------------------------------------------------------------------------------------------------

function options() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seed: { type: "string", default: String(SEED) } },
  });
  if (!/^\d+$/.test(values.seed)) throw new Error("a seed is a whole number");
  if (positionals.length !== 1) {
    throw new Error("name the example's program: node tenants.mjs ../../target/debug/examples/tenants");
  }
  const program = resolve(positionals[0]);
  present(program, constants.X_OK, "build it with: cargo build --example tenants --features sealed-keys");
  return { seed: Number(values.seed), program };
}

async function run() {
  const began = Date.now();
  const wires = [];
  let chosen, browser;
  try {
    chosen = options();
    browser = await launch();
  } catch (error) {
    fail("the check could start", error.message);
    close();
    return 2;
  }
  console.log(`seed ${chosen.seed}`);
  const end = () => {
    console.log(`\nafter ${seconds(Date.now() - began)}, with seed ${chosen.seed}`);
    return close();
  };
  const guard = setTimeout(() => {
    fail("the run came to its end", `not within ${seconds(LONGEST_RUN)}`);
    process.exit(end());
  }, LONGEST_RUN);
  try {
    await checkIt(browser, chosen.program, chosen.seed, wires);
  } catch (error) {
    fail("the run came to its end", error.stack);
  } finally {
    clearTimeout(guard);
    await browser.close();
    for (const wire of wires) wire.close();
    killAll();
  }
  return end();
}

process.on("exit", killAll);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.exit(await run());
