//! One socket's life: what its page says, pings, and how it ends.

mod outbox;
mod snapshots;
mod stream;

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::OptionFuture, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use slab::Slab;
use tokio::{
    io::AsyncReadExt,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
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
    outbox::{Line, Outbox},
    snapshots::Snapshots,
    stream::{Half, Opened, Wire},
};
use crate::{
    auth::{AuthError, Identity},
    hook::BoxFuture,
    hub::{Hub, Origin, Progress, Subscriber},
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
    permits: Arc<Semaphore>,
    open: Mutex<Slab<Arc<Open>>>,
    subscriptions: AtomicUsize,
    snapshots: Snapshots,
    hook_timeout: Duration,
}

/// One open socket, as others see it.
struct Open {
    identity: Identity,
    disconnected: Notify,
}

impl Connections {
    pub(crate) fn new(
        publisher: Publisher,
        limits: ConnectionLimits,
        hook: Duration,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        Self {
            snapshots: Snapshots::new(publisher.clone(), hook),
            hook_timeout: hook,
            permits: Arc::new(Semaphore::new(limits.connections)),
            publisher,
            lifecycle,
            limits,
            open: Mutex::default(),
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

    /// A place for one more socket, unless there are too many.
    pub(crate) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Sockets open, and subscriptions of all of them.
    pub(crate) fn count(&self) -> (usize, usize) {
        (lock(&self.open).len(), self.subscriptions.load(Ordering::Relaxed))
    }

    /// Closes the sockets of the identities that `chosen` picks.
    pub(crate) fn disconnect(&self, chosen: impl Fn(&Identity) -> bool) -> usize {
        // Collected first: the application's closure runs under no lock.
        let open: Vec<Arc<Open>> = lock(&self.open).iter().map(|(_, open)| open.clone()).collect();
        let chosen = open.iter().filter(|open| chosen(&open.identity));
        chosen.map(|open| open.disconnected.notify_one()).count()
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

/// Who has opened a socket, and for how long.
pub(crate) struct Guest {
    pub(crate) identity: Identity,
    pub(crate) origin: Origin,
    /// Resolves when the socket may not stay open any longer; boxed, since most sockets have none.
    pub(crate) revoked: Option<BoxFuture<AuthError>>,
}

/// Serves one socket to its end.
pub(crate) async fn serve(upgraded: Upgraded, guest: Guest, connections: &Connections) {
    let Guest { identity, origin, revoked } = guest;
    let Opened { outbox, reader, half, read } = stream::open(upgraded);
    outbox.push(protocol::start(&random::id()));
    connections.observer().sockets_opened.up();

    let registered = Registered::new(connections, identity, origin, &outbox);
    let wire = Wire { reader, outbox: outbox.clone() };
    let mut socket =
        WebSocketStream::from_partially_read(wire, read.to_vec(), Role::Server, Some(config(connections))).await;
    drop(read);

    let subscriber = registered.subscriber.clone();
    let mut connection = Connection { connections, open: registered.open.clone(), subscriber, outbox, half, revoked };
    let life = async {
        let ending = connection.run(&mut socket).await;
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
    subscriber: Arc<Subscriber>,
}

impl<'c> Registered<'c> {
    fn new(connections: &'c Connections, identity: Identity, origin: Origin, outbox: &Arc<Outbox>) -> Self {
        let open = Arc::new(Open { identity: identity.clone(), disconnected: Notify::new() });
        let place = lock(&connections.open).insert(open.clone());
        let subscriber = connections.hub().join(outbox.clone(), identity, origin);
        Self { connections, open, place, subscriber }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        lock(&self.connections.open).try_remove(self.place);
        self.connections.hub().leave(&self.subscriber, Instant::now());
        self.connections.subscriptions.fetch_sub(self.subscriber.subscriptions(), Ordering::Relaxed);
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
    subscriber: Arc<Subscriber>,
    outbox: Arc<Outbox>,
    half: Option<Half>,
    revoked: Option<BoxFuture<AuthError>>,
}

impl Connection<'_> {
    async fn run(&mut self, socket: &mut WebSocketStream<Wire>) -> Ending {
        let limits = &self.connections.limits;
        let hub = self.connections.hub();
        let writing = write_on(self.connections, &self.subscriber, &self.outbox, self.half.as_mut());
        let mut writing = pin!(writing);
        let mut revoked = OptionFuture::from(self.revoked.as_mut());
        let mut leaving = pin!(leave_with_the_server(self.connections));
        let mut heard = Instant::now();
        // The first one anywhere within the interval: thousands of sockets must not ping together.
        let first = heard + random::between(limits.ping_interval / 2, limits.ping_interval);
        let mut ping = interval_at(first, limits.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            hear(self.connections, &self.subscriber, &self.outbox, &text);
                        }
                        Some(Ok(Message::Binary(_))) => self.connections.observer().messages_ignored.up(),
                        Some(Ok(Message::Pong(payload))) => self.subscriber.pong(hub, &payload),
                        Some(Ok(Message::Close(_))) => return Ending::Left,
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return ending_of(&error),
                        None => return Ending::Gone,
                    }
                }
                ending = &mut writing => return ending,
                _ = ping.tick() => {
                    if heard.elapsed() > limits.pong_timeout {
                        self.connections.observer().silent_closed.up();
                        return Ending::Gone;
                    }
                    self.outbox.push(self.subscriber.ping(hub, Instant::now()).into_frame());
                }
                () = self.open.disconnected.notified() => {
                    return Ending::Close(close::POLICY, "Disconnected");
                }
                Some(why) = &mut revoked => {
                    if why == AuthError::Expired {
                        say_expired(&self.outbox);
                    }
                    return Ending::Close(close::POLICY, UNAUTHORIZED);
                }
                () = &mut leaving => {
                    return Ending::Close(close::GOING_AWAY, "Going away");
                }
            }
        }
    }

    /// Hands over what has been told and not been written yet.
    async fn hand_over_the_rest(&mut self) {
        while flush(&self.outbox, self.half.as_mut()).await.is_ok() {
            match catch_up(self.connections, &self.subscriber).await {
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
                self.outbox.push(protocol::close(code, ""));
                let last = write_while(&self.outbox, self.half.as_mut(), read_out(socket.get_mut()));
                let _ = timeout(FAREWELL, last).await;
                return;
            }
        };
        let hear_out = async {
            // Queues our close frame, or the answer to the page's.
            let _ = socket.close(frame).await;
            while let Some(Ok(_)) = socket.next().await {}
        };
        let _ = timeout(FAREWELL, write_while(&self.outbox, self.half.as_mut(), hear_out)).await;
    }
}

/// Acts on one message of a page. What is not understood is ignored: the page would only reconnect and say it again.
fn hear(connections: &Connections, subscriber: &Subscriber, outbox: &Outbox, text: &str) {
    let entity = |name: &str| connections.hub().find(name);
    let understood = match ClientMessage::decode(text) {
        None => false,
        Some(ClientMessage::Subscribe(name)) => entity(&name).is_some_and(|entity| {
            if connections.hub().subscribe(subscriber, entity, Instant::now()) {
                connections.subscriptions.fetch_add(1, Ordering::Relaxed);
            }
            true
        }),
        Some(ClientMessage::Unsubscribe(name)) => entity(&name).is_some_and(|entity| {
            if subscriber.unsubscribe(entity) {
                connections.subscriptions.fetch_sub(1, Ordering::Relaxed);
            }
            true
        }),
        Some(ClientMessage::Call(calls)) => {
            connections.observer().calls.add(calls.len() as u64);
            outbox.answer(protocol::result(&calls));
            true
        }
    };
    if !understood {
        connections.observer().messages_ignored.up();
    }
}

/// Writes whatever the fan-out could not: until the socket breaks or is too slow.
async fn write_on(
    connections: &Connections,
    subscriber: &Subscriber,
    outbox: &Outbox,
    mut half: Option<&mut Half>,
) -> Ending {
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
        let due = match catch_up(connections, subscriber).await {
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
                    let earlier = match &earlier {
                        Some(earlier) => connections.snapshots.of(entity, earlier, since).await,
                        None => None,
                    };
                    (entity, snapshot, earlier)
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

/// One round of the slow way; where hooks say what may be seen, they are asked.
async fn catch_up(connections: &Connections, subscriber: &Subscriber) -> Progress {
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
    inquiry.ask(hub, connections.hook_timeout, failed).await;
    hub.tell(subscriber, inquiry, Instant::now())
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
