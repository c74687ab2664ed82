// A stock Gantt page without a server: messages go to the client's own handler, and what it saves waits for an answer.

import { constants } from "node:fs";
import { join } from "node:path";
import { present } from "./common.mjs";
import { until } from "./report.mjs";

const HTML = `<!doctype html><title>A Gantt page</title><link rel="icon" href="data:,">
  <link rel="stylesheet" href="/dhtmlxgantt.css"><style>:root { --dhx-gantt-font-family: sans-serif; }</style>
  <div id="chart" style="width:1000px;height:600px"></div><script src="/dhtmlxgantt.js"></script>`;
/** As docs/gantt.md recommends. */
const RECOMMENDED = { date_format: "iso", show_errors: false };
/** A page that has not come back by then has stopped. */
const STOPPED = 4000;

/** The folder of the client's files, in a folder of npm modules. */
export function client(modules) {
  const folder = join(modules, "dhtmlx-gantt", "codebase");
  present(join(folder, "dhtmlxgantt.js"), constants.R_OK, "install it with: npm ci, in examples/scheduler");
  return folder;
}

export class FactsPage {
  /** What the page has sent to be saved, and has no answer to. */
  saves = [];
  /** Whether the page did not come back from a message. */
  hasStopped = false;

  static async open(browser, folder) {
    const context = await browser.newContext({ timezoneId: "UTC", viewport: { width: 1000, height: 600 } });
    const opened = Object.assign(new FactsPage(), { context, page: await context.newPage() });
    opened.session = await context.newCDPSession(opened.page);
    await opened.page.route("**/*", (route, request) => {
      const { pathname } = new URL(request.url());
      if (pathname === "/") return route.fulfill({ contentType: "text/html", body: HTML });
      if (pathname.startsWith("/dhtmlxgantt.")) return route.fulfill({ path: join(folder, pathname) });
      opened.saves.push({ route, line: `${request.method()} ${pathname}`, body: request.postDataJSON() });
    });
    return opened;
  }

  /** Loads the page anew, with these tasks and links. */
  async load({ config = RECOMMENDED, tasks = [], links = [] }) {
    await this.page.goto("http://localhost/");
    this.saves = [];
    await this.page.evaluate(show, { config, tasks, links });
  }

  async close() {
    // Its script is ended first: a page that is busy does not close.
    await this.session.send("Runtime.terminateExecution").catch(() => {});
    await this.context.close();
  }

  // ---- What it receives ------------------------------------------------------------------------------------------

  /** The page receives these in one batch. What it throws is returned, as text. */
  receive(...messages) {
    return this.page.evaluate(async messages => {
      const before = thrown.length;
      for (const message of messages) gantt.ext.liveUpdates.remoteUpdates.tasks(message);
      // The client applies them after 50 ms of silence. Of two timers of the same length, the older one ends first.
      await new Promise(done => setTimeout(done, 50));
      return thrown.slice(before);
    }, messages);
  }

  /** Whether the page comes back from a message. */
  async survives(message) {
    let timer;
    const late = new Promise(done => { timer = setTimeout(done, STOPPED, false); });
    const survived = await Promise.race([this.receive(message).then(() => true, () => false), late]);
    clearTimeout(timer);
    this.hasStopped = !survived;
    return survived;
  }

  // ---- What its user does ----------------------------------------------------------------------------------------

  rename(id) {
    return this.page.evaluate(id => {
      gantt.getTask(id).text = "own";
      gantt.updateTask(id);
    }, id);
  }

  addTask() {
    return this.page.evaluate(() => gantt.addTask({ text: "own", start_date: new Date(2025, 3, 7), duration: 2 }, 0));
  }

  /** As the grid does it when a row is dropped. */
  moveTask(id, parent) {
    return this.page.evaluate(([id, parent]) => {
      gantt.moveTask(id, 0, parent);
      gantt.callEvent("onRowDragEnd", [id, gantt.getTask(id).$drop_target]);
    }, [id, parent]);
  }

  removeTask(id) {
    return this.page.evaluate(id => gantt.deleteTask(id), id);
  }

  addLink(source, target) {
    return this.page.evaluate(([source, target]) => gantt.addLink({ source, target, type: "0" }), [source, target]);
  }

  changeLink(id) {
    return this.page.evaluate(id => {
      gantt.getLink(id).lag = 1;
      gantt.updateLink(id);
    }, id);
  }

  removeLink(id) {
    return this.page.evaluate(id => gantt.deleteLink(id), id);
  }

  openForm(id) {
    return this.page.evaluate(id => gantt.showLightbox(id), id);
  }

  // ---- What it saves ---------------------------------------------------------------------------------------------

  /** Waits for so many saves without an answer, and returns them all as text. */
  async sent(count) {
    await until(`${count} saves`, () => this.saves.length >= count);
    return this.saves.map(({ line }) => line);
  }

  /** Answers the oldest save of this address, and waits until the page has read the answer. */
  async answer(line, body) {
    const at = await until(`the save ${line}`, () => this.saves.findIndex(save => save.line === line) + 1);
    const [{ route }] = this.saves.splice(at - 1, 1);
    const read = this.page.evaluate(() => new Promise(done => {
      const id = saving.attachEvent("onAfterUpdateFinish", () => { saving.detachEvent(id); setTimeout(done); });
    }));
    await route.fulfill({ json: body });
    await read;
  }

  // ---- What it holds ---------------------------------------------------------------------------------------------

  /** The tree of tasks, such as `1(2 3) 4`. */
  tree() {
    return this.page.evaluate(() => tree());
  }

  /** Tasks that the page holds outside its tree. */
  lost() {
    return this.page.evaluate(() => Object.keys(gantt.$data.tasksStore.pull).filter(id => !tree().match(/\d+/g).includes(id)));
  }

  /** A task's text, parent, first day and length in days. */
  task(id) {
    return this.page.evaluate(id => {
      const { text, parent, start_date, duration } = gantt.getTask(id);
      return [text, parent, gantt.date.date_to_str("%Y-%m-%d %H:%i")(start_date), duration];
    }, id);
  }

  /** The links that it draws, by their ids. */
  drawnLinks() {
    return this.page.$$eval(".gantt_task_link", links => links.map(({ dataset }) => Number(dataset.linkId)));
  }

  /** The links that it holds, drawn or not, such as `7: 1 > 4`. */
  links() {
    return this.page.evaluate(() => gantt.getLinks().map(({ id, source, target }) => `${id}: ${source} > ${target}`));
  }

  errorBoxes() {
    return this.page.locator(".gantt-error").count();
  }
}

/** Runs in the page. */
function show({ config, tasks, links }) {
  globalThis.thrown = [];
  addEventListener("error", ({ message }) => thrown.push(message));
  globalThis.tree = (parent = 0) => gantt.getChildren(parent)
    .map(id => (gantt.hasChild(id) ? `${id}(${tree(id)})` : `${id}`)).join(" ");
  Object.assign(gantt.config, config, { open_tree_initially: true });
  gantt.init("chart");
  gantt.parse({ tasks, links });
  globalThis.saving = gantt.createDataProcessor({ url: "/data", mode: "REST-JSON" });
}
