//! The slow path of one socket: its own task writes what the fan-out could not, reads snapshots, and runs visibility
//! hooks.

use std::{
    fmt,
    pin::pin,
    task::{Context, Poll},
};

use futures_util::{FutureExt, StreamExt};
use tokio::{task::yield_now, time::Instant};

use super::{
    outbox::WriteProgress,
    registry::Registration,
    state::{ConnectionState, Ending, Resynchronisation},
};
use crate::{
    entity::EntityIndex,
    hub::{Check, Progress},
    sequence::Sequence,
};

/// Bytes that may wait for a page that lags behind the start of the log. With more the socket is closed at once, with
/// less when they are written or the write timeout is over.
const MAX_UNSHARED: usize = 256 * 1000;

impl ConnectionState {
    /// Drives the hooks that authorize subscriptions and read snapshots.
    pub(super) fn poll_hooks(&mut self, now: Instant, cx: &mut Context<'_>) {
        let open = &self.registration.open;
        let Some(cold) = &mut self.cold else { return };
        if let Some(auth) = &mut cold.subscription_auth {
            auth.poll(&self.registration, now, cx);
        }
        if let Some(snapshots) = &mut cold.snapshots {
            while let Poll::Ready(Some(read)) = snapshots.poll_next_unpin(cx) {
                let Resynchronisation { entity, snapshot, past } = read;
                open.subscriber.resynchronise(entity, snapshot, past.as_deref(), now);
            }
        }
    }

    /// Drives the visibility hooks, and sends what they allow; true while they run.
    fn poll_check(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(check) = self.cold.as_mut().and_then(|cold| cold.check.as_mut()) else { return false };
        if check.poll_unpin(cx).is_pending() {
            return true;
        }
        self.cold().check = None;
        self.may_be_behind = true;
        false
    }

    /// Writes what the fan-out could not, until nothing is left or the stream takes no more. Ready when the stream is
    /// broken or too slow.
    pub(super) fn poll_outbound(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        self.run_waiting_calls();
        loop {
            // Whether or not there is room for what they allow, which is written next.
            let is_checking = self.poll_check(cx);
            match self.socket.get_mut().poll_write(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Ending::Gone),
                Poll::Ready(Ok(progress)) => {
                    if let Some(cold) = &mut self.cold {
                        cold.stuck_since = None;
                    }
                    if progress == WriteProgress::Remaining {
                        continue;
                    }
                }
                Poll::Pending => {
                    let since = *self.cold().stuck_since.get_or_insert(now);
                    let Registration { connections, open, .. } = &self.registration;
                    let is_late = now.saturating_duration_since(since) >= connections.limits.write_timeout;
                    // What waits is shared with the log. Once the log has dropped it, this page may be the only owner.
                    let holds_too_much = || open.subscriber.lags_behind_log() && open.outbox.bytes() > MAX_UNSHARED;
                    if is_late || (self.may_be_behind && holds_too_much()) {
                        return Poll::Ready(self.too_slow());
                    }
                    return Poll::Pending;
                }
            }
            if is_checking || !self.may_be_behind {
                return Poll::Pending;
            }
            match self.registration.open.subscriber.catch_up(now) {
                Progress::CaughtUp(due) => {
                    self.resend_at = due;
                    self.may_be_behind = false;
                    return Poll::Pending;
                }
                // A reader as fast as the log grows must not keep its worker to itself.
                Progress::Blocked | Progress::More => {
                    // Wakes this task when others have run.
                    let _ = pin!(yield_now()).poll(cx);
                    return Poll::Pending;
                }
                Progress::Lagged => return Poll::Ready(self.too_slow()),
                Progress::NeedsSnapshot(entity, since) => self.read_snapshot(entity, since, cx),
                Progress::NeedsCheck(check) => self.run_visibility_hooks(*check),
            }
        }
    }

    /// True when everything published for this page is written.
    pub(super) fn is_drained(&self) -> bool {
        let is_checking = self.cold.as_ref().is_some_and(|cold| cold.check.is_some());
        !self.may_be_behind && !is_checking && !self.awaits_results() && self.registration.open.outbox.is_empty()
    }

    fn read_snapshot(&mut self, entity: EntityIndex, since: Sequence, cx: &mut Context<'_>) {
        let Registration { connections, open, .. } = &self.registration;
        let connections = connections.clone();
        let (identity, past_identity) = (open.subscriber.identity(), open.subscriber.past_identity());
        let read = async move {
            let mut snapshot = connections.snapshots.of(entity, &identity, since).await;
            let mut past = None;
            if let Some(identity) = past_identity {
                past = connections.snapshots.of(entity, &identity, since).await;
                snapshot = snapshot.filter(|_| past.is_some());
            }
            Resynchronisation { entity, snapshot, past }
        };
        self.cold().snapshots.get_or_insert_default().push(Box::pin(read));
        // `poll_hooks` polls it from the next round on.
        cx.waker().wake_by_ref();
    }

    fn run_visibility_hooks(&mut self, check: Check) {
        let connections = self.registration.connections.clone();
        let run = async move {
            let observer = connections.observer();
            let failed = |entity: &str, why: &dyn fmt::Display| {
                observer.hooks_failed.up();
                observer.warn(format_args!("a visibility hook of {entity:?} failed: {why}; it counts as no"));
            };
            check.run(connections.hook_timeout, failed).await;
        };
        self.cold().check = Some(Box::pin(run));
    }

    fn too_slow(&self) -> Ending {
        self.registration.connections.observer().sockets_closed_slow.up();
        Ending::TOO_SLOW
    }
}
