//! The calls of one request. Its page settles their promises by the response, and fails them by itself where none comes.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    memory::MemoryPermit,
    method::Caller,
    runner::Calls,
    texts::{TOO_MANY_WAIT, WAITED_TOO_LONG, too_large},
};
use crate::call_message::{Call, Outcome};

impl Calls {
    /// The results of calls, in their order. The calls run in a task of their own: they go on if the request is given up.
    /// `None` where that task was stopped.
    pub(crate) async fn answer(
        self: Arc<Self>,
        caller: Caller,
        calls: Vec<Call>,
        memory: MemoryPermit,
    ) -> Option<Vec<String>> {
        self.observer.calls.add(calls.len() as u64);
        let tasks = self.lifecycle.tasks.clone();
        let run = tasks.spawn(async move {
            let _memory = memory;
            let (since, most) = (Instant::now(), self.limits.waiting.saturating_add(self.limits.concurrent));
            let results = stream::iter(calls.into_iter().enumerate())
                .map(|(place, call)| {
                    let (this, caller) = (&self, caller.clone());
                    async move {
                        let refused = if place >= most {
                            Some(TOO_MANY_WAIT.into())
                        } else if call.arguments.len() > this.limits.bytes {
                            Some(too_large(this.limits.bytes))
                        } else {
                            (since.elapsed() >= this.hook_timeout).then(|| WAITED_TOO_LONG.into())
                        };
                        let outcome = match refused {
                            Some(text) => {
                                this.observer.calls_refused.up();
                                Outcome::Failed(text)
                            }
                            None => this.run(&call, caller).await,
                        };
                        outcome.result(&call.id)
                    }
                })
                .buffered(self.limits.concurrent)
                .collect::<Vec<String>>();
            tokio::select! {
                results = results => Some(results),
                () = self.lifecycle.over.cancelled() => None,
            }
        });
        run.await.ok().flatten()
    }
}
