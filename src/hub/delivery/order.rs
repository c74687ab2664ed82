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
        steps.extend(steps_of(core, log, entity, &here, from));
    }
    Some((first, steps))
}

/// The steps of siblings of the same scopes, in ascending order.
fn steps_of<'l>(
    core: &Core,
    log: &Log,
    entity: EntityIndex,
    siblings: &[&Sibling<'l>],
    from: Sequence,
) -> Vec<Step<'l>> {
    let encoder = core.encoder(entity);
    let aside = |sibling: &Sibling<'l>, parent: &str| {
        (sibling.at, sibling.record, encoder.encode_aside(sibling.place, parent).into())
    };
    let back = |sibling: &Sibling<'l>| {
        (sibling.at, sibling.record, encoder.encode_shared(ChangeKind::Update, &sibling.change.object))
    };
    let all_below = |parent: &str| {
        let asides = siblings.iter().map(|sibling| aside(sibling, parent));
        asides.chain(siblings.iter().map(|sibling| back(sibling))).collect()
    };
    let Some((last, others)) = siblings.split_last() else { return Vec::new() };
    if !is_at_root(last.change) {
        return all_below(ROOT);
    }
    if let Some(other) = unchanged_at_root(core, log, entity, last, from) {
        return all_below(&other);
    }
    // The others stand below one of them, which then goes to its place with the help of the last.
    let Some(first) = others.iter().min_by_key(|sibling| sibling.at) else { return Vec::new() };
    let (below_first, below_last) = (quoted(&first.change.id), quoted(&last.change.id));
    let asides = siblings.iter().filter(|sibling| sibling.at != first.at).map(|sibling| aside(sibling, &below_first));
    let mut steps: Vec<Step<'l>> = asides.collect();
    steps.extend([back(last), aside(first, &below_last)]);
    steps.extend(others.iter().map(|sibling| back(sibling)));
    steps.extend([aside(last, &below_first), back(last)]);
    steps
}

/// The id of a task at the root that has not changed from a sequence number on, and that every page has, as JSON text.
fn unchanged_at_root(core: &Core, log: &Log, entity: EntityIndex, of: &Sibling<'_>, from: Sequence) -> Option<String> {
    let mut settles = lock(&core.settles);
    let held = &mut settles.of_mut(entity).held;
    other_at_root(core, log, entity, held, of.change, &of.record.scopes, from)
}

/// Two tasks at the root among the rows of a snapshot, below which others stand aside, and each of them below the other. Nothing
/// newer is known of them, and they have not changed for the longest time.
pub(super) fn steady_roots<'s>(
    resolver: Resolver<'_>,
    entity: EntityIndex,
    snapshot: &'s SnapshotFrames,
) -> Option<[(&'s Row, &'s PlacedRow); 2]> {
    let Resolver { log, .. } = resolver;
    let is_current = |row: &&Row| !row.is_outdated(log, entity, snapshot.at) && !resolver.is_held(entity, row);
    let placed = |row: &'s Row| Some((row, row.place.as_deref().filter(|place| place.is_at_root)?));
    let mut roots: Vec<_> = snapshot.rows.iter().filter(is_current).filter_map(placed).take(MAX_SIBLINGS).collect();
    let changed_at = |row: &Row| row.keys.iter().filter_map(|key| log.newest(entity, key)).map(|(at, _)| at).max();
    roots.sort_by_cached_key(|(row, _)| changed_at(row));
    roots.first_chunk().copied()
}

/// The steps behind a row, which bring its task behind those before it.
pub(super) fn steps_of_row(
    encoder: &EntityEncoder,
    row: &PlacedRow,
    steady_roots: Option<&[(&Row, &PlacedRow); 2]>,
) -> Vec<Frame> {
    let steps = |below: &str| vec![encoder.encode_aside(&row.place, below).into(), row.back.clone()];
    match steady_roots {
        _ if !row.is_at_root => steps(ROOT),
        Some([(_, first), (_, second)]) => steps(if row.id == first.id { &second.id } else { &first.id }),
        None => Vec::new(),
    }
}
