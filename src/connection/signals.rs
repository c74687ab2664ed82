//! Signals of other tasks to the task of one socket.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    task::Context,
};

use futures_util::task::AtomicWaker;

/// One signal, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(u8);

impl Signal {
    /// There may be something to send.
    pub(crate) const SEND: Self = Self(1);
    /// The application has disconnected it.
    pub(crate) const DISCONNECTED: Self = Self(1 << 1);
    /// Its identity has been renewed.
    pub(crate) const RENEWED: Self = Self(1 << 2);
    /// The server shuts down.
    pub(crate) const LEAVE: Self = Self(1 << 3);
    /// The drain timeout is over.
    pub(crate) const OVER: Self = Self(1 << 4);
    /// Its page is to be pinged.
    pub(crate) const PING: Self = Self(1 << 5);

    pub(crate) fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }
}

/// The signals of one task: a bit for each, since the waiters of one `Notify` for each would cost an idle socket some
/// hundred bytes.
#[derive(Default)]
pub(crate) struct Signals {
    raised: AtomicU8,
    task: AtomicWaker,
}

impl Signals {
    pub(crate) fn raise(&self, signal: Signal) {
        // The first to raise it has woken the task, which has not taken it since.
        if self.raised.fetch_or(signal.0, Ordering::AcqRel) & signal.0 == 0 {
            self.task.wake();
        }
    }

    /// Wakes this task at every signal from now on.
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// The signals raised since they were last taken.
    pub(crate) fn take(&self) -> Signal {
        Signal(self.raised.swap(0, Ordering::AcqRel))
    }

    /// Resolves when there may be something to send.
    #[cfg(test)]
    pub(crate) async fn sendable(&self) {
        std::future::poll_fn(|cx| {
            self.listen(cx);
            if self.take().has(Signal::SEND) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_signal_wakes_the_task_and_is_taken_once() {
        let signals = Arc::new(Signals::default());
        let task = tokio::spawn({
            let signals = signals.clone();
            async move { signals.sendable().await }
        });
        tokio::task::yield_now().await;
        signals.raise(Signal::LEAVE);
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "another signal was raised");
        signals.raise(Signal::SEND);
        task.await.unwrap();

        assert!(signals.sendable().now_or_never().is_none(), "taken");
        for signal in [Signal::SEND, Signal::LEAVE, Signal::SEND] {
            signals.raise(signal);
        }
        let taken = signals.take();
        assert!(taken.has(Signal::SEND) && taken.has(Signal::LEAVE) && !taken.has(Signal::OVER), "{taken:?}");
        assert_eq!(signals.take(), Signal(0));
    }

    #[tokio::test]
    async fn a_signal_raised_before_the_task_listens_is_found() {
        let signals = Signals::default();
        signals.raise(Signal::SEND);
        signals.sendable().await;
    }
}
