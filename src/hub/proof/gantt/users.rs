//! What users of Gantt pages do.

use serde_json::json;

use super::{
    super::dice::Dice,
    page::{Id, Map, Page, ROOT},
};

/// Which kinds of changes users make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    Editors,
    Reorder,
    Cascade,
    /// They make tasks with children and links.
    Builders,
}

pub(super) fn new_task(dice: &mut Dice, number: u64) -> Map {
    let task = json!({
        "text": format!("task {number}"),
        "start_date": format!("2025-04-{:02} 00:00", 7 + dice.below(12)),
        "duration": 1 + dice.below(4),
    });
    task.as_object().cloned().unwrap_or_default()
}

/// A user does something; returns what.
pub(super) fn act(dice: &mut Dice, habit: Habit, page: &mut Page, number: u64) -> Option<String> {
    let tree = page.tree();
    let mut ids = tree.clone();
    ids.sort_unstable();
    ids.dedup();
    // Most of what people do is done to the same few tasks.
    let hot = if dice.one_in(3) { ids.len() } else { ids.len().min(4) };
    let chosen = (!ids.is_empty()).then(|| ids[dice.below(hot)]);
    let any = (!ids.is_empty()).then(|| ids[dice.below(ids.len())]);
    let mut fields = new_task(dice, number);
    // create, rename, drag, link, unlink, delete
    let shares = match habit {
        Habit::Editors => [14, 46, 12, 10, 6, 12],
        Habit::Reorder => [10, 15, 70, 2, 1, 2],
        Habit::Cascade => [20, 20, 15, 15, 5, 25],
        Habit::Builders => [40, 15, 15, 20, 5, 5],
    };
    let mut roll = dice.below(100);
    let what = shares.iter().position(|share| {
        let is_it = roll < *share;
        roll = roll.wrapping_sub(*share);
        is_it
    });
    Some(match (what.unwrap_or(1), chosen, any) {
        (0, _, parent) => {
            let parent = parent.filter(|_| dice.below(10) < 6).unwrap_or(ROOT);
            format!("makes {} below {parent}", page.create(parent, fields))
        }
        (2, Some(id), Some(other)) => {
            let parent = match dice.below(20) {
                0..6 => ROOT,
                6..10 => page.parent(id)?,
                _ => other,
            };
            if is_below(page, parent, id) {
                return None;
            }
            let index = dice.below(5);
            page.drag(id, index, parent);
            format!("drags {id} to place {index} of {parent}")
        }
        (3, Some(source), Some(target)) if source != target => {
            format!("links {source} to {target} as {}", page.link(source, target))
        }
        (4, ..) => {
            let links: Vec<Id> = page.links().map(|(id, ..)| id).collect();
            let link = *links.get(dice.below(links.len()))?;
            page.unlink(link);
            format!("removes link {link}")
        }
        (5, Some(id), _) if tree.len() > 5 => {
            page.delete(id);
            format!("deletes {id}")
        }
        (_, Some(id), _) => {
            if dice.one_in(3) {
                fields.retain(|key, _| key == "text");
            }
            page.change(id, fields);
            format!("changes {id} to task {number}")
        }
        _ => return None,
    })
}

fn is_below(page: &Page, id: Id, above: Id) -> bool {
    let mut at = id;
    for _ in 0..100 {
        if at == above {
            return true;
        }
        match page.parent(at) {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    true
}
