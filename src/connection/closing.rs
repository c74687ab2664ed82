//! How a socket ends: what is published already is sent, then a close frame, and the page is read until it has closed
//! too.

use std::{
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::FutureExt;
use hyper::upgrade::Upgraded;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::{Error, protocol::CloseFrame};

use super::{
    outbox::Outbox,
    registry::{Connections, Registration},
    state::{ClosePhase, Closing, ConnectionState, Ending, Phase},
    transport::Transport,
};
use crate::protocol::{self, close};

/// The reason in the close frame of a page that may not connect, or not any more.
pub(super) const UNAUTHORIZED: &str = "Unauthorized";
/// How long a close handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a page that is asked what it has received may take to answer when the server ends.
const LAST_PONG_TIMEOUT: Duration = Duration::from_secs(1);

impl ConnectionState {
    pub(super) fn begin_closing(&mut self, ending: Ending, now: Instant) {
        let phase = match ending {
            Ending::Close(close::GOING_AWAY, _) => {
                self.may_be_behind = true;
                ClosePhase::Draining
            }
            other => self.send_close(other),
        };
        let over = Box::pin(self.registration.connections.lifecycle.over.clone().cancelled_owned());
        self.cold().phase = Phase::Closing(Closing { phase, until: now + CLOSE_TIMEOUT, over });
    }

    fn send_close(&mut self, ending: Ending) -> ClosePhase {
        // First, so that no frame follows the close frame.
        self.registration.leave(ending.departure());
        self.leave_calls(ending);
        // The page is read as fast as it sends, to the end: unread bytes would cost it our close frame.
        if let Some(intake) = &mut self.socket.get_mut().intake {
            intake.meter.lift();
        }
        let frame = match ending {
            Ending::Gone => return ClosePhase::Closed,
            Ending::ClosedByPage => None,
            Ending::Close(code, reason) => Some(CloseFrame { code: code.into(), reason: reason.into() }),
            Ending::Broken(code) => {
                // What follows is discarded as it comes.
                self.socket.get_mut().intake = None;
                self.registration.open.outbox.push(protocol::close(code, ""));
                return ClosePhase::AwaitingEof;
            }
        };
        // Queues our close frame, or the answer to the page's.
        let _ = self.socket.close(frame);
        ClosePhase::AwaitingClose
    }

    /// Ready when the socket has ended, or its peer does not answer in time.
    pub(super) fn poll_closing(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        // `Signal::OVER` is not looked at: `Closing::over` is ready before that is raised.
        self.take_signals();
        loop {
            let Some(closing) = self.closing() else { return Poll::Ready(()) };
            if closing.over.poll_unpin(cx).is_ready() {
                return Poll::Ready(());
            }
            let is_late = closing.until <= now;
            let ending = match closing.phase {
                ClosePhase::Closed => return Poll::Ready(()),
                ClosePhase::Draining => {
                    let ends = is_late || self.poll_outbound(now, cx).is_ready();
                    if !ends && !self.is_drained() {
                        return Poll::Pending;
                    }
                    if !ends && self.sends_last_ping(now) {
                        self.enter(ClosePhase::AwaitingPong, now + LAST_PONG_TIMEOUT);
                        continue;
                    }
                    Ending::GOING_AWAY
                }
                ClosePhase::AwaitingPong => match self.poll_inbound(now, cx) {
                    Poll::Ready(ending) => ending,
                    Poll::Pending => {
                        let ends = is_late || self.poll_outbound(now, cx).is_ready();
                        if !ends && self.registration.open.subscriber.awaits_pong() {
                            return Poll::Pending;
                        }
                        Ending::GOING_AWAY
                    }
                },
                ClosePhase::AwaitingClose | ClosePhase::AwaitingEof if is_late => return Poll::Ready(()),
                ClosePhase::AwaitingClose => {
                    let is_closed = self.poll_until_closed(cx).is_ready();
                    return self.socket.get_mut().poll_finish(is_closed, cx);
                }
                ClosePhase::AwaitingEof => {
                    let transport = self.socket.get_mut();
                    let is_at_end = transport.poll_until_eof(cx).is_ready();
                    return transport.poll_finish(is_at_end, cx);
                }
            };
            let phase = self.send_close(ending);
            self.enter(phase, now + CLOSE_TIMEOUT);
        }
    }

    fn enter(&mut self, phase: ClosePhase, until: Instant) {
        if let Some(closing) = self.closing() {
            (closing.phase, closing.until) = (phase, until);
        }
    }

    /// Asks the page what it has received, where the log is kept beyond this process. True when a pong is to come.
    fn sends_last_ping(&self, now: Instant) -> bool {
        let Registration { connections, open, .. } = &self.registration;
        if !connections.hub().is_kept() {
            return false;
        }
        open.outbox.push(open.subscriber.ping(now).into_frame());
        open.subscriber.awaits_pong()
    }

    /// Reads messages until the page has closed the socket; ready then, and each time after.
    fn poll_until_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // The answer to the page's close must go out, which waits for earlier answers.
            if matches!(self.socket.flush(), Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Pending;
            }
            if ready!(self.poll_message(cx)).is_err() {
                return Poll::Ready(());
            }
        }
    }
}

/// Accepts a socket only to close it after `delay` with 1008, so that its page retries less often.
pub(crate) async fn reject_after(upgraded: Upgraded, expired: bool, delay: Duration, connections: &Connections) {
    let (mut transport, _) = Transport::of(upgraded);
    if expired {
        push_expired(&transport.outbox);
    }
    let reject = async {
        let wait = timeout(delay, connections.lifecycle.draining.cancelled());
        if transport.write_while(wait.map(drop)).await {
            transport.outbox.push(protocol::close(close::POLICY, UNAUTHORIZED));
            let _ = timeout(CLOSE_TIMEOUT, transport.finish()).await;
        }
    };
    tokio::select! {
        () = reject => {}
        () = connections.lifecycle.over.cancelled() => {}
    }
}

/// Lets the application's page renew its key before a close that the client would answer with a reconnect.
pub(super) fn push_expired(outbox: &Outbox) {
    outbox.push(protocol::message("$session", r#"{"type":"expired"}"#));
}
