//! The task of one socket: everything it does at each wake, in order.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    closing::{UNAUTHORIZED, push_expired},
    large::LargeMessages,
    meter::Meter,
    registry::{Connections, Registration},
    signals::Signal,
    state::{AcceptedClient, ConnectionState, Ending, Phase},
};
use crate::{auth::AuthError, protocol::close, random};

/// Sockets that close at once when the server shuts down; more are spread over half of the drain timeout.
const LEAVE_AT_ONCE: usize = 32;

/// Serves one socket to its end, in a task of its own.
pub(crate) fn serve(upgraded: Upgraded, client: AcceptedClient, connections: &Arc<Connections>) {
    let state = ConnectionState::new(upgraded, client, connections.clone());
    connections.lifecycle.tasks.spawn(Connection { timer: sleep_until(state.ping_at), state });
}

#[pin_project]
struct Connection {
    /// For everything that is ever due.
    #[pin]
    timer: Sleep,
    state: ConnectionState,
}

/// By hand, since an `async fn` would hold its arguments twice.
impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (mut timer, state) = (this.timer, this.state);
        state.registration.open.outbox.signals.listen(cx);
        state.socket.get_mut().listen(cx);
        loop {
            let now = Instant::now();
            if state.poll(now, cx).is_ready() {
                return Poll::Ready(());
            }
            let next = state.next_time(now);
            // A timer that fires too early does no harm, and most deadlines are put off again and again.
            if timer.is_elapsed() || next < timer.deadline() {
                timer.as_mut().reset(next);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

impl ConnectionState {
    /// Ready when the socket has ended.
    fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing().is_none() {
            let ending = ready!(self.poll_open(now, cx));
            self.begin_closing(ending, now);
        }
        self.poll_closing(now, cx)
    }

    /// Ready when the socket is to end.
    fn poll_open(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some(ending) = self.act_on_signals(now) {
            return Poll::Ready(ending);
        }
        if let Some(reauth) = &mut self.reauth {
            if let Poll::Ready(why) = reauth.poll(&self.registration, now, cx) {
                return Poll::Ready(self.revoke(why));
            }
            if !reauth.is_confirmed {
                // Until then it is not pinged, and its silence does not count.
                self.last_received = now;
                self.ping_at = self.ping_at.max(now + self.registration.connections.limits.ping_interval / 2);
                return Poll::Pending;
            }
        }
        self.resume_calls();
        // What has arrived is read before a page counts as idle: the whole process may have stood still.
        if let Poll::Ready(ending) = self.poll_inbound(now, cx) {
            return Poll::Ready(ending);
        }
        if let Some(ending) = self.act_on_time(now) {
            return Poll::Ready(ending);
        }
        self.poll_hooks(now, cx);
        self.poll_outbound(now, cx)
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
        let connections = &self.registration.connections;
        if raised.has(Signal::RENEWED) {
            if let Some(auth) = self.cold.as_mut().and_then(|cold| cold.subscription_auth.as_mut()) {
                auth.ask(&self.registration, |_| true);
            }
        }
        if raised.has(Signal::LEAVE) {
            let half = connections.lifecycle.drain / 2;
            let are_many = connections.count().0 > LEAVE_AT_ONCE;
            let wait = if are_many { random::between(Duration::ZERO, half) } else { Duration::ZERO };
            let phase = &mut self.cold.get_or_insert_default().phase;
            if matches!(phase, Phase::Open) {
                *phase = Phase::LeavesAt(now + wait);
            }
        }
        match self.cold.as_ref()?.phase {
            Phase::LeavesAt(at) if at <= now => Some(Ending::GOING_AWAY),
            _ => None,
        }
    }

    fn act_on_time(&mut self, now: Instant) -> Option<Ending> {
        let Registration { connections, open, .. } = &self.registration;
        let limits = &connections.limits;
        if self.resend_at.is_some_and(|at| at <= now) {
            self.resend_at = None;
            self.may_be_behind = true;
        }
        if self.ping_at <= now {
            if self.socket.get_mut().large().is_some_and(LargeMessages::take_arrival) {
                self.last_received = now;
            }
            if now.saturating_duration_since(self.last_received) > limits.pong_timeout {
                connections.observer().sockets_closed_idle.up();
                return Some(Ending::Gone);
            }
            open.outbox.push(open.subscriber.ping(now).into_frame());
            self.ping_at = now + limits.ping_interval;
            if let Some(calls) = self.cold.as_ref().and_then(|cold| cold.calls.as_ref()) {
                calls.forget();
            }
            if let Some(large) = self.socket.get_mut().large() {
                large.give_up_slow(now);
            }
        }
        None
    }

    /// When the task must run next, even if nothing wakes it.
    fn next_time(&self, now: Instant) -> Instant {
        let meter = self.socket.get_ref().meter();
        let read_at = meter.map(Meter::paused_until).filter(|until| *until > now);
        let reauth_at = self.reauth.as_ref().map(|reauth| reauth.due);
        let next = [self.resend_at, read_at, reauth_at].into_iter().flatten().fold(self.ping_at, Instant::min);
        let Some(cold) = &self.cold else { return next };
        let leave_at = match &cold.phase {
            Phase::Open => None,
            Phase::LeavesAt(at) => Some(*at),
            Phase::Closing(closing) => return closing.until,
        };
        let authorize_at = cold.subscription_auth.as_ref().and_then(|auth| auth.due());
        let stuck_until = cold.stuck_since.map(|since| since + self.registration.connections.limits.write_timeout);
        [authorize_at, stuck_until, leave_at].into_iter().flatten().fold(next, Instant::min)
    }

    fn revoke(&self, why: AuthError) -> Ending {
        let Registration { connections, open, .. } = &self.registration;
        open.discard_pending(connections.hub());
        let observer = connections.observer();
        observer.sockets_denied.up();
        observer.warn(format_args!("an open socket of {:?} is closed: {why}", open.subscriber.identity().principal()));
        if why == AuthError::Expired {
            push_expired(&open.outbox);
        }
        Ending::Close(close::POLICY, UNAUTHORIZED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the runtime's own 112 bytes a task is 640 bytes, and the next size it can have is 768.
    #[test]
    fn the_task_of_an_idle_socket_is_small() {
        let size = size_of::<Connection>();
        assert!(size <= 528, "{size}");
    }
}
