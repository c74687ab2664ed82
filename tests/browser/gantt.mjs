// Drives the tab of the Gantt on the demo's own page, in two windows of a real browser, and checks that they stay in
// step, and that the tab of the Scheduler stays live beside it.
//
//   node gantt.mjs ../../target/debug/examples/scheduler
//
// The browser is /usr/bin/chromium, or $CHROMIUM.
// Exit status: 0 when every check passed, 1 when one failed, 2 when nothing could be checked.

import { GanttWindow } from "./gantt_window.mjs";
import { check, close, part, same, until } from "./report.mjs";
import { namedDemo, run } from "./run.mjs";
import { Cable, start, stop } from "./server.mjs";

const LIVE = "live: Live";
const MARKUP = `<img class=planted src=planted onerror="alert(1)"><b class=planted>bold</b> & "it's" 日本 😀`;
const LONGEST_RUN = 600_000;

async function demo(browser, program) {
  const server = await start(program);
  const cable = await new Cable(server.address).listen();
  const open = (name, tab = "#gantt") =>
    GanttWindow.open(browser, name, { width: 1280, height: 800 }, `${cable.address}/${tab}`);

  await part("Two windows", async () => {
    const [left, right] = [await open("left"), await open("right")];
    const windows = [left, right];
    for (const window of windows) {
      await check(`the ${window.name} is live, by one socket for both widgets`, async () => {
        await window.hasStatus(LIVE);
        same(window.sockets, 1, "sockets");
        same(await window.page.title(), "Shared plan", "the tab that the address names");
      });
    }
    await part("Tasks", () => tasks(left, right));
    await part("Markup", () => markup(left, right));
    await part("The tree and the order", () => tree(left, right));
    await part("Links", () => links(left, right));
    await part("A server that refuses", () => refused(left, right));
    await part("The other tab", () => otherTab(left, right));
    await part("A connection that is lost", () => lost(cable, left, right));
    await part("A deletion", () => deletion(left, right));
    await part("A form that is open meanwhile", () => openForm(left, right));
    await part("All the while", async () => {
      for (const window of windows) await check(`no trouble in the ${window.name}`, () => noTrouble(window));
    });
  });

  await part("The end", () => check("at SIGTERM the process ends by itself, with code 0", async () => {
    same(await stop(server), { code: 0, signal: null }, `its end ${server.output}`);
  }));
  cable.close();
}

async function tasks(here, there) {
  await check("a task made with the form appears once, with the same id and dates", async () => {
    await here.create("Release");
    await inStep(here, there, [["Release", 0]]);
    same(await here.task("Release"), await there.task("Release"), "the task");
  });
  await check("a child appears under its parent", async () => {
    await there.create("Design", "Release");
    await inStep(there, here, [["Release", 0], ["Design", 1]]);
  });
  await check("a new name appears", async () => {
    await here.rename("Design", "Design review");
    await inStep(here, there, [["Release", 0], ["Design review", 1]]);
  });
  await check("the other window describes what happened", async () => {
    const lines = await there.activity();
    for (const line of ["Other page added “Release”", "You added “Design”", "Other page renamed “Design” to “Design review”"]) {
      if (!lines.includes(line)) throw new Error(`missing ${line} among ${JSON.stringify(lines)}`);
    }
  });
}

async function markup(here, there) {
  await check("markup in a name is shown as text, in both windows and everywhere in them", async () => {
    await here.create(MARKUP);
    await inStep(here, there, [["Release", 0], ["Design review", 1], [MARKUP, 0]]);
    await there.link("Release", MARKUP);
    for (const window of [here, there]) {
      await until("it is linked", async () => (await window.links()).length === 1);
      const [heading, field] = await window.readForm(MARKUP);
      same([heading.includes(MARKUP), field], [true, MARKUP], `the form, headed ${heading}`);
      const tooltip = await window.tooltip(MARKUP);
      if (!tooltip.includes(MARKUP)) throw new Error(`the tooltip is ${tooltip}`);
    }
    const asked = await here.unlink("Release", MARKUP);
    if (!asked.includes(MARKUP)) throw new Error(`the question was ${asked}`);
    await here.remove(MARKUP);
    await inStep(here, there, [["Release", 0], ["Design review", 1]]);
    for (const window of [here, there]) {
      same(await window.page.locator(".planted").count(), 0, `elements made from the name in the ${window.name}`);
      same(window.dialogs, [], `dialogs in the ${window.name}`);
    }
  });
}

async function tree(here, there) {
  await here.create("Tests", "Release");
  await here.create("Launch");
  await inStep(here, there, [["Release", 0], ["Design review", 1], ["Tests", 1], ["Launch", 0]]);
  await check("a task dragged under another parent moves there too", async () => {
    await here.dragRow("Tests", "Launch", "onto");
    await inStep(here, there, [["Release", 0], ["Design review", 1], ["Launch", 0], ["Tests", 1]]);
  });
  await check("and back", async () => {
    await there.dragRow("Tests", "Design review", "below");
    await inStep(there, here, [["Release", 0], ["Design review", 1], ["Tests", 1], ["Launch", 0]]);
  });
  await check("a new order under the same parent appears, and is kept by the server", async () => {
    await here.dragRow("Tests", "Design review", "above");
    await inStep(here, there, [["Release", 0], ["Tests", 1], ["Design review", 1], ["Launch", 0]]);
    const { tasks } = await here.page.evaluate(async () => (await fetch("/data")).json());
    same(tasks.filter(task => task.target !== undefined), [], "tasks with a target");
    same(tasks.map(task => task.text), ["Release", "Launch", "Tests", "Design review"], "the list");
    const lines = await there.activity();
    same(lines.filter(line => line.includes("to another row")), ["Other page moved “Tests” to another row"], "moves described");
  });
  await check("so does one at the top level, and what hangs below the task comes along", async () => {
    await there.dragRow("Launch", "Release", "above");
    await inStep(there, here, [["Launch", 0], ["Release", 0], ["Tests", 1], ["Design review", 1]]);
    await here.dragRow("Release", "Launch", "above");
    await inStep(here, there, [["Release", 0], ["Tests", 1], ["Design review", 1], ["Launch", 0]]);
  });
}

async function links(here, there) {
  await check("a link drawn with the mouse appears", async () => {
    await here.link("Design review", "Launch");
    await linked(here, there, ["Design review > Launch"]);
  });
  await check("a deleted link goes away", async () => {
    await there.unlink("Design review", "Launch");
    await linked(there, here, []);
  });
  await check("both can be drawn again", async () => {
    await there.link("Release", "Launch");
    await here.link("Tests", "Launch");
    await linked(here, there, ["Release > Launch", "Tests > Launch"]);
  });
  await check("a task, its child and a link between them, made in one tick, are saved", async () => {
    await here.page.evaluate(() => {
      const start_date = gantt.date.day_start(new Date());
      const parent = gantt.addTask({ text: "Party", start_date, duration: 2 }, 0);
      const child = gantt.addTask({ text: "Cake", start_date, duration: 1 }, parent);
      gantt.addLink({ source: parent, target: child, type: "1" });
    });
    await here.settled();
    await until("the child is under its parent", async () => (await there.rows()).some(row => row.name === "Cake" && row.depth === 1));
    await linked(here, there, ["Party > Cake", "Release > Launch", "Tests > Launch"]);
    await here.remove("Party");
    await linked(here, there, ["Release > Launch", "Tests > Launch"]);
  });
}

async function refused(here, there) {
  await check("a ring is refused, and the page shows the task where it was", async () => {
    const ring = await here.page.evaluate(async () => {
      const [parent, child] = ["Release", "Tests"].map(name => gantt.getTaskByTime().find(task => task.text === name).id);
      const answer = await fetch(`/data/task/${parent}`, {
        method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify({ parent: child }),
      });
      return [answer.status, (await answer.json()).action];
    });
    same(ring, [409, "error"], "the answer");
    here.failedSaves.splice(0);
    for (const window of [here, there]) {
      same((await window.rows()).find(row => row.name === "Release"), { name: "Release", depth: 0 }, window.name);
    }
  });
  await check("a save that fails is shown, and saved when it is tried again", async () => {
    await here.page.route("**/data/task/*", route => route.abort());
    await here.page.evaluate(() => {
      const task = gantt.getTaskByTime().find(task => task.text === "Launch");
      task.text = "Big launch";
      gantt.updateTask(task.id);
    });
    await until("it is shown", () => here.page.$eval("#unsaved", element => !element.hidden));
    await here.page.unroute("**/data/task/*");
    await here.page.click("#retry");
    await here.settled();
    here.failedSaves.splice(0);
    await until("the other window shows it", async () => (await there.rows()).some(row => row.name === "Big launch"));
    await here.rename("Big launch", "Launch");
  });
}

async function otherTab(here, there) {
  await here.show("scheduler");
  await check("while the Scheduler is shown, the Gantt follows", async () => {
    await there.rename("Launch", "Launch day");
    await until("it is renamed", () => here.task("Launch day"));
    await here.show("gantt");
    await until("it is drawn", async () => (await here.rows()).some(row => row.name === "Launch day"));
  });
  await check("while the Gantt is shown, the Scheduler follows", async () => {
    await here.show("scheduler");
    await here.page.evaluate(() => scheduler.addEvent({
      start_date: new Date(2026, 4, 13, 10), end_date: new Date(2026, 4, 13, 11), text: "Meeting",
    }));
    await until("it is there", () => there.page.evaluate(() => scheduler.getEvents().some(event => event.text === "Meeting")));
    same(await there.page.$eval("#calendar", panel => panel.inert), true, "the Scheduler is behind");
    await here.show("gantt");
    same([here.sockets, there.sockets], [1, 1], "sockets");
  });
}

async function lost(cable, here, there) {
  await check("what is changed while both windows are disconnected appears in both", async () => {
    same(cable.cut(), 2, "sockets that were open");
    for (const window of [here, there]) await window.hasStatus("offline: Offline, reconnecting…");
    await here.create("Press", "Launch day");
    await there.rename("Tests", "User tests");
    cable.mend();
    for (const window of [here, there]) await window.hasStatus(LIVE);
    await until("they are the same", async () => {
      const [mine, theirs] = [await here.page.evaluate(tasksOf), await there.page.evaluate(tasksOf)];
      return mine === theirs && mine.includes("Press") && mine.includes("User tests");
    });
  });
}

/** Runs in a page: its tasks, as text. */
const tasksOf = () => gantt.getTaskByTime().map(({ text, parent, start_date, duration }) =>
  JSON.stringify([text, String(parent), +start_date, duration])).sort().join();

async function deletion(here, there) {
  await check("a deleted task takes its children and their links with it, and nothing is left in the store", async () => {
    await here.remove("Launch day");
    await until("they are gone", async () => (await there.rows()).every(({ name }) => !["Launch day", "Press"].includes(name)));
    await linked(here, there, []);
    await here.remove("Release");
    await inStep(here, there, []);
    same(await here.page.evaluate(async () => (await fetch("/data")).json()), { tasks: [], links: [] }, "the store");
  });
  await check("each kind of change was received as such", async () => {
    for (const [entity, kinds] of [["tasks", ["add-task", "update-task", "delete-task"]], ["links", ["add-link", "delete-link"]]]) {
      const received = new Set(there.receivedOf(entity).map(({ type }) => type));
      same(kinds.filter(kind => !received.has(kind)), [], `missing in ${entity}`);
    }
  });
  await check("a new task is saved and seen after all that", async () => {
    await there.create("Next");
    await inStep(there, here, [["Next", 0]]);
  });
}

async function openForm(here, there) {
  await check("a child whose parent has just been saved can take its time in the form", async () => {
    await here.create("Budget");
    await here.createSlowly("Costs", "Budget", 6000);
    await inStep(here, there, [["Next", 0], ["Budget", 0], ["Costs", 1]]);
  });
}

async function noTrouble(window) {
  await window.settled();
  same({
    scriptErrors: window.scriptErrors,
    dialogs: window.dialogs,
    errorBoxes: await window.page.locator(".gantt-error").count(),
    failedSaves: window.failedSaves,
    framesThatAreNoText: window.frameTrouble(),
    requestsThatLeft: window.strayRequests,
    savingIsOn: await window.savingIsOn(),
  }, {
    scriptErrors: [],
    dialogs: [],
    errorBoxes: 0,
    failedSaves: [],
    framesThatAreNoText: [],
    requestsThatLeft: [],
    savingIsOn: true,
  }, "it");
}

const tuples = rows => rows.map(({ name, depth }) => [name, depth]);

/** Waits until both windows draw just these rows, and a bar for each. */
async function inStep(here, there, expected) {
  const bars = expected.map(([name]) => name).sort();
  const shown = {};
  try {
    await until("the same", async () => {
      for (const window of [here, there]) shown[window.name] = [tuples(await window.rows()), await window.bars()];
      return Object.values(shown).every(found => JSON.stringify(found) === JSON.stringify([expected, bars]));
    });
  } catch {
    throw new Error(`shown: ${JSON.stringify(shown)}, expected ${JSON.stringify([expected, bars])}`);
  }
}

/** Waits until both windows draw just these links. */
async function linked(here, there, expected) {
  const shown = {};
  try {
    await until("the same", async () => {
      for (const window of [here, there]) shown[window.name] = await window.links();
      return Object.values(shown).every(found => JSON.stringify(found) === JSON.stringify(expected));
    });
  } catch {
    throw new Error(`drawn: ${JSON.stringify(shown)}, expected ${JSON.stringify(expected)}`);
  }
}

// ---- The run ---------------------------------------------------------------------------------------------------

process.exitCode = await run(() => namedDemo("gantt.mjs"), demo, LONGEST_RUN);
