//! A write that has begun runs to completion, although its client is gone or an outer timeout has fired.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{capture::Capture, watcher::Watcher};
use crate::hook::{BoxFuture, within};

/// How long a detached write may wait for parts of its request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often that wait is measured.
const BODY_CHECK: Duration = Duration::from_millis(500);

/// A future that can also run without its output.
trait Detach<T>: Future<Output = T> + Send {
    fn detach(self: Pin<Box<Self>>) -> BoxFuture<()>;
}

impl<F: Future + Send + 'static> Detach<F::Output> for F {
    fn detach(self: Pin<Box<Self>>) -> BoxFuture<()> {
        Box::pin(self.map(drop))
    }
}

/// A write that runs on in a task of its own if it is dropped after the first poll.
pub(crate) struct Detachable<T> {
    write: Option<Pin<Box<dyn Detach<T>>>>,
    has_begun: bool,
    request: Capture,
    watcher: Arc<Watcher>,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl<T> Detachable<T> {
    /// `request` is the copy of the write's request body.
    pub(crate) fn new(
        write: impl Future<Output = T> + Send + 'static,
        request: Capture,
        watcher: Arc<Watcher>,
    ) -> Self {
        Self {
            write: Some(Box::pin(write)),
            has_begun: false,
            request,
            watcher,
            #[cfg(feature = "tracing")]
            span: tracing::Span::current(),
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        self.has_begun = true;
        // Taken out while it runs: if it panics, the drop below must not run it again.
        let Some(mut write) = self.write.take() else { return Poll::Pending };
        let poll = write.as_mut().poll(cx);
        if poll.is_pending() {
            self.write = Some(write);
        }
        poll
    }
}

impl<T> Drop for Detachable<T> {
    fn drop(&mut self) {
        let Some(write) = self.write.take().filter(|_| self.has_begun) else { return };
        let write = write.detach();
        #[cfg(feature = "tracing")]
        let write = tracing::Instrument::instrument(write, self.span.clone());
        spawn(&self.watcher, &self.request, write);
    }
}

/// Runs a write in a task of its own. The task gets little time for the rest of its request's body: a client that sends
/// nothing must not hold a permit.
fn spawn(watcher: &Arc<Watcher>, request: &Capture, write: impl Future<Output = ()> + Send + 'static) {
    let observer = watcher.observer();
    if tokio::runtime::Handle::try_current().is_err() {
        observer.writes_dropped.up();
        observer.warn(format_args!(
            "a write was dropped where no tokio runtime is left to finish it, and may have been committed"
        ));
        return;
    }
    let Ok(permit) = watcher.detached.clone().try_acquire_owned() else {
        observer.writes_dropped.up();
        if watcher.limits.detached > 0 {
            observer.warn(format_args!(
                "{} writes whose clients have gone are being finished already; one more is given up with its client \
                 (raise max_detached_writes)",
                watcher.limits.detached
            ));
        }
        return;
    };
    observer.writes_detached.up();
    let (request, task_watcher) = (request.clone(), watcher.clone());
    watcher.lifecycle.tasks.spawn(async move {
        if !run_to_completion(write, &request).await {
            let observer = task_watcher.observer();
            observer.writes_dropped.up();
            observer.warn(format_args!(
                "a write whose client has gone waited {BODY_TIMEOUT:?} for its request's body and is given up"
            ));
        }
        drop(permit);
    });
}

/// False where the write has waited too long for its request's body.
async fn run_to_completion(write: impl Future<Output = ()>, request: &Capture) -> bool {
    let mut write = std::pin::pin!(write);
    let mut waited = Duration::ZERO;
    while waited < BODY_TIMEOUT {
        if request.has_arrived() {
            write.await;
            return true;
        }
        let checked = Instant::now();
        if within(BODY_CHECK, write.as_mut()).await.is_some() {
            return true;
        }
        // The handler may use the rest of its time as it likes.
        if request.is_awaited() {
            waited += checked.elapsed();
        }
    }
    false
}
