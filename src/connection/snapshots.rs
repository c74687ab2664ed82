//! What the store says, for pages that lost their place: asked once for many.

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
    time::{Instant, sleep},
};

use crate::{
    auth::Identity,
    entity::ReadAll,
    hook::guarded,
    hub::{EntityIndex, SnapshotFrames},
    lock::lock,
    publish::Publisher,
    scope::Scopes,
};

/// An answer of the store is good for this long.
const SHARED_FOR: Duration = Duration::from_secs(2);
/// Stores are asked this often at one time.
const AT_ONCE: usize = 4;
/// A store that failed is asked again after these times.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

type Answer = Shared<BoxFuture<'static, Option<Arc<SnapshotFrames>>>>;
type Answers = HashMap<(EntityIndex, Box<str>, Scopes), Asked>;

/// Asks the entities' snapshot hooks, in tasks of their own: a page that leaves, or reads slowly, holds none up.
pub(crate) struct Snapshots {
    publisher: Publisher,
    hook_timeout: Duration,
    asking: Arc<Semaphore>,
    answers: Arc<Mutex<Answers>>,
}

struct Asked {
    at: Instant,
    /// Where the log stood then: the answer is no older.
    head: u64,
    answer: Answer,
    is_answered: Arc<AtomicBool>,
}

impl Asked {
    /// Whether it can be shared still.
    fn is_good(&self, now: Instant) -> bool {
        !self.is_answered.load(Ordering::Acquire) || now < self.at + SHARED_FOR
    }
}

impl Snapshots {
    pub(crate) fn new(publisher: Publisher, hook_timeout: Duration) -> Self {
        Self { publisher, hook_timeout, asking: Arc::new(Semaphore::new(AT_ONCE)), answers: Arc::default() }
    }

    /// The rows of an entity as this identity may see them, no older than where the log stood at `since`; `None` where
    /// there is no hook, or it failed.
    pub(crate) async fn of(&self, entity: EntityIndex, identity: &Identity, since: u64) -> Option<Arc<SnapshotFrames>> {
        let hook = self.publisher.entities.get(usize::from(entity.0))?.snapshot.clone()?;
        self.answer(entity, identity, since, hook).await
    }

    fn answer(&self, entity: EntityIndex, identity: &Identity, since: u64, hook: ReadAll) -> Answer {
        let now = Instant::now();
        let head = self.publisher.hub.head();
        let key = (entity, identity.principal().into(), identity.hears().clone());
        let mut answers = lock(&self.answers);
        answers.retain(|of, asked| asked.is_good(now) && (*of != key || asked.head >= since));
        let asked = answers.entry(key).or_insert_with(|| {
            let ask =
                ask(self.publisher.clone(), entity, identity.clone(), hook, self.hook_timeout, self.asking.clone());
            let (answer, answered) = oneshot::channel();
            let answers = self.answers.clone();
            let is_answered = Arc::<AtomicBool>::default();
            let answering = is_answered.clone();
            tokio::spawn(async move {
                let said = ask.await;
                answering.store(true, Ordering::Release);
                let _ = answer.send(said);
                sleep(SHARED_FOR).await;
                let now = Instant::now();
                lock(&answers).retain(|_, asked| asked.is_good(now));
            });
            let answer = answered.map(|answer| answer.ok().flatten()).boxed().shared();
            Asked { at: now, head, answer, is_answered }
        });
        asked.answer.clone()
    }
}

async fn ask(
    publisher: Publisher,
    entity: EntityIndex,
    identity: Identity,
    hook: ReadAll,
    timeout: Duration,
    asking: Arc<Semaphore>,
) -> Option<Arc<SnapshotFrames>> {
    let observer = &publisher.observer;
    let name = &publisher.entities.get(usize::from(entity.0))?.name;
    for again_after in AGAIN_AFTER.into_iter().map(Some).chain([None]) {
        let permit = asking.acquire().await.ok()?;
        let at = publisher.hub.head();
        let answer = guarded(timeout, || hook(identity.clone())).await;
        drop(permit);
        let failure = match answer {
            Ok(Ok(everything)) => {
                let (frames, unbearable) =
                    publisher.hub.snapshot(entity, at, &identity, &everything.rows, &everything.gone);
                if everything.without_id > 0 {
                    observer.warn(format_args!(
                        "{} rows of the snapshot of {name:?} have no usable id (see Change::update) and are not sent",
                        everything.without_id
                    ));
                }
                if unbearable > 0 {
                    observer.warn(format_args!(
                        "{unbearable} rows of {name:?} would make pages stop saving and are not sent to those that \
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
        if let Some(time) = again_after {
            sleep(time).await;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use serde_json::Value;

    use super::*;
    use crate::{Entity, Snapshot, hub::tests::hub};

    const EVENTS: EntityIndex = EntityIndex(0);

    /// A store that takes so long to answer, and how often it was asked.
    fn snapshots(takes: Duration) -> (Snapshots, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        let events = Entity::new("events").snapshot(asked.clone(), move |asked: Arc<AtomicUsize>, _| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            sleep(takes).await;
            Ok::<_, std::convert::Infallible>(Snapshot::new([] as [Value; 0]))
        });
        let publisher = Publisher { entities: [events].into(), hub: hub(10), observer: Arc::default() };
        (Snapshots::new(publisher, Duration::from_secs(60)), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_as_long_as_it_is_shared() {
        let (snapshots, asked) = snapshots(Duration::from_secs(1));
        let identity = Identity::new("ann");
        let of = || snapshots.of(EVENTS, &identity, 0);
        assert!(of().await.is_some() && of().await.is_some());
        assert_eq!((asked.load(Ordering::Relaxed), lock(&snapshots.answers).len()), (1, 1));
        sleep(SHARED_FOR).await;
        tokio::task::yield_now().await;
        assert!(lock(&snapshots.answers).is_empty());
        assert!(of().await.is_some());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_and_go_share_one_question() {
        let (snapshots, asked) = snapshots(Duration::from_secs(30));
        let identity = Identity::new("ann");
        let of = || snapshots.of(EVENTS, &identity, 0);
        for _ in 0..10 {
            assert!(tokio::time::timeout(Duration::from_secs(2), of()).await.is_err());
        }
        assert!(of().await.is_some());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        sleep(SHARED_FOR).await;
        tokio::task::yield_now().await;
        assert!(lock(&snapshots.answers).is_empty(), "although somebody may have left");
    }
}
