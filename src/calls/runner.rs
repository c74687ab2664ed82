//! Runs one call: guard, arguments, handler, and how each may fail.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    limits::CallLimits,
    memory::Memory,
    method::{CallError, Caller, FAILED, HandlerError, Methods},
    page::{KEPT_FOR, PageCalls},
    texts::{NOT_ALLOWED, TIMED_OUT, unknown},
};
use crate::{
    call_message::{Call, Outcome},
    hook::{BoxError, HookFailure, guarded},
    lock::lock,
    observe::Observer,
    session::Session,
    shutdown::Lifecycle,
};

/// What the calls of all pages share.
pub(crate) struct Calls {
    pub(crate) methods: Methods,
    pub(crate) limits: CallLimits,
    pub(super) hook_timeout: Duration,
    /// For calls that arrive, wait or run.
    pub(crate) memory: Arc<Memory>,
    /// For results that are kept.
    pub(super) kept: Arc<Memory>,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) observer: Arc<Observer>,
    pages: Mutex<Pages>,
    sockets: AtomicU64,
    /// Of the clock of the rate limits.
    start: Instant,
}

/// Pages that have made calls, as long as something of them is needed.
#[derive(Default)]
struct Pages {
    known: HashMap<Session, Arc<PageCalls>>,
    /// Those without a socket, the longest gone first. Some may have come back.
    gone: VecDeque<(Instant, Session)>,
}

impl Calls {
    pub(crate) fn new(
        methods: Methods,
        limits: CallLimits,
        hook_timeout: Duration,
        lifecycle: Arc<Lifecycle>,
        observer: Arc<Observer>,
    ) -> Self {
        Self {
            methods,
            hook_timeout,
            memory: Memory::new(limits.memory),
            kept: Memory::new(limits.memory),
            limits,
            lifecycle,
            observer,
            pages: Mutex::default(),
            sockets: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    pub(super) fn next_socket(&self) -> u64 {
        self.sockets.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn clock(&self, now: Instant) -> (Instant, Duration) {
        (now, now.saturating_duration_since(self.start))
    }

    /// The calls of a page that has made some lately.
    pub(super) fn known(&self, session: &Session, principal: &str, now: Instant) -> Option<Arc<PageCalls>> {
        let mut pages = lock(&self.pages);
        pages.forget(now);
        pages.find(session, principal)
    }

    /// The same, of a page that makes its first call.
    pub(super) fn page(&self, session: &Session, principal: &str, now: Instant) -> Arc<PageCalls> {
        let mut pages = lock(&self.pages);
        pages.forget(now);
        pages.find(session, principal).unwrap_or_else(|| {
            let page = Arc::new(PageCalls::new(session.clone(), principal));
            pages.known.insert(session.clone(), page.clone());
            page
        })
    }

    /// A page has no socket any more.
    pub(super) fn page_goes(&self, page: &Arc<PageCalls>, now: Instant) {
        let mut pages = lock(&self.pages);
        pages.forget(now);
        if !pages.known.get(&page.session).is_some_and(|known| Arc::ptr_eq(known, page)) {
            return;
        }
        if lock(&page.state).is_over() {
            pages.known.remove(&page.session);
        } else {
            pages.gone.push_back((now, page.session.clone()));
        }
    }

    /// Runs a call to its end.
    pub(super) async fn run(&self, call: &Call, caller: Caller) -> Outcome {
        match self.attempt(call, caller).await {
            Ok(returned) => Outcome::Returned(returned),
            Err(why) => {
                self.observer.calls_failed.up();
                Outcome::Failed(why)
            }
        }
    }

    /// What the method returns, or the words for its page.
    async fn attempt(&self, call: &Call, caller: Caller) -> Result<String, Cow<'static, str>> {
        let Some(method) = self.methods.get(&call.name) else { return Err(unknown(&call.name)) };
        let run = guarded(self.hook_timeout, async || {
            if let Some(guard) = &method.guard {
                if !guard(caller.identity.clone()).await.map_err(HandlerError::Failed)? {
                    return Ok(None);
                }
            }
            (method.handler)(caller, &call.arguments).await.map(Some)
        });
        let error: BoxError = match run.await {
            Ok(Ok(Some(returned))) => return Ok(returned),
            Ok(Ok(None)) => return Err(NOT_ALLOWED.into()),
            Ok(Err(HandlerError::Arguments(error))) => return Err(format!("{}: {error}", call.name).into()),
            Ok(Err(HandlerError::Failed(error))) => match error.downcast::<CallError>() {
                Ok(error) => return Err(error.into_text()),
                Err(error) => error,
            },
            Ok(Err(error @ HandlerError::Serialize(_))) => error.into(),
            Err(failure) => failure.into(),
        };
        self.observer.hooks_failed.up();
        self.observer.warn(format_args!(
            "the method {:?} failed: {error}; its page is sent an error without details",
            call.name
        ));
        let is_late = error.downcast_ref() == Some(&HookFailure::TimedOut);
        Err(if is_late { TIMED_OUT } else { FAILED }.into())
    }
}

impl Pages {
    fn find(&self, session: &Session, principal: &str) -> Option<Arc<PageCalls>> {
        self.known.get(session).filter(|page| *page.principal == *principal).cloned()
    }

    /// Drops pages that are away for too long, and of which nothing runs.
    fn forget(&mut self, now: Instant) {
        while self.gone.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= KEPT_FOR) {
            let Some((_, session)) = self.gone.pop_front() else { return };
            let Some(page) = self.known.get(&session) else { continue };
            let mut state = lock(&page.state);
            state.forget(now);
            let (is_over, has_socket) = (state.is_over(), state.has_socket());
            drop(state);
            if is_over {
                self.known.remove(&session);
            } else if !has_socket {
                // A call has ended since.
                self.gone.push_back((now, session));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call_message::CallId, rate::Rate};

    fn calls() -> Calls {
        let rate = Rate { burst: 10, per_second: 10 };
        let limits = CallLimits { bytes: 100, rate, waiting: 10, concurrent: 1, memory: 1000 };
        Calls::new(Methods::new(Vec::new()).unwrap(), limits, Duration::from_secs(5), Arc::default(), Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_kept_as_long_as_its_results_are_and_for_its_principal_alone() {
        let calls = calls();
        let [first, second] = [Session([1; 16]), Session([2; 16])];
        let now = Instant::now();
        let page = calls.page(&first, "ann", now);
        lock(&page.state).keep(CallId::numbered(1), "result".into(), &calls.kept, now);
        calls.page_goes(&page, now);
        assert!(Arc::ptr_eq(&calls.known(&first, "ann", now).unwrap(), &page));
        assert!(calls.known(&first, "ben", now).is_none() && calls.known(&second, "ann", now).is_none());
        assert!(!Arc::ptr_eq(&calls.page(&first, "ben", now), &page), "the same key, and another user");

        let page = calls.page(&second, "ann", now);
        calls.page_goes(&page, now);
        assert!(calls.known(&second, "ann", now).is_none(), "it has nothing to keep");

        let page = calls.page(&second, "ann", now);
        lock(&page.state).keep(CallId::numbered(1), "result".into(), &calls.kept, now);
        calls.page_goes(&page, now);
        drop(page);
        assert!(calls.known(&second, "ann", now + KEPT_FOR - Duration::from_millis(1)).is_some());
        assert!(calls.known(&second, "ann", now + KEPT_FOR).is_none());
    }

    #[test]
    fn results_beyond_their_memory_are_not_kept() {
        let (calls, now) = (calls(), Instant::now());
        let page = calls.page(&Session([1; 16]), "ann", now);
        let mut state = lock(&page.state);
        state.keep(CallId::numbered(1), vec![b'x'; 600].into(), &calls.kept, now);
        state.keep(CallId::numbered(2), vec![b'x'; 600].into(), &calls.kept, now);
        assert!(calls.kept.take(400).is_some() && calls.kept.take(401).is_none());
        state.forget(now + KEPT_FOR);
        assert!(calls.kept.take(1000).is_some());
    }
}
