// The calendar of one user. What makes it live are the lines under "Live updates"; all else is about showing it.
"use strict";

(() => {
  const { name: me, tenant, token } = JSON.parse(document.getElementById("who").textContent);
  const byId = id => document.getElementById(id);
  // Sent with each request, so that this window stays with its user when another one logs in with the same browser.
  const headers = { "Remote-Token": token };
  byId("name").textContent = me;
  byId("tenant").textContent = `Company ${tenant}`;
  document.title = `${me}, company ${tenant}`;
  if (!window.scheduler) return showStatus("offline", "The scheduler could not be loaded");

  // ---- The widget ------------------------------------------------------------------------------------------------

  scheduler.plugins({ editors: true });
  scheduler.config.header = ["day", "week", "month", "date", "prev", "today", "next"];
  scheduler.config.scroll_hour = 8;
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
    lightbox_header: text,
    event_class: (start, end, event) => (event.owner !== me ? "theirs" : event.private ? "private" : "mine"),
  });

  // Only the owner is asked for what only the owner may set.
  const lines = { name: "description", height: 60, map_to: "text", type: "textarea", focus: true };
  const notes = { name: "notes", height: 60, map_to: "notes", type: "textarea" };
  const alone = { name: "private", map_to: "private", type: "checkbox", checked_value: true, unchecked_value: false };
  const time = { name: "time", height: 72, map_to: "auto", type: "time" };
  Object.assign(scheduler.locale.labels, {
    section_notes: "Notes, which only you see",
    section_private: "Only for me",
  });
  scheduler.attachEvent("onEventCreated", id => {
    Object.assign(scheduler.getEvent(id), { owner: me, private: false, notes: "" });
  });
  scheduler.attachEvent("onBeforeLightbox", id => {
    const isMine = scheduler.getEvent(id).owner === me;
    scheduler.config.lightbox.sections = isMine ? [lines, notes, alone, time] : [lines, time];
    scheduler.resetLightbox();
    return true;
  });
  scheduler.init("scheduler", new Date(), "week");

  // ---- Loading and saving ----------------------------------------------------------------------------------------

  async function list() {
    const response = await fetch("/events", { headers });
    if (!response.ok) throw new Error(`the list was answered with ${response.status}`);
    return response.json();
  }

  const saving = scheduler.createDataProcessor({ url: "/events", mode: "REST-JSON" });
  // Headers given above would be dropped.
  saving.setTransactionMode({ mode: "REST-JSON", headers });
  saving.attachEvent("onFullSync", () => { byId("unsaved").hidden = true; });
  scheduler.attachEvent("onSaveError", (ids, response) => {
    for (const id of [ids].flat()) {
      if (response.status === 404 && saving.getState(id) !== "inserted") gone(id);
      else unsaved(response.status === 401 ? "Your login has expired." : "Your last change is not saved.");
    }
  });
  byId("retry").addEventListener("click", () => saving.sendData());

  function unsaved(why) {
    byId("unsaved-text").textContent = why;
    byId("unsaved").hidden = false;
  }

  // Another user deleted the event, or keeps it private now, while this page was changing it.
  function gone(id) {
    saving.setUpdated(id, false);
    saving.ignore(() => scheduler.deleteEvent(id, true));
    if (!saving.updatedRows.length) byId("unsaved").hidden = true;
  }

  // ---- Live updates ----------------------------------------------------------------------------------------------

  const { RemoteEvents, remoteUpdates } = scheduler.ext.liveUpdates;

  async function connect() {
    try {
      const remote = new RemoteEvents("/api/v1", token);
      await remote.ready();
      remote.on(remoteUpdates);
      if (!socketSeen) showStatus("offline", "Not live: log in again");
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
        if (JSON.parse(frame.data)?.action === "start") showStatus("live", "Live");
      });
      this.addEventListener("close", ({ code }) =>
        showStatus("offline", code === 1008 ? "Logged out" : "Offline, reconnecting…"));
    }
  };

  function showStatus(state, words) {
    byId("status").dataset.state = state;
    byId("status").textContent = words;
  }

  list().then(rows => scheduler.parse(rows))
    .catch(error => showStatus("offline", `The events could not be loaded: ${error.message}`))
    .finally(connect);

  // ---- Logging out -----------------------------------------------------------------------------------------------

  for (const way of ["logout", "logout-everywhere"]) {
    byId(way).addEventListener("click", async () => {
      await fetch(`/${way}`, { method: "POST", headers });
      location.reload();
    });
  }
})();
