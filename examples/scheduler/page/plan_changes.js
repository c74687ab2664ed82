// Reports what other pages change in the plan, and what this page has saved.

import { note } from "/shell.js";

const FLASH = 2400;

/**
 * Compares what the Gantt holds with what it held, whenever the live updates have changed something. One change may
 * arrive in several steps, such as a deletion and an addition: only what differs in the end is reported.
 */
export function watchChanges(gantt, saving) {
  const day = gantt.date.date_to_str("%D %j %M");
  const held = { task: new Map(), link: new Map() };
  const touched = { task: new Set(), link: new Set() };
  const flashing = new Set();
  // Where a task is moved, its siblings get other numbers as well.
  const moved = new Set();
  // What was deleted here, for when the deletion is reported: it is saved later.
  const deleted = new Map();
  let reporting;

  const kinds = {
    task: { exists: id => gantt.isTaskExists(id), get: id => gantt.getTask(id), all: () => gantt.getTaskByTime(), pick: pickTask },
    link: { exists: id => gantt.isLinkExists(id), get: id => gantt.getLink(id), all: () => gantt.getLinks(), pick: pickLink },
  };

  function pickTask({ text, start_date, end_date, parent, progress, sortorder }) {
    return { text, start: +start_date, end: +end_date, parent: String(parent), progress: Number(progress) || 0, sortorder };
  }

  function pickLink({ source, target }) {
    return { source: String(source), target: String(target) };
  }

  const nameOf = id => gantt.isTaskExists(id) ? gantt.getTask(id).text : held.task.get(id)?.text ?? deleted.get(`task ${id}`)?.text;

  for (const [kind, noun] of [["task", "Task"], ["link", "Link"]]) {
    const { exists, get, pick } = kinds[kind];
    for (const happening of [`onAfter${noun}Add`, `onAfter${noun}Update`, `onAfter${noun}Delete`]) {
      gantt.attachEvent(happening, (id, object) => {
        // So the client marks changes that it must not send back.
        if (saving._silent_mode) touch(kind, String(id));
        else if (exists(id)) held[kind].set(String(id), pick(get(id)));
        else remove(kind, String(id), pick(object));
        return true;
      });
    }
    gantt.attachEvent(`on${noun}IdChange`, (id, newId) => {
      held[kind].delete(String(id));
      held[kind].set(String(newId), pick(get(newId)));
      return true;
    });
  }

  gantt.attachEvent("onAfterTaskMove", id => {
    if (saving._silent_mode) moved.add(String(id));
    return true;
  });

  gantt.attachEvent("onParse", () => {
    for (const [kind, { all, pick }] of Object.entries(kinds)) {
      held[kind] = new Map(all().map(object => [String(object.id), pick(object)]));
    }
  });

  function remove(kind, id, object) {
    held[kind].delete(id);
    deleted.set(`${kind} ${id}`, object);
  }

  function touch(kind, id) {
    touched[kind].add(id);
    clearTimeout(reporting);
    reporting = setTimeout(report);
  }

  function report() {
    for (const kind of ["task", "link"]) {
      const { exists, get, pick } = kinds[kind];
      for (const id of touched[kind]) {
        const before = held[kind].get(id);
        const now = exists(id) ? pick(get(id)) : undefined;
        if (kind === "task") reportTask(id, before, now);
        else reportLink(before, now);
        if (now) held[kind].set(id, now);
        else if (before) remove(kind, id, before);
      }
      touched[kind].clear();
    }
    moved.clear();
    // What hung under a deleted task is gone without a word.
    for (const id of held.task.keys()) if (!gantt.isTaskExists(id)) held.task.delete(id);
    for (const id of held.link.keys()) if (!gantt.isLinkExists(id)) held.link.delete(id);
  }

  function reportTask(id, before, now) {
    if (!before && !now) return;
    if (!before) note("Other page", "added", now.text, gantt.isTaskExists(now.parent) ? `under “${nameOf(now.parent)}”` : "");
    else if (!now) note("Other page", "deleted", before.text);
    else if (before.text !== now.text) note("Other page", "renamed", before.text, `to “${now.text}”`);
    else if (before.parent !== now.parent) note("Other page", "moved", now.text, where(now));
    else if (before.start !== now.start) note("Other page", "moved", now.text, `to ${day(new Date(now.start))}`);
    else if (before.end !== now.end) note("Other page", "set the end of", now.text, `to ${day(new Date(now.end - 1))}`);
    else if (before.progress !== now.progress) note("Other page", "set the progress of", now.text, `to ${Math.round(now.progress * 100)} %`);
    else if (moved.has(id) && before.sortorder !== now.sortorder) note("Other page", "moved", now.text, "to another row");
    else return;
    if (now) flash(id);
  }

  const where = ({ parent }) => gantt.isTaskExists(parent) ? `under “${nameOf(parent)}”` : "to the top level";

  function reportLink(before, now) {
    // The links of a deleted task go with it.
    const { source, target } = now ?? before ?? {};
    if (!!before === !!now || !gantt.isTaskExists(source) || !gantt.isTaskExists(target)) return;
    note("Other page", now ? "linked" : "unlinked", nameOf(source), `${now ? "to" : "from"} “${nameOf(target)}”`);
  }

  // ---- What has just changed stands out for a moment ---------------------------------------------------------------

  const mark = (start, end, task) => flashing.has(String(task.id)) ? "just-changed" : "";
  gantt.templates.task_class = mark;
  gantt.templates.grid_row_class = mark;

  function flash(id) {
    flashing.add(id);
    refresh(id);
    setTimeout(() => {
      flashing.delete(id);
      refresh(id);
    }, FLASH);
  }

  function refresh(id) {
    if (gantt.isTaskExists(id) && String(gantt.getState().drag_id) !== id) gantt.refreshTask(id);
  }

  // ---- What this page has saved ------------------------------------------------------------------------------------

  function noteOwn(kind, action, id, newId) {
    const key = String(newId ?? id);
    const object = held[kind].get(key) ?? deleted.get(`${kind} ${key}`);
    if (action === "deleted") deleted.delete(`${kind} ${key}`);
    if (kind === "task") {
      note("You", action === "inserted" ? "added" : action === "deleted" ? "deleted" : "changed", object?.text);
    } else if (object && action !== "updated" && gantt.isTaskExists(object.source) && gantt.isTaskExists(object.target)) {
      const did = action === "inserted";
      note("You", did ? "linked" : "unlinked", nameOf(object.source), `${did ? "to" : "from"} “${nameOf(object.target)}”`);
    }
  }

  return { noteOwn };
}
