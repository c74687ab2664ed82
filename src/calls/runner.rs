//! Runs one call: guard, arguments, handler, and how each may fail.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    memory::Memory,
    method::{CallError, Caller, FAILED, HandlerError, Methods},
    page::{KEPT_FOR, PageCalls},
    texts,
};
use crate::{
    call_message::{Call, Outcome},
    hook::{HookFailure, guarded},
    lock::lock,
    observe::Observer,
    rate::Rate,
    session::Session,
    shutdown::Lifecycle,
};

/// Bounds of what pages may call.
#[derive(Clone, Debug)]
pub(crate) struct CallLimits {
    /// Of one call, or one message of calls.
    pub(crate) bytes: usize,
    /// Of one page.
    pub(crate) rate: Rate,
    /// Of one page.
    pub(crate) waiting: usize,
    /// Of one page.
    pub(crate) concurrent: usize,
    /// Of the calls of all pages, and as much again for results that are kept.
    pub(crate) memory: usize,
}

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
        let outcome = match self.methods.get(&call.name) {
            None => Err(texts::unknown(&call.name)),
            Some(method) => {
                let run = guarded(self.hook_timeout, async || {
                    if let Some(guard) = &method.guard {
                        if !guard(caller.identity.clone()).await.map_err(HandlerError::Failed)? {
                            return Ok(None);
                        }
                    }
                    (method.handler)(caller, &call.arguments).await.map(Some)
                });
                match run.await {
                    Ok(Ok(Some(returned))) => Ok(returned),
                    Ok(Ok(None)) => Err(texts::NOT_ALLOWED.into()),
                    Ok(Err(HandlerError::Arguments(error))) => Err(format!("{}: {error}", call.name).into()),
                    Ok(Err(HandlerError::Failed(error))) => match error.downcast::<CallError>() {
                        Ok(error) => Err(error.into_text()),
                        Err(error) => {
                            self.fails(&call.name, &error);
                            Err(FAILED.into())
                        }
                    },
                    Ok(Err(error @ HandlerError::Serialize(_))) => {
                        self.fails(&call.name, &error);
                        Err(FAILED.into())
                    }
                    Err(failure) => {
                        self.fails(&call.name, &failure);
                        Err(if failure == HookFailure::TimedOut { texts::TIMED_OUT } else { FAILED }.into())
                    }
                }
            }
        };
        outcome.map_or_else(
            |text| {
                self.observer.calls_failed.up();
                Outcome::Failed(text)
            },
            Outcome::Returned,
        )
    }

    fn fails(&self, method: &str, error: &dyn std::fmt::Display) {
        self.observer.hooks_failed.up();
        self.observer
            .warn(format_args!("the method {method:?} failed: {error}; its page is sent an error without details"));
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
