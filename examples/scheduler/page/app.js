// The calendar page. What makes it live are the lines under "Live updates"; all else is about showing it.
"use strict";

(() => {
  const token = JSON.parse(document.getElementById("token").textContent);
  const byId = id => document.getElementById(id);
  if (!window.scheduler) {
    showStatus("offline", "The scheduler could not be loaded");
    return;
  }

  // ---- The widget ------------------------------------------------------------------------------------------------

  const phone = matchMedia("(max-width: 760px)");
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

  // Templates make markup, and an event's text is whatever a user typed.
  const escaped = value => String(value ?? "").replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
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

  // Some fields of an event go into the page as styles, and the widget stumbles over dates it cannot read.
  function fit(event) {
    for (const name of ["color", "textColor"]) {
      if (name in event && !CSS.supports("color", event[name])) delete event[name];
    }
    for (const name of Object.keys(event)) if (name.startsWith("_")) delete event[name];
    return event;
  }
  const readable = event => ["start_date", "end_date"]
    .every(name => !(name in event) || !isNaN(scheduler.templates.parse_date(event[name])));

  async function list() {
    const response = await fetch("/events");
    if (!response.ok) throw new Error(`the list was answered with ${response.status}`);
    return (await response.json()).filter(readable).map(fit);
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
  saving.attachEvent("onFullSync", () => { byId("unsaved").hidden = true; });
  scheduler.attachEvent("onSaveError", (ids, response) => {
    for (const id of [ids].flat()) {
      inFlight.delete(String(id));
      if (response.status === 404 && saving.getState(id) !== "inserted") gone(id);
      else unsaved();
    }
  });
  byId("retry").addEventListener("click", () => saving.sendData());

  function unsaved() {
    byId("unsaved-text").textContent = "Your last change is not saved.";
    byId("unsaved").hidden = false;
  }

  // Another page deleted the event while this one was changing it.
  function gone(id) {
    note("Other page", "has already deleted", scheduler.getEvent(id)?.text ?? names.get(String(id)));
    saving.setUpdated(id, false);
    saving.ignore(() => scheduler.deleteEvent(id, true));
    if (!saving.updatedRows.length) byId("unsaved").hidden = true;
  }

  // ---- Live updates ----------------------------------------------------------------------------------------------

  const { RemoteEvents, remoteUpdates } = scheduler.ext.liveUpdates;

  function onChange(message) {
    if (!message?.event) return;
    if (!readable(message.event)) return;
    fit(message.event);
    const report = describe(message);
    remoteUpdates.events(message);
    report();
  }

  async function connect() {
    showStatus("connecting", "Connecting…");
    try {
      const remote = new RemoteEvents("/api/v1", token);
      await remote.ready();
      remote.on({ events: onChange });
      if (!socketSeen) showStatus("offline", "Not live: the server refused this page");
    } catch {
      // From here on the client would never try again.
      showStatus("offline", "Offline, trying again…");
      setTimeout(connect, 3000);
    }
  }

  // The client reconnects by itself but reports it nowhere, so the page watches the sockets that it opens.
  let socketSeen = false;
  window.WebSocket = class extends WebSocket {
    constructor(...address) {
      super(...address);
      socketSeen = true;
      this.addEventListener("message", frame => {
        if (JSON.parse(frame.data)?.action !== "start") return;
        showStatus("live", "Live");
      });
      this.addEventListener("close", () => showStatus("offline", "Offline, reconnecting…"));
    }
  };

  function showStatus(state, words) {
    byId("status").dataset.state = state;
    byId("status").textContent = words;
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

  function note(who, did, name, more = "") {
    const entry = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = new Date().toLocaleTimeString();
    // Text nodes only: a name is never markup.
    entry.append(`${who} ${did} “${name ?? "an event"}” ${more}`.trim(), time);
    byId("activity").prepend(entry);
    byId("activity").children[30]?.remove();
    byId("activity-empty").hidden = true;
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

  list().then(rows => scheduler.parse(rows))
    .catch(error => showStatus("offline", `The events could not be loaded: ${error.message}`))
    .finally(() => { showHint(); connect(); });
})();
