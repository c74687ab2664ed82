//! The calls of one page: which wait, which run, and the results that are kept for its next socket.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    limits::CallLimits,
    memory::{Memory, MemoryPermit},
    method::Caller,
    texts::{NO_MEMORY, TOO_MANY, TOO_MANY_WAIT},
};
use crate::{
    call_message::{Call, CallId, Outcome},
    rate::Bucket,
    session::Session,
};

/// How long a result is kept for a page whose socket may be gone.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(60);
/// Results that are kept for one page; of more, the newest.
const MAX_KEPT: usize = 100;
/// Ids that are answered when a page comes back.
const MAX_LOST: u64 = 1000;

/// Where the results of a page go.
pub(crate) trait ResultSink: Send + Sync {
    fn answer(&self, frame: Bytes);
    /// Whether more may be answered. Otherwise the socket asks for more once it has room.
    fn has_room(&self) -> bool;
}

/// The calls of one page, whatever sockets it has. Its methods that return results take no socket's lock.
pub(crate) struct PageCalls {
    pub(super) session: Session,
    /// Results belong to this principal.
    pub(super) principal: Box<str>,
    pub(super) state: Mutex<PageState>,
}

pub(super) struct PageState {
    rate: Bucket,
    waiting: VecDeque<Waiting>,
    running: Vec<CallId>,
    kept: VecDeque<Kept>,
    socket: Option<Socket>,
    /// Calls that the page has made before the first one of its newest socket, and that had not arrived by then, are lost.
    lost_before: u64,
}

/// The newest socket of the page.
struct Socket {
    number: u64,
    sink: Arc<dyn ResultSink>,
    /// It has brought a call.
    has_called: bool,
}

/// A call that waits for others to end.
pub(super) struct Waiting {
    pub(super) call: Call,
    pub(super) caller: Caller,
    /// Of its arguments, until it has ended.
    pub(super) memory: MemoryPermit,
    since: Instant,
}

struct Kept {
    id: CallId,
    frame: Bytes,
    at: Instant,
    _memory: MemoryPermit,
}

impl PageCalls {
    pub(super) fn new(session: Session, principal: &str) -> Self {
        let state = PageState {
            rate: Bucket::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            kept: VecDeque::new(),
            socket: None,
            lost_before: 0,
        };
        Self { session, principal: principal.into(), state: Mutex::new(state) }
    }
}

impl PageState {
    /// Results go to this socket from now on. Returns the frames of those that its page may have missed.
    pub(super) fn attach(&mut self, number: u64, sink: Arc<dyn ResultSink>, now: Instant) -> Vec<Bytes> {
        self.socket = Some(Socket { number, sink, has_called: false });
        self.forget(now);
        self.kept.iter().map(|kept| kept.frame.clone()).collect()
    }

    /// A socket has gone. True where the page has none left.
    pub(super) fn detach(&mut self, number: u64) -> bool {
        self.socket.take_if(|socket| socket.number == number).is_some()
    }

    pub(super) fn sink(&self) -> Option<Arc<dyn ResultSink>> {
        self.socket.as_ref().map(|socket| socket.sink.clone())
    }

    pub(super) fn has_socket(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// Nothing of it is needed any more.
    pub(super) fn is_over(&self) -> bool {
        self.socket.is_none() && !self.is_busy() && self.kept.is_empty()
    }

    /// Drops results that are too old.
    pub(super) fn forget(&mut self, now: Instant) {
        while self.kept.front().is_some_and(|kept| now.saturating_duration_since(kept.at) >= KEPT_FOR) {
            self.kept.pop_front();
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    /// The ids that the page has used before the first of `calls`, where these are the first calls of its newest socket:
    /// whatever is not known of them was lost with an earlier socket. Handlers of the page have some of these ids, and the
    /// client ignores results of those.
    pub(super) fn lost<'c>(&mut self, socket: u64, calls: impl IntoIterator<Item = &'c CallId>) -> Vec<CallId> {
        let Some(newest) = self.socket.as_mut().filter(|newest| newest.number == socket && !newest.has_called) else {
            return Vec::new();
        };
        let Some(first) = calls.into_iter().filter_map(CallId::number).min() else { return Vec::new() };
        newest.has_called = true;
        self.lost_before = first;
        let known = self.waiting.iter().map(|waiting| &waiting.call.id).chain(&self.running);
        let known: HashSet<u64> =
            known.chain(self.kept.iter().map(|kept| &kept.id)).filter_map(CallId::number).collect();
        let earliest = first.saturating_sub(MAX_LOST).max(1);
        (earliest..first).filter(|number| !known.contains(number)).map(CallId::numbered).collect()
    }

    /// Whether a call comes too late, on a socket that is not the newest: its page has been answered that it is lost.
    pub(super) fn is_lost(&self, socket: u64, call: &Call) -> bool {
        let is_newest = self.socket.as_ref().is_none_or(|newest| newest.number == socket);
        !is_newest && call.id.number().is_some_and(|number| number < self.lost_before)
    }

    /// Has a call wait for its turn; the reason where it may not. `now` is also given as the time since the start of the
    /// rate limit's clock.
    pub(super) fn admit(
        &mut self,
        call: Call,
        caller: Caller,
        limits: &CallLimits,
        memory: &Arc<Memory>,
        (now, clock): (Instant, Duration),
    ) -> Result<(), (CallId, Outcome)> {
        let refuse = |call: Call, text: &'static str| Err((call.id, Outcome::Failed(text.into())));
        if self.rate.next_at(limits.rate) > clock {
            return refuse(call, TOO_MANY);
        }
        if self.waiting.len() >= limits.waiting {
            return refuse(call, TOO_MANY_WAIT);
        }
        let Some(memory) = memory.take(call.arguments.len() + call.name.len()) else {
            return refuse(call, NO_MEMORY);
        };
        self.rate.take(limits.rate, clock, 1);
        self.waiting.push_back(Waiting { call, caller, memory, since: now });
        Ok(())
    }

    /// The calls that have waited for too long.
    pub(super) fn overdue(&mut self, now: Instant, longest: Duration) -> Vec<CallId> {
        let is_late = |waiting: &&Waiting| now.saturating_duration_since(waiting.since) >= longest;
        let late = self.waiting.iter().take_while(is_late).count();
        self.waiting.drain(..late).map(|waiting| waiting.call.id).collect()
    }

    /// The next call that may run; it counts as running.
    pub(super) fn next(&mut self, limits: &CallLimits) -> Option<Waiting> {
        if self.waiting.is_empty() || self.running.len() >= limits.concurrent {
            return None;
        }
        if self.socket.as_ref().is_some_and(|socket| !socket.sink.has_room()) {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        self.running.push(waiting.call.id.clone());
        Some(waiting)
    }

    /// A call has ended. False where its page has an outcome already.
    pub(super) fn ended(&mut self, id: &CallId) -> bool {
        let at = self.running.iter().position(|running| running == id);
        at.map(|at| self.running.swap_remove(at)).is_some()
    }

    /// Keeps the frame of a result, if there is room.
    pub(super) fn keep(&mut self, id: CallId, frame: Bytes, memory: &Arc<Memory>, now: Instant) {
        self.forget(now);
        if self.kept.len() >= MAX_KEPT {
            self.kept.pop_front();
        }
        if let Some(memory) = memory.take(frame.len()) {
            self.kept.push_back(Kept { id, frame, at: now, _memory: memory });
        }
    }

    /// Gives up what waits.
    pub(super) fn give_up_waiting(&mut self) -> Vec<CallId> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.call.id).collect()
    }

    /// Gives up everything: what runs, runs on without a result.
    pub(super) fn give_up(&mut self) -> Vec<CallId> {
        let mut ids = self.give_up_waiting();
        ids.append(&mut self.running);
        ids
    }
}
