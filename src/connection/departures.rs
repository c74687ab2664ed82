//! The task that forgets the sockets of pages that have gone, once their time to come back is over.

use std::sync::{Arc, Weak, atomic::Ordering};

use tokio::{
    runtime::Handle,
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{presence::Departure, registry::Connections, signals::Signal};
use crate::shutdown::Lifecycle;

impl Connections {
    /// A socket has closed.
    pub(super) fn leaves(self: &Arc<Self>, socket: usize, departure: Departure) {
        if self.presences.leaves(socket, departure, Instant::now()) {
            self.serve_presence();
        }
    }

    /// Starts the task that forgets those that have gone, on the runtime of the caller, unless it runs.
    fn serve_presence(self: &Arc<Self>) {
        // A runtime that ends may drop the tasks of its sockets outside of itself.
        let Ok(runtime) = Handle::try_current() else { return self.abandon_presence() };
        if !self.presences.is_served.swap(true, Ordering::AcqRel) {
            let serving = Serving { connections: Arc::downgrade(self), is_abandoned: true };
            self.lifecycle.tasks.spawn_on(serving.run(self.lifecycle.clone()), &runtime);
        }
    }

    /// Sockets on other runtimes go on: the first that is woken starts the next task.
    fn abandon_presence(&self) {
        self.presences.is_abandoned.store(true, Ordering::Release);
        self.raise(Signal::SEND);
    }

    /// Starts the task again that has ended with another runtime.
    pub(super) fn resume_presence(self: &Arc<Self>) {
        let is_abandoned = &self.presences.is_abandoned;
        if is_abandoned.load(Ordering::Acquire) && is_abandoned.swap(false, Ordering::AcqRel) {
            self.serve_presence();
        }
    }
}

/// The task that forgets those that have gone.
struct Serving {
    connections: Weak<Connections>,
    /// It ends before its work is done.
    is_abandoned: bool,
}

impl Serving {
    async fn run(mut self, lifecycle: Arc<Lifecycle>) {
        while let Some(next) = self.forget() {
            tokio::select! {
                () = sleep_until(next) => yield_now().await,
                () = lifecycle.draining.cancelled() => break,
            }
        }
        self.is_abandoned = false;
    }

    /// When to look next; `None` where nobody is leaving any more.
    fn forget(&self) -> Option<Instant> {
        let connections = self.connections.upgrade()?;
        let presences = &connections.presences;
        if let Some(next) = presences.forget(Instant::now()) {
            return Some(next);
        }
        // One that leaves from now on starts the next task. One that has left meanwhile has found this one.
        presences.is_served.store(false, Ordering::Release);
        let next = presences.forget(Instant::now())?;
        (!presences.is_served.swap(true, Ordering::AcqRel)).then_some(next)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.is_abandoned {
            return;
        }
        if let Some(connections) = self.connections.upgrade() {
            connections.presences.is_served.store(false, Ordering::Release);
            connections.abandon_presence();
        }
    }
}
