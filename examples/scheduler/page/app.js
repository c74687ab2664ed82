// The page: its tabs, and one live connection for both widgets.

import { startCalendar } from "/calendar.js";
import { startPlan } from "/plan.js";
import { byId, showStatus } from "/shell.js";

const token = JSON.parse(byId("token").textContent);

// ---- Tabs ------------------------------------------------------------------------------------------------------

// The address names the tab, so that it can be linked. Both widgets stay in the page and live, whichever is shown.
function showTab() {
  const gantt = location.hash === "#gantt";
  for (const [tab, panel, chosen] of [["tab-scheduler", "calendar", !gantt], ["tab-gantt", "plan", gantt]]) {
    byId(tab).setAttribute("aria-selected", chosen);
    byId(panel).inert = !chosen;
  }
  document.title = gantt ? "Shared plan" : "Shared calendar";
  byId("title").textContent = document.title;
  byId("second").href = gantt ? "/#gantt" : "/";
}
addEventListener("hashchange", showTab);
showTab();

// ---- Live updates ----------------------------------------------------------------------------------------------

const widgets = [];
for (const [name, start] of [["scheduler", startCalendar], ["gantt", startPlan]]) {
  if (window[name]) widgets.push(start(token));
  else showStatus("offline", `The ${name} could not be loaded`);
}

async function connect() {
  const [{ RemoteEvents }] = widgets;
  showStatus("connecting", "Connecting…");
  try {
    const remote = new RemoteEvents("/api/v1", token);
    await remote.ready();
    // One connection carries the changes of both widgets: { events, tasks, links }.
    remote.on(Object.assign({}, ...widgets.map(widget => widget.handlers)));
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

if (widgets.length) {
  const loads = await Promise.allSettled(widgets.map(widget => widget.load()));
  const failed = loads.find(load => load.status === "rejected");
  if (failed) showStatus("offline", `The list could not be loaded: ${failed.reason.message}`);
  connect();
}
