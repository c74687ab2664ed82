// What the stock Gantt page does with messages that the layer never sends, and with the forms that it sends instead.
//
//   node gantt_facts.mjs [--npm DIR]
//
// Each check is a fact that a rule of the layer rests on (docs/gantt.md), on a page that is loaded anew. A failure says that
// the client has changed: the rule may no longer be needed, or no longer be enough. The client is the one that the demo
// installs, or that in another folder of npm modules. The browser is /usr/bin/chromium, or $CHROMIUM.
// Exit status: 0 when every check passed, 1 when one failed, 2 when nothing could be checked.

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { client, FactsPage } from "./facts_page.mjs";
import { check, same } from "./report.mjs";
import { run } from "./run.mjs";

const MODULES = join(dirname(fileURLToPath(import.meta.url)), "../../examples/scheduler/node_modules");
const LONGEST_RUN = 300_000;
const DAY = "2025-04-07";
/** The client's own settings, but for the boxes. */
const DEFAULT = { show_errors: false };
const OVERFLOW = "Uncaught RangeError: Maximum call stack size exceeded";
const NO_DATE = "Uncaught Error: Invalid start_date argument for calculateEndDate method";

const task = (id, parent = 0, more = {}) => ({ id, text: `task ${id}`, start_date: DAY, duration: 2, parent, ...more });
const link = (id, source, target) => ({ id, source, target, type: "0" });
const add = (...of) => ({ type: "add-task", task: task(...of) });
const update = (...of) => ({ type: "update-task", task: task(...of) });
const remove = id => ({ type: "delete-task", task: { id } });
const addLink = (...of) => ({ type: "add-link", link: link(...of) });
const updateLink = (...of) => ({ type: "update-link", link: link(...of) });
const removeLink = id => ({ type: "delete-link", link: { id } });

const TREE = [task(1), task(2, 1), task(3, 2), task(4)];
const FLAT = [task(1), task(2)];

// ---- The facts -------------------------------------------------------------------------------------------------

async function addedTasks(fact) {
  await fact("a message is applied after 50 ms of silence, for which the other checks wait", {}, async page => {
    same([await page.receive(add(9)), await page.tree()], [[], "9"], "thrown, and the tree");
  });
  const noDays = { missing: undefined, null: null, "a number": 1_744_000_000_000, "an object": {} };
  for (const [name, start_date] of Object.entries(noDays)) {
    await fact(`an added task whose start_date is ${name} throws, and the next batch is lost`, { config: DEFAULT, tasks: FLAT }, async page => {
      await throws(page, added({ start_date }));
      same(await page.tree(), "1 2", "the tree");
      await losesTheNextBatch(page);
    });
    await fact(`an added task whose start_date is ${name} takes the rest of its batch with it`, { config: DEFAULT, tasks: FLAT }, async page => {
      await page.receive(update(1, 0, { text: "before" }), added({ start_date }), update(2, 0, { text: "after" }));
      same([(await page.task(1))[0], (await page.task(2))[0], await page.tree()], ["before", "task 2", "1 2"], "texts, and the tree");
    });
  }
  for (const name of ["a number", "an object"]) {
    await fact(`the same with date_format = "iso", if it is ${name}`, { tasks: FLAT }, async page => {
      same(await page.receive(added({ start_date: noDays[name] })), [OVERFLOW], "thrown");
      await losesTheNextBatch(page);
    });
  }
  for (const name of ["missing", "null"]) {
    await fact(`with date_format = "iso", a start_date that is ${name} becomes the first day of the chart`, { tasks: FLAT }, async page => {
      same(await page.receive(added({ start_date: noDays[name] })), [], "thrown");
      same(await page.task(9), ["task 9", 0, `${DAY} 00:00`, 2], "the task");
    });
  }
  await fact("an empty start_date becomes the year 1900", { config: DEFAULT, tasks: FLAT }, async page => {
    same(await page.receive(added({ start_date: "" })), [], "thrown");
    same(await page.task(9), ["task 9", 0, "1900-01-01 00:00", 2], "the task");
  });
}

async function dates(fact) {
  const unreadable = {
    "an added task with an ISO date": added({ start_date: "2025-04-10T09:30:00.000Z" }),
    "an added task whose start_date is no date": added({ start_date: "next week" }),
    "an update whose start_date is null": update(2, 0, { start_date: null }),
    "an update whose start_date is no date": update(2, 0, { start_date: "next week" }),
  };
  for (const [name, message] of Object.entries(unreadable)) {
    await fact(`${name} throws, and the page saves nothing until a later change applies`, { config: DEFAULT, tasks: TREE }, async page => {
      same(await page.receive(message), [NO_DATE], "thrown");
      await stopsSaving(page);
    });
  }
  for (const date_format of [undefined, "iso"]) {
    const where = date_format ? `with date_format = "${date_format}"` : "at the client's own settings";
    const config = date_format ? { ...DEFAULT, date_format } : DEFAULT;
    await fact(`${where}, an add with the bare day, and with it an update with ISO dates, give these`, { config, tasks: FLAT }, async page => {
      const rest = { start_date: "2025-04-10T09:30", end_date: "2025-04-12T09:30:00.000Z" };
      same(await page.receive(added({ start_date: "2025-04-10" }), update(9, 0, rest)), [], "thrown");
      same(await page.task(9), ["task 9", 0, "2025-04-10 09:30", 2], "the task");
    });
    await fact(`${where}, an unscheduled task with an empty start_date stops saving when it is updated`, { config, tasks: TREE }, async page => {
      same(await page.receive(update(2, 1, { unscheduled: true, start_date: "", duration: 1 })), [NO_DATE], "thrown");
      await stopsSaving(page);
    });
    await fact(`${where}, an unscheduled task added with a day and updated without has the chart's first`, { config, tasks: FLAT }, async page => {
      const unscheduled = { id: 9, text: "task 9", parent: 0, unscheduled: true };
      const messages = [{ type: "add-task", task: { ...unscheduled, start_date: "2025-04-10" } }, { type: "update-task", task: unscheduled }];
      same(await page.receive(...messages), [], "thrown");
      same(await page.task(9), ["task 9", 0, `${DAY} 00:00`, 1], "the task");
      await saves(page, 1);
    });
  }
}

async function updates(fact) {
  const tasks = [task(1), task(2, 1, { start_date: "2025-04-10", duration: 3 })];
  await fact("an update of the text alone moves a task to the root and to the first day of the chart, for one day", { tasks }, async page => {
    await page.receive({ type: "update-task", task: { id: 2, text: "new" } });
    same(await page.tree(), "1 2", "the tree");
    same((await page.task(2)).slice(2), [`${DAY} 00:00`, 1], "its dates");
  });
  await fact("an update of an unknown task opens an error box, which stays", { config: { date_format: "iso" }, tasks }, async page => {
    await page.receive(update(9));
    same([await page.errorBoxes(), await page.tree()], [1, "1(2)"], "boxes, and the tree");
    await page.receive(update(1, 0, { text: "new" }));
    same([await page.errorBoxes(), (await page.task(1))[0]], [1, "new"], "boxes after the next message, and its text");
  });
  await fact("with show_errors = false, it does nothing", { tasks }, async page => {
    await page.receive(update(9));
    await appliesAndSaves(page);
    same([await page.errorBoxes(), await page.tree()], [0, "1(2)"], "boxes, and the tree");
  });
}

async function parents(fact) {
  await fact("a task that is put below its own child stops the page", { tasks: TREE }, async page => {
    same([await page.survives(update(4, 1)), await page.survives(update(1, 3))], [true, false], "another move, and that one, come back");
  });
  await fact("a task that is put below itself overflows the stack, and with it goes its branch", { tasks: TREE }, async page => {
    same(await page.receive(update(1, 1)), [OVERFLOW], "thrown");
    same((await page.receive(update(4))).length, 1, "thrown at the next message");
    same([await page.tree(), await page.lost()], ["4", ["1", "2", "3"]], "the tree, and what is lost");
  });
  await fact("an update below an unknown parent loses the task and its children; these stay lost when it comes", { tasks: TREE }, async page => {
    await page.receive(update(2, 9));
    same([await page.tree(), await page.lost()], ["1 4", ["2", "3"]], "the tree, and what is lost");
    await page.receive(add(9));
    same([await page.tree(), await page.lost()], ["1 4 9(2)", ["3"]], "the tree with the parent, and what is lost");
    await page.receive(update(3, 2));
    same(await page.lost(), ["3"], "lost after an update of the child");
  });
  await fact("an added task below an unknown parent goes to the root, also when the parent comes", { tasks: FLAT }, async page => {
    await page.receive(add(8, 9));
    await page.receive(add(9));
    same([await page.tree(), (await page.task(8))[1]], ["1 2 8 9", 0], "the tree, and the parent");
  });
  const there = { $rendered_parent: "" };
  await fact("an update with an empty $rendered_parent puts a lost task back, in a batch or alone", { tasks: TREE }, async page => {
    for (const batch of [[update(3, 2, there)], [update(2, 1, there), update(3, 2, there)]]) {
      await page.receive(update(2, 9));
      await page.receive(update(2, 1));
      same([await page.tree(), await page.lost()], ["1(2) 4", ["3"]], "the tree, and what is lost");
      same(await page.receive(...batch), [], "thrown");
      same([await page.tree(), await page.lost()], ["1(2(3)) 4", []], "the tree, and what is lost");
    }
  });
  await fact("and does nothing to a task that is where it belongs", { tasks: TREE }, async page => {
    for (const batch of [[update(2, 1, there)], [update(1, 0, there), update(2, 1, there), update(3, 2, there)]]) {
      same([await page.receive(...batch), await page.tree()], [[], "1(2(3)) 4"], "thrown, and the tree");
    }
    await saves(page, 2);
    same(Object.keys(page.saves[0].body).filter(key => ["target", "$rendered_parent"].includes(key)), [], "sent with it");
  });
  const incomplete = { tasks: [task(1), task(2, 9), task(3, 2)], links: [link(1, 1, 9), link(2, 1, 2)] };
  await fact("unknown parents and ends in the list do no harm", incomplete, async page => {
    same([await page.tree(), await page.lost()], ["1", ["2", "3"]], "the tree, and what is lost");
    await appliesAndSaves(page);
  });
}

async function places(fact) {
  await fact("a task that has received another parent is sent with a target that nobody asked for", { tasks: TREE }, async page => {
    await page.receive(update(3, 1));
    await saves(page, 3);
    same(page.saves[0].body.target, "next:2", "target");
  });
  await fact("a target that was received is sent again", { tasks: TREE }, async page => {
    await page.receive(update(3, 2, { target: "next:null" }));
    await saves(page, 3);
    same(page.saves[0].body.target, "next:null", "target");
  });
  await fact("after an empty target and $drop_target, an empty one is sent", { tasks: TREE }, async page => {
    await page.receive(update(3, 2, { target: "next:null" }));
    await page.receive(update(3, 1, { target: "", $drop_target: "" }));
    await saves(page, 3);
    same([await page.tree(), page.saves[0].body.target], ["1(2 3) 4", ""], "the tree, and the target");
  });
}

async function forgottenLinks(fact) {
  const loaded = { tasks: TREE, links: [link(1, 1, 4), link(2, 4, 3)] };
  await fact("a page that deletes a task sends a DELETE for each of its links", loaded, async page => {
    await page.removeTask(4);
    await page.rename(1);
    same(await page.sent(4), ["DELETE /data/link/1", "DELETE /data/link/2", "DELETE /data/task/4", "PUT /data/task/1"], "sent");
  });
  await fact("after an update of that task it sends none of these, and keeps the links", loaded, async page => {
    await page.receive(update(4));
    await page.removeTask(4);
    await page.rename(1);
    same(await page.sent(2), ["DELETE /data/task/4", "PUT /data/task/1"], "sent");
    same(await page.links(), ["1: 1 > 4", "2: 4 > 3"], "links");
  });
}

async function doubles(fact) {
  const loaded = { tasks: TREE };
  await fact("a page that receives its own new link before the answer holds it twice", loaded, async page => {
    await doubleLink(page);
  });
  await fact("when another page deletes that, each later change throws, and the page saves nothing any more", loaded, async page => {
    await doubleLink(page);
    await throws(page, removeLink(7));
    for (const text of ["a", "b", "c"]) await throws(page, update(1, 0, { text }));
    await page.rename(1);
    await page.page.evaluate(() => void fetch("/data/last"));
    same(await page.sent(1), ["GET /data/last"], "sent");
  });
  await fact("when it deletes that itself, it throws and sends no DELETE, and each later batch throws", loaded, async page => {
    await doubleLink(page);
    same(await page.removeLink(7).then(() => "deleted", () => "threw"), "threw", "the deletion");
    await saves(page, 2);
    for (const text of ["a", "b"]) same((await page.receive(update(1, 0, { text }), update(3, 2))).length, 1, "thrown by a batch");
  });
  await fact("delete-link and add-link in one batch leave it once", loaded, async page => {
    await doubleLink(page);
    same(await page.receive(removeLink(7), addLink(7, 1, 4)), [], "thrown");
    same(await page.drawnLinks(), [7], "links");
    await page.removeLink(7);
    same(await page.sent(1), ["DELETE /data/link/7"], "sent");
    await appliesAndSaves(page);
  });
  await fact("delete-link, add-link with the id alone and delete-link leave none of it", loaded, async page => {
    await doubleLink(page);
    same(await page.receive(...GONE), [], "thrown");
    same([await page.drawnLinks(), await page.links()], [[], []], "links");
    await appliesAndSaves(page);
  });
  await fact("neither does anything else to a page that holds the link once, or not at all", { ...loaded, links: [link(7, 1, 4)] }, async page => {
    same(await page.receive(removeLink(7), addLink(7, 1, 4)), [], "thrown");
    same(await page.drawnLinks(), [7], "links");
    for (const links of [[], []]) same([await page.receive(...GONE), await page.links()], [[], links], "thrown, and links");
    await appliesAndSaves(page);
  });
  const busy = { tasks: FLAT, links: [link(5, 1, 2)] };
  await fact("a page that receives its own new task while a change of a link is saved holds it twice, until it goes", busy, async page => {
    await page.addTask();
    await page.changeLink(5);
    await page.sent(2);
    await page.receive(add(9));
    await holdsTaskTwice(page);
  });
  await fact("the same while a new link is saved, whose answer comes first", busy, async page => {
    await page.addTask();
    await page.addLink(2, 1);
    await page.sent(2);
    await page.receive(add(9));
    await page.answer("POST /data/link", { action: "inserted", tid: 6 });
    await holdsTaskTwice(page);
  });
}

async function heldBack(fact) {
  const loaded = { tasks: FLAT, links: [link(2, 1, 2)] };
  await fact("while a new task is saved, added tasks are held back; what comes of these meanwhile is dropped", loaded, async page => {
    await page.addTask();
    await page.sent(1);
    await page.receive(add(8));
    await page.receive(add(9));
    await page.receive(update(8, 0, { text: "newer" }));
    await page.receive(remove(9));
    await page.answer("POST /data/task", { action: "inserted", tid: 7 });
    same([await page.tree(), (await page.task(8))[0]], ["1 2 7 8 9", "task 8"], "the tree, and the text");
  });
  await fact("a new link that is saved holds added tasks back, too", loaded, async page => {
    await page.addLink(2, 1);
    await page.sent(1);
    await page.receive(add(9));
    same(await page.tree(), "1 2", "the tree");
    await page.answer("POST /data/link", { action: "inserted", tid: 7 });
    same(await page.tree(), "1 2 9", "the tree after the answer");
  });
  await fact("while link 2 is saved, what comes of task 2 is dropped", loaded, async page => {
    await page.changeLink(2);
    await page.sent(1);
    await page.receive(update(2, 0, { text: "newer" }));
    await page.receive(remove(2));
    await page.receive(update(1, 0, { text: "newer" }));
    same([(await page.task(1))[0], (await page.task(2))[0]], ["newer", "task 2"], "texts");
  });
}

async function deletedElsewhere(fact) {
  await fact("a change that waits for an answer is sent of a task that has gone with its parent, as the task was", { tasks: TREE }, async page => {
    await page.rename(2);
    await page.sent(1);
    await page.moveTask(2, 4);
    await page.receive(remove(4));
    same(await page.tree(), "1", "the tree");
    await page.answer("PUT /data/task/2", { action: "updated" });
    same(await page.sent(1), ["PUT /data/task/2"], "sent");
    const { text, parent } = page.saves[0].body;
    same([text, parent], ["own", 4], "its text and parent");
  });
}

async function lostEnds(fact) {
  const loaded = { tasks: TREE, links: [link(7, 1, 2)] };
  await fact("the update of a link to an end that is gone throws, and the page saves nothing until a later change applies", loaded, async page => {
    await page.receive(remove(4));
    await throws(page, updateLink(7, 1, 4));
    await page.rename(1);
    await page.receive(update(2, 1, { text: "later" }));
    await saves(page, 2);
  });
  await fact("an added link to such an end dangles, and goes when it is sent afresh as a deletion", { tasks: FLAT }, async page => {
    same([await page.receive(addLink(7, 1, 9)), await page.links()], [[], ["7: 1 > 9"]], "thrown, and links");
    same([await page.receive(...GONE), await page.links()], [[], []], "thrown, and links");
    await appliesAndSaves(page);
  });
}

async function harmless(fact) {
  await fact("an added link without ends is held, and not drawn", { tasks: FLAT }, async page => {
    same(await page.receive({ type: "add-link", link: { id: 7 } }), [], "thrown");
    same([await page.links(), await page.drawnLinks()], [["7: undefined > undefined"], []], "links, and those drawn");
    await appliesAndSaves(page);
  });
  await fact("a task with an object as id is called [object Object]", { tasks: FLAT }, async page => {
    same([await page.receive(add({})), await page.tree()], [[], "1 2 [object Object]"], "thrown, and the tree");
    await appliesAndSaves(page);
  });
  await fact("the deletion of the task in the open form does no harm", { tasks: TREE }, async page => {
    await page.openForm(4);
    same([await page.receive(remove(4)), await page.tree()], [[], "1(2(3))"], "thrown, and the tree");
    await page.page.locator(".gantt_save_btn_set").click();
    await appliesAndSaves(page);
    same(await page.tree(), "1(2(3))", "the tree after its user has pressed Save");
  });
  const withBoxes = { config: { date_format: "iso" }, tasks: TREE };
  await fact("deletions of what the page does not hold do no harm, alone or in a batch", withBoxes, async page => {
    for (const batch of [[remove(9)], [removeLink(9)], [remove(9), removeLink(9)]]) same(await page.receive(...batch), [], "thrown");
    await appliesAndSaves(page);
    same([await page.tree(), await page.errorBoxes()], ["1(2(3)) 4", 0], "the tree, and boxes");
  });
}

// ---- What they have in common ----------------------------------------------------------------------------------

/** The deletion of link 7, as it is sent. */
const GONE = [removeLink(7), { type: "add-link", link: { id: 7 } }, removeLink(7)];

function added(more) {
  return add(9, 0, more);
}

async function throws(page, message) {
  same((await page.receive(message)).length, 1, "thrown");
}

async function losesTheNextBatch(page) {
  await page.receive(update(2, 0, { text: "next" }));
  same((await page.task(2))[0], "task 2", "the text after the next batch");
  await page.receive(update(2, 0, { text: "later" }));
  same((await page.task(2))[0], "later", "the text after the one that follows");
}

/** What is renamed now is not sent, and what is renamed after the page has applied something is. */
async function stopsSaving(page) {
  await page.rename(1);
  await page.receive(update(4, 0, { text: "next" }));
  await page.receive(update(4, 0, { text: "later" }));
  same((await page.task(4))[0], "later", "a later change");
  await saves(page, 4);
}

/** The page saves a task, and nothing else. */
async function saves(page, id) {
  await page.rename(id);
  same(await page.sent(1), [`PUT /data/task/${id}`], "sent");
}

async function appliesAndSaves(page) {
  const before = page.saves.length;
  same(await page.receive(update(1, 0, { text: "later" })), [], "thrown by a later change");
  same((await page.task(1))[0], "later", "the text after a later change");
  await page.rename(1);
  same((await page.sent(before + 1)).slice(before), ["PUT /data/task/1"], "sent");
}

/** The page receives its new link 7 before it is saved. */
async function doubleLink(page) {
  await page.addLink(1, 4);
  await page.sent(1);
  await page.receive(addLink(7, 1, 4));
  await page.answer("POST /data/link", { action: "inserted", tid: 7 });
  same(await page.drawnLinks(), [7, 7], "links");
}

/** The answer to its new task arrives, which it has received as task 9. */
async function holdsTaskTwice(page) {
  await page.answer("POST /data/task", { action: "inserted", tid: 9 });
  same(await page.tree(), "1 2 9 9", "the tree");
  same([await page.receive(remove(9)), await page.tree()], [[], "1 2"], "thrown at its deletion, and the tree");
  same(await page.receive(update(2)), [], "thrown by a later change");
}

// ---- The run ---------------------------------------------------------------------------------------------------

const PARTS = {
  "Added tasks without a day": addedTasks, "Dates": dates, "Updates that are not whole": updates, "Parents": parents,
  "Places": places, "Links of a task": forgottenLinks, "A page's own additions": doubles, "While the page saves": heldBack,
  "What was deleted elsewhere": deletedElsewhere, "Links without an end": lostEnds, "Harmless": harmless,
};

async function facts(browser, folder) {
  let page;
  const fact = async (name, loaded, job) => {
    page ??= await FactsPage.open(browser, folder);
    // Each stands for itself: that one has failed is no reason to leave out the others.
    await check(name, async () => {
      await page.load(loaded);
      await job(page);
    }).catch(() => {});
    if (page.hasStopped) {
      await page.close();
      page = null;
    }
  };
  for (const [name, job] of Object.entries(PARTS)) {
    console.log(`\n${name}`);
    await job(fact);
  }
}

process.exitCode = await run(() => {
  const { values } = parseArgs({ options: { npm: { type: "string", default: MODULES } } });
  return client(values.npm);
}, facts, LONGEST_RUN);
