//! What one socket keeps.
//!
//! Thousands of sockets do nothing most of the time, so what one keeps is small: one timer for everything that is ever
//! due, one waker for every signal of other tasks, and boxes for what most of them never do.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::{future::BoxFuture, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use super::{
    large::{LargeMessage, LargeMessages},
    limits::ConnectionPermit,
    meter::READ_BUFFER,
    presence::Departure,
    reauth::{AccessTerms, Reauth, SubscriptionAuth},
    registry::{Connections, Registration},
    signals::Signal,
    transport::Transport,
};
use crate::{
    auth::Identity,
    calls::SocketCalls,
    entity::EntityIndex,
    hub::{ResumeFrom, SnapshotFrames},
    protocol::{self, close},
    random,
};

/// Bytes of answers that tungstenite keeps when they cannot be written.
const ANSWER_BUFFER: usize = 4 * 1024;

/// An authenticated client whose socket is about to open.
pub(crate) struct AcceptedClient {
    pub(crate) identity: Identity,
    pub(crate) resume: ResumeFrom,
    pub(crate) terms: AccessTerms,
    pub(crate) permit: ConnectionPermit,
}

/// Why a socket ends.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    /// The page closed it.
    ClosedByPage,
    /// The server closes it, with this code and reason.
    Close(u16, &'static str),
    /// It is broken or idle, or there is no time for a close handshake.
    Gone,
    /// The page broke the protocol.
    Broken(u16),
}

impl Ending {
    pub(super) const DISCONNECTED: Self = Self::Close(close::POLICY, "Disconnected");
    pub(super) const GOING_AWAY: Self = Self::Close(close::GOING_AWAY, "Going away");
    pub(super) const TOO_SLOW: Self = Self::Close(close::TRY_AGAIN, "Too slow");

    /// Whether its page may come back.
    pub(super) fn departure(self) -> Departure {
        match self {
            Self::Close(close::POLICY, _) => Departure::ForGood,
            Self::Close(..) | Self::ClosedByPage | Self::Gone | Self::Broken(_) => Departure::ForNow,
        }
    }
}

pub(super) struct ConnectionState {
    pub(super) registration: Registration,
    /// Given back when the socket is closed.
    _permit: ConnectionPermit,
    pub(super) socket: WebSocket<Transport>,
    /// Ends the socket when its identity is no longer valid; none where it may stay open for ever.
    pub(super) reauth: Option<Box<Reauth>>,
    pub(super) last_received: Instant,
    pub(super) ping_at: Instant,
    /// When the hub has something to resend.
    pub(super) resend_at: Option<Instant>,
    /// True when the hub may have something for this page that the fan-out has not written.
    pub(super) may_be_behind: bool,
    pub(super) cold: Option<Box<ColdState>>,
}

/// What most sockets never need.
#[derive(Default)]
pub(super) struct ColdState {
    /// The calls of the page, from the first one on.
    pub(super) calls: Option<Box<SocketCalls>>,
    pub(super) subscription_auth: Option<Box<SubscriptionAuth>>,
    /// Snapshots that are being read for entities whose changes have left the log.
    pub(super) snapshots: Option<FuturesUnordered<BoxFuture<'static, Resynchronisation>>>,
    /// The visibility hooks that run for this page, until what they allow is sent.
    pub(super) check: Option<BoxFuture<'static, ()>>,
    /// Since when the stream has taken no byte of what waits.
    pub(super) stuck_since: Option<Instant>,
    pub(super) phase: Phase,
}

#[derive(Default)]
pub(super) enum Phase {
    #[default]
    Open,
    /// The server shuts down, and the socket begins to close at this time.
    LeavesAt(Instant),
    Closing(Closing),
}

pub(super) struct Closing {
    pub(super) phase: ClosePhase,
    /// When the phase is given up.
    pub(super) until: Instant,
    /// Ready when the drain timeout of the server is over.
    pub(super) over: BoxFuture<'static, ()>,
}

#[derive(Clone, Copy)]
pub(super) enum ClosePhase {
    /// What is published already is sent.
    Draining,
    /// The page is asked a last time what it has received, for the log file.
    AwaitingPong,
    /// The close frame goes out, and messages are read until the page has closed too.
    AwaitingClose,
    /// The page broke the protocol: the close frame goes out, and bytes are discarded until the stream ends.
    AwaitingEof,
    Closed,
}

/// What a page has sent.
pub(super) enum Received {
    Message(Message),
    /// A message that the WebSocket library has not seen.
    Large(LargeMessage),
}

/// Snapshots of an entity for the page's identity, and for the one it had before.
pub(super) struct Resynchronisation {
    pub(super) entity: EntityIndex,
    pub(super) snapshot: Option<Arc<SnapshotFrames>>,
    pub(super) past: Option<Arc<SnapshotFrames>>,
}

impl ConnectionState {
    pub(super) fn new(upgraded: Upgraded, client: AcceptedClient, connections: Arc<Connections>) -> Self {
        let AcceptedClient { identity, resume, terms, permit } = client;
        let (mut transport, read) = Transport::of(upgraded);
        let message_bytes = connections.limits.message_bytes;
        let large = connections.calls.as_ref().map(|calls| LargeMessages::new(calls.clone(), message_bytes, &read));
        let first = if large.is_none() { read.to_vec() } else { Vec::new() };
        transport.limit(connections.read_limits.clone(), large, &read);
        let outbox = transport.outbox.clone();
        outbox.push(protocol::start(&random::id()));
        connections.observer().sockets_opened.up();
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(ANSWER_BUFFER)
            .max_message_size(Some(connections.limits.message_bytes))
            .max_frame_size(Some(connections.limits.message_bytes));
        let socket = WebSocket::from_partially_read(transport, first, Role::Server, Some(config));
        let now = Instant::now();
        let ping_interval = connections.limits.ping_interval;
        let registration = Registration::new(connections, identity, resume, outbox);
        let reauth = Reauth::new(terms, &registration, now);
        if reauth.as_ref().is_none_or(|reauth| reauth.is_confirmed) {
            registration.is_here(&registration.open.subscriber.identity());
        }
        let mut state = Self {
            registration,
            _permit: permit,
            socket,
            reauth,
            last_received: now,
            // Anywhere within the interval: thousands of sockets must not ping together.
            ping_at: now + random::within_half(ping_interval),
            resend_at: None,
            may_be_behind: true,
            cold: None,
        };
        state.find_calls();
        state
    }

    /// The next message. Pending until there is one, or while the page is not read.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, Error>> {
        loop {
            match self.socket.read() {
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let transport = self.socket.get_mut();
                    if let Some(large) = transport.large().and_then(LargeMessages::take_ended) {
                        return Poll::Ready(Ok(Received::Large(large)));
                    }
                    ready!(transport.poll_more(cx))?;
                }
                read => return Poll::Ready(read.map(Received::Message)),
            }
        }
    }

    pub(super) fn cold(&mut self) -> &mut ColdState {
        self.cold.get_or_insert_default()
    }

    pub(super) fn closing(&mut self) -> Option<&mut Closing> {
        match &mut self.cold.as_mut()?.phase {
            Phase::Closing(closing) => Some(closing),
            Phase::Open | Phase::LeavesAt(_) => None,
        }
    }

    pub(super) fn take_signals(&mut self) -> Signal {
        let raised = self.registration.open.outbox.signals.take();
        if raised.has(Signal::SEND) {
            self.may_be_behind = true;
            // A runtime may have ended, and with it the fan-out task that wrote to this socket.
            let Registration { connections, open, .. } = &self.registration;
            connections.hub().serve(&open.subscriber);
            connections.resume_presence();
        }
        raised
    }
}
