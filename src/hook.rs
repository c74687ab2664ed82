//! Runs the application's hooks: a panic or a hang in a hook fails that hook alone.

use std::{
    error::Error,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{task::unconstrained, time::sleep};

/// An error of the application's.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A boxed future.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A hook that failed runs again after these times.
pub(crate) const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// How a hook failed without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HookFailure {
    #[error("it panicked")]
    Panicked,
    #[error("it took longer than hook_timeout")]
    TimedOut,
}

/// Runs a hook, its first call included, for `limit` at most.
pub(crate) async fn guarded<T, Fut>(limit: Duration, hook: impl FnOnce() -> Fut) -> Result<T, HookFailure>
where
    Fut: Future<Output = T>,
{
    let run = AssertUnwindSafe(async { hook().await }).catch_unwind();
    match within(limit, run).await {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(HookFailure::Panicked),
        None => Err(HookFailure::TimedOut),
    }
}

/// Runs a future for `limit` at most; `None` after that. A future that is ready at once needs no timer.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // It fires even if the future uses up its task's budget.
        let timer = timer.get_or_insert_with(|| Box::pin(unconstrained(sleep(limit))));
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn panics_and_hangs_are_failures() {
        let limit = Duration::from_secs(5);
        assert_eq!(guarded(limit, async || 7).await, Ok(7));
        let panics = guarded(limit, async || -> u8 { panic!("in a hook") });
        assert_eq!(panics.await, Err(HookFailure::Panicked));
        let early = guarded(limit, || -> std::future::Ready<u8> { panic!("before the future") });
        assert_eq!(early.await, Err(HookFailure::Panicked));
        let hangs = guarded(limit, std::future::pending::<u8>);
        assert_eq!(hangs.await, Err(HookFailure::TimedOut));
    }

    #[test]
    fn a_ready_future_needs_no_timer() {
        let output = within(Duration::from_secs(5), async { 7 });
        assert_eq!(output.now_or_never(), Some(Some(7)), "without a runtime");
    }
}
