// Drives the demo's own page in two windows of a real browser, one as wide as a desktop's and one as narrow as a
// phone's, and checks that they stay in step; then the two small examples with clients of its own.
//
//   node check.mjs ../../target/debug/examples/scheduler
//
// The other examples are looked for beside the given one. The browser is /usr/bin/chromium, or $CHROMIUM.
// Exit status: 0 when every check passed, 1 when one failed, 2 when nothing could be checked.

import { accessSync, constants } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Client, handshake, save, rejected } from "./clients.mjs";
import { check, close, part, same, until } from "./report.mjs";
import { run } from "./run.mjs";
import { Cable, start, stop } from "./server.mjs";
import { Window, at } from "./window.mjs";

const LIVE = "live: Live";
const LOST = "offline: Offline, reconnecting…";
const REFUSED = "offline: Not live: the server refused this page";
const MARKUP = `<img class=planted src=planted onerror="alert(1)"><b class=planted>bold</b> & "it's" 日本 😀`;
// Far more than a run takes: only one that hangs is ended.
const LONGEST_RUN = 900_000;

// ---- The demo, in two windows ----------------------------------------------------------------------------------

async function demo(browser, program) {
  const server = await start(program);
  const cable = await new Cable(server.address).listen();
  const windows = [];
  const open = async (name, width, height, prepare) => {
    const window = await Window.open(browser, name, { width, height }, cable.address, prepare);
    windows.push(window);
    return window;
  };

  await part("Two windows", async () => {
    const desktop = await open("desktop", 1280, 800);
    const phone = await open("phone", 390, 844);
    const stranger = await open("stranger", 800, 600, page => page.route("**/api/v1", route =>
      route.continue({ headers: { ...route.request().headers(), "remote-token": "not-a-token" } })));
    for (const window of [desktop, phone]) {
      await check(`the ${window.name} shows that it is live`, () => window.hasStatus(LIVE));
      await window.show();
    }
    await check("a page with a wrong token shows that it is not live", () => stranger.hasStatus(REFUSED));
    await stranger.show();

    for (const [here, there] of [[desktop, phone], [phone, desktop]]) {
      await part(`From the ${here.name} to the ${there.name}`, () => oneEvent(here, there));
      await part(`Markup from the ${here.name}`, () => markup(here, there));
      await part(`A series from the ${here.name}`, () => series(here, there));
    }

    await part("A connection that is lost", async () => {
      await lost(cable, desktop, phone);
      for (const [here, there] of [[desktop, phone], [phone, desktop]]) {
        await check(`after that, changes flow from the ${here.name} to the ${there.name}`, () => afterwards(here, there));
      }
    });

    await part("All the while", async () => {
      await check("the page with the wrong token has stayed as it was, and opened no socket", async () => {
        same([await stranger.status(), stranger.sockets, stranger.frames], [REFUSED, 0, []], "the page");
      });
      for (const window of windows) await check(`no trouble in the ${window.name}`, () => noTrouble(window));
    });
  });

  await part("The end", async () => {
    const code = await check("at SIGTERM the process ends by itself, with code 0", async () => {
      const exit = await stop(server);
      same(exit, { code: 0, signal: null }, `its end ${server.output}`);
    });
    for (const window of windows.filter(window => window.name !== "stranger")) {
      await check(`the ${window.name}'s socket was closed with 1001, and it shows so`, async () => {
        await window.hasStatus(LOST);
        same((await window.closeCodes()).filter(code => code !== 1006), [1001], "close codes");
        same(window.scriptErrors, [], "script errors");
      });
    }
    return code;
  });
  cable.close();
}

async function oneEvent(here, there) {
  const mark = `Tea ${here.name}`;
  const id = await check("an event made with the mouse and the form appears once, with the same id and times", async () => {
    await here.create(mark, 10);
    await here.settled();
    const [event] = await inStep(here, there, mark, [{ text: mark, start: at(10), end: at(11) }]);
    return event.id;
  });
  await check("a new text appears", async () => {
    await here.rename(id, `${mark}, green`);
    await inStep(here, there, mark, [{ id, text: `${mark}, green`, start: at(10), end: at(11) }]);
  });
  await check("dragging it to another time moves it there too", async () => {
    await here.settled();
    await here.drag(id, at(13));
    await inStep(here, there, mark, [{ id, text: `${mark}, green`, start: at(13), end: at(14) }]);
  });
  await check("the other window changes the same event, and this one follows", async () => {
    await here.settled();
    await there.drag(id, at(12));
    await inStep(there, here, mark, [{ id, text: `${mark}, green`, start: at(12), end: at(13) }]);
  });
  await check("a deleted event goes away", async () => {
    await there.settled();
    await here.remove(id);
    await here.settled();
    await inStep(here, there, mark, []);
  });
  await check("each change was broadcast, in order, nothing older after it", () => receivedInOrder([here, there], id, [
    ["add-event", at(10), mark],
    ["update-event", at(10), `${mark}, green`],
    ["update-event", at(13), `${mark}, green`],
    ["update-event", at(12), `${mark}, green`],
    ["delete-event"],
  ]));
  await check("both windows describe what happened", async () => {
    const [mine, theirs] = [await here.activity(), await there.activity()];
    for (const [lines, expected] of [[mine, [
      `You added “${mark}”`,
      `You changed “${mark}, green”`,
      `Other page moved “${mark}, green” to Wed 13 May, 12:00`,
      `You deleted “${mark}, green”`,
    ]], [theirs, [
      `Other page added “${mark}” on Wed 13 May, 10:00`,
      `Other page renamed “${mark}” to “${mark}, green”`,
      `Other page moved “${mark}, green” to Wed 13 May, 13:00`,
      `Other page deleted “${mark}, green”`,
    ]]]) {
      const missing = expected.filter(line => !lines.includes(line));
      if (missing.length) throw new Error(`missing ${JSON.stringify(missing)} among ${JSON.stringify(lines)}`);
    }
  });
}

async function markup(here, there) {
  await check("markup in a text is shown as text, in both windows and everywhere in them", async () => {
    const mark = `Bold ${here.name}`;
    const text = `${MARKUP} ${mark}`;
    await here.create(text, 9);
    await here.settled();
    const [{ id }] = await inStep(here, there, mark, [{ text, start: at(9), end: at(10) }]);
    for (const window of [here, there]) {
      same(await window.quickInfo(id), text, "the box about the event");
      const [heading, field] = await window.readForm(id);
      same([heading.includes(text), field], [true, text], `the form, headed ${heading}`);
    }
    await there.rename(id, `${text} again`);
    await there.settled();
    await inStep(there, here, mark, [{ id, text: `${text} again`, start: at(9), end: at(10) }]);
    await here.remove(id);
    await here.settled();
    await inStep(here, there, mark, []);
    for (const window of [here, there]) {
      const named = (await window.activity()).filter(line => line.includes(text));
      if (named.length < 3) throw new Error(`the ${window.name} has only ${JSON.stringify(named)} in its list`);
      same(await window.page.locator(".planted").count(), 0, `elements made from the text in the ${window.name}`);
      same(window.dialogs, [], `dialogs in the ${window.name}`);
    }
  });
}

async function series(here, there) {
  const mark = `Run ${here.name}`;
  const daily = [0, 1, 2, 3].map(day => ({ text: mark, start: at(15, day), end: at(16, day) }));
  const id = await check("a daily series appears with all its occurrences", async () => {
    await here.create(mark, 15, { repeat: "DAILY" });
    await here.settled();
    await holding([here, there], mark, daily);
    const [first, same] = [await here.drawn(mark), await there.drawn(mark)].map(events => events[0].id.split("#")[0]);
    if (first !== same) throw new Error(`${first} here is ${same} there`);
    return first;
  });
  const changed = { ...daily[0], text: `${mark}, twice as far` };
  await check("a changed occurrence changes alone", async () => {
    const [occurrence] = await here.drawn(mark);
    await here.rename(occurrence.id, changed.text, "occurrence");
    await here.settled();
    await holding([here, there], mark, [changed, daily[1], daily[2], daily[3]]);
  });
  await check("a deleted occurrence goes alone", async () => {
    await here.show(1);
    const occurrence = (await here.drawn(mark)).find(event => event.start === at(15, 1));
    await here.remove(occurrence.id, "occurrence");
    await here.settled();
    await here.show();
    await holding([here, there], mark, [changed, daily[2], daily[3]]);
  });
  await check("a window opened now shows the same", async () => {
    await there.page.reload();
    await there.hasStatus(LIVE);
    await there.show();
    await holding([there], mark, [changed, daily[2], daily[3]]);
  });
  await check("deleting the series leaves nothing of it", async () => {
    await here.show(2);
    const occurrence = (await here.drawn(mark)).find(event => event.start === at(15, 2));
    await here.remove(occurrence.id, "series");
    await here.settled();
    await here.show();
    for (const window of [here, there]) {
      await until(`nothing is left in the ${window.name}`, async () => (await window.records(mark)) === 0);
    }
    const left = await here.page.evaluate(async () => (await fetch("/events")).json());
    same(left.filter(event => event.id === id || event.recurring_event_id === id), [], "left in the store");
  });
}

async function lost(cable, desktop, phone) {
  const mark = "Lunch";
  await desktop.create(mark, 12);
  await desktop.settled();
  const [{ id }] = await inStep(desktop, phone, mark, [{ text: mark, start: at(12), end: at(13) }]);
  await check("both windows show that they are disconnected", async () => {
    same(cable.cut(), 2, "sockets that were open");
    await desktop.hasStatus(LOST);
    await phone.hasStatus(LOST);
  });
  await check("both can still be worked with", async () => {
    await desktop.drag(id, at(13));
    await desktop.settled();
    await phone.create(`${mark} for two`, 9);
    await phone.settled();
    same((await phone.drawn(mark)).length, 2, "events on the phone");
    same((await desktop.drawn(mark)).length, 1, "events on the desktop");
  });
  await check("both come back", async () => {
    cable.mend();
    await desktop.hasStatus(LIVE);
    await phone.hasStatus(LIVE);
  });
  await check("what was missed appears in both", () => inStep(desktop, phone, mark, [
    { text: `${mark} for two`, start: at(9), end: at(10) },
    { id, text: mark, start: at(13), end: at(14) },
  ]));
  for (const event of await phone.drawn(mark)) {
    await phone.remove(event.id);
    await phone.settled();
  }
  await inStep(phone, desktop, mark, []);
}

async function afterwards(here, there) {
  const mark = `Walk ${here.name}`;
  await here.create(mark, 11);
  await here.settled();
  const [{ id }] = await inStep(here, there, mark, [{ text: mark, start: at(11), end: at(12) }]);
  await here.drag(id, at(9));
  await here.settled();
  await inStep(here, there, mark, [{ id, text: mark, start: at(9), end: at(10) }]);
  await here.remove(id);
  await here.settled();
  await inStep(here, there, mark, []);
  await receivedInOrder([here, there], id, [
    ["add-event", at(11), mark], ["update-event", at(9), mark], ["delete-event"],
  ]);
}

async function noTrouble(window) {
  await window.settled();
  same({
    scriptErrors: window.scriptErrors,
    dialogs: window.dialogs,
    failedSaves: window.failedSaves,
    framesThatAreNoText: window.frameTrouble(),
    requestsThatLeft: window.strayRequests,
    savingIsOn: await window.savingIsOn(),
  }, {
    scriptErrors: [],
    dialogs: [],
    failedSaves: [],
    framesThatAreNoText: [],
    requestsThatLeft: [],
    savingIsOn: true,
  }, "it");
}

/** Waits until both windows draw just these events, the same ids in both; returns them. */
async function inStep(here, there, mark, expected) {
  const draw = window => window.drawn(mark).then(events => events.sort((a, b) => a.start - b.start));
  const fits = events => JSON.stringify(events.map((event, at) => ({ ...event, id: expected[at]?.id })))
    === JSON.stringify(expected.map(event => ({ id: event.id, text: event.text, start: event.start, end: event.end })));
  let mine, theirs;
  try {
    await until("the same", async () => {
      [mine, theirs] = [await draw(here), await draw(there)];
      return fits(mine) && JSON.stringify(mine) === JSON.stringify(theirs);
    });
  } catch {
    throw new Error(`the ${here.name} shows ${JSON.stringify(mine)}, the ${there.name} ${JSON.stringify(theirs)}, `
      + `expected ${JSON.stringify(expected)}`);
  }
  return mine;
}

/** Waits until these windows hold just these events, occurrences of series among them. */
async function holding(windows, mark, expected) {
  for (const window of windows) {
    let held;
    try {
      await until("the same", async () => {
        held = await window.held(mark);
        return JSON.stringify(held) === JSON.stringify(expected);
      });
    } catch {
      throw new Error(`the ${window.name} holds ${JSON.stringify(held)}, expected ${JSON.stringify(expected)}`);
    }
  }
}

/** Each window received of one event what is expected, in this order: [type, start, text]. */
function receivedInOrder(windows, id, expected) {
  for (const window of windows) {
    const received = window.received(event => String(event.id) === id).map(({ type, event }) =>
      type === "delete-event" || !event.start_date ? [type]
        : [type, Date.parse(`${event.start_date.replace(" ", "T")}Z`), event.text]);
    same(states(received), states(expected), `what the ${window.name} received`);
  }
}

/** The states of an event, one after the other. The newest state may be resent, as an add and an update;
 *  around a delete there are updates without a state. */
function states(received) {
  return received.filter(([type, ...state]) => type === "delete-event" || state.length)
    .map(([type, ...state]) => JSON.stringify(type === "delete-event" ? "gone" : state))
    .filter((state, at, all) => state !== all[at - 1]);
}

// ---- The small examples, without a browser ---------------------------------------------------------------------

async function example(program, name) {
  await part(`The example ${name}`, async () => {
    const server = await start(program);
    await check("a wrong token is refused, at the handshake and at the socket", async () => {
      const answer = await handshake(server.address, "not-a-token");
      if (answer?.websocket) throw new Error(`the handshake answers ${JSON.stringify(answer)}`);
      const { end, frames } = await rejected(server.address, "not-a-token");
      if (![1008, 401, 403].includes(end) || frames.length) throw new Error(`the socket: ${end}, ${frames}`);
    });
    const clients = [await Client.connect(server.address, "demo"), await Client.connect(server.address, "demo")];
    await check("a create, an update and a delete are received in order, by two clients", async () => {
      const made = { start_date: "2026-05-13 10:00", end_date: "2026-05-13 11:00", text: MARKUP };
      const id = (await save(server.address, "POST", undefined, made)).tid;
      await save(server.address, "PUT", id, { ...made, text: "moved", end_date: "2026-05-13 12:00" });
      await save(server.address, "DELETE", id);
      for (const client of clients) {
        await until("the delete is received", () => client.received().some(({ type }) => type === "delete-event"));
        const received = client.received().filter(({ event }) => event.id === id).map(({ type, event }) =>
          type === "delete-event" || !event.start_date ? [type]
            : [type, event.text, event.start_date, event.end_date]);
        same(states(received), states([
          ["add-event", MARKUP, made.start_date, made.end_date],
          ["update-event", "moved", made.start_date, "2026-05-13 12:00"],
          ["delete-event"],
        ]), "received");
        same(received.slice(0, 2).map(([type]) => type), ["add-event", "update-event"], "received first");
      }
    });
    await check("at SIGTERM the sockets are closed with 1001 and the process ends with code 0", async () => {
      const exit = await stop(server);
      same(exit, { code: 0, signal: null }, `its end ${server.output}`);
      for (const client of clients) await until("the socket is closed", () => client.closed !== null);
      same(clients.map(client => client.closed), [1001, 1001], "close codes");
    });
  });
}

// ---- The run ---------------------------------------------------------------------------------------------------

function programs() {
  if (!process.argv[2]) throw new Error("name the demo: node check.mjs ../../target/debug/examples/scheduler");
  const scheduler = resolve(process.argv[2]);
  const beside = name => join(dirname(scheduler), name);
  const found = { scheduler, axum_router: beside("axum_router"), hyper_service: beside("hyper_service") };
  for (const program of Object.values(found)) {
    try {
      accessSync(program, constants.X_OK);
    } catch {
      throw new Error(`${program} is not there; build it with: cargo build --examples`);
    }
  }
  return found;
}

process.exitCode = await run(programs, async (browser, found) => {
  await demo(browser, found.scheduler);
  await example(found.axum_router, "axum_router");
  await example(found.hyper_service, "hyper_service");
}, LONGEST_RUN);
