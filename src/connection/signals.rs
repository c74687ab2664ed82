//! What others have for one socket's task to act on.

use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering},
    task::Context,
};

use futures_util::task::AtomicWaker;

/// One thing to act on, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(u8);

impl Signal {
    /// There may be something new to write.
    pub(crate) const NEWS: Self = Self(1);
    /// Somebody has closed it.
    pub(crate) const DISCONNECTED: Self = Self(1 << 1);
    /// Its identity is a new one.
    pub(crate) const RENEWED: Self = Self(1 << 2);
    /// The server shuts down.
    pub(crate) const LEAVE: Self = Self(1 << 3);
    /// The time for an orderly end is over.
    pub(crate) const OVER: Self = Self(1 << 4);
    /// Its page is to be pinged.
    pub(crate) const PING: Self = Self(1 << 5);

    pub(crate) fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }
}

/// The signals of one task. In place of a `Notify` for each, whose waiters cost every idle socket some hundred bytes.
#[derive(Default)]
pub(crate) struct Signals {
    raised: AtomicU8,
    task: AtomicWaker,
}

impl Signals {
    pub(crate) fn raise(&self, signal: Signal) {
        // Whoever raised it first has woken the task, which has not looked since.
        if self.raised.fetch_or(signal.0, Ordering::AcqRel) & signal.0 == 0 {
            self.task.wake();
        }
    }

    /// Has this task woken from now on.
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// What has been raised since it was last taken.
    pub(crate) fn take(&self) -> Signal {
        Signal(self.raised.swap(0, Ordering::AcqRel))
    }

    /// Resolves when there is news.
    #[cfg(test)]
    pub(crate) async fn news(&self) {
        std::future::poll_fn(|cx| {
            self.listen(cx);
            if self.take().has(Signal::NEWS) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signals").field(&self.raised).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_raised_wakes_the_task_and_is_taken_once() {
        let signals = Arc::new(Signals::default());
        let task = tokio::spawn({
            let signals = signals.clone();
            async move { signals.news().await }
        });
        tokio::task::yield_now().await;
        signals.raise(Signal::LEAVE);
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "that is no news");
        signals.raise(Signal::NEWS);
        task.await.unwrap();

        assert!(signals.news().now_or_never().is_none(), "taken");
        for signal in [Signal::NEWS, Signal::LEAVE, Signal::NEWS] {
            signals.raise(signal);
        }
        let taken = signals.take();
        assert!(taken.has(Signal::NEWS) && taken.has(Signal::LEAVE) && !taken.has(Signal::OVER), "{taken:?}");
        assert_eq!(signals.take(), Signal(0));
    }

    #[tokio::test]
    async fn what_is_raised_before_anybody_listens_is_found() {
        let signals = Signals::default();
        signals.raise(Signal::NEWS);
        signals.news().await;
    }
}
