//! The tasks that this crate spawns (sockets, and writes that outlive their clients), and their shutdown.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Tracks every task, signals shutdown to them, and waits for them.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    /// `shutdown` waits for these.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when shutdown begins.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the time to drain is over.
    pub(crate) over: CancellationToken,
    /// The time that tasks get to drain.
    pub(crate) drain: Duration,
}

impl Lifecycle {
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
