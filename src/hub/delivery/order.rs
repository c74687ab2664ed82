//! Siblings that are resent, and brought to their places.
//!
//! A page may have missed any of their moves. So all of them step aside, which leaves the others in their order, and come
//! back in ascending order, each at its place.

use std::{collections::HashSet, sync::Arc};

use crate::{
    change::ChangeKind,
    entity::{EntityIndex, Place, ROOT},
    frame::Frame,
    hub::{
        append::{is_at_root, is_broadcast, other_at_root},
        core::Core,
        encoder::EntityEncoder,
        log::{Log, ObjectChange, Record},
        snapshot::{PlacedRow, Row, SnapshotFrames},
        visibility::Resolver,
    },
    lock::lock,
    object::quoted,
    scope::Scopes,
    sequence::Sequence,
};

/// Siblings that are brought to their places together. What is beyond keeps the order that pages show.
const MAX_SIBLINGS: usize = 512;

/// One step of a task, by the record of it.
pub(super) type Step<'l> = (Sequence, &'l Record, Frame);

struct Sibling<'l> {
    at: Sequence,
    record: &'l Record,
    change: &'l ObjectChange,
    place: &'l Place,
}

/// The first record of the siblings of an object, itself included, that changed from a sequence number on; and the steps of all
/// of them.
pub(super) fn steps<'l>(
    core: &Core,
    log: &'l Log,
    entity: EntityIndex,
    of: &ObjectChange,
    from: Sequence,
) -> Option<(Sequence, Vec<Step<'l>>)> {
    let parent = of.parents.first().filter(|_| of.place.is_some())?;
    let sibling = |key: &Arc<str>| {
        let (at, record, change) = log.newest_record(entity, key)?;
        let is_resent = at >= from && log.is_newest(entity, key, at) && record.shows_object() && is_broadcast(record);
        let place = change.place.as_deref().filter(|_| is_resent)?;
        Some(Sibling { at, record, change, place })
    };
    let mut siblings: Vec<Sibling<'l>> =
        log.children_of(entity, parent).filter_map(sibling).take(MAX_SIBLINGS + 1).collect();
    let first = siblings.iter().map(|sibling| sibling.at).min()?;
    if siblings.len() > MAX_SIBLINGS {
        return None;
    }
    siblings.sort_by(|one, other| (one.place.index, &one.change.key).cmp(&(other.place.index, &other.change.key)));
    let mut steps = Vec::new();
    let scopes: HashSet<&Scopes> = siblings.iter().map(|sibling| &sibling.record.scopes).collect();
    for scopes in scopes {
        let here: Vec<&Sibling<'l>> = siblings.iter().filter(|sibling| sibling.record.scopes == *scopes).collect();
        steps.extend(steps_of(core, log, entity, &here));
    }
    Some((first, steps))
}

/// The steps of siblings of the same scopes, in ascending order.
fn steps_of<'l>(core: &Core, log: &Log, entity: EntityIndex, siblings: &[&Sibling<'l>]) -> Vec<Step<'l>> {
    let encoder = core.encoder(entity);
    let aside = |sibling: &Sibling<'l>, parent: &str| {
        (sibling.at, sibling.record, encoder.encode_aside(sibling.place, parent).into())
    };
    let back = |sibling: &Sibling<'l>| {
        (sibling.at, sibling.record, encoder.encode_shared(ChangeKind::Update, &sibling.change.object))
    };
    let id = |sibling: &Sibling<'l>| quoted(&sibling.change.id);
    match siblings {
        [] => Vec::new(),
        [first, ..] if !is_at_root(first.change) => {
            let asides = siblings.iter().map(|sibling| aside(sibling, ROOT));
            asides.chain(siblings.iter().map(|sibling| back(sibling))).collect()
        }
        [only] => {
            let mut settles = lock(&core.settles);
            let held = &mut settles.of_mut(entity).held;
            let below = other_at_root(core, log, entity, held, only.change, &only.record.scopes);
            below.map_or_else(Vec::new, |below| vec![aside(only, &below), back(only)])
        }
        // All stand below the first one, which then goes to its place with the help of the second one.
        [first, second, others @ ..] => {
            let below_first = id(first);
            let mut steps = vec![aside(second, &below_first)];
            steps.extend(others.iter().map(|sibling| aside(sibling, &below_first)));
            steps.extend([back(second), aside(first, &id(second)), back(first), aside(second, &below_first)]);
            steps.extend([*second].into_iter().chain(others.iter().copied()).map(back));
            steps
        }
    }
}

/// The first two tasks at the root among the rows of a snapshot, as far as nothing newer is known of them: others stand aside below
/// the first one, and the first one below the second.
pub(super) fn first_roots(
    resolver: Resolver<'_>,
    entity: EntityIndex,
    snapshot: &SnapshotFrames,
) -> Vec<Arc<PlacedRow>> {
    let is_current = |row: &&Row| !row.is_outdated(resolver.log, entity, snapshot.at) && !resolver.is_held(entity, row);
    let is_root = |row: &&Row| row.place.as_ref().is_some_and(|place| place.is_at_root);
    snapshot.rows.iter().filter(is_root).filter(is_current).take(2).filter_map(|row| row.place.clone()).collect()
}

/// The steps behind a row, which bring its task behind those before it.
pub(super) fn steps_of_row(encoder: &EntityEncoder, row: &PlacedRow, first_roots: &[Arc<PlacedRow>]) -> Vec<Frame> {
    let steps = |row: &PlacedRow, below: &str| [encoder.encode_aside(&row.place, below).into(), row.back.clone()];
    match first_roots {
        _ if !row.is_at_root => steps(row, ROOT).into(),
        [first, ..] if first.id == row.id => Vec::new(),
        // Now the page has another one, below which the first can stand; and then this one goes behind it.
        [first, second] if second.id == row.id => [steps(first, &row.id), steps(row, &first.id)].concat(),
        [first, ..] => steps(row, &first.id).into(),
        [] => Vec::new(),
    }
}
