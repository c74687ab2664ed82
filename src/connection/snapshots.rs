//! Snapshots for pages whose changes have left the log: one run of the hook is shared by many pages.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::yield_now,
    time::{Instant, sleep},
};

use crate::{
    auth::Identity,
    entity::{EntityIndex, ReadAll},
    hook::{RETRY_AFTER, guarded},
    hub::SnapshotFrames,
    lock::lock,
    publish::Publisher,
    scope::Scopes,
    sequence::Sequence,
};

/// A snapshot is shared for this long.
const SHARED_FOR: Duration = Duration::from_secs(2);
/// Snapshot hooks that run at one time.
const MAX_CONCURRENT: usize = 4;
/// Reads that a page joins, one after the other, where their runtimes end before they are done.
const MAX_ATTEMPTS: usize = 3;

/// `None` where the runtime of the read ended before it was done; `Some(None)` where the hook failed.
type ReadResult = Shared<BoxFuture<'static, Option<Option<Arc<SnapshotFrames>>>>>;
/// With the principal, but for who is here, which the scopes alone decide.
type Key = (EntityIndex, Option<Box<str>>, Scopes);
type Reads = Arc<Mutex<HashMap<Key, Read>>>;

/// Runs the entities' snapshot hooks, in tasks of their own: a page that leaves, or reads slowly, holds none up.
#[derive(Clone)]
pub(crate) struct Snapshots {
    publisher: Publisher,
    hook_timeout: Duration,
    permits: Arc<Semaphore>,
    reads: Reads,
}

/// One read of the rows that an identity may see.
struct Read {
    started: Instant,
    /// The end of the log then: the snapshot is no older.
    log_end: Sequence,
    result: ReadResult,
    /// Also distinguishes this read from a later one of the same key.
    is_done: Arc<AtomicBool>,
}

impl Read {
    /// Whether other pages may share it still.
    fn is_fresh(&self, now: Instant) -> bool {
        !self.is_done.load(Ordering::Acquire) || now < self.started + SHARED_FOR
    }
}

/// Removes a read from the table when its task ends, however it ends. So the table needs no search for old entries.
struct Entry {
    reads: Reads,
    key: Key,
    is_done: Arc<AtomicBool>,
    /// Dropped after the removal: a page that finds its sender gone does not find the same read again.
    sender: Option<oneshot::Sender<Option<Arc<SnapshotFrames>>>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut reads = lock(&self.reads);
        let is_own = reads.get(&self.key).is_some_and(|read| Arc::ptr_eq(&read.is_done, &self.is_done));
        let removed = is_own.then(|| reads.remove(&self.key));
        drop(reads);
        drop(removed);
    }
}

impl Snapshots {
    pub(crate) fn new(publisher: Publisher, hook_timeout: Duration) -> Self {
        Self { publisher, hook_timeout, permits: Arc::new(Semaphore::new(MAX_CONCURRENT)), reads: Arc::default() }
    }

    /// The rows of an entity that this identity may see, no older than the log at `since`; `None` where the entity has
    /// no snapshot hook, or it failed.
    pub(crate) async fn of(
        &self,
        entity: EntityIndex,
        identity: &Identity,
        since: Sequence,
    ) -> Option<Arc<SnapshotFrames>> {
        let hook = self.publisher.entities.get(usize::from(entity.0))?.snapshot.clone()?;
        for _ in 0..MAX_ATTEMPTS {
            if let Some(snapshot) = self.read(entity, identity, since, hook.clone()).await {
                return snapshot;
            }
            // The runtime that ends may be this one.
            yield_now().await;
        }
        None
    }

    fn read(&self, entity: EntityIndex, identity: &Identity, since: Sequence, hook: ReadAll) -> ReadResult {
        let now = Instant::now();
        let is_presence = self.publisher.entity(entity).presence.is_some();
        let principal = (!is_presence).then(|| identity.principal().into());
        let key: Key = (entity, principal, identity.receives().clone());
        let mut reads = lock(&self.reads);
        if let Some(read) = reads.get(&key).filter(|read| read.is_fresh(now) && read.log_end >= since) {
            return read.result.clone();
        }
        let (sender, receiver) = oneshot::channel();
        let is_done = Arc::<AtomicBool>::default();
        let result = receiver.map(Result::ok).boxed().shared();
        let log_end = self.publisher.hub.core.log_end();
        let read = Read { started: now, log_end, result: result.clone(), is_done: is_done.clone() };
        let replaced = reads.insert(key.clone(), read);
        drop(reads);
        drop(replaced);
        let mut entry = Entry { reads: self.reads.clone(), key, is_done, sender: Some(sender) };
        let (snapshots, identity) = (self.clone(), identity.clone());
        tokio::spawn(async move {
            let snapshot = snapshots.run_hook(entity, identity, hook).await;
            entry.is_done.store(true, Ordering::Release);
            if let Some(sender) = entry.sender.take() {
                let _ = sender.send(snapshot);
            }
            sleep(SHARED_FOR).await;
            drop(entry);
        });
        result
    }

    async fn run_hook(&self, entity: EntityIndex, identity: Identity, hook: ReadAll) -> Option<Arc<SnapshotFrames>> {
        let observer = &self.publisher.observer;
        let name = &self.publisher.entity(entity).name;
        for retry_after in RETRY_AFTER.into_iter().map(Some).chain([None]) {
            // Who is here is known at once, and waits for no store.
            let is_presence = self.publisher.entity(entity).presence.is_some();
            let permit = if is_presence { None } else { Some(self.permits.acquire().await.ok()?) };
            let at = self.publisher.hub.core.log_end();
            let outcome = guarded(self.hook_timeout, || hook(identity.clone())).await;
            drop(permit);
            let failure = match outcome {
                Ok(Ok(everything)) => {
                    let (frames, unusable) =
                        self.publisher.hub.snapshot(entity, at, &identity, &everything.rows, &everything.gone);
                    if everything.without_id > 0 {
                        observer.warn(format_args!(
                            "{} rows of the snapshot of {name:?} have no usable id (see Change::update) and are not sent",
                            everything.without_id
                        ));
                    }
                    if unusable > 0 {
                        observer.warn(format_args!(
                            "{unusable} rows of {name:?} would make pages stop saving and are not sent to those that \
                             come back; see Entity::check"
                        ));
                    }
                    return Some(Arc::new(frames));
                }
                Ok(Err(error)) => error.to_string(),
                Err(failure) => failure.to_string(),
            };
            observer.hooks_failed.up();
            observer.warn(format_args!("the snapshot hook of {name:?} failed: {failure}"));
            if let Some(time) = retry_after {
                sleep(time).await;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;
    use serde_json::Value;
    use tokio::sync::Notify;

    use super::*;
    use crate::{Entity, Snapshot, diagnosis::Diagnosis, hub::tests::hub};

    const EVENTS: EntityIndex = EntityIndex(0);

    fn publisher(events: Entity) -> Publisher {
        let diagnosis = Arc::new(Diagnosis::new("/api/v1", &[], Arc::default()));
        Publisher { entities: [events].into(), hub: hub(10), observer: Arc::default(), diagnosis }
    }

    /// A snapshot hook that takes so long, and how often it has run.
    fn snapshots(takes: Duration) -> (Snapshots, Arc<AtomicUsize>) {
        let runs = Arc::<AtomicUsize>::default();
        let events = Entity::new("events").snapshot(runs.clone(), move |runs: Arc<AtomicUsize>, _| async move {
            runs.fetch_add(1, Ordering::Relaxed);
            sleep(takes).await;
            Ok::<_, std::convert::Infallible>(Snapshot::new([] as [Value; 0]))
        });
        let publisher = publisher(events);
        (Snapshots::new(publisher, Duration::from_secs(60)), runs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_kept_for_as_long_as_it_is_shared() {
        let (snapshots, runs) = snapshots(Duration::from_secs(1));
        let identity = Identity::new("ann");
        let of = || snapshots.of(EVENTS, &identity, Sequence(0));
        assert!(of().await.is_some() && of().await.is_some());
        assert_eq!((runs.load(Ordering::Relaxed), lock(&snapshots.reads).len()), (1, 1));
        sleep(SHARED_FOR).await;
        tokio::task::yield_now().await;
        assert!(lock(&snapshots.reads).is_empty());
        assert!(of().await.is_some());
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_come_and_go_share_one_read() {
        let (snapshots, runs) = snapshots(Duration::from_secs(30));
        let identity = Identity::new("ann");
        let of = || snapshots.of(EVENTS, &identity, Sequence(0));
        for _ in 0..10 {
            assert!(tokio::time::timeout(Duration::from_secs(2), of()).await.is_err());
        }
        assert!(of().await.is_some());
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        sleep(SHARED_FOR).await;
        tokio::task::yield_now().await;
        assert!(lock(&snapshots.reads).is_empty(), "although pages have left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_too_old_for_one_page_is_read_anew_and_the_newer_one_stays() {
        let (snapshots, runs) = snapshots(Duration::from_secs(1));
        let identity = Identity::new("ann");
        let early = snapshots.of(EVENTS, &identity, Sequence(0));
        let late = async {
            tokio::task::yield_now().await;
            snapshots.publisher.hub.send(EVENTS, &Scopes::All, "1");
            sleep(Duration::from_millis(500)).await;
            snapshots.of(EVENTS, &identity, snapshots.publisher.hub.core.log_end()).await
        };
        let (early, late) = tokio::join!(early, late);
        assert!(early.unwrap().at < late.unwrap().at);
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        // The task of the first read ends first; it does not remove the second one.
        sleep(SHARED_FOR - Duration::from_millis(400)).await;
        assert_eq!(lock(&snapshots.reads).len(), 1);
        sleep(Duration::from_secs(1)).await;
        assert!(lock(&snapshots.reads).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_reads_is_empty_however_many_principals_have_read() {
        let (snapshots, runs) = snapshots(Duration::from_millis(1));
        let reads = (0..2000).map(|name| {
            let snapshots = &snapshots;
            async move { snapshots.of(EVENTS, &Identity::new(name.to_string()), Sequence(0)).await.is_some() }
        });
        assert!(join_all(reads).await.into_iter().all(|is_there| is_there));
        assert_eq!(runs.load(Ordering::Relaxed), 2000);
        sleep(2 * SHARED_FOR).await;
        assert!(lock(&snapshots.reads).is_empty());
    }

    #[test]
    fn a_read_whose_runtime_ends_is_repeated_by_a_page_that_waits() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (runs, hang) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let events = Entity::new("events").snapshot(runs.clone(), move |runs: Arc<AtomicUsize>, _| {
            let is_first = runs.fetch_add(1, Ordering::Relaxed) == 0;
            let hang = hang.clone();
            async move {
                if is_first {
                    hang.notified().await;
                }
                Ok::<_, std::convert::Infallible>(Snapshot::new([] as [Value; 0]))
            }
        });
        let publisher = publisher(events);
        let snapshots = Arc::new(Snapshots::new(publisher, Duration::from_secs(60)));
        let of =
            |snapshots: Arc<Snapshots>| async move { snapshots.of(EVENTS, &Identity::new("ann"), Sequence(0)).await };

        let (first, second) = (runtime(), runtime());
        let first_page = first.spawn(of(snapshots.clone()));
        first.block_on(async {
            while runs.load(Ordering::Relaxed) == 0 {
                yield_now().await;
            }
        });
        let second_page = second.spawn(of(snapshots.clone()));
        second.block_on(yield_now());
        assert_eq!(runs.load(Ordering::Relaxed), 1, "both pages share it");
        drop(first);
        assert!(second.block_on(second_page).unwrap().is_some());
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        drop(first_page);
        drop(second);
        assert!(lock(&snapshots.reads).is_empty(), "nothing is left of ended runtimes");
    }
}
