//! Tests of what a page owns that has stopped reading: little, however large the objects are.

use std::{collections::HashSet, convert::Infallible, ops::Range, sync::Mutex, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    tests::{ann, times},
    *,
};
use crate::entity::{Entity, View};

const EVENTS: EntityIndex = EntityIndex(0);
const MEGABYTE: usize = 1_000_000;
/// No page may own more.
const BOUND: usize = 256 * 1000;

/// A sink whose page reads nothing: it holds what it has taken.
struct Stopped {
    /// A TCP stream takes a frame and no more; any other takes all it is offered.
    direct: bool,
    held: Mutex<Vec<Cleared>>,
}

impl FrameSink for Stopped {
    fn try_send(&self, frames: &[&Cleared]) -> Accepted {
        let mut held = lock(&self.held);
        let room = if self.direct { 1_usize.saturating_sub(held.len()) } else { frames.len() };
        let taken = frames.len().min(room);
        held.extend(frames[..taken].iter().map(|&frame| frame.clone()));
        Accepted { frames: taken, clear: false }
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn wake(&self) {}
}

fn hub(view: Option<View>, is_scoped: bool) -> Arc<Hub> {
    let encoder = EntityEncoder { view, is_scoped, ..EntityEncoder::new("events", "event") };
    let hour = Duration::from_secs(3600);
    let bytes = 32 * 1024 * 1024;
    let log = LogLimits {
        records: 50_000,
        bytes,
        age: hour,
        tombstones: 1000,
        tombstone_age: hour,
        object_bytes: usize::MAX,
    };
    let sessions = SessionLimits { sessions: 1000, age: hour };
    Arc::new(Hub::new(Delivery::Converging, vec![encoder], log, times(), sessions, false))
}

fn object(id: usize, length: usize) -> Value {
    json!({ "id": id.to_string(), "text": "x".repeat(length) })
}

fn publish(hub: &Hub, count: usize, length: usize, scope: &str) {
    for id in 0..count {
        hub.publish(EVENTS, &[Change::add(&object(id, length)).unwrap().scope(scope)], None);
    }
}

/// A page that comes back, having missed everything, and reads nothing.
async fn stopped(hub: &Arc<Hub>, direct: bool, identity: Identity) -> Arc<Stopped> {
    let sink = Arc::new(Stopped { direct, held: Mutex::default() });
    let origin = ResumeFrom::Page { session: None, missed_from: Some(Sequence(0)) };
    let subscriber = hub.join(sink.clone(), identity, origin);
    subscriber.subscribe(EVENTS, Instant::now());
    loop {
        match subscriber.catch_up(Instant::now()) {
            Progress::More => {}
            Progress::NeedsCheck(check) => {
                check.run(Duration::from_secs(60), |entity, why| panic!("{entity}: {why}")).await;
                return sink;
            }
            progress => {
                assert!(matches!(progress, Progress::Blocked), "{progress:?}");
                return sink;
            }
        }
    }
}

/// The bytes of the held frames that are not in the log.
fn own_bytes(hub: &Hub, sink: &Stopped) -> usize {
    let log = lock(&hub.core.log);
    let records: Vec<Range<*const u8>> =
        log.since(Sequence(0)).map(|(_, record)| record.frame.as_ptr_range()).collect();
    let is_shared = |piece: &Bytes| records.iter().any(|record| record.contains(&piece.as_ptr()));
    lock(&sink.held).iter().map(|frame| frame.own_bytes(is_shared)).sum()
}

async fn assert_bounded(hub: &Arc<Hub>, case: &str, identity: Identity, expected: usize) {
    for direct in [true, false] {
        let first = stopped(hub, direct, identity.clone()).await;
        let sent: usize = lock(&first.held).iter().map(|frame| frame.len()).sum();
        assert!(sent > 2000, "{case}: something is sent");
        let own = own_bytes(hub, &first);
        assert!(own <= expected.min(BOUND), "{case}, {direct}: {own}");
    }
}

#[tokio::test]
async fn a_stopped_page_shares_large_objects_with_the_log() {
    let unscoped = hub(None, false);
    publish(&unscoped, 29, MEGABYTE, "");
    let size = lock(&unscoped.core.log).size();
    assert!(size.0 == 29 && size.1 > 32 * 1024 * 1024 / 4 * 3, "there is no room to keep copies: {size:?}");
    assert_bounded(&unscoped, "upserts", ann(), 2000).await;
    assert_eq!(lock(&unscoped.core.log).size(), size, "and none is kept");

    let scoped = hub(None, true);
    publish(&scoped, 10, MEGABYTE, "a");
    publish(&scoped, 10, MEGABYTE, "b");
    assert_bounded(&scoped, "moved to it", ann().with_scope("b"), 2000).await;
}

#[tokio::test]
async fn a_stopped_page_shares_what_a_hook_lets_it_see_as_it_is() {
    let entity = Entity::new("events").visible((), async |(), _: Identity, _: Value| Ok::<_, Infallible>(true));
    let asked = hub(View::of(entity.visible.as_ref(), None), false);
    publish(&asked, 4, MEGABYTE, "");
    assert_bounded(&asked, "visible", ann(), 2000).await;
}

#[tokio::test]
async fn what_is_copied_for_a_stopped_page_is_bounded() {
    let unscoped = hub(None, false);
    // Of these each has a copy of its own, an add and an update.
    publish(&unscoped, 7800, 3800, "");
    assert_bounded(&unscoped, "small objects", ann(), BOUND).await;

    // A projected object is a copy of the page's own, however large; but the page holds one at a time.
    let entity = Entity::new("events").project((), async |(), _: Identity, mut event: Value| {
        event["text"] = "y".repeat(MEGABYTE).into();
        Ok::<_, Infallible>(event)
    });
    let projected = hub(View::of(None, entity.project.as_ref()), false);
    publish(&projected, 100, 10, "");
    for direct in [true, false] {
        let page = stopped(&projected, direct, ann()).await;
        let held = lock(&page.held);
        let large = held.iter().flat_map(|frame| frame.pieces()).filter(|piece| piece.len() > 1000);
        let copies: HashSet<*const u8> = large.map(|piece| piece.as_ptr()).collect();
        assert_eq!(copies.len(), 1, "{direct}");
    }
}
