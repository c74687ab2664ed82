// What the calendar and the plan share: the bar at the top, and the list of what just changed.

export const byId = id => document.getElementById(id);
export const phone = matchMedia("(max-width: 760px)");

/** Text for templates, which make markup: what a user typed is never markup. */
export const escaped = value => String(value ?? "").replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);

export function showStatus(state, words) {
  byId("status").dataset.state = state;
  byId("status").textContent = words;
}

export function note(who, did, name, more = "") {
  const entry = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  // Text nodes only: a name is never markup.
  entry.append(`${who} ${did} “${name ?? "one without a name"}” ${more}`.trim(), time);
  byId("activity").prepend(entry);
  byId("activity").children[30]?.remove();
  byId("activity-empty").hidden = true;
}

// What each widget has not saved, in words.
const unsaved = new Map();

/** Shows that a widget has something unsaved, and why; without words, that it has saved everything. */
export function showUnsaved(widget, words) {
  if (words) unsaved.set(widget, words);
  else unsaved.delete(widget);
  const [first] = unsaved.values();
  byId("unsaved").hidden = !first;
  if (first) byId("unsaved-text").textContent = first;
}

export function onRetry(retry) {
  byId("retry").addEventListener("click", retry);
}

/** Some fields go into the page as styles, and a name with an underscore is the widget's own. */
export function tidy(object) {
  for (const name of ["color", "textColor", "progressColor"]) {
    if (name in object && !CSS.supports("color", object[name])) delete object[name];
  }
  for (const name of Object.keys(object)) if (name.startsWith("_")) delete object[name];
  return object;
}
