// The calendar: the Scheduler, how it loads and saves, and what it shows of other pages' changes.

import { byId, escaped, note, onRetry, phone, showUnsaved, tidy } from "/shell.js";

/** Starts the widget; returns how to load its list, and what applies the changes of other pages. */
export function startCalendar() {
  const { scheduler } = window;

  // ---- The widget ------------------------------------------------------------------------------------------------

  scheduler.plugins({ recurring: true, quick_info: true });
  scheduler.config.scroll_hour = 8;
  scheduler.config.week_date = "%D";
  scheduler.config.time_step = 15;
  scheduler.config.event_duration = 60;
  scheduler.config.auto_end_date = true;
  scheduler.config.details_on_create = true;
  // The editor within an event writes the text into the page as markup; the form does not.
  scheduler.config.details_on_dblclick = true;
  scheduler.config.icons_select = ["icon_details", "icon_delete"];

  const text = (start, end, event) => escaped(event.text);
  Object.assign(scheduler.templates, {
    event_text: text,
    event_bar_text: text,
    agenda_text: text,
    year_tooltip: text,
    tooltip_text: text,
    lightbox_header: text,
    quick_info_title: text,
    quick_info_content: (start, end, event) => escaped(event.details),
  });

  function fitHeader() {
    scheduler.config.header = phone.matches
      ? { rows: [{ cols: ["prev", "date", "next"] }, { cols: ["day", "week", "month", "spacer", "today"] }] }
      : ["day", "week", "month", "date", "prev", "today", "next"];
  }
  fitHeader();
  scheduler.init("scheduler", new Date(), phone.matches ? "day" : "week");
  phone.addEventListener("change", () => {
    fitHeader();
    scheduler.setCurrentView(scheduler.getState().date, phone.matches ? "day" : "week");
  });

  function showHint() {
    byId("hint").hidden = scheduler.getEvents().length > 0;
    byId("hint").textContent = phone.matches
      ? "No events yet. Double-tap a time to add the first one."
      : "No events yet. Double-click a time, or drag over several hours, to add the first one.";
  }

  // ---- Loading ---------------------------------------------------------------------------------------------------

  // The widget stumbles over dates it cannot read.
  const readable = event => ["start_date", "end_date"]
    .every(name => !(name in event) || !isNaN(scheduler.templates.parse_date(event[name])));

  async function list() {
    const response = await fetch("/events");
    if (!response.ok) throw new Error(`the list was answered with ${response.status}`);
    return (await response.json()).filter(readable).map(tidy);
  }

  // ---- Saving ----------------------------------------------------------------------------------------------------

  const saving = scheduler.createDataProcessor({ url: "/events", mode: "REST-JSON" });
  const inFlight = new Set();
  const createdHere = new Set();

  saving.attachEvent("onBeforeDataSending", id => {
    inFlight.add(String(id));
    return true;
  });
  saving.attachEvent("onAfterUpdate", (id, action, newId) => {
    inFlight.delete(String(id));
    if (action === "error" || action === "invalid") return unsaved();
    const isNew = newId != null && String(newId) !== String(id);
    if (isNew) createdHere.add(String(newId));
    const what = action === "inserted" ? "added"
      : action === "updated" ? "changed"
      : isNew ? "removed one occurrence of" : "deleted";
    note("You", what, scheduler.getEvent(newId ?? id)?.text ?? names.get(String(id)));
    return true;
  });
  saving.attachEvent("onFullSync", () => showUnsaved("calendar"));
  scheduler.attachEvent("onSaveError", (ids, response) => {
    for (const id of [ids].flat()) {
      inFlight.delete(String(id));
      if (response.status === 404 && saving.getState(id) !== "inserted") gone(id);
      else unsaved();
    }
  });
  onRetry(() => saving.sendData());

  function unsaved() {
    showUnsaved("calendar", "Your last change is not saved.");
  }

  // Another page deleted the event while this one was changing it.
  function gone(id) {
    note("Other page", "has already deleted", scheduler.getEvent(id)?.text ?? names.get(String(id)));
    saving.setUpdated(id, false);
    saving.ignore(() => scheduler.deleteEvent(id, true));
    if (!saving.updatedRows.length) showUnsaved("calendar");
  }

  // ---- Live updates ----------------------------------------------------------------------------------------------

  const { remoteUpdates } = scheduler.ext.liveUpdates;

  function onChange(message) {
    if (!message?.event) return;
    if (!readable(message.event)) return;
    tidy(message.event);
    const report = describe(message);
    remoteUpdates.events(message);
    report();
  }

  // ---- What just changed -----------------------------------------------------------------------------------------

  const names = new Map();
  const when = scheduler.date.date_to_str("%D %j %M, %H:%i");

  // Looks at a change before it is applied; what it returns reports afterwards what has become of it.
  function describe({ type, event }) {
    const id = String(event.id);
    const before = scheduler.getEvent(id);
    const old = before && { text: before.text, start: +before.start_date, end: +before.end_date, deleted: !!before.deleted };
    const mine = inFlight.has(id);
    return () => {
      const now = scheduler.getEvent(id);
      const inserting = [...inFlight].some(other => saving.getState(other) === "inserted");
      if (type === "add-event" && !old && inserting) {
        // It may be this page's own, whose id is still on its way: the client waits for that too.
        saving.attachEvent("onFullSync", () => { if (!createdHere.has(id)) added(id); }, { once: true });
      } else if (mine || createdHere.has(id) && type === "add-event") {
        return;
      } else if (type === "add-event" && !old && now) {
        added(id);
      } else if (type === "delete-event" && old && !now) {
        if (!old.deleted) note("Other page", "deleted", old.text);
      } else if (type === "update-event" && old && now) {
        changed(id, old, now);
      }
    };
  }

  function added(id) {
    const event = scheduler.getEvent(id);
    if (!event) return;
    if (!event.recurring_event_id) note("Other page", "added", event.text, `on ${when(event.start_date)}`);
    else if (event.deleted) note("Other page", "removed one occurrence of", event.text);
    else note("Other page", "changed one occurrence of", event.text);
    flash(id);
  }

  function changed(id, old, now) {
    if (!old.deleted && now.deleted) note("Other page", "removed one occurrence of", old.text);
    else if (old.text !== now.text) note("Other page", "renamed", old.text, `to “${now.text}”`);
    else if (old.start !== +now.start_date) note("Other page", "moved", now.text, `to ${when(now.start_date)}`);
    else if (old.end !== +now.end_date) note("Other page", "set the end of", now.text, `to ${when(now.end_date)}`);
    else return;
    flash(id);
  }

  function flash(id) {
    for (const element of document.querySelectorAll("[data-event-id]")) {
      if (element.dataset.eventId.split("#")[0] === id) element.classList.add("just-changed");
    }
  }

  // Names of events, for when one is gone by the time its delete is reported.
  scheduler.attachEvent("onBeforeEventDelete", (id, event) => {
    names.set(String(id), event?.text);
    return true;
  });
  for (const happening of ["onEventAdded", "onEventDeleted", "onClearAll", "onParse"]) {
    scheduler.attachEvent(happening, showHint);
  }

  async function load() {
    try {
      scheduler.parse(await list());
    } finally {
      showHint();
    }
  }

  return { load, handlers: { events: onChange }, RemoteEvents: scheduler.ext.liveUpdates.RemoteEvents };
}
