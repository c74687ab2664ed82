// One window with the demo's page at the tab of the Gantt, used as a person would use it: with the mouse and the form.

import { until } from "./report.mjs";
import { Window, parsed } from "./window.mjs";

export class GanttWindow extends Window {
  // ---- What it shows ---------------------------------------------------------------------------------------------

  /** Rows of the list, from the top, as it draws them: the name, and how deep in the tree. */
  rows() {
    return this.page.$$eval("#chart .gantt_row", rows => rows.map(row => ({
      name: row.querySelector(".gantt_tree_content").textContent,
      depth: row.querySelectorAll(".gantt_tree_indent").length,
    })));
  }

  /** Names on the bars of the timeline, sorted. */
  bars() {
    return this.page.$$eval("#chart .gantt_task_line .gantt_task_content", bars => bars.map(bar => bar.textContent).sort());
  }

  /** The links that are drawn, by the names of their tasks. */
  links() {
    return this.page.$$eval("#chart .gantt_task_link", links => links.map(link => {
      const id = link.dataset.linkId;
      if (!gantt.isLinkExists(id)) return `${id} is gone`;
      return [gantt.getLink(id).source, gantt.getLink(id).target]
        .map(end => gantt.isTaskExists(end) ? gantt.getTask(end).text : `${end}, which is gone`).join(" > ");
    }).sort());
  }

  /** The task of this name, as the widget holds it. */
  task(name) {
    return this.page.evaluate(name => {
      const task = gantt.getTaskByTime().find(task => task.text === name);
      return task && { id: String(task.id), start: +task.start_date, duration: task.duration, parent: String(task.parent) };
    }, name);
  }

  async settled() {
    let left;
    try {
      await until("saved", async () => {
        left = await this.page.evaluate(() => {
          const saving = gantt._dp;
          saving.setGanttMode(saving.getGanttMode());
          const modes = Object.entries(saving.modes).filter(([, mode]) => mode.updatedRows.length || Object.keys(mode._in_progress).length)
            .map(([kind, mode]) => [kind, mode.updatedRows, mode._in_progress, mode._invalid]);
          const shown = document.getElementById("unsaved");
          return shown.hidden && !modes.length ? null : [shown.hidden || shown.textContent.trim(), ...modes];
        });
        return !left;
      });
    } catch {
      throw new Error(`the ${this.name} has not saved everything: ${JSON.stringify(left)}`);
    }
  }

  savingIsOn() {
    return this.page.evaluate(() => !gantt._dp._silent_mode && !scheduler._dataprocessor._silent_mode);
  }

  /** The changes this page received, by entity. */
  receivedOf(entity) {
    return this.frames.map(frame => parsed(frame)).filter(frame => frame?.action === "event" && frame.body.name === entity)
      .map(frame => frame.body.value);
  }

  // ---- What a person does ----------------------------------------------------------------------------------------

  show(tab) {
    return this.page.click(`#tab-${tab}`);
  }

  /** Presses the plus of a task, or that at the top, fills in the form and saves. */
  async create(name, parent) {
    await this.createSlowly(name, parent, 0);
  }

  /** The same, by a person who takes some time for the form. */
  async createSlowly(name, parent, time) {
    const plus = parent ? this.#row(parent).locator(".gantt_add") : this.page.locator("#chart .gantt_grid_head_add");
    await plus.click();
    await this.#form();
    await this.page.waitForTimeout(time);
    await this.#save(name);
    await this.settled();
  }

  async rename(name, newName) {
    await this.#openForm(name);
    await this.#save(newName);
    await this.settled();
  }

  async remove(name) {
    await this.#openForm(name);
    await this.page.locator(".gantt_cal_light .gantt_delete_btn_set").click();
    await this.#confirm();
    await this.#form("hidden");
    await this.settled();
  }

  /** Drags a row of the list to another one: onto it (under it, as its child), or to its upper or lower edge. */
  async dragRow(name, to, where) {
    const place = () => this.page.evaluate(name => {
      const { id } = gantt.getTaskByTime().find(task => task.text === name);
      return `${gantt.getParent(id)} ${gantt.getTaskIndex(id)}`;
    }, name);
    const before = await place();
    await this.#drag(`row ${name}`, async () => {
      const from = await this.#box(this.#row(name).locator(".gantt_tree_content").first());
      const row = await this.#box(this.#row(to));
      const y = row.y + row.height * { above: 0.1, onto: 0.5, below: 0.9 }[where];
      await this.page.mouse.move(from.x + 10, from.y + from.height / 2);
      await this.page.mouse.down();
      await this.page.mouse.move(from.x + 14, y, { steps: 12 });
      await this.page.mouse.move(from.x + 15, y, { steps: 4 });
    }, async () => (await place()) !== before);
  }

  /** Drags from the end of one bar to the start of another. */
  async link(from, to) {
    await this.#drag(`a link from ${from}`, async () => {
      const [start, end] = [await this.#box(this.#bar(from)), await this.#box(this.#bar(to))];
      await this.page.mouse.move(start.x + start.width / 2, start.y + start.height / 2);
      await this.#bar(from).locator(".task_end_date .gantt_link_point").hover({ force: true });
      await this.page.mouse.down();
      await this.page.mouse.move(end.x + end.width / 2, end.y + end.height / 2, { steps: 12 });
      const point = await this.#box(this.#bar(to).locator(".task_start_date .gantt_link_point"));
      await this.page.mouse.move(point.x + point.width / 2, point.y + point.height / 2, { steps: 4 });
    }, () => this.page.evaluate(idOfLink, [from, to]));
  }

  /**
   * Drags, and lets go. A change that arrives meanwhile draws the chart anew, which takes what is dragged out of the
   * hand: only then does a person drag once more.
   */
  async #drag(what, drag, isDone) {
    await this.settled();
    for (;;) {
      const received = this.frames.length;
      try {
        await drag();
      } finally {
        await this.page.mouse.up();
      }
      if (await isDone()) break;
      if (this.frames.length === received) throw new Error(`${what} was dragged, and stays where it was`);
    }
    await this.settled();
  }

  async unlink(from, to) {
    const id = await this.page.evaluate(idOfLink, [from, to]);
    await this.page.locator(`#chart .gantt_task_link[data-link-id="${id}"] .gantt_line_wrapper`).first().dblclick({ force: true });
    const asked = await this.page.locator(".gantt_modal_box").textContent();
    await this.#confirm();
    await this.settled();
    return asked;
  }

  /** Opens the form on a task, and reads its heading and its name. */
  async readForm(name) {
    await this.#openForm(name);
    const form = this.page.locator(".gantt_cal_light");
    const read = [await form.locator(".gantt_title, .gantt_cal_ltitle").first().textContent(), await form.locator("textarea").inputValue()];
    await form.locator(".gantt_cancel_btn_set").click();
    await this.#form("hidden");
    return read;
  }

  /** What is shown when the mouse rests on a bar. */
  async tooltip(name) {
    const { x, y, width, height } = await this.#box(this.#bar(name));
    await this.page.mouse.move(x + width / 2, y + 300);
    await this.page.mouse.move(x + width / 2, y + height / 2, { steps: 8 });
    const tooltip = this.page.locator(".gantt_tooltip");
    await tooltip.waitFor();
    const shown = await tooltip.textContent();
    // The widget hides it when the mouse moves on, within the chart.
    await this.page.mouse.move(x + width / 2, y + 300);
    await tooltip.waitFor({ state: "detached" });
    return shown;
  }

  async #openForm(name) {
    await this.settled();
    await this.#row(name).locator(".gantt_tree_content").first().dblclick();
    await this.#form();
  }

  async #save(name) {
    await this.#form();
    await this.page.locator(".gantt_cal_light textarea").fill(name);
    await this.page.locator(".gantt_cal_light .gantt_save_btn_set").click();
    await this.#form("hidden");
  }

  #confirm() {
    return this.page.locator(".gantt_modal_box .gantt_ok_button").click();
  }

  #form(state = "visible") {
    return this.page.locator(".gantt_cal_light").waitFor({ state });
  }

  /** Where an element is. It is drawn anew by each change that arrives. */
  #box(locator) {
    return until("it is drawn", () => locator.boundingBox());
  }

  #row(name) {
    return this.page.locator("#chart .gantt_row").filter({ has: this.page.getByText(name, { exact: true }) });
  }

  #bar(name) {
    return this.page.locator("#chart .gantt_task_line").filter({ has: this.page.getByText(name, { exact: true }) });
  }
}

/** Runs in a page: the id of the link between two tasks, by their names. */
const idOfLink = ([from, to]) => gantt.getLinks().find(({ source, target }) =>
  gantt.getTask(source).text === from && gantt.getTask(target).text === to)?.id;
