//! The calls of a page, until its socket goes.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    outbox::Outbox,
    registry::Registration,
    state::{ColdState, ConnectionState, Ending},
};
use crate::{
    call_message::{Call, CallId, Outcome, results},
    calls::{ResultSink, SocketCalls},
    protocol::{self, close},
};

/// Why calls fail where there are no methods.
pub(crate) const NO_METHODS: &str = "this server offers no methods";

impl ResultSink for Outbox {
    fn answer(&self, frame: Bytes) {
        self.answer_call(frame);
    }

    fn has_room(&self) -> bool {
        self.has_room()
    }
}

impl ConnectionState {
    /// A new socket. Where its page has made calls lately, it is sent the results that it may have missed, as soon as it
    /// may receive anything.
    pub(super) fn find_calls(&mut self) {
        let Registration { connections, open, .. } = &self.registration;
        let Some(calls) = &connections.calls else { return };
        let subscriber = &open.subscriber;
        let found = SocketCalls::of_page(calls, &subscriber.session(), &subscriber.identity(), open.outbox.clone());
        if let Some(found) = found {
            self.cold().calls = Some(Box::new(found));
        }
    }

    /// The page may receive what it has missed.
    pub(super) fn resume_calls(&mut self) {
        if let Some(calls) = self.cold.as_mut().and_then(|cold| cold.calls.as_mut()) {
            calls.resume();
        }
    }

    /// Runs calls that wait, where there is room for them and for their results.
    pub(super) fn run_waiting_calls(&self) {
        if let Some(calls) = self.cold.as_ref().and_then(|cold| cold.calls.as_ref()) {
            calls.run_waiting();
        }
    }

    /// The page makes calls.
    pub(super) fn receive_calls(&mut self, list: Vec<Call>) {
        let identity = self.registration.open.subscriber.identity();
        match self.calls() {
            Some(calls) => calls.receive(&identity, list),
            None => {
                let Registration { connections, open, .. } = &self.registration;
                connections.observer().calls.add(list.len() as u64);
                let failed = Outcome::Failed(NO_METHODS.into());
                open.outbox.answer(protocol::result(&results(list.iter().map(|call| &call.id), &failed)));
            }
        }
        self.excuse();
    }

    /// The page has made calls that were not kept.
    pub(super) fn refuse_calls(&mut self, ids: &[CallId], why: &Outcome) {
        if let Some(calls) = self.calls() {
            calls.refuse(ids, why);
        }
        self.excuse();
    }

    fn excuse(&mut self) {
        if self.registration.connections.calls.is_some() {
            if let Some(intake) = &mut self.socket.get_mut().intake {
                intake.meter.excuse();
            }
        }
    }

    /// The calls of this socket, from its first one on; `None` where there are no methods.
    fn calls(&mut self) -> Option<&SocketCalls> {
        let Registration { connections, open, .. } = &self.registration;
        let ColdState { calls, .. } = &mut **self.cold.get_or_insert_default();
        let (shared, subscriber) = (connections.calls.as_ref()?, &open.subscriber);
        let sink: Arc<dyn ResultSink> = open.outbox.clone();
        let begin = || Box::new(SocketCalls::begin(shared, &subscriber.session(), &subscriber.identity(), sink));
        Some(calls.get_or_insert_with(begin))
    }

    /// The socket closes: what has no result by then is sent to the page's next socket, if there will be one.
    pub(super) fn leave_calls(&mut self, ending: Ending) {
        let Some(calls) = self.cold.as_mut().and_then(|cold| cold.calls.take()) else { return };
        match ending {
            Ending::Close(close::POLICY, _) => calls.revoke(),
            Ending::Close(close::GOING_AWAY, _) => calls.give_up(),
            _ => {}
        }
    }

    /// Whether results of calls are to come.
    pub(super) fn awaits_results(&self) -> bool {
        self.cold.as_ref().and_then(|cold| cold.calls.as_ref()).is_some_and(|calls| calls.is_busy())
    }
}
