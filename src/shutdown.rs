//! The tasks that this crate spawns (sockets, and writes that outlive their clients), and their shutdown.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Tracks every task, signals shutdown to them, and waits for them.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    tasks: TaskTracker,
    draining: CancellationToken,
    over: CancellationToken,
    drain: Duration,
}

impl Lifecycle {
    pub(crate) fn new(drain: Duration) -> Self {
        Self { tasks: TaskTracker::new(), draining: CancellationToken::new(), over: CancellationToken::new(), drain }
    }

    /// Spawns a task that `shutdown` waits for.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// True once shutdown has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when shutdown begins.
    pub(crate) async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves when the time to drain is over.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.over.clone().cancelled_owned()
    }

    /// True once the time to drain is over.
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// The time that tasks get to drain.
    pub(crate) fn drain(&self) -> Duration {
        self.drain
    }

    /// Signals shutdown, waits until every task has ended or the time to drain is over, and stops the rest.
    pub(crate) async fn shutdown(&self) {
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.drain, self.tasks.wait()).await.is_err() {
            self.over.cancel();
            // Tasks end at their next poll. One that does not is left to the runtime.
            let _ = tokio::time::timeout(Duration::from_millis(500), self.tasks.wait()).await;
        }
        self.over.cancel();
    }
}

/// Resolves at SIGINT or SIGTERM (elsewhere than on Unix: Ctrl-C).
pub(crate) async fn signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
