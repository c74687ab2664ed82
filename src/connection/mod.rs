//! Every open socket: how many there may be, who is disconnected, and how they leave with the server.

mod authorization;
mod life;
mod meter;
mod outbox;
mod permission;
mod places;
mod rate;
mod signals;
mod snapshots;
mod wire;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::upgrade::Upgraded;
use slab::Slab;
use tokio::time::{Instant, sleep, timeout};

use self::{
    life::Life, meter::ReadLimits, outbox::Outbox, places::Places, signals::Signal, snapshots::Snapshots, wire::Wire,
};
pub(crate) use self::{
    permission::Permission,
    places::{Full, Place},
    rate::Rate,
};
use crate::{
    auth::{AuthGate, Identity},
    diagnosis::{Diagnosis, PATIENCE},
    entity::EntityIndex,
    hub::{Hub, Origin, Subscriber},
    lock::lock,
    observe::Observer,
    protocol::{self, close},
    publish::Publisher,
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
    pub(crate) message_bytes: usize,
}

/// What those hear who may not connect, or not any more.
const UNAUTHORIZED: &str = "Unauthorized";
/// How long the last words of a socket may take in each direction.
const FAREWELL: Duration = Duration::from_secs(2);

/// Every socket, and what they share.
pub(crate) struct Connections {
    publisher: Publisher,
    lifecycle: Arc<Lifecycle>,
    limits: ConnectionLimits,
    /// How fast its pages are read.
    reading: Arc<ReadLimits>,
    gate: AuthGate,
    places: Places,
    open: Mutex<Slab<Open>>,
    /// How often somebody was to be disconnected.
    disconnects: AtomicU64,
    subscriptions: AtomicUsize,
    snapshots: Snapshots,
    hook_timeout: Duration,
}

/// One open socket, as others see it.
#[derive(Clone)]
struct Open {
    subscriber: Arc<Subscriber>,
    outbox: Arc<Outbox>,
}

impl Open {
    fn identity(&self) -> Identity {
        self.subscriber.identity()
    }

    /// The authenticator has been asked again, and this is what it says now.
    fn is_now(&self, hub: &Hub, identity: Identity) {
        hub.becomes(&self.subscriber, identity);
        self.outbox.signals().raise(Signal::RENEWED);
    }

    fn leave(&self, hub: &Hub) {
        hub.leave(&self.subscriber, Instant::now());
    }

    /// Nothing that is told reaches its page any more, be it on its way already.
    fn silence(&self, hub: &Hub) {
        self.leave(hub);
        self.outbox.silence();
    }
}

impl Connections {
    pub(crate) fn new(
        publisher: Publisher,
        limits: ConnectionLimits,
        hook: Duration,
        gate: AuthGate,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        Self {
            reading: Arc::new(ReadLimits::new(limits.messages, limits.control_frames, limits.message_bytes)),
            snapshots: Snapshots::new(publisher.clone(), hook),
            hook_timeout: hook,
            gate,
            places: Places::new(limits.connections, limits.of_principal),
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

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    pub(crate) fn gate(&self) -> &AuthGate {
        &self.gate
    }

    /// A place for one more socket, unless there are too many.
    pub(crate) fn admit(&self, identity: &Identity) -> Result<Place, Full> {
        self.places.take(identity.principal())
    }

    /// A page follows an entity from now on.
    fn follow(self: &Arc<Self>, subscriber: &Subscriber, entity: EntityIndex) {
        if self.hub().subscribe(subscriber, entity, Instant::now()) {
            self.subscriptions.fetch_add(1, Ordering::Relaxed);
            if self.diagnosis().subscribed(entity) {
                self.await_requests(entity);
            }
        }
    }

    /// Waits whether an entity that a page follows has requests.
    fn await_requests(self: &Arc<Self>, entity: EntityIndex) {
        let awaiting = Awaiting { diagnosis: self.publisher.diagnosis.clone(), entity };
        let (connections, lifecycle) = (Arc::downgrade(self), self.lifecycle.clone());
        self.lifecycle.spawn(async move {
            tokio::select! {
                () = sleep(PATIENCE) => {
                    if connections.upgrade().is_some_and(|connections| connections.is_followed(entity)) {
                        awaiting.diagnosis.unmatched(entity);
                    }
                }
                () = lifecycle.draining() => {}
            }
        });
    }

    /// Whether some page follows an entity.
    fn is_followed(&self, entity: EntityIndex) -> bool {
        let open: Vec<Open> = lock(&self.open).iter().map(|(_, open)| open.clone()).collect();
        open.iter().any(|open| open.subscriber.follows(entity))
    }

    pub(crate) fn diagnosis(&self) -> &Diagnosis {
        &self.publisher.diagnosis
    }

    /// A page follows an entity no longer.
    fn unfollow(&self, subscriber: &Subscriber, entity: EntityIndex) {
        if subscriber.unsubscribe(entity) {
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Says goodbye to every socket, and ends those that are there still when the time for it is over.
    pub(crate) async fn shutdown(&self) {
        let tell = async {
            self.lifecycle.draining().await;
            self.raise(Signal::LEAVE);
            self.lifecycle.over().await;
            self.raise(Signal::OVER);
        };
        tokio::join!(self.lifecycle.shutdown(), tell);
    }

    fn raise(&self, signal: Signal) {
        lock(&self.open).iter().for_each(|(_, open)| open.outbox.signals().raise(signal));
    }

    /// Sockets open, and subscriptions of all of them.
    pub(crate) fn count(&self) -> (usize, usize) {
        (lock(&self.open).len(), self.subscriptions.load(Ordering::Relaxed))
    }

    /// Closes the sockets of the identities that `chosen` picks. None of them hears anything more.
    pub(crate) fn disconnect(&self, chosen: impl Fn(&Identity) -> bool) -> usize {
        // Before anybody is looked at: a socket that is not there yet finds by it that it came too late to be chosen.
        self.disconnects.fetch_add(1, Ordering::SeqCst);
        // Collected first: the application's closure runs under no lock.
        let open: Vec<Open> = lock(&self.open).iter().map(|(_, open)| open.clone()).collect();
        let chosen = open.iter().filter(|open| chosen(&open.identity()));
        let close = |open: &Open| {
            open.silence(self.hub());
            open.outbox.signals().raise(Signal::DISCONNECTED);
        };
        chosen.map(close).count()
    }

    /// A page that has left follows nothing.
    fn unfollow_all(&self, subscriber: &Subscriber) {
        self.subscriptions.fetch_sub(subscriber.subscriptions(), Ordering::Relaxed);
    }

    /// How often `disconnect` has been called.
    pub(crate) fn disconnects(&self) -> u64 {
        self.disconnects.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A wait for requests of an entity, until this is dropped.
struct Awaiting {
    diagnosis: Arc<Diagnosis>,
    entity: EntityIndex,
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.diagnosis.search_cancelled(self.entity);
    }
}

/// Who has opened a socket, and what it stays open by.
pub(crate) struct Guest {
    pub(crate) identity: Identity,
    pub(crate) origin: Origin,
    pub(crate) permission: Permission,
}

/// Serves one socket to its end, in a task of its own.
pub(crate) fn serve(upgraded: Upgraded, guest: Guest, place: Place, connections: &Arc<Connections>) {
    let life = Life::new(upgraded, guest, place, connections.clone());
    connections.lifecycle.spawn(life);
}

/// Lets a socket come up only to close it after `delay` with 1008, so that its page asks less often.
pub(crate) async fn turn_away(upgraded: Upgraded, expired: bool, delay: Duration, connections: &Connections) {
    let (mut wire, _) = Wire::of(upgraded);
    if expired {
        say_expired(wire.outbox());
    }
    let refuse = async {
        let wait = async {
            tokio::select! {
                () = sleep(delay) => {}
                () = connections.lifecycle.draining() => {}
            }
        };
        if wire.write_while(wait).await {
            wire.outbox().push(protocol::close(close::POLICY, UNAUTHORIZED));
            let _ = timeout(FAREWELL, wire.end()).await;
        }
    };
    tokio::select! {
        () = refuse => {}
        () = connections.lifecycle.over() => {}
    }
}

/// What an application's page can handle, before a close that the client would only answer by coming back.
fn say_expired(outbox: &Outbox) {
    outbox.push(protocol::message("$session", r#"{"type":"expired"}"#));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, hub::tests::hub};

    fn open(hub: &Arc<Hub>) -> Open {
        let outbox = Arc::new(Outbox::new(None));
        Open { subscriber: hub.join(outbox.clone(), Identity::new("alice"), Origin::Unknown), outbox }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_the_seat_of_a_disconnected_socket_keeps_it() {
        let hub = hub(100);
        let goes = open(&hub);
        goes.silence(&hub);
        let comes = open(&hub);
        let events = hub.find("events").unwrap();
        assert!(hub.subscribe(&comes.subscriber, events, Instant::now()));
        // At its end the first one leaves once more.
        goes.leave(&hub);
        hub.publish(events, &[Change::delete(7).unwrap()], None);
        let news = timeout(Duration::from_secs(5), comes.outbox.signals().news());
        news.await.expect("it is among those who are told");
    }
}
