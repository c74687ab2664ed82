//! The calls of one socket, and what happens to them when it goes.

use std::sync::Arc;

use tokio::{runtime::Handle, time::Instant};

use super::{
    method::Caller,
    page::{PageCalls, ResultSink},
    runner::Calls,
    texts::{LOST, SHUTS_DOWN, WAITED_TOO_LONG},
};
use crate::{
    auth::Identity,
    call_message::{Call, CallId, Outcome, array, results},
    lock::lock,
    protocol,
    session::Session,
};

/// One socket's part of its page's calls. When it is dropped, the calls go on without it.
pub(crate) struct SocketCalls {
    calls: Arc<Calls>,
    page: Arc<PageCalls>,
    number: u64,
    /// Where results will go, until they do.
    sink: Option<Arc<dyn ResultSink>>,
}

impl SocketCalls {
    /// For a socket that opens; `None` where its page has made no calls lately.
    pub(crate) fn of_page(
        calls: &Arc<Calls>,
        session: &Session,
        identity: &Identity,
        sink: Arc<dyn ResultSink>,
    ) -> Option<Self> {
        let page = calls.known(session, identity.principal(), Instant::now())?;
        Some(Self { calls: calls.clone(), page, number: calls.next_socket(), sink: Some(sink) })
    }

    /// For a socket that brings its first call.
    pub(crate) fn begin(calls: &Arc<Calls>, session: &Session, identity: &Identity, sink: Arc<dyn ResultSink>) -> Self {
        let page = calls.page(session, identity.principal(), Instant::now());
        let mut begun = Self { calls: calls.clone(), page, number: calls.next_socket(), sink: Some(sink) };
        begun.resume();
        begun
    }

    /// Results go to this socket from now on, at first those that its page may have missed.
    pub(crate) fn resume(&mut self) {
        let Some(sink) = self.sink.take() else { return };
        // Under the lock, so that no later result overtakes them.
        let mut state = lock(&self.page.state);
        for frame in state.attach(self.number, sink.clone(), Instant::now()) {
            self.calls.observer.call_results_resent.up();
            sink.answer(frame);
        }
    }

    /// Runs calls that have arrived, or answers why they do not run.
    pub(crate) fn receive(&self, identity: &Identity, list: Vec<Call>) {
        let (calls, now) = (&self.calls, Instant::now());
        let caller = Caller { identity: identity.clone(), session: Some(self.page.session.clone()) };
        calls.observer.calls.add(list.len() as u64);
        let mut refused = Vec::new();
        let mut state = lock(&self.page.state);
        let lost = state.lost(self.number, list.iter().map(|call| &call.id));
        for call in list {
            if state.is_lost(self.number, &call) {
                continue;
            }
            let admitted = state.admit(call, caller.clone(), &calls.limits, &calls.memory, calls.clock(now));
            refused.extend(admitted.err());
        }
        drop(state);
        self.answer_all(&lost, LOST);
        if !refused.is_empty() {
            calls.observer.calls_refused.add(refused.len() as u64);
            self.answer(&array(refused.into_iter().map(|(id, outcome)| outcome.result(&id))));
        }
        self.run_waiting();
    }

    /// Answers calls that were not kept.
    pub(crate) fn refuse(&self, ids: &[CallId], why: &Outcome) {
        let lost = lock(&self.page.state).lost(self.number, ids);
        self.answer_all(&lost, LOST);
        self.calls.observer.calls.add(ids.len() as u64);
        self.calls.observer.calls_refused.add(ids.len() as u64);
        self.answer(&results(ids, why));
    }

    /// Runs calls that wait, where there is room for them and for their results.
    pub(crate) fn run_waiting(&self) {
        self.calls.run_waiting(&self.page);
    }

    /// Drops results that were kept for long enough.
    pub(crate) fn forget(&self) {
        lock(&self.page.state).forget(Instant::now());
    }

    /// Whether results are to come.
    pub(crate) fn is_busy(&self) -> bool {
        lock(&self.page.state).is_busy()
    }

    /// What waits is not run any more: its page may not call.
    pub(crate) fn revoke(&self) {
        lock(&self.page.state).give_up_waiting();
    }

    /// Answers the calls whose results the server does not wait for any longer.
    pub(crate) fn give_up(&self) {
        let ids = lock(&self.page.state).give_up();
        self.answer_all(&ids, SHUTS_DOWN);
    }

    fn answer_all(&self, ids: &[CallId], text: &'static str) {
        if !ids.is_empty() {
            self.answer(&results(ids, &Outcome::Failed(text.into())));
        }
    }

    fn answer(&self, results: &str) {
        let sink = lock(&self.page.state).sink();
        if let Some(sink) = sink {
            sink.answer(protocol::result(results));
        }
    }
}

impl Drop for SocketCalls {
    fn drop(&mut self) {
        let is_away = lock(&self.page.state).detach(self.number);
        if is_away {
            self.calls.page_goes(&self.page, Instant::now());
            // No result waits for room any more.
            self.run_waiting();
        }
    }
}

impl Calls {
    fn run_waiting(self: &Arc<Self>, page: &Arc<PageCalls>) {
        // Without a runtime, what waits is run when the page comes back.
        if Handle::try_current().is_err() {
            return;
        }
        let overdue = lock(&page.state).overdue(Instant::now(), self.hook_timeout);
        if !overdue.is_empty() {
            self.observer.calls_refused.add(overdue.len() as u64);
            for id in overdue {
                self.end(page, &id, &Outcome::Failed(WAITED_TOO_LONG.into()));
            }
        }
        loop {
            let next = lock(&page.state).next(&self.limits);
            let Some(next) = next else { return };
            let running = Running { calls: self.clone(), page: page.clone(), id: Some(next.call.id.clone()) };
            self.lifecycle.tasks.spawn(async move {
                let calls = running.calls.clone();
                tokio::select! {
                    outcome = calls.run(&next.call, next.caller) => {
                        drop(next.memory);
                        running.end(&outcome);
                    }
                    () = calls.lifecycle.over.cancelled() => {}
                }
            });
        }
    }

    /// A call has an outcome, which its page is sent, now and on its next socket.
    fn end(&self, page: &PageCalls, id: &CallId, outcome: &Outcome) {
        let frame = protocol::result(&array([outcome.result(id)]));
        let mut state = lock(&page.state);
        state.keep(id.clone(), frame.clone(), &self.kept, Instant::now());
        // Under the lock, so that a new socket of the page is sent the result once.
        if let Some(sink) = state.sink() {
            sink.answer(frame);
        }
    }
}

/// A call that runs. Its page gets an outcome however its task ends.
struct Running {
    calls: Arc<Calls>,
    page: Arc<PageCalls>,
    id: Option<CallId>,
}

impl Running {
    fn end(mut self, outcome: &Outcome) {
        self.end_with(outcome);
        self.calls.run_waiting(&self.page);
    }

    fn end_with(&mut self, outcome: &Outcome) {
        let Some(id) = self.id.take() else { return };
        if lock(&self.page.state).ended(&id) {
            self.calls.end(&self.page, &id, outcome);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_with(&Outcome::Failed(SHUTS_DOWN.into()));
    }
}
