//! One socket's life: what its page says, pings, and how it ends.

mod authorization;
mod outbox;
mod permission;
mod places;
mod rate;
mod snapshots;
mod stream;

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::OptionFuture, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use slab::Slab;
use tokio::{
    io::AsyncReadExt,
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use self::{
    authorization::Authorizations,
    outbox::{Line, Outbox},
    places::Places,
    rate::Bucket,
    snapshots::Snapshots,
    stream::{Half, Opened, Wire},
};
pub(crate) use self::{
    permission::Permission,
    places::{Full, Place},
    rate::Rate,
};
use crate::{
    auth::{AuthError, Identity},
    gate::Gate,
    hub::{EntityIndex, Hub, Origin, Progress, Subscriber},
    lock::lock,
    observe::Observer,
    protocol::{self, ClientMessage, close},
    publish::Publisher,
    random,
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
    pub(crate) reask_interval: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) pong_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) message_bytes: usize,
}

/// What those hear who may not connect, or not any more.
const UNAUTHORIZED: &str = "Unauthorized";
/// How long the last words of a socket may take in each direction.
const FAREWELL: Duration = Duration::from_secs(2);
/// Sockets told to leave at once when the server shuts down; more are spread over half of the drain time.
const LEAVE_AT_ONCE: usize = 32;
/// tungstenite's buffer for reading: pages say little.
const READ_BUFFER: usize = 256;
/// What tungstenite keeps of answers that cannot go out.
const ANSWER_BUFFER: usize = 4 * 1024;

/// Every socket, and what they share.
pub(crate) struct Connections {
    publisher: Publisher,
    lifecycle: Arc<Lifecycle>,
    limits: ConnectionLimits,
    gate: Gate,
    places: Places,
    open: Mutex<Slab<Arc<Open>>>,
    /// How often somebody was to be disconnected.
    disconnects: AtomicU64,
    subscriptions: AtomicUsize,
    snapshots: Snapshots,
    hook_timeout: Duration,
}

/// One open socket, as others see it.
struct Open {
    subscriber: Arc<Subscriber>,
    outbox: Arc<Outbox>,
    has_left: AtomicBool,
    disconnected: Notify,
    /// Its identity is a new one.
    renewed: Notify,
}

impl Open {
    fn identity(&self) -> Identity {
        self.subscriber.identity()
    }

    /// The authenticator has been asked again, and this is what it says now.
    fn is_now(&self, hub: &Hub, identity: Identity) {
        hub.becomes(&self.subscriber, identity);
        self.renewed.notify_one();
    }

    /// Takes it off the hub, once: somebody else may have its seat after that.
    fn leave(&self, hub: &Hub) {
        if !self.has_left.swap(true, Ordering::AcqRel) {
            hub.leave(&self.subscriber, Instant::now());
        }
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
        gate: Gate,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        Self {
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

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// A place for one more socket, unless there are too many.
    pub(crate) fn admit(&self, identity: &Identity) -> Result<Place, Full> {
        self.places.take(identity.principal())
    }

    /// A page follows an entity from now on.
    fn follow(&self, subscriber: &Subscriber, entity: EntityIndex) {
        if self.hub().subscribe(subscriber, entity, Instant::now()) {
            self.subscriptions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A page follows an entity no longer.
    fn unfollow(&self, subscriber: &Subscriber, entity: EntityIndex) {
        if subscriber.unsubscribe(entity) {
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
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
        let open: Vec<Arc<Open>> = lock(&self.open).iter().map(|(_, open)| open.clone()).collect();
        let chosen = open.iter().filter(|open| chosen(&open.identity()));
        let close = |open: &Arc<Open>| {
            open.silence(self.hub());
            open.disconnected.notify_one();
        };
        chosen.map(close).count()
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

/// Why a socket ends.
enum Ending {
    /// The page closed it.
    Left,
    /// It is closed for a reason the page is told.
    Close(u16, &'static str),
    /// It cannot be written to any more, or nothing is heard of it.
    Gone,
    /// The page broke the protocol.
    Broken(u16),
}

/// Who has opened a socket, and what it stays open by.
pub(crate) struct Guest {
    pub(crate) identity: Identity,
    pub(crate) origin: Origin,
    pub(crate) permission: Permission,
}

/// Serves one socket to its end.
pub(crate) async fn serve(upgraded: Upgraded, guest: Guest, connections: &Connections) {
    let Guest { identity, origin, permission } = guest;
    let Opened { outbox, reader, half, read } = stream::open(upgraded);
    outbox.push(protocol::start(&random::id()));
    connections.observer().sockets_opened.up();

    let registered = Registered::new(connections, identity, origin, &outbox);
    let wire = Wire { reader, outbox: outbox.clone() };
    let mut socket =
        WebSocketStream::from_partially_read(wire, read.to_vec(), Role::Server, Some(config(connections))).await;
    drop(read);

    let mut connection = Connection { connections, open: registered.open.clone(), half };
    let life = async {
        let ending = connection.run(&mut socket, permission).await;
        if matches!(ending, Ending::Close(close::GOING_AWAY, _)) {
            let _ = timeout(FAREWELL, connection.hand_over_the_rest()).await;
        }
        // Before the last words, so that nothing is told after them.
        drop(registered);
        connection.farewell(socket, ending).await;
    };
    tokio::select! {
        () = life => {}
        () = connections.lifecycle.over() => {}
    }
}

/// A socket's place among the others, given up however its task ends.
struct Registered<'c> {
    connections: &'c Connections,
    open: Arc<Open>,
    place: usize,
}

impl<'c> Registered<'c> {
    fn new(connections: &'c Connections, identity: Identity, origin: Origin, outbox: &Arc<Outbox>) -> Self {
        let open = Arc::new(Open {
            subscriber: connections.hub().join(outbox.clone(), identity, origin),
            outbox: outbox.clone(),
            has_left: AtomicBool::new(false),
            disconnected: Notify::new(),
            renewed: Notify::new(),
        });
        let place = lock(&connections.open).insert(open.clone());
        Self { connections, open, place }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let place = lock(&self.connections.open).try_remove(self.place);
        drop(place);
        self.open.leave(self.connections.hub());
        self.connections.subscriptions.fetch_sub(self.open.subscriber.subscriptions(), Ordering::Relaxed);
    }
}

/// Lets a socket come up only to close it after `delay` with 1008, so that its page asks less often.
pub(crate) async fn turn_away(upgraded: Upgraded, expired: bool, delay: Duration, connections: &Connections) {
    let Opened { outbox, reader, mut half, .. } = stream::open(upgraded);
    if expired {
        say_expired(&outbox);
    }
    let mut wire = Wire { reader, outbox: outbox.clone() };
    let refuse = async {
        let wait = async {
            tokio::select! {
                () = sleep(delay) => {}
                () = connections.lifecycle.draining() => {}
            }
        };
        write_while(&outbox, half.as_mut(), wait).await;
        outbox.push(protocol::close(close::POLICY, UNAUTHORIZED));
        let _ = timeout(FAREWELL, write_while(&outbox, half.as_mut(), read_out(&mut wire))).await;
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

/// What one socket's task works with.
struct Connection<'c> {
    connections: &'c Connections,
    open: Arc<Open>,
    half: Option<Half>,
}

impl Connection<'_> {
    async fn run(&mut self, socket: &mut WebSocketStream<Wire>, mut permission: Permission) -> Ending {
        let Self { connections, open, half } = self;
        let limits = &connections.limits;
        let hub = connections.hub();
        let mut leaving = pin!(leave_with_the_server(connections));
        // Boxed, since nearly nobody is asked about.
        let confirmed = Box::pin(permission.confirm(connections, open));
        tokio::select! {
            biased;
            confirmed = confirmed => if let Err(why) = confirmed {
                open.silence(hub);
                return no_longer_welcome(connections, open, why);
            },
            () = open.disconnected.notified() => return Ending::Close(close::POLICY, "Disconnected"),
            () = &mut leaving => return Ending::Close(close::GOING_AWAY, "Going away"),
        }
        let mut writing = pin!(write_on(connections, open, half.as_mut()));
        // Boxed, since many sockets have none.
        let mut over = OptionFuture::from(permission.over(connections, open).map(Box::pin));
        let mut heard = Instant::now();
        // Most sockets follow nothing that needs a yes.
        let mut authorizations = None;
        let mut messages = Bucket::full(heard);
        let mut control_frames = Bucket::full(heard);
        // The first one anywhere within the interval: thousands of sockets must not ping together.
        let first = heard + random::between(limits.ping_interval / 2, limits.ping_interval);
        let mut ping = interval_at(first, limits.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    let may_speak = match &message {
                        Some(Ok(Message::Text(_) | Message::Binary(_))) => messages.take(limits.messages, heard),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                            control_frames.take(limits.control_frames, heard)
                        }
                        _ => true,
                    };
                    if !may_speak {
                        return too_many_messages(connections);
                    }
                    match message {
                        Some(Ok(Message::Text(text))) => hear(connections, open, &mut authorizations, &text),
                        Some(Ok(Message::Binary(_))) => connections.observer().messages_ignored.up(),
                        Some(Ok(Message::Pong(payload))) => open.subscriber.pong(hub, &payload),
                        Some(Ok(Message::Close(_))) => return Ending::Left,
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return ending_of(&error),
                        None => return Ending::Gone,
                    }
                }
                ending = &mut writing => return ending,
                () = authorize(connections, open, &mut authorizations) => {}
                _ = ping.tick() => {
                    if heard.elapsed() > limits.pong_timeout {
                        connections.observer().silent_closed.up();
                        return Ending::Gone;
                    }
                    open.outbox.push(open.subscriber.ping(hub, Instant::now()).into_frame());
                }
                () = open.disconnected.notified() => {
                    return Ending::Close(close::POLICY, "Disconnected");
                }
                Some(why) = &mut over => {
                    open.silence(hub);
                    return no_longer_welcome(connections, open, why);
                }
                () = &mut leaving => {
                    return Ending::Close(close::GOING_AWAY, "Going away");
                }
            }
        }
    }

    /// Hands over what has been told and not been written yet.
    async fn hand_over_the_rest(&mut self) {
        while flush(&self.open.outbox, self.half.as_mut()).await.is_ok() {
            match catch_up(self.connections, &self.open, self.half.as_mut()).await {
                Progress::More | Progress::Blocked => {}
                Progress::CaughtUp(_) | Progress::FellOff | Progress::Lost(..) | Progress::Unsure(_) => return,
            }
        }
    }

    /// Ends the socket with the words its ending asks for; a peer that does not listen is left after `FAREWELL`.
    async fn farewell(mut self, mut socket: WebSocketStream<Wire>, ending: Ending) {
        let frame = match ending {
            Ending::Gone => return,
            Ending::Left => None,
            Ending::Close(code, reason) => Some(CloseFrame { code: code.into(), reason: reason.into() }),
            Ending::Broken(code) => {
                self.open.outbox.push(protocol::close(code, ""));
                let last = write_while(&self.open.outbox, self.half.as_mut(), read_out(socket.get_mut()));
                let _ = timeout(FAREWELL, last).await;
                return;
            }
        };
        let hear_out = async {
            // Queues our close frame, or the answer to the page's.
            let _ = socket.close(frame).await;
            while let Some(Ok(_)) = socket.next().await {}
        };
        let _ = timeout(FAREWELL, write_while(&self.open.outbox, self.half.as_mut(), hear_out)).await;
    }
}

fn too_many_messages(connections: &Connections) -> Ending {
    let observer = connections.observer();
    observer.flooding_closed.up();
    observer.warn(format_args!("a page that said more than max_message_rate allows is closed"));
    Ending::Close(close::POLICY, "Too many messages")
}

fn no_longer_welcome(connections: &Connections, open: &Open, why: AuthError) -> Ending {
    let observer = connections.observer();
    observer.sockets_denied.up();
    observer.warn(format_args!("an open socket of {:?} is closed: {why}", open.identity().principal()));
    if why == AuthError::Expired {
        say_expired(&open.outbox);
    }
    Ending::Close(close::POLICY, UNAUTHORIZED)
}

/// Acts on one message of a page. What is not understood is ignored: the page would only reconnect and say it again.
fn hear(connections: &Connections, open: &Open, authorizations: &mut Option<Box<Authorizations>>, text: &str) {
    let entity = |name: &str| connections.hub().find(name);
    let understood = match ClientMessage::decode(text) {
        None => false,
        Some(ClientMessage::Subscribe(name)) => entity(&name).is_some_and(|entity| {
            subscribe(connections, open, authorizations, entity);
            true
        }),
        Some(ClientMessage::Unsubscribe(name)) => entity(&name).is_some_and(|entity| {
            if let Some(authorizations) = authorizations {
                authorizations.unsubscribe(entity);
            }
            connections.unfollow(&open.subscriber, entity);
            true
        }),
        Some(ClientMessage::Call(calls)) => {
            connections.observer().calls.add(calls.len() as u64);
            open.outbox.answer(protocol::result(&calls));
            true
        }
    };
    if !understood {
        connections.observer().messages_ignored.up();
    }
}

fn subscribe(
    connections: &Connections,
    open: &Open,
    authorizations: &mut Option<Box<Authorizations>>,
    entity: EntityIndex,
) {
    let subscriber = &open.subscriber;
    let waiting = authorizations.as_ref().map_or(0, |authorizations| authorizations.waiting(subscriber));
    let is_full = subscriber.subscriptions() + waiting >= connections.limits.subscriptions;
    let is_known = subscriber.follows(entity) || authorizations.as_ref().is_some_and(|it| it.wants(entity));
    if is_full && !is_known {
        let observer = connections.observer();
        observer.subscriptions_refused.up();
        observer.warn(format_args!("a page wants to hear more entities than max_subscriptions allows"));
        return;
    }
    if connections.authorize(entity).is_some() {
        authorizations.get_or_insert_default().subscribe(connections, open, entity);
    } else {
        connections.follow(subscriber, entity);
    }
}

/// What is asked about who may follow what, where anything is.
async fn authorize(connections: &Connections, open: &Open, authorizations: &mut Option<Box<Authorizations>>) {
    let Some(authorizations) = authorizations else {
        return std::future::pending().await;
    };
    tokio::select! {
        () = authorizations.go_on(connections, open) => return,
        () = open.renewed.notified() => {}
    }
    authorizations.ask_again(connections, open);
}

/// Writes whatever the fan-out could not: until the socket breaks or is too slow.
async fn write_on(connections: &Connections, open: &Open, mut half: Option<&mut Half>) -> Ending {
    let Open { subscriber, outbox, .. } = open;
    let slow = || {
        connections.observer().slow_closed.up();
        Ending::Close(close::TRY_AGAIN, "Too slow")
    };
    let hub = connections.hub();
    let mut asked = FuturesUnordered::new();
    loop {
        match timeout(connections.limits.write_timeout, write_some(outbox, half.as_deref_mut())).await {
            Err(_) => return slow(),
            Ok(Err(_)) => return Ending::Gone,
            Ok(Ok(Line::Waiting)) => continue,
            Ok(Ok(Line::Empty)) => {}
        }
        let due = match catch_up(connections, open, half.as_deref_mut()).await {
            Progress::FellOff => return slow(),
            // A reader as fast as the log grows must not keep its worker to itself.
            Progress::Blocked | Progress::More | Progress::Unsure(_) => {
                tokio::task::yield_now().await;
                continue;
            }
            Progress::Lost(entity, since) => {
                let (identity, earlier) = (subscriber.identity(), subscriber.earlier_identity());
                asked.push(async move {
                    let snapshot = connections.snapshots.of(entity, &identity, since).await;
                    let Some(earlier) = &earlier else {
                        return (entity, snapshot, None);
                    };
                    match connections.snapshots.of(entity, earlier, since).await {
                        None => (entity, None, None),
                        earlier => (entity, snapshot, earlier),
                    }
                });
                continue;
            }
            Progress::CaughtUp(due) => due,
        };
        tokio::select! {
            () = outbox.news() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            Some((entity, snapshot, earlier)) = asked.next(), if !asked.is_empty() => {
                hub.resynchronise(subscriber, entity, snapshot, earlier.as_deref(), Instant::now());
            }
        }
    }
}

/// One round of the slow way; where hooks say what may be seen, they are asked, and meanwhile it is written on.
async fn catch_up(connections: &Connections, open: &Open, mut half: Option<&mut Half>) -> Progress {
    let Open { subscriber, outbox, .. } = open;
    let hub = connections.hub();
    let mut inquiry = match hub.catch_up(subscriber, Instant::now()) {
        Progress::Unsure(inquiry) => inquiry,
        other => return other,
    };
    let observer = connections.observer();
    let failed = |entity: &str, why: &dyn fmt::Display| {
        observer.hooks_failed.up();
        observer.warn(format_args!("a hook that says who may see {entity:?} failed: {why}; it counts as no"));
    };
    let asking = inquiry.ask(hub, connections.hook_timeout, failed);
    let writing = async {
        while flush(outbox, half.as_deref_mut()).await.is_ok() {
            outbox.news().await;
        }
        // It is broken, as the next write says.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = asking => {}
        () = writing => {}
    }
    hub.tell(subscriber, *inquiry, Instant::now())
}

async fn write_some(outbox: &Outbox, mut half: Option<&mut Half>) -> io::Result<Line> {
    poll_fn(|cx| outbox.poll_write(cx, half.as_deref_mut())).await
}

/// Writes the whole line out.
async fn flush(outbox: &Outbox, mut half: Option<&mut Half>) -> io::Result<()> {
    while write_some(outbox, half.as_deref_mut()).await? == Line::Waiting {}
    Ok(())
}

/// Keeps the line written out while something else goes on, and once more at its end.
///
/// That is how a socket ends: its last words go out while the peer is read to its end, since unread bytes would make
/// the kernel reset the connection and the last words would be lost with it.
async fn write_while(outbox: &Outbox, mut half: Option<&mut Half>, other: impl Future<Output = ()>) {
    let writing = async {
        while flush(outbox, half.as_deref_mut()).await.is_ok() {
            outbox.news().await;
        }
    };
    tokio::select! {
        () = other => {}
        () = writing => return,
    }
    let _ = flush(outbox, half).await;
}

/// Reads and forgets until the peer ends.
async fn read_out(wire: &mut Wire) {
    let mut sink = [0; 1024];
    while matches!(wire.read(&mut sink).await, Ok(read) if read > 0) {}
}

/// Resolves when it is this socket's time to leave a server that shuts down.
async fn leave_with_the_server(connections: &Connections) {
    connections.lifecycle.draining().await;
    if connections.count().0 > LEAVE_AT_ONCE {
        sleep(random::between(Duration::ZERO, connections.lifecycle.drain() / 2)).await;
    }
}

fn ending_of(error: &Error) -> Ending {
    match error {
        Error::Capacity(_) => Ending::Broken(close::TOO_LARGE),
        Error::Utf8(_) => Ending::Broken(close::INVALID_TEXT),
        Error::Protocol(_) => Ending::Broken(close::PROTOCOL),
        _ => Ending::Gone,
    }
}

fn config(connections: &Connections) -> WebSocketConfig {
    let largest = connections.limits.message_bytes;
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(ANSWER_BUFFER)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, hub::tests::hub};

    fn open(hub: &Arc<Hub>) -> Open {
        let outbox = Arc::new(Outbox::new(None));
        Open {
            subscriber: hub.join(outbox.clone(), Identity::new("alice"), Origin::Unknown),
            outbox,
            has_left: AtomicBool::new(false),
            disconnected: Notify::new(),
            renewed: Notify::new(),
        }
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
        let news = timeout(Duration::from_secs(5), comes.outbox.news());
        news.await.expect("it is among those who are told");
    }
}
