//! What the store says, for pages that lost their place: asked once for many.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    hook::guarded,
    hub::SnapshotFrames,
    lock::lock,
    publish::Publisher,
    scope::Scopes,
};

/// An answer of the store is good for this long.
const SHARED_FOR: Duration = Duration::from_secs(2);
/// Stores are asked this often at one time.
const AT_ONCE: usize = 4;
/// Questions in place of those whose runtimes end before they are answered.
const MAX_QUESTIONS: usize = 3;
/// A store that failed is asked again after these times.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// The answer; `None` where the runtime that asked ended before.
type Answer = Shared<BoxFuture<'static, Option<Option<Arc<SnapshotFrames>>>>>;
type Key = (EntityIndex, Box<str>, Scopes);
type Answers = Arc<Mutex<HashMap<Key, Asked>>>;

/// Asks the entities' snapshot hooks, in tasks of their own: a page that leaves, or reads slowly, holds none up.
pub(crate) struct Snapshots {
    publisher: Publisher,
    hook_timeout: Duration,
    asking: Arc<Semaphore>,
    answers: Answers,
    questions: AtomicU64,
}

struct Asked {
    /// Tells it from a later question of the same key.
    question: u64,
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

/// One question among the answers. It is taken off them when its task ends, however that ends, so nobody has to search
/// them for what is too old.
struct Entry {
    answers: Answers,
    key: Key,
    question: u64,
    /// Dropped after that: whoever learns that nobody answers finds no such question either.
    sender: Option<oneshot::Sender<Option<Arc<SnapshotFrames>>>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut answers = lock(&self.answers);
        let removed = match answers.get(&self.key) {
            Some(asked) if asked.question == self.question => answers.remove(&self.key),
            _ => None,
        };
        drop(answers);
        drop(removed);
    }
}

impl Snapshots {
    pub(crate) fn new(publisher: Publisher, hook_timeout: Duration) -> Self {
        Self {
            publisher,
            hook_timeout,
            asking: Arc::new(Semaphore::new(AT_ONCE)),
            answers: Arc::default(),
            questions: AtomicU64::new(0),
        }
    }

    /// The rows of an entity as this identity may see them, no older than where the log stood at `since`; `None` where
    /// there is no hook, or it failed.
    pub(crate) async fn of(&self, entity: EntityIndex, identity: &Identity, since: u64) -> Option<Arc<SnapshotFrames>> {
        let hook = self.publisher.entities.get(usize::from(entity.0))?.snapshot.clone()?;
        for _ in 0..MAX_QUESTIONS {
            if let Some(said) = self.answer(entity, identity, since, hook.clone()).await {
                return said;
            }
            // The runtime that ends may be this one.
            yield_now().await;
        }
        None
    }

    fn answer(&self, entity: EntityIndex, identity: &Identity, since: u64, hook: ReadAll) -> Answer {
        let now = Instant::now();
        let key: Key = (entity, identity.principal().into(), identity.hears().clone());
        let mut answers = lock(&self.answers);
        if let Some(asked) = answers.get(&key).filter(|asked| asked.is_good(now) && asked.head >= since) {
            return asked.answer.clone();
        }
        let question = self.questions.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let is_answered = Arc::<AtomicBool>::default();
        let answer = receiver.map(Result::ok).boxed().shared();
        let asked = Asked {
            question,
            at: now,
            head: self.publisher.hub.head(),
            answer: answer.clone(),
            is_answered: is_answered.clone(),
        };
        let replaced = answers.insert(key.clone(), asked);
        drop(answers);
        drop(replaced);
        let mut entry = Entry { answers: self.answers.clone(), key, question, sender: Some(sender) };
        let ask = ask(self.publisher.clone(), entity, identity.clone(), hook, self.hook_timeout, self.asking.clone());
        tokio::spawn(async move {
            let said = ask.await;
            is_answered.store(true, Ordering::Release);
            if let Some(sender) = entry.sender.take() {
                let _ = sender.send(said);
            }
            sleep(SHARED_FOR).await;
            drop(entry);
        });
        answer
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

    /// A store that takes so long to answer, and how often it was asked.
    fn snapshots(takes: Duration) -> (Snapshots, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        let events = Entity::new("events").snapshot(asked.clone(), move |asked: Arc<AtomicUsize>, _| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            sleep(takes).await;
            Ok::<_, std::convert::Infallible>(Snapshot::new([] as [Value; 0]))
        });
        let publisher = publisher(events);
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

    #[tokio::test(start_paused = true)]
    async fn an_answer_too_old_for_one_page_is_asked_anew_and_the_newer_one_stays() {
        let (snapshots, asked) = snapshots(Duration::from_secs(1));
        let identity = Identity::new("ann");
        let early = snapshots.of(EVENTS, &identity, 0);
        let late = async {
            tokio::task::yield_now().await;
            snapshots.publisher.hub.send(EVENTS, Scopes::All, "1");
            sleep(Duration::from_millis(500)).await;
            snapshots.of(EVENTS, &identity, snapshots.publisher.hub.head()).await
        };
        let (early, late) = tokio::join!(early, late);
        assert!(early.unwrap().at < late.unwrap().at);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        // The first question's task ends first; what it takes off is not the second one's answer.
        sleep(SHARED_FOR - Duration::from_millis(400)).await;
        assert_eq!(lock(&snapshots.answers).len(), 1);
        sleep(Duration::from_secs(1)).await;
        assert!(lock(&snapshots.answers).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_principals_as_there_are_leave_nothing_behind() {
        let (snapshots, asked) = snapshots(Duration::from_millis(1));
        let answers = (0..2000).map(|name| {
            let snapshots = &snapshots;
            async move { snapshots.of(EVENTS, &Identity::new(name.to_string()), 0).await.is_some() }
        });
        assert!(join_all(answers).await.into_iter().all(|is_there| is_there));
        assert_eq!(asked.load(Ordering::Relaxed), 2000);
        sleep(2 * SHARED_FOR).await;
        assert!(lock(&snapshots.answers).is_empty());
    }

    #[test]
    fn a_question_whose_runtime_ends_is_asked_anew_by_whoever_waits() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (asked, hang) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let events = Entity::new("events").snapshot(asked.clone(), move |asked: Arc<AtomicUsize>, _| {
            let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
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
        let of = |snapshots: Arc<Snapshots>| async move { snapshots.of(EVENTS, &Identity::new("ann"), 0).await };

        let (first, second) = (runtime(), runtime());
        let goes = first.spawn(of(snapshots.clone()));
        first.block_on(async {
            while asked.load(Ordering::Relaxed) == 0 {
                yield_now().await;
            }
        });
        let waits = second.spawn(of(snapshots.clone()));
        second.block_on(yield_now());
        assert_eq!(asked.load(Ordering::Relaxed), 1, "they share it");
        drop(first);
        assert!(second.block_on(waits).unwrap().is_some());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        drop(goes);
        drop(second);
        assert!(lock(&snapshots.answers).is_empty(), "nothing is left of ended runtimes");
    }
}
