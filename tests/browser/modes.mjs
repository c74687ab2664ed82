// The five modes of the DataProcessor, of both widgets: pages that save in one of them, and what other pages receive.
//
//   node modes.mjs ../../target/debug/examples/scheduler
//
// The browser is /usr/bin/chromium, or $CHROMIUM.
// Exit status: 0 when every check passed, 1 when one failed, 2 when nothing could be checked.

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { check, close, part, same, until } from "./report.mjs";
import { namedDemo, run } from "./run.mjs";
import { start, stop } from "./server.mjs";
import { Window, parsed } from "./window.mjs";
import { Wire } from "./wire.mjs";

const FILES = { "/modes/": join(dirname(fileURLToPath(import.meta.url)), "modes.html") };
const WIDGETS = { scheduler: { list: "/events", entities: ["events"] }, gantt: { list: "/data", entities: ["tasks", "links"] } };
const PUBLISHED = ["REST-JSON", "REST", "JSON", "POST"];
const TEXT = `a&b=é "q" + x`;
const LONGEST_RUN = 300_000;

/** A page with one widget, which changes what it shows by the widget's own functions. */
class ModeWindow extends Window {
  /** What the page has sent to be saved: method, address and body. */
  saves = [];

  static async open(browser, name, address, widget, query) {
    const window = await super.open(browser, name, { width: 1200, height: 800 }, `${address}/modes/?widget=${widget}&${query}`);
    window.widget = widget;
    window.page.on("request", request => {
      const { pathname, search } = new URL(request.url());
      const saves = request.method() !== "GET" || search.includes("editing=true");
      if (saves && pathname.startsWith(WIDGETS[widget].list)) {
        window.saves.push({ method: request.method(), path: pathname + search, body: request.postData() ?? "" });
      }
    });
    await until("the page is loaded and live", async () =>
      (await window.page.$eval("#status", status => status.dataset.state)) === "loaded" && window.frames.length > 0);
    return window;
  }

  settled() {
    return until(`the ${this.name} has saved everything`, () => this.page.evaluate(() => [saving, ...Object.values(saving.modes ?? {})]
      .every(({ updatedRows, _in_progress }) => !updatedRows.length && !Object.keys(_in_progress).length)));
  }

  savingIsOn() {
    return this.page.evaluate(() => !saving._silent_mode);
  }

  /** Adds an event or a task, and returns its temporary id. */
  add(text) {
    return this.page.evaluate(([text, isGantt]) => isGantt
      ? gantt.addTask({ text, start_date: new Date(2026, 4, 13), duration: 3, list: [1, 2] }, 0)
      : scheduler.addEvent({ text, start_date: new Date(2026, 4, 13, 10), end_date: new Date(2026, 4, 13, 11) }), [text, this.widget === "gantt"]);
  }

  rename(text, to) {
    return this.page.evaluate(([text, to, isGantt]) => {
      if (isGantt) {
        const task = gantt.getTaskBy(each => each.text === text)[0];
        task.text = to;
        gantt.updateTask(task.id);
      } else {
        const event = scheduler.getEvents().find(each => each.text === text);
        event.text = to;
        scheduler.callEvent("onEventChanged", [event.id, event]);
      }
    }, [text, to, this.widget === "gantt"]);
  }

  remove(text) {
    return this.page.evaluate(([text, isGantt]) => isGantt
      ? gantt.deleteTask(gantt.getTaskBy(each => each.text === text)[0].id)
      : scheduler.deleteEvent(scheduler.getEvents().find(each => each.text === text).id), [text, this.widget === "gantt"]);
  }

  link(from, to) {
    return this.page.evaluate(([from, to]) => {
      const [source, target] = [from, to].map(text => gantt.getTaskBy(each => each.text === text)[0].id);
      gantt.addLink({ source, target, type: "0" });
    }, [from, to]);
  }

  unlink() {
    return this.page.evaluate(() => gantt.getLinks().forEach(link => gantt.deleteLink(link.id)));
  }

  /** What it holds: texts, times and links, without ids. */
  held() {
    return this.page.evaluate(isGantt => isGantt ? {
      rows: gantt.getTaskByTime().map(task => [String(task.id), task.text, +task.start_date, +task.end_date, String(task.parent)]).sort(),
      links: gantt.getLinks().map(({ id, source, target }) => [id, source, target].map(String)).sort(),
    } : {
      rows: scheduler.getEvents().map(event => [String(event.id), event.text, +event.start_date, +event.end_date]).sort(),
      links: [],
    }, this.widget === "gantt");
  }

  /** The kinds of messages it has received, without repeats. */
  kinds() {
    return [...new Set(this.frames.map(frame => parsed(frame)).filter(frame => frame?.action === "event")
      .map(({ body: { name, value } }) => `${name}: ${value.type}`))];
  }
}

/** Waits until both pages hold the same, with such texts and so many links. */
async function inStep(here, there, texts, links = 0) {
  let mine, theirs;
  try {
    await until("the same", async () => {
      [mine, theirs] = [await here.held(), await there.held()];
      const fits = JSON.stringify(mine.rows.map(([, text]) => text).sort()) === JSON.stringify([...texts].sort());
      return fits && mine.links.length === links && JSON.stringify(mine) === JSON.stringify(theirs);
    });
  } catch {
    throw new Error(`here ${JSON.stringify(mine)}, there ${JSON.stringify(theirs)}, expected ${texts} and ${links} links`);
  }
}

/** Saves in a mode, and sees each change on the other page. */
async function published(here, there, mode) {
  const text = `${TEXT} ${mode}`;
  const gantt = here.widget === "gantt";
  await check("what is added appears, once and with the server's id", async () => {
    await here.add(text);
    await here.settled();
    await inStep(here, there, [text]);
  });
  await check("what is changed changes", async () => {
    await here.rename(text, "changed");
    await here.settled();
    await inStep(here, there, ["changed"]);
  });
  if (gantt) {
    await check("a link appears, and goes", async () => {
      await here.add("second");
      await here.settled();
      await here.link("changed", "second");
      await here.settled();
      await inStep(here, there, ["changed", "second"], 1);
      await here.unlink();
      await here.settled();
      await inStep(here, there, ["changed", "second"]);
      await here.remove("second");
      await here.settled();
      await inStep(here, there, ["changed"]);
    });
  }
  await check("what is deleted goes", async () => {
    await here.remove("changed");
    await here.settled();
    await inStep(here, there, []);
  });
  await check("only messages of its own entity were received, and both pages go on saving", async () => {
    const strays = there.kinds().filter(kind => !kind.endsWith(gantt ? "link" : "event") && !/^tasks: \w+-task$/.test(kind));
    same(strays, [], "other messages");
    const wrong = there.kinds().filter(kind => /^tasks: .*-link$|^links: .*-task$/.test(kind));
    same(wrong, [], "messages of the other entity");
    await afterwards(here, there);
  });
  return here.saves;
}

/** The other page saves, and this one follows. */
async function afterwards(here, there) {
  const before = (await there.held()).rows.map(([, text]) => text);
  await there.add("last");
  await there.settled();
  await until("it arrives", async () => (await here.held()).rows.some(([, text]) => text === "last"));
  await there.remove("last");
  await there.settled();
  await until("it goes", async () => !(await here.held()).rows.some(([, text]) => text === "last"));
  same((await there.held()).rows.map(([, text]) => text), before, "what the other page holds");
  for (const window of [here, there]) {
    same([window.scriptErrors, window.dialogs, await window.savingIsOn()], [[], [], true], `trouble in the ${window.name}`);
  }
}

/** Saves in a mode of which nothing is broadcast. */
async function refused(here, there, job) {
  const before = there.frames.length;
  await job();
  await until("it is sent", () => here.saves.length > 0);
  // What is broadcast after it arrives after it.
  await there.add("last");
  await there.settled();
  await until("it arrives", async () => (await there.kinds()).some(kind => /add-(event|task)$/.test(kind)));
  const received = there.frames.slice(before).map(frame => parsed(frame)?.body?.value);
  same(received.filter(value => (value?.event ?? value?.task)?.text?.startsWith(TEXT)), [], "received of it");
  await there.remove("last");
  await there.settled();
}

async function modes(browser, program) {
  for (const [widget, { list, entities }] of Object.entries(WIDGETS)) {
    const server = await start(program);
    const wire = await new Wire(server.address, FILES).listen();
    const open = (name, query) => ModeWindow.open(browser, name, wire.address, widget, query);
    const lines = () => server.output.split("\n").filter(line => line.includes("in the DataProcessor's mode GET"));
    for (const mode of PUBLISHED) {
      await part(`The ${widget} in mode ${mode}`, async () => {
        const [here, there] = [await open("page", `mode=${mode}`), await open("other page", "mode=REST-JSON")];
        const saves = await published(here, there, mode);
        await check("it has saved in that mode", () => {
          const atOne = saves.every(({ method, path }) => method === "POST" && path.startsWith(`${list}?editing=true`));
          const isForm = !saves.some(({ body }) => body.startsWith("{"));
          same([atOne, isForm], [["JSON", "POST"].includes(mode), ["REST", "POST"].includes(mode)], JSON.stringify(saves));
        });
        for (const window of [here, there]) await window.page.context().close();
      });
    }
    await part(`The ${widget} in mode GET`, async () => {
      const [here, there] = [await open("page", "mode=GET"), await open("other page", "mode=REST-JSON")];
      same(lines(), [], "lines about GET before");
      await check("nothing is broadcast", () => refused(here, there, async () => {
        await here.add(TEXT);
        await here.add(`${TEXT} 2`);
        await until("both are sent", () => here.saves.length > 1);
        same(here.saves.every(({ method, path }) => method === "GET" && path.startsWith(`${list}?editing=true&`)), true, "GET");
      }));
      await check("the log names the mode to use, once", async () => {
        await until("a line", () => lines().length > 0);
        same(lines().length, 1, "lines");
        const line = `GET ${list}?editing=true: `;
        if (!lines()[0].includes(line) || !lines()[0].includes("REST-JSON")) throw new Error(lines()[0]);
      });
      for (const window of [here, there]) await window.page.context().close();
    });
    await part(`The ${widget} in mode POST, all changes in one request`, async () => {
      const [here, there] = [await open("page", "mode=POST&together"), await open("other page", "mode=REST-JSON")];
      await check("nothing is broadcast", () => refused(here, there, async () => {
        const ids = [await here.add(TEXT), await here.add(`${TEXT} 2`)];
        await here.page.evaluate(() => saving.sendData());
        await until("it is sent", () => here.saves.length > 0);
        const fields = new URLSearchParams(here.saves[0].body);
        same([here.saves.length, fields.get("ids"), fields.get(`${ids[0]}_text`)], [1, ids.join(","), TEXT], "requests");
      }));
      for (const window of [here, there]) await window.page.context().close();
    });
    await part("The end", () => check(`the demo of the ${widget} has stored nothing else, and ends`, async () => {
      const rows = await (await fetch(`${server.address}${list}`)).json();
      same(rows, entities.length > 1 ? { tasks: [], links: [] } : [], "stored");
      same(await stop(server), { code: 0, signal: null }, `its end ${server.output}`);
    }));
    wire.close();
  }
}

// ---- The run ---------------------------------------------------------------------------------------------------

process.exitCode = await run(() => namedDemo("modes.mjs"), modes, LONGEST_RUN);
