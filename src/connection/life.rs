//! One socket's life: what its page says, what it is told, pings, and how it ends.
//!
//! Thousands of sockets do nothing most of the time, so what one keeps is small: one timer for everything that is ever
//! due, one waker for everything that others want of it, and boxes for what most of them never do.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use tokio::{
    task::yield_now,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{CloseFrame, Role, WebSocketConfig},
};

use super::{
    Connections, FAREWELL, Guest, Open, Place, UNAUTHORIZED,
    authorization::Authorizations,
    outbox::Line,
    permission::Permission,
    rate::Bucket,
    say_expired,
    signals::{Signal, Signals},
    wire::Wire,
};
use crate::{
    auth::{AuthError, Identity},
    hub::{EntityIndex, Inquiry, Origin, Progress, SnapshotFrames},
    lock::lock,
    protocol::{self, ClientMessage, close},
    random,
};

/// Sockets told to leave at once when the server shuts down; more are spread over half of the drain time.
const LEAVE_AT_ONCE: usize = 32;
/// tungstenite's buffer for reading: pages say little.
const READ_BUFFER: usize = 256;
/// What tungstenite keeps of answers that cannot go out.
const ANSWER_BUFFER: usize = 4 * 1024;

/// Why a socket ends.
enum Ending {
    /// The page closed it.
    Left,
    /// It is closed for a reason the page is told.
    Close(u16, &'static str),
    /// It cannot be written to any more, nothing is heard of it, or there is no time for an orderly end.
    Gone,
    /// The page broke the protocol.
    Broken(u16),
}

impl Ending {
    const DISCONNECTED: Self = Self::Close(close::POLICY, "Disconnected");
    const GOING_AWAY: Self = Self::Close(close::GOING_AWAY, "Going away");
    const TOO_SLOW: Self = Self::Close(close::TRY_AGAIN, "Too slow");
}

/// What one socket's task works with.
pub(super) struct Life {
    seat: Seat,
    /// Given back when all is over.
    _place: Place,
    socket: WebSocket<Wire>,
    messages: Bucket,
    control_frames: Bucket,
    heard: Instant,
    ping_at: Instant,
    /// True when it must be looked for what there is to tell.
    has_news: bool,
    /// When there is something to tell again.
    due: Option<Instant>,
    /// Since when nothing of what waits could be written.
    stuck_since: Option<Instant>,
    /// When it leaves a server that shuts down.
    leave_at: Option<Instant>,
    /// What it may stay open by, until it is asked whether it may stay.
    permission: Option<Box<Permission>>,
    /// Resolves when it may not stay open any longer.
    over: Option<BoxFuture<'static, AuthError>>,
    authorizations: Option<Box<Authorizations>>,
    /// Entities that only the store can tell of.
    snapshots: Option<Box<FuturesUnordered<BoxFuture<'static, Resynchronisation>>>>,
    /// What it may see is being asked.
    inquiry: Option<BoxFuture<'static, Box<Inquiry>>>,
}

/// What the store says of an entity, to who the page is, and who it was before.
struct Resynchronisation {
    entity: EntityIndex,
    snapshot: Option<Arc<SnapshotFrames>>,
    earlier: Option<Arc<SnapshotFrames>>,
}

impl Life {
    pub(super) fn new(upgraded: Upgraded, guest: Guest, place: Place, connections: Arc<Connections>) -> Self {
        let Guest { identity, origin, permission } = guest;
        let (wire, read) = Wire::of(upgraded);
        wire.outbox().push(protocol::start(&random::id()));
        connections.observer().sockets_opened.up();
        let permission = permission.may_end(&identity).then(|| Box::new(permission));
        let socket = {
            let config = Some(config(&connections));
            WebSocket::from_partially_read(wire, read.to_vec(), Role::Server, config)
        };
        let heard = Instant::now();
        let ping_interval = connections.limits.ping_interval;
        Self {
            seat: Seat::new(connections, identity, origin, &socket),
            _place: place,
            socket,
            messages: Bucket::full(heard),
            control_frames: Bucket::full(heard),
            heard,
            // Anywhere within the interval: thousands of sockets must not ping together.
            ping_at: heard + random::between(ping_interval / 2, ping_interval),
            has_news: true,
            due: None,
            stuck_since: None,
            leave_at: None,
            permission,
            over: None,
            authorizations: None,
            snapshots: None,
            inquiry: None,
        }
    }

    /// Lives it to its end. Not an `async fn`, whose future would hold what it is called with twice.
    pub(super) fn live(mut self) -> impl Future<Output = ()> + Send {
        async move {
            let ending = match self.permission.take() {
                // Boxed, as what comes at the end is: it must not make every socket's task larger.
                Some(permission) => Box::pin(self.be_confirmed(permission)).await,
                None => None,
            };
            let ending = match ending {
                Some(ending) => ending,
                None => {
                    let mut timer = pin!(sleep_until(self.ping_at));
                    poll_fn(|cx| self.poll(timer.as_mut(), cx)).await
                }
            };
            Box::pin(self.end(ending)).await;
        }
    }

    /// It is asked whether the page may stay, before it hears anything, where that may have changed already.
    async fn be_confirmed(&mut self, mut permission: Box<Permission>) -> Option<Ending> {
        let Seat { connections, open, .. } = &self.seat;
        let confirmed = tokio::select! {
            biased;
            confirmed = permission.confirm(connections, open) => confirmed,
            ending = interrupted(open.outbox.signals()) => return Some(ending),
        };
        if let Err(why) = confirmed {
            open.silence(connections.hub());
            return Some(self.no_longer_welcome(why));
        }
        self.over = Some(Box::pin(permission.over(connections.clone(), open.clone())));
        None
    }

    fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Ending> {
        self.signals().listen(cx);
        self.socket.get_mut().listen(cx);
        loop {
            let now = Instant::now();
            if let Some(ending) = self.act_on_signals(now).or_else(|| self.act_on_time(now)) {
                return Poll::Ready(ending);
            }
            if let Poll::Ready(ending) = self.poll_reading(cx) {
                return Poll::Ready(ending);
            }
            if let Poll::Ready(ending) = self.poll_asking(now, cx) {
                return Poll::Ready(ending);
            }
            if let Poll::Ready(ending) = self.poll_telling(now, cx) {
                return Poll::Ready(ending);
            }
            let next = self.next_time();
            // One that fires too early does no harm, and most that are put off are put off again and again.
            if timer.is_elapsed() || next < timer.deadline() {
                timer.as_mut().reset(next);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    fn act_on_signals(&mut self, now: Instant) -> Option<Ending> {
        let raised = self.signals().take();
        self.has_news |= raised.has(Signal::NEWS);
        if raised.has(Signal::OVER) {
            return Some(Ending::Gone);
        }
        if raised.has(Signal::DISCONNECTED) {
            return Some(Ending::DISCONNECTED);
        }
        let Seat { connections, open, .. } = &self.seat;
        if raised.has(Signal::RENEWED) {
            if let Some(authorizations) = &mut self.authorizations {
                authorizations.ask_again(connections, open);
            }
        }
        if raised.has(Signal::LEAVE) && self.leave_at.is_none() {
            let half = connections.lifecycle.drain() / 2;
            let are_many = connections.count().0 > LEAVE_AT_ONCE;
            self.leave_at = Some(if are_many { now + random::between(Duration::ZERO, half) } else { now });
        }
        None
    }

    fn act_on_time(&mut self, now: Instant) -> Option<Ending> {
        let Seat { connections, open, .. } = &self.seat;
        let limits = &connections.limits;
        if self.leave_at.is_some_and(|leave_at| leave_at <= now) {
            return Some(Ending::GOING_AWAY);
        }
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.has_news = true;
        }
        if self.ping_at <= now {
            if now.saturating_duration_since(self.heard) > limits.pong_timeout {
                connections.observer().silent_closed.up();
                return Some(Ending::Gone);
            }
            open.outbox.push(open.subscriber.ping(connections.hub(), now).into_frame());
            self.ping_at = now + limits.ping_interval;
        }
        None
    }

    /// When there is something to do next that nobody wakes it for.
    fn next_time(&self) -> Instant {
        let stuck_until = self.stuck_since.map(|since| since + self.seat.connections.limits.write_timeout);
        let authorize_at = self.authorizations.as_ref().and_then(|authorizations| authorizations.due());
        let others = [self.due, stuck_until, self.leave_at, authorize_at];
        others.into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        loop {
            match self.socket.read() {
                Ok(message) => {
                    if let Some(ending) = self.hear(message) {
                        return Poll::Ready(ending);
                    }
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(self.socket.get_ref().poll_more(cx)).is_err() {
                        return Poll::Ready(Ending::Gone);
                    }
                }
                Err(error) => return Poll::Ready(ending_of(&error)),
            }
        }
    }

    fn hear(&mut self, message: Message) -> Option<Ending> {
        let Seat { connections, open, .. } = &self.seat;
        let limits = &connections.limits;
        self.heard = Instant::now();
        let may_speak = match &message {
            Message::Text(_) | Message::Binary(_) => self.messages.take(limits.messages, self.heard),
            Message::Ping(_) | Message::Pong(_) => self.control_frames.take(limits.control_frames, self.heard),
            Message::Close(_) | Message::Frame(_) => true,
        };
        if !may_speak {
            return Some(too_many_messages(connections));
        }
        match message {
            Message::Text(text) => {
                if !self.understands(&text) {
                    self.seat.connections.observer().messages_ignored.up();
                }
            }
            Message::Binary(_) => connections.observer().messages_ignored.up(),
            Message::Pong(payload) => open.subscriber.pong(connections.hub(), &payload),
            Message::Close(_) => return Some(Ending::Left),
            Message::Ping(_) | Message::Frame(_) => {}
        }
        None
    }

    /// Acts on one message of a page. What is not understood is ignored: the page would only reconnect and say it again.
    fn understands(&mut self, text: &str) -> bool {
        let Seat { connections, open, .. } = &self.seat;
        let entity = |name: &str| connections.hub().find(name);
        match ClientMessage::decode(text) {
            None => false,
            Some(ClientMessage::Subscribe(name)) => entity(&name).is_some_and(|entity| {
                self.subscribe(entity);
                true
            }),
            Some(ClientMessage::Unsubscribe(name)) => entity(&name).is_some_and(|entity| {
                if let Some(authorizations) = &mut self.authorizations {
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
        }
    }

    fn subscribe(&mut self, entity: EntityIndex) {
        let Seat { connections, open, .. } = &self.seat;
        let subscriber = &open.subscriber;
        let authorizations = self.authorizations.as_ref();
        let waiting = authorizations.map_or(0, |authorizations| authorizations.waiting(subscriber));
        let is_full = subscriber.subscriptions() + waiting >= connections.limits.subscriptions;
        let is_known = subscriber.follows(entity) || authorizations.is_some_and(|it| it.wants(entity));
        if is_full && !is_known {
            let observer = connections.observer();
            observer.subscriptions_refused.up();
            observer.warn(format_args!("a page wants to hear more entities than max_subscriptions allows"));
            return;
        }
        if connections.authorize(entity).is_some() {
            self.authorizations.get_or_insert_default().subscribe(connections, open, entity);
        } else {
            connections.follow(subscriber, entity);
        }
    }

    /// Goes on with what others are asked: whether the page may stay, what it may follow, what the store says.
    fn poll_asking(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        let Seat { connections, open, .. } = &self.seat;
        if let Some(authorizations) = &mut self.authorizations {
            authorizations.go_on(connections, open, now, cx);
        }
        if let Some(snapshots) = &mut self.snapshots {
            while let Poll::Ready(Some(Resynchronisation { entity, snapshot, earlier })) = snapshots.poll_next_unpin(cx)
            {
                connections.hub().resynchronise(&open.subscriber, entity, snapshot, earlier.as_deref(), now);
            }
            if snapshots.is_empty() {
                self.snapshots = None;
            }
        }
        match self.over.as_mut().map(|over| over.poll_unpin(cx)) {
            Some(Poll::Ready(why)) => {
                self.over = None;
                open.silence(connections.hub());
                Poll::Ready(self.no_longer_welcome(why))
            }
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }

    /// Writes whatever the fan-out could not, until there is nothing left or the socket takes no more. Ready when it is
    /// broken or too slow.
    fn poll_telling(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        loop {
            match self.socket.get_mut().poll_write(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Ending::Gone),
                Poll::Ready(Ok(Line::Waiting)) => {
                    self.stuck_since = None;
                    continue;
                }
                Poll::Ready(Ok(Line::Empty)) => self.stuck_since = None,
                Poll::Pending => {
                    let since = *self.stuck_since.get_or_insert(now);
                    if now.saturating_duration_since(since) >= self.seat.connections.limits.write_timeout {
                        return Poll::Ready(self.too_slow());
                    }
                    return Poll::Pending;
                }
            }
            let Seat { connections, open, .. } = &self.seat;
            let hub = connections.hub();
            let progress = match &mut self.inquiry {
                Some(inquiry) => {
                    let inquiry = ready!(inquiry.poll_unpin(cx));
                    self.inquiry = None;
                    hub.tell(&open.subscriber, *inquiry, now)
                }
                None if self.has_news => hub.catch_up(&open.subscriber, now),
                None => return Poll::Pending,
            };
            self.has_news = true;
            match progress {
                Progress::CaughtUp(due) => {
                    self.due = due;
                    self.has_news = false;
                    return Poll::Pending;
                }
                // A reader as fast as the log grows must not keep its worker to itself.
                Progress::Blocked | Progress::More => {
                    // Wakes this task when others have had their turn.
                    let _ = pin!(yield_now()).poll(cx);
                    return Poll::Pending;
                }
                Progress::FellOff => return Poll::Ready(self.too_slow()),
                Progress::Lost(entity, since) => self.ask_the_store(entity, since, cx),
                Progress::Unsure(inquiry) => self.inquiry = Some(ask(connections.clone(), inquiry)),
            }
        }
    }

    fn ask_the_store(&mut self, entity: EntityIndex, since: u64, cx: &mut Context<'_>) {
        let Seat { connections, open, .. } = &self.seat;
        let (connections, subscriber) = (connections.clone(), &open.subscriber);
        let (identity, earlier) = (subscriber.identity(), subscriber.earlier_identity());
        let asking = async move {
            let of = |identity: Identity| {
                let connections = connections.clone();
                async move { connections.snapshots.of(entity, &identity, since).await }
            };
            let snapshot = of(identity).await;
            let Some(earlier) = earlier else {
                return Resynchronisation { entity, snapshot, earlier: None };
            };
            match of(earlier).await {
                None => Resynchronisation { entity, snapshot: None, earlier: None },
                earlier => Resynchronisation { entity, snapshot, earlier },
            }
        };
        self.snapshots.get_or_insert_default().push(Box::pin(asking));
        // It is asked from the next turn on.
        cx.waker().wake_by_ref();
    }

    /// Hands over what has been told and not been written yet.
    async fn hand_over_the_rest(&mut self) {
        self.has_news = true;
        poll_fn(|cx| {
            self.signals().listen(cx);
            let ends = self.poll_telling(Instant::now(), cx).is_ready();
            let is_done = !self.has_news && self.inquiry.is_none() && self.seat.open.outbox.is_empty();
            if ends || is_done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    async fn end(self, ending: Ending) {
        let connections = self.seat.connections.clone();
        tokio::select! {
            () = self.farewell(ending) => {}
            () = connections.lifecycle.over() => {}
        }
    }

    /// Ends the socket with the words its ending asks for; a peer that does not listen is left after `FAREWELL`.
    async fn farewell(mut self, ending: Ending) {
        if matches!(ending, Ending::Close(close::GOING_AWAY, _)) {
            let _ = timeout(FAREWELL, self.hand_over_the_rest()).await;
        }
        // Before the last words, so that nothing is told after them.
        self.seat.leave();
        let frame = match ending {
            Ending::Gone => return,
            Ending::Left => None,
            Ending::Close(code, reason) => Some(CloseFrame { code: code.into(), reason: reason.into() }),
            Ending::Broken(code) => {
                self.seat.open.outbox.push(protocol::close(code, ""));
                let _ = timeout(FAREWELL, self.socket.get_mut().end()).await;
                return;
            }
        };
        // Queues our close frame, or the answer to the page's.
        let _ = self.socket.close(frame);
        let _ = timeout(FAREWELL, self.hear_out()).await;
    }

    /// Writes the line out, while it hears the page until that has closed the socket.
    async fn hear_out(&mut self) {
        let mut is_heard_out = false;
        poll_fn(|cx| {
            self.signals().listen(cx);
            self.socket.get_mut().listen(cx);
            let _ = self.socket.flush();
            while !is_heard_out {
                match self.socket.read() {
                    Ok(_) => {}
                    Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        match self.socket.get_ref().poll_more(cx) {
                            Poll::Ready(more) => is_heard_out = more.is_err(),
                            Poll::Pending => break,
                        }
                    }
                    Err(_) => is_heard_out = true,
                }
            }
            match self.socket.get_mut().poll_flush(cx) {
                Poll::Ready(Ok(())) if !is_heard_out => Poll::Pending,
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }

    fn signals(&self) -> &Signals {
        self.seat.open.outbox.signals()
    }

    fn too_slow(&self) -> Ending {
        self.seat.connections.observer().slow_closed.up();
        Ending::TOO_SLOW
    }

    fn no_longer_welcome(&self, why: AuthError) -> Ending {
        let Seat { connections, open, .. } = &self.seat;
        let observer = connections.observer();
        observer.sockets_denied.up();
        observer.warn(format_args!("an open socket of {:?} is closed: {why}", open.identity().principal()));
        if why == AuthError::Expired {
            say_expired(&open.outbox);
        }
        Ending::Close(close::POLICY, UNAUTHORIZED)
    }
}

/// A socket's place among the others, given up however its task ends.
struct Seat {
    connections: Arc<Connections>,
    open: Arc<Open>,
    place: Option<usize>,
}

impl Seat {
    fn new(connections: Arc<Connections>, identity: Identity, origin: Origin, socket: &WebSocket<Wire>) -> Self {
        let outbox = socket.get_ref().outbox();
        let open = Arc::new(Open {
            subscriber: connections.hub().join(outbox.clone(), identity, origin),
            outbox: outbox.clone(),
            has_left: AtomicBool::new(false),
        });
        let place = lock(&connections.open).insert(open.clone());
        // Whoever tells everybody to leave either finds it among them, or has begun before.
        if connections.lifecycle.is_draining() {
            outbox.signals().raise(Signal::LEAVE);
        }
        Self { connections, open, place: Some(place) }
    }

    fn leave(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        let open = lock(&self.connections.open).try_remove(place);
        drop(open);
        self.open.leave(self.connections.hub());
        self.connections.unfollow_all(&self.open.subscriber);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Resolves when it is of no use any more to ask whether a page may stay.
async fn interrupted(signals: &Signals) -> Ending {
    poll_fn(|cx| {
        signals.listen(cx);
        let raised = signals.raised();
        if raised.has(Signal::OVER) {
            Poll::Ready(Ending::Gone)
        } else if raised.has(Signal::DISCONNECTED) {
            Poll::Ready(Ending::DISCONNECTED)
        } else if raised.has(Signal::LEAVE) {
            Poll::Ready(Ending::GOING_AWAY)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Asks the hooks that say what may be seen.
fn ask(connections: Arc<Connections>, mut inquiry: Box<Inquiry>) -> BoxFuture<'static, Box<Inquiry>> {
    Box::pin(async move {
        let observer = connections.observer();
        let failed = |entity: &str, why: &dyn fmt::Display| {
            observer.hooks_failed.up();
            observer.warn(format_args!("a hook that says who may see {entity:?} failed: {why}; it counts as no"));
        };
        inquiry.ask(connections.hub(), connections.hook_timeout, failed).await;
        inquiry
    })
}

fn too_many_messages(connections: &Connections) -> Ending {
    let observer = connections.observer();
    observer.flooding_closed.up();
    observer.warn(format_args!("a page that said more than max_message_rate allows is closed"));
    Ending::Close(close::POLICY, "Too many messages")
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
