//! One socket's life: what its page says, what it is told, pings, and how it ends.
//!
//! Thousands of sockets do nothing most of the time, so what one keeps is small: one timer for everything that is ever
//! due, one waker for everything that others want of it, and boxes for what most of them never do.

use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use pin_project::pin_project;
use tokio::{
    task::yield_now,
    time::{Instant, Sleep, sleep_until},
};
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{CloseFrame, Role, WebSocketConfig},
};

use super::{
    Connections, FAREWELL, Guest, Open, Place, UNAUTHORIZED,
    authorization::Authorizations,
    meter::{Meter, READ_BUFFER},
    outbox::Line,
    permission::Revalidation,
    say_expired,
    signals::{Signal, Signals},
    wire::Wire,
};
use crate::{
    auth::{AuthError, Identity},
    entity::EntityIndex,
    hub::{Inquiry, Origin, Progress, SnapshotFrames},
    lock::lock,
    protocol::{self, ClientMessage, close},
    random,
};

/// Sockets told to leave at once when the server shuts down; more are spread over half of the drain time.
const LEAVE_AT_ONCE: usize = 32;
/// Bytes that may wait for a page that has fallen behind the log. With more the socket is closed at once, with less when
/// they are written or the write timeout is over.
const MAX_UNSHARED: usize = 256 * 1000;
/// A page that is asked what it has received, before the server ends, is waited for so long.
const LAST_PONG: Duration = Duration::from_secs(1);
/// What tungstenite keeps of answers that cannot go out.
const ANSWER_BUFFER: usize = 4 * 1024;

/// Why a socket ends.
#[derive(Clone, Copy)]
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

/// What one socket's task is.
#[pin_project]
pub(super) struct Life {
    /// For everything that is ever due.
    #[pin]
    timer: Sleep,
    body: Body,
}

struct Body {
    seat: Seat,
    /// Given back when all is over.
    _place: Place,
    socket: WebSocket<Wire>,
    /// What ends it one day; nothing where it may stay open for ever.
    revalidation: Option<Box<Revalidation>>,
    heard: Instant,
    ping_at: Instant,
    /// When there is something to tell again.
    due: Option<Instant>,
    /// True when it must be looked for what there is to tell.
    has_news: bool,
    rare: Option<Box<Rare>>,
}

/// What most sockets never need.
#[derive(Default)]
struct Rare {
    authorizations: Option<Box<Authorizations>>,
    /// Entities that only the store can tell of.
    snapshots: Option<FuturesUnordered<BoxFuture<'static, Resynchronisation>>>,
    /// What it may see is being asked …
    asking: Option<BoxFuture<'static, Box<Inquiry>>>,
    /// … or has been, and it is not told yet.
    answered: Option<Box<Inquiry>>,
    /// Since when nothing of what waits could be written.
    stuck_since: Option<Instant>,
    /// When it leaves a server that shuts down.
    leave_at: Option<Instant>,
    end: Option<End>,
}

impl Rare {
    /// Goes on with what is asked, whether or not there is room to tell the answer.
    fn go_on_asking(&mut self, cx: &mut Context<'_>) {
        if let Some(Poll::Ready(answered)) = self.asking.as_mut().map(|asking| asking.poll_unpin(cx)) {
            (self.asking, self.answered) = (None, Some(answered));
        }
    }

    /// The answer, where anything was asked.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Option<Poll<Box<Inquiry>>> {
        self.go_on_asking(cx);
        match self.answered.take() {
            Some(answered) => Some(Poll::Ready(answered)),
            None => self.asking.as_ref().map(|_| Poll::Pending),
        }
    }
}

/// How a socket comes to its end.
struct End {
    step: Step,
    /// A peer that does not listen is left then …
    until: Instant,
    /// … or when the server can wait no longer.
    over: BoxFuture<'static, ()>,
}

#[derive(Clone, Copy)]
enum Step {
    /// What has been told is handed over.
    HandingOver,
    /// The page is asked a last time what it has received, for the log file.
    Acknowledging,
    /// The last words go out, while the page is heard until it has closed the socket too …
    Hearing,
    /// … or, where it broke the protocol, read until it ends.
    Reading,
    Ended,
}

/// What the store says of an entity, to who the page is, and who it was before.
struct Resynchronisation {
    entity: EntityIndex,
    snapshot: Option<Arc<SnapshotFrames>>,
    earlier: Option<Arc<SnapshotFrames>>,
}

impl Life {
    pub(super) fn new(upgraded: Upgraded, guest: Guest, place: Place, connections: Arc<Connections>) -> Self {
        let body = Body::new(upgraded, guest, place, connections);
        Self { timer: sleep_until(body.ping_at), body }
    }
}

/// By hand, since an `async fn` would hold twice what it is called with.
impl Future for Life {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (mut timer, body) = (this.timer, this.body);
        body.signals().listen(cx);
        body.socket.get_mut().listen(cx);
        loop {
            let now = Instant::now();
            if body.poll(now, cx).is_ready() {
                return Poll::Ready(());
            }
            let next = body.next_time(now);
            // One that fires too early does no harm, and most that are put off are put off again and again.
            if timer.is_elapsed() || next < timer.deadline() {
                timer.as_mut().reset(next);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

impl Body {
    fn new(upgraded: Upgraded, guest: Guest, place: Place, connections: Arc<Connections>) -> Self {
        let Guest { identity, origin, permission } = guest;
        let (mut wire, read) = Wire::of(upgraded);
        wire.limit(connections.reading.clone(), &read);
        wire.outbox().push(protocol::start(&random::id()));
        connections.observer().sockets_opened.up();
        let socket = WebSocket::from_partially_read(wire, read.to_vec(), Role::Server, Some(config(&connections)));
        let heard = Instant::now();
        let ping_interval = connections.limits.ping_interval;
        let seat = Seat::new(connections, identity, origin, &socket);
        let revalidation = Revalidation::new(permission, &seat.connections, &seat.open, heard);
        Self {
            seat,
            _place: place,
            socket,
            revalidation,
            heard,
            // Anywhere within the interval: thousands of sockets must not ping together.
            ping_at: heard + random::between(ping_interval / 2, ping_interval),
            due: None,
            has_news: true,
            rare: None,
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn is_ending(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.end.is_some())
    }

    /// Ready when the socket has come to its end.
    fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_ending() {
            let ending = ready!(self.poll_ending(now, cx));
            self.end(ending, now);
        }
        self.poll_end(now, cx)
    }

    /// Ready when the socket is to end.
    fn poll_ending(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some(ending) = self.act_on_signals(now) {
            return Poll::Ready(ending);
        }
        if let Some(revalidation) = &mut self.revalidation {
            if let Poll::Ready(why) = revalidation.poll(&self.seat.connections, &self.seat.open, now, cx) {
                return Poll::Ready(self.no_longer_welcome(why));
            }
            if !revalidation.is_confirmed() {
                // Until then it is neither pinged nor expected to say anything.
                self.heard = now;
                self.ping_at = self.ping_at.max(now + self.seat.connections.limits.ping_interval / 2);
                return Poll::Pending;
            }
        }
        // What has come is heard before anybody is taken for silent: the whole process may have stood still.
        if let Poll::Ready(ending) = self.poll_reading(now, cx) {
            return Poll::Ready(ending);
        }
        if let Some(ending) = self.act_on_time(now) {
            return Poll::Ready(ending);
        }
        self.go_on_asking(now, cx);
        self.poll_telling(now, cx)
    }

    /// What others have for it.
    fn take_signals(&mut self) -> Signal {
        let raised = self.signals().take();
        if raised.has(Signal::NEWS) {
            self.has_news = true;
            // The news may be that a runtime has ended, and with it the task that writes new records to this socket.
            let Seat { connections, open, .. } = &self.seat;
            connections.hub().serve(&open.subscriber);
        }
        raised
    }

    fn act_on_signals(&mut self, now: Instant) -> Option<Ending> {
        let raised = self.take_signals();
        if raised.has(Signal::OVER) {
            return Some(Ending::Gone);
        }
        if raised.has(Signal::DISCONNECTED) {
            return Some(Ending::DISCONNECTED);
        }
        if raised.has(Signal::PING) {
            self.ping_at = now;
        }
        let Seat { connections, open, .. } = &self.seat;
        let rare = &mut self.rare;
        if raised.has(Signal::RENEWED) {
            if let Some(authorizations) = rare.as_mut().and_then(|rare| rare.authorizations.as_mut()) {
                authorizations.ask_again(connections, open);
            }
        }
        if raised.has(Signal::LEAVE) {
            let half = connections.lifecycle.drain() / 2;
            let are_many = connections.count().0 > LEAVE_AT_ONCE;
            let wait = if are_many { random::between(Duration::ZERO, half) } else { Duration::ZERO };
            rare.get_or_insert_default().leave_at.get_or_insert(now + wait);
        }
        let leave_at = rare.as_ref().and_then(|rare| rare.leave_at);
        leave_at.is_some_and(|leave_at| leave_at <= now).then_some(Ending::GOING_AWAY)
    }

    fn act_on_time(&mut self, now: Instant) -> Option<Ending> {
        let Seat { connections, open, .. } = &self.seat;
        let limits = &connections.limits;
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.has_news = true;
        }
        if self.ping_at <= now {
            if now.saturating_duration_since(self.heard) > limits.pong_timeout {
                connections.observer().sockets_closed_idle.up();
                return Some(Ending::Gone);
            }
            open.outbox.push(open.subscriber.ping(connections.hub(), now).into_frame());
            self.ping_at = now + limits.ping_interval;
        }
        None
    }

    /// When there is something to do next that nobody wakes it for.
    fn next_time(&self, now: Instant) -> Instant {
        if let Some(end) = self.rare.as_ref().and_then(|rare| rare.end.as_ref()) {
            return end.until;
        }
        let meter = self.socket.get_ref().meter();
        let read_at = meter.map(Meter::paused_until).filter(|until| *until > now);
        let revalidate_at = self.revalidation.as_ref().map(|revalidation| revalidation.due());
        let next = [self.due, read_at, revalidate_at].into_iter().flatten().fold(self.ping_at, Instant::min);
        let Some(rare) = &self.rare else {
            return next;
        };
        let authorize_at = rare.authorizations.as_ref().and_then(|authorizations| authorizations.due());
        let stuck_until = rare.stuck_since.map(|since| since + self.seat.connections.limits.write_timeout);
        [authorize_at, stuck_until, rare.leave_at].into_iter().flatten().fold(next, Instant::min)
    }

    fn poll_reading(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        let meter = self.socket.get_ref().meter();
        if let Some(over_at) = meter.and_then(Meter::over_at) {
            if over_at <= now {
                return Poll::Ready(too_many_messages(&self.seat.connections));
            }
            // Its pongs may lie among what is not read yet.
            self.heard = now;
        }
        if meter.is_some_and(|meter| meter.paused_until() > now) {
            return Poll::Pending;
        }
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
        self.heard = Instant::now();
        match message {
            Message::Text(text) => {
                if !self.understands(&text) {
                    self.seat.connections.observer().messages_ignored.up();
                }
            }
            Message::Binary(_) => connections.observer().messages_ignored.up(),
            Message::Pong(payload) => open.subscriber.pong(connections.hub(), &payload),
            Message::Close(frame) => {
                if frame.is_some_and(|frame| u16::from(frame.code) == close::GOING_AWAY) {
                    open.subscriber.goes_away(connections.hub(), self.heard);
                }
                return Some(Ending::Left);
            }
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
            Some(ClientMessage::Subscribe(name)) => match entity(&name) {
                Some(entity) => {
                    self.subscribe(entity);
                    true
                }
                None => {
                    connections.diagnosis().unknown_name(&name);
                    false
                }
            },
            Some(ClientMessage::Unsubscribe(name)) => entity(&name).is_some_and(|entity| {
                if let Some(authorizations) = self.rare.as_mut().and_then(|rare| rare.authorizations.as_mut()) {
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
        let authorizations = self.rare.as_ref().and_then(|rare| rare.authorizations.as_ref());
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
            let rare = self.rare.get_or_insert_default();
            rare.authorizations.get_or_insert_default().subscribe(connections, open, entity);
        } else {
            connections.follow(subscriber, entity);
        }
    }

    /// Goes on with what others are asked: what the page may follow, and see, and what the store says.
    fn go_on_asking(&mut self, now: Instant, cx: &mut Context<'_>) {
        let Seat { connections, open, .. } = &self.seat;
        let Some(rare) = &mut self.rare else {
            return;
        };
        if let Some(authorizations) = &mut rare.authorizations {
            authorizations.go_on(connections, open, now, cx);
        }
        if let Some(snapshots) = &mut rare.snapshots {
            while let Poll::Ready(Some(said)) = snapshots.poll_next_unpin(cx) {
                let Resynchronisation { entity, snapshot, earlier } = said;
                connections.hub().resynchronise(&open.subscriber, entity, snapshot, earlier.as_deref(), now);
            }
        }
        rare.go_on_asking(cx);
    }

    /// Writes whatever the fan-out could not, until there is nothing left or the socket takes no more. Ready when it is
    /// broken or too slow.
    fn poll_telling(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        loop {
            match self.socket.get_mut().poll_write(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Ending::Gone),
                Poll::Ready(Ok(Line::Waiting)) => {
                    self.moves_on();
                    continue;
                }
                Poll::Ready(Ok(Line::Empty)) => self.moves_on(),
                Poll::Pending => {
                    let since = *self.rare().stuck_since.get_or_insert(now);
                    let Seat { connections, open, .. } = &self.seat;
                    let is_late = now.saturating_duration_since(since) >= connections.limits.write_timeout;
                    // What waits is shared with the log. Once the log has dropped it, this page may be the only owner.
                    let holds_too_much =
                        || connections.hub().has_fallen_off(&open.subscriber) && open.outbox.bytes() > MAX_UNSHARED;
                    if is_late || (self.has_news && holds_too_much()) {
                        return Poll::Ready(self.too_slow());
                    }
                    return Poll::Pending;
                }
            }
            let Seat { connections, open, .. } = &self.seat;
            let hub = connections.hub();
            let rare = self.rare.as_mut();
            let progress = match rare.and_then(|rare| rare.poll_answer(cx)) {
                Some(Poll::Ready(answered)) => hub.tell(&open.subscriber, *answered, now),
                None if self.has_news => hub.catch_up(&open.subscriber, now),
                Some(Poll::Pending) | None => return Poll::Pending,
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
                Progress::Unsure(inquiry) => {
                    let asking = ask(connections.clone(), inquiry);
                    self.rare().asking = Some(asking);
                }
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
        self.rare().snapshots.get_or_insert_default().push(Box::pin(asking));
        // It is asked from the next turn on.
        cx.waker().wake_by_ref();
    }

    /// Begins to end the socket, with the words its ending asks for.
    fn end(&mut self, ending: Ending, now: Instant) {
        let step = match ending {
            Ending::Close(close::GOING_AWAY, _) => {
                self.has_news = true;
                Step::HandingOver
            }
            other => self.last_words(other),
        };
        let over = Box::pin(self.seat.connections.lifecycle.over());
        self.rare().end = Some(End { step, until: now + FAREWELL, over });
    }

    fn last_words(&mut self, ending: Ending) -> Step {
        // Before the last words, so that nothing is told after them.
        self.seat.leave();
        self.socket.get_mut().unlimit();
        let frame = match ending {
            Ending::Gone => return Step::Ended,
            Ending::Left => None,
            Ending::Close(code, reason) => Some(CloseFrame { code: code.into(), reason: reason.into() }),
            Ending::Broken(code) => {
                self.seat.open.outbox.push(protocol::close(code, ""));
                return Step::Reading;
            }
        };
        // Queues our close frame, or the answer to the page's.
        let _ = self.socket.close(frame);
        Step::Hearing
    }

    /// Ready when the socket has ended, or its peer does not listen.
    fn poll_end(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let raised = self.take_signals();
        if raised.has(Signal::OVER) {
            return Poll::Ready(());
        }
        loop {
            let Some(end) = self.rare.as_mut().and_then(|rare| rare.end.as_mut()) else {
                return Poll::Ready(());
            };
            if end.over.poll_unpin(cx).is_ready() {
                return Poll::Ready(());
            }
            let is_late = end.until <= now;
            match end.step {
                Step::Ended => return Poll::Ready(()),
                Step::HandingOver => {
                    let ends = is_late || self.poll_telling(now, cx).is_ready();
                    if !(ends || self.has_handed_over()) {
                        return Poll::Pending;
                    }
                    if !ends && self.asks_a_last_time(now) {
                        self.goes_on(Step::Acknowledging, now + LAST_PONG);
                        continue;
                    }
                    let step = self.last_words(Ending::GOING_AWAY);
                    self.goes_on(step, now + FAREWELL);
                }
                Step::Acknowledging => {
                    let ending = match self.poll_reading(now, cx) {
                        Poll::Ready(ending) => ending,
                        Poll::Pending => {
                            let ends = is_late || self.poll_telling(now, cx).is_ready();
                            if !ends && self.seat.open.subscriber.awaits_pong() {
                                return Poll::Pending;
                            }
                            Ending::GOING_AWAY
                        }
                    };
                    let step = self.last_words(ending);
                    self.goes_on(step, now + FAREWELL);
                }
                Step::Hearing | Step::Reading if is_late => return Poll::Ready(()),
                Step::Hearing => {
                    let is_heard_out = self.poll_hearing_out(cx).is_ready();
                    return self.socket.get_mut().poll_end(is_heard_out, cx);
                }
                Step::Reading => {
                    let wire = self.socket.get_mut();
                    let is_read_out = wire.poll_reading_out(cx).is_ready();
                    return wire.poll_end(is_read_out, cx);
                }
            }
        }
    }

    fn goes_on(&mut self, step: Step, until: Instant) {
        if let Some(end) = &mut self.rare().end {
            (end.step, end.until) = (step, until);
        }
    }

    /// Asks the page what it has received, where that is kept beyond this process.
    fn asks_a_last_time(&self, now: Instant) -> bool {
        let Seat { connections, open, .. } = &self.seat;
        let hub = connections.hub();
        if !hub.is_kept() {
            return false;
        }
        open.outbox.push(open.subscriber.ping(hub, now).into_frame());
        open.subscriber.awaits_pong()
    }

    /// What has been told is written.
    fn has_handed_over(&self) -> bool {
        let is_asking = self.rare.as_ref().is_some_and(|rare| rare.asking.is_some() || rare.answered.is_some());
        !self.has_news && !is_asking && self.seat.open.outbox.is_empty()
    }

    /// Hears the page until it has closed the socket; ready then, and each time after.
    fn poll_hearing_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // The answer to its close must go out, which waits for what was answered before.
            if matches!(self.socket.flush(), Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Pending;
            }
            match self.socket.read() {
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(self.socket.get_ref().poll_more(cx)).is_err() {
                        return Poll::Ready(());
                    }
                }
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn signals(&self) -> &Signals {
        self.seat.open.outbox.signals()
    }

    fn moves_on(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.stuck_since = None;
        }
    }

    fn too_slow(&self) -> Ending {
        self.seat.connections.observer().sockets_closed_slow.up();
        Ending::TOO_SLOW
    }

    fn no_longer_welcome(&self, why: AuthError) -> Ending {
        let Seat { connections, open, .. } = &self.seat;
        open.silence(connections.hub());
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
    open: Open,
    place: Option<usize>,
}

impl Seat {
    fn new(connections: Arc<Connections>, identity: Identity, origin: Origin, socket: &WebSocket<Wire>) -> Self {
        let outbox = socket.get_ref().outbox().clone();
        let open = Open { subscriber: connections.hub().join(outbox.clone(), identity, origin), outbox };
        let place = lock(&connections.open).insert(open.clone());
        // Whoever tells everybody to leave either finds it among them, or has begun before.
        if connections.lifecycle.is_draining() {
            open.outbox.signals().raise(Signal::LEAVE);
        }
        if connections.lifecycle.is_over() {
            open.outbox.signals().raise(Signal::OVER);
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
    observer.sockets_closed_rate_limited.up();
    observer.warn(format_args!("a page that has sent more than max_message_rate allows for 30 s is closed"));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// With the runtime's own 112 bytes a task is 640 bytes, and the next size it can have is 768.
    #[test]
    fn the_task_of_an_idle_socket_is_small() {
        let size = size_of::<Life>();
        assert!(size <= 528, "{size}");
    }
}
