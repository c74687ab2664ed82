//! The table of open sockets, and what all of them share.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tokio::time::{Instant, timeout};

use super::{
    limits::ConnectionLimiter,
    meter::ReadLimits,
    outbox::Outbox,
    presence::{Departure, Presences},
    signals::Signal,
    snapshots::Snapshots,
};
use crate::{
    auth::{AuthGate, Identity},
    calls::Calls,
    diagnosis::{Diagnosis, SEARCH_TIMEOUT},
    entity::{Authorize, EntityIndex},
    hub::{Hub, ResumeFrom, Subscriber},
    lock::lock,
    observe::Observer,
    publish::Publisher,
    rate::Rate,
    session::Session,
    shutdown::Lifecycle,
};

/// Bounds of what one socket may cost.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections: usize,
    pub(crate) of_principal: Option<usize>,
    pub(crate) subscriptions: usize,
    /// Of text and binary messages.
    pub(crate) messages: Rate,
    /// Of pings and pongs.
    pub(crate) control_frames: Rate,
    pub(crate) revalidation_interval: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) pong_timeout: Duration,
    pub(crate) write_timeout: Duration,
    /// How long a page is here after its socket has closed.
    pub(crate) presence_timeout: Duration,
    pub(crate) message_bytes: usize,
}

/// Every open socket, and what all of them share.
pub(crate) struct Connections {
    pub(super) publisher: Publisher,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(super) limits: ConnectionLimits,
    /// The rate limits of what pages send.
    pub(super) read_limits: Arc<ReadLimits>,
    pub(crate) gate: AuthGate,
    pub(crate) limiter: ConnectionLimiter,
    open: Mutex<Slab<OpenSocket>>,
    /// Calls of `disconnect` so far.
    disconnects: AtomicU64,
    subscriptions: AtomicUsize,
    pub(super) snapshots: Snapshots,
    pub(super) presences: Presences,
    pub(crate) hook_timeout: Duration,
    /// None where there are no methods.
    pub(crate) calls: Option<Arc<Calls>>,
}

/// One open socket, as the table has it.
#[derive(Clone)]
pub(super) struct OpenSocket {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) outbox: Arc<Outbox>,
}

impl OpenSocket {
    /// Ends delivery at once: frames that wait in the outbox are dropped too.
    pub(super) fn discard_pending(&self, hub: &Hub) {
        hub.leave(&self.subscriber, Instant::now());
        self.outbox.discard_pending();
    }
}

impl Connections {
    pub(crate) fn new(
        publisher: Publisher,
        limits: ConnectionLimits,
        hook_timeout: Duration,
        gate: AuthGate,
        lifecycle: Arc<Lifecycle>,
        calls: Option<Arc<Calls>>,
    ) -> Self {
        let read_limits = ReadLimits::new(limits.messages, limits.control_frames, limits.message_bytes);
        let read_limits = match &calls {
            Some(calls) => read_limits.with_calls(calls.limits.rate, calls.limits.bytes),
            None => read_limits,
        };
        Self {
            read_limits: Arc::new(read_limits),
            calls,
            snapshots: Snapshots::new(publisher.clone(), hook_timeout),
            hook_timeout,
            gate,
            limiter: ConnectionLimiter::new(limits.connections, limits.of_principal),
            presences: Presences::new(
                publisher.clone(),
                lifecycle.clone(),
                limits.presence_timeout,
                limits.connections,
            ),
            publisher,
            lifecycle,
            limits,
            open: Mutex::default(),
            disconnects: AtomicU64::new(0),
            subscriptions: AtomicUsize::new(0),
        }
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.publisher.hub
    }

    pub(crate) fn observer(&self) -> &Observer {
        &self.publisher.observer
    }

    pub(crate) fn diagnosis(&self) -> &Diagnosis {
        &self.publisher.diagnosis
    }

    pub(super) fn subscribe(self: &Arc<Self>, subscriber: &Subscriber, entity: EntityIndex) {
        if subscriber.subscribe(entity, Instant::now()) {
            self.subscriptions.fetch_add(1, Ordering::Relaxed);
            if self.diagnosis().subscribed(entity) {
                self.await_requests(entity);
            }
        }
    }

    /// Reports an entity that pages subscribe to and no request of which is seen for a while.
    fn await_requests(self: &Arc<Self>, entity: EntityIndex) {
        let search = RequestSearch { diagnosis: self.publisher.diagnosis.clone(), entity };
        let (connections, lifecycle) = (Arc::downgrade(self), self.lifecycle.clone());
        self.lifecycle.tasks.spawn(async move {
            if timeout(SEARCH_TIMEOUT, lifecycle.draining.cancelled()).await.is_err() {
                let open = connections.upgrade().map(|connections| connections.open_sockets());
                if open.into_iter().flatten().any(|open| open.subscriber.follows(entity)) {
                    search.diagnosis.unmatched(entity);
                }
            }
        });
    }

    /// A copy of the table: hub and application code must not run under its lock.
    fn open_sockets(&self) -> Vec<OpenSocket> {
        lock(&self.open).iter().map(|(_, open)| open.clone()).collect()
    }

    /// The hook that authorizes subscriptions to an entity. The name of a message that this crate itself sends, `$resync`, is no
    /// entity of the application, and has none.
    pub(super) fn authorize(&self, entity: EntityIndex) -> Option<&Authorize> {
        self.publisher.entities.get(usize::from(entity.0))?.authorize.as_ref()
    }

    pub(super) fn unsubscribe(&self, subscriber: &Subscriber, entity: EntityIndex) {
        if subscriber.unsubscribe(entity) {
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes every socket in an orderly manner, and drops those that are still open at the drain timeout.
    pub(crate) async fn shutdown(&self) {
        let signal = async {
            self.lifecycle.draining.cancelled().await;
            self.raise(Signal::LEAVE);
            self.lifecycle.over.cancelled().await;
            self.raise(Signal::OVER);
        };
        tokio::join!(self.lifecycle.shutdown(), signal);
    }

    pub(super) fn raise(&self, signal: Signal) {
        lock(&self.open).iter().for_each(|(_, open)| open.outbox.signals.raise(signal));
    }

    /// Open sockets, and the subscriptions of all of them.
    pub(crate) fn count(&self) -> (usize, usize) {
        (lock(&self.open).len(), self.subscriptions.load(Ordering::Relaxed))
    }

    /// Closes the sockets of the identities that `chosen` picks, and returns how many. They receive nothing more.
    pub(crate) fn disconnect(&self, chosen: impl Fn(&Identity) -> bool) -> usize {
        // Before the table is read: a socket that registers later sees from the count that it may have been meant.
        self.disconnects.fetch_add(1, Ordering::SeqCst);
        let open = self.open_sockets();
        let chosen = open.iter().filter(|open| chosen(&open.subscriber.identity()));
        let close = |open: &OpenSocket| {
            open.discard_pending(self.hub());
            open.outbox.signals.raise(Signal::DISCONNECTED);
        };
        chosen.map(close).count()
    }

    /// The sessions of the identities that `chosen` picks, each once.
    pub(crate) fn sessions(&self, chosen: impl Fn(&Identity) -> bool) -> Vec<Session> {
        let open = self.open_sockets();
        let chosen = open.iter().filter(|open| chosen(&open.subscriber.identity()));
        let mut seen = HashSet::new();
        chosen.map(|open| open.subscriber.session()).filter(|session| seen.insert(session.clone())).collect()
    }

    /// Calls of `disconnect` so far.
    pub(crate) fn disconnects(&self) -> u64 {
        self.disconnects.load(Ordering::SeqCst)
    }
}

/// A search for requests of an entity, which ends when this is dropped.
struct RequestSearch {
    diagnosis: Arc<Diagnosis>,
    entity: EntityIndex,
}

impl Drop for RequestSearch {
    fn drop(&mut self) {
        self.diagnosis.search_cancelled(self.entity);
    }
}

/// A socket's entry in the table, removed however its task ends.
pub(super) struct Registration {
    pub(super) connections: Arc<Connections>,
    pub(super) open: OpenSocket,
    key: Option<usize>,
}

impl Registration {
    pub(super) fn new(
        connections: Arc<Connections>,
        identity: Identity,
        resume: ResumeFrom,
        outbox: Arc<Outbox>,
    ) -> Self {
        let open = OpenSocket { subscriber: connections.hub().join(outbox.clone(), identity, resume), outbox };
        let key = lock(&connections.open).insert(open.clone());
        // A shutdown either finds this entry in the table, or has begun before it was made.
        if connections.lifecycle.draining.is_cancelled() {
            open.outbox.signals.raise(Signal::LEAVE);
        }
        if connections.lifecycle.over.is_cancelled() {
            open.outbox.signals.raise(Signal::OVER);
        }
        Self { connections, open, key: Some(key) }
    }

    /// Its page may receive something, and is here as this identity.
    pub(super) fn is_here(&self, identity: &Identity) {
        if let Some(key) = self.key {
            self.connections.presences.is_here(key, identity);
        }
    }

    pub(super) fn leave(&mut self, departure: Departure) {
        let Some(key) = self.key.take() else { return };
        // Before another socket gets its place.
        self.connections.leaves(key, departure);
        let open = lock(&self.connections.open).try_remove(key);
        drop(open);
        self.connections.hub().leave(&self.open.subscriber, Instant::now());
        self.connections.subscriptions.fetch_sub(self.open.subscriber.subscriptions(), Ordering::Relaxed);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.leave(Departure::ForNow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, hub::tests::hub};

    fn open(hub: &Arc<Hub>) -> OpenSocket {
        let outbox = Arc::new(Outbox::new(None));
        OpenSocket { subscriber: hub.join(outbox.clone(), Identity::new("alice"), ResumeFrom::Unknown), outbox }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_subscriber_keeps_the_slot_of_a_disconnected_one() {
        let hub = hub(100);
        let disconnected = open(&hub);
        disconnected.discard_pending(&hub);
        let new = open(&hub);
        let events = hub.core.find("events").unwrap();
        assert!(new.subscriber.subscribe(events, Instant::now()));
        // When its task ends, the disconnected one leaves a second time.
        hub.leave(&disconnected.subscriber, Instant::now());
        hub.publish(events, &[Change::delete(7).unwrap()], None);
        let sendable = timeout(Duration::from_secs(5), new.outbox.signals.sendable());
        sendable.await.expect("the new one still receives");
    }
}
