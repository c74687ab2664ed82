// The plan: the Gantt, how it loads and saves. What other pages change is reported by plan_changes.js.

import { byId, escaped, note, onRetry, phone, showUnsaved, tidy } from "/shell.js";
import { watchChanges } from "/plan_changes.js";

const DAY = 86_400_000;

/** Starts the widget; returns how to load its list, and what applies the changes of other pages. */
export function startPlan(token) {
  const { gantt } = window;

  // ---- The widget ------------------------------------------------------------------------------------------------

  // Live updates need these: dates that every page can read, and no box that covers the page when a change arrives
  // that it cannot apply any more.
  gantt.config.date_format = "iso";
  gantt.config.show_errors = false;

  gantt.plugins({ tooltip: true });
  gantt.config.order_branch = "marker";
  gantt.config.order_branch_free = true;
  gantt.config.open_tree_initially = true;
  gantt.config.show_unscheduled = true;
  gantt.config.row_height = 36;
  gantt.config.bar_height = 24;
  gantt.config.scale_height = 52;
  gantt.config.min_column_width = 34;
  gantt.locale.labels.section_description = "Name";
  gantt.locale.labels.section_time = "Time";
  gantt.config.lightbox.sections = [
    { name: "description", map_to: "text", type: "textarea", height: 62, focus: true },
    { name: "time", map_to: "auto", type: "duration" },
  ];

  const name = id => gantt.isTaskExists(id) ? gantt.getTask(id).text : undefined;
  const label = task => escaped(task.text);
  const text = (start, end, task) => label(task);
  const day = gantt.date.date_to_str("%D %j %M");
  // The end of a task is the first moment after it.
  const span = (start, end) => +end - +start > DAY ? `${day(start)} – ${day(new Date(end - 1))}` : day(start);
  const time = (start, end, task) => gantt.isUnscheduledTask(task) ? "Not scheduled yet" : span(start, end);
  // Templates make markup, and a task's text is whatever a user typed.
  Object.assign(gantt.templates, {
    task_text: text,
    lightbox_header: text,
    task_time: time,
    tooltip_text: (start, end, task) => phone.matches ? "" : `<b>${label(task)}</b><br>${time(start, end, task)}`
      + `<br>${Math.round(task.progress * 100)} % done`,
    link_description: link => `“${escaped(name(link.source))}” to “${escaped(name(link.target))}”`,
    drag_link: (from, fromStart, to) => `“${escaped(name(from))}” to ${to ? `“${escaped(name(to))}”` : "…"}`,
    grid_date_format: gantt.date.date_to_str("%j %M"),
    timeline_cell_class: (task, date) => cellClass(date),
  });

  function cellClass(date) {
    const names = [];
    if (date.getDay() % 6 === 0) names.push("weekend");
    if (date.toDateString() === new Date().toDateString()) names.push("today");
    return names.join(" ");
  }

  function fitWidth() {
    const task = { name: "text", label: "Task", tree: true, align: "left", width: "*", min_width: 110, template: label };
    const add = { name: "add", width: 40 };
    gantt.config.columns = phone.matches ? [task, add] : [
      task,
      { name: "start_date", label: "Start", align: "center", width: 76 },
      { name: "duration", label: "Days", align: "center", width: 56 },
      add,
    ];
    gantt.config.scales = [
      { unit: "month", format: phone.matches ? "%M %Y" : "%F %Y" },
      { unit: "day", format: "%j", css: cellClass },
    ];
    gantt.config.grid_width = phone.matches ? 176 : 400;
    gantt.config.task_scroll_offset = phone.matches ? 40 : 110;
  }

  // The days in view: what is planned, today, and some days around. One task in a far year does not make all others
  // a dot.
  function fitScale() {
    const { min_date: first, max_date: last } = gantt.getTaskCount() ? gantt.getSubtaskDates() : {};
    const today = gantt.date.day_start(new Date());
    const within = (date, days) => Math.min(Math.max(+(date ?? today), today - 1000 * DAY), +today + 1000 * DAY) + days * DAY;
    const start = gantt.date.day_start(new Date(Math.min(within(first, -3), within(today, -7))));
    const end = gantt.date.day_start(new Date(Math.max(within(last, 7), within(today, 28))));
    const fits = +start === +gantt.config.start_date && +end === +gantt.config.end_date;
    if (fits || gantt.getState().drag_id) return;
    const shown = gantt.config.start_date && gantt.dateFromPos(gantt.getScrollState().x);
    Object.assign(gantt.config, { start_date: start, end_date: end });
    gantt.render();
    if (shown) gantt.scrollTo(gantt.posFromDate(shown));
  }

  /** Scrolls to today, or to the first task if that is later. */
  function showStart() {
    const first = gantt.getTaskCount() ? gantt.getSubtaskDates().min_date : 0;
    gantt.showDate(new Date(Math.max(first, gantt.date.day_start(new Date()))));
  }
  gantt.config.show_tasks_outside_timescale = true;

  // On a phone, there is no place for a tooltip, and no pointer to show it.
  gantt.attachEvent("onTaskClick", (id, event) => {
    if (phone.matches && event.target.closest(".gantt_task_line, .gantt_tree_content")) gantt.showLightbox(id);
    return true;
  });

  // A new task begins today, one under another task with that.
  gantt.attachEvent("onTaskCreated", task => {
    if (gantt.isTaskExists(task.parent)) return true;
    task.start_date = gantt.date.day_start(new Date());
    task.end_date = gantt.calculateEndDate(task);
    return true;
  });

  // A new parent shows its children.
  gantt.attachEvent("onBeforeTaskAdd", (id, task) => {
    task.$open ??= true;
    return true;
  });

  fitWidth();
  gantt.init("chart");
  fitScale();
  phone.addEventListener("change", () => {
    fitWidth();
    gantt.render();
  });

  function showHint() {
    byId("plan-hint").hidden = gantt.getTaskCount() > 0;
  }
  byId("plan-hint").textContent = "No tasks yet. Press + at the top of the list to add the first one.";

  // ---- Loading ---------------------------------------------------------------------------------------------------

  // Wall times are ISO dates but for a space.
  function readable(task) {
    for (const field of ["start_date", "end_date", "deadline", "constraint_date"]) {
      if (typeof task[field] === "string") task[field] = task[field].replace(" ", "T");
    }
    if (!Object.values(gantt.config.types).includes(task.type)) delete task.type;
    return tidy(task);
  }

  async function load() {
    try {
      const response = await fetch("/data");
      if (!response.ok) throw new Error(`/data was answered with ${response.status}`);
      const { tasks, links } = await response.json();
      gantt.parse({ tasks: tasks.map(readable), links: links.map(tidy) });
    } finally {
      fitScale();
      showHint();
    }
    showStart();
  }

  // ---- Saving ----------------------------------------------------------------------------------------------------

  // The token tells the server which page has saved: it sends the others a new task at once, and this one a little later.
  const saving = gantt.createDataProcessor({ url: "/data", mode: "REST-JSON", headers: { "Remote-Token": token } });
  const changes = watchChanges(gantt, saving);
  const statuses = new Map();

  const unsavedIds = kind => saving.modes?.[kind]?.updatedRows ?? [];
  const isSaved = () => !unsavedIds("task").length && !unsavedIds("link").length;

  gantt.attachEvent("onAjaxError", request => {
    if (request.responseURL) statuses.set(new URL(request.responseURL).pathname, request.status);
    return true;
  });

  saving.attachEvent("onAfterUpdate", (id, action, newId, answer) => {
    const kind = saving.getGanttMode();
    if (action === "error" || action === "invalid") refused(kind, id, answer.message);
    // The widget takes a request that never arrived for saved.
    else if (!answer.action) keep(id, action);
    else changes.noteOwn(kind, action, id, newId);
    if (isSaved()) showUnsaved("plan");
    return true;
  });
  saving.attachEvent("onFullSync", () => { if (isSaved()) showUnsaved("plan"); });

  function keep(id, action) {
    saving.setUpdateMode("off");
    saving.setUpdated(id, true, action);
    saving.setUpdateMode("cell");
    showUnsaved("plan", "Your last change is not saved.");
  }

  function refused(kind, id, why) {
    const state = saving.getState(id);
    const path = `/data/${kind}/${id}`;
    const status = statuses.get(path);
    statuses.delete(path);
    if (status === 404 && state !== "inserted") gone(kind, id);
    // The server has sent the task as it is there.
    else if (status === 409 && kind === "task") forget(id, `could not change, because ${why}:`, name(id));
    // A link to a task that is being saved is sent again when that is done.
    else if (status !== 409) showUnsaved("plan", `Your last change is not saved: ${why ?? "the server refused it"}.`);
  }

  // Another page deleted it while this one was changing it.
  function gone(kind, id) {
    forget(id, "changed what another page has deleted:", kind === "task" ? name(id) : "a link");
    saving.ignore(() => {
      if (kind === "task" && gantt.isTaskExists(id)) gantt.deleteTask(id);
      if (kind === "link" && gantt.isLinkExists(id)) gantt.deleteLink(id);
    });
  }

  function forget(id, did, what) {
    saving.set_invalid(id, false);
    saving.setUpdated(id, false);
    note("You", did, what);
  }

  onRetry(() => {
    for (const kind of ["task", "link"]) {
      saving.setGanttMode(kind);
      for (const id of [...saving.updatedRows]) saving.setUpdated(id, true);
    }
  });

  // ---- Live updates ----------------------------------------------------------------------------------------------

  const { remoteUpdates, RemoteEvents } = gantt.ext.liveUpdates;
  const handlers = {
    tasks: message => {
      if (message?.task) readable(message.task);
      remoteUpdates.tasks(message);
    },
    links: message => {
      if (message?.link) tidy(message.link);
      remoteUpdates.links(message);
    },
  };

  let fitting;
  for (const happening of ["onAfterTaskAdd", "onAfterTaskUpdate", "onAfterTaskDelete", "onClearAll"]) {
    gantt.attachEvent(happening, () => {
      clearTimeout(fitting);
      fitting = setTimeout(() => { fitScale(); showHint(); });
      return true;
    });
  }

  return { load, handlers, RemoteEvents };
}
