//! The life of everything this crate runs by itself: sockets, and writes that outlive their clients.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Knows every task, tells them to end, and waits for them.
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

    /// Runs a task that `shutdown` waits for.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// True once shutting down has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when shutting down begins.
    pub(crate) async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves when the time for an orderly end is over.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.over.clone().cancelled_owned()
    }

    /// True when it is.
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// How long an orderly end may take.
    pub(crate) fn drain(&self) -> Duration {
        self.drain
    }

    /// Begins to shut down, waits until every task has ended or the time is over, and ends the rest.
    pub(crate) async fn shutdown(&self) {
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.drain, self.tasks.wait()).await.is_err() {
            self.over.cancel();
            // Told to stop, tasks end at their next turn; one that does not is left to the runtime.
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
