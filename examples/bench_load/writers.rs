//! Who posts events.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Options, PATIENCE, Result,
    received::Received,
    sockets::{connect, exchange},
};

/// Writers in a closed loop, and of events at a fixed rate.
const SENDERS: [usize; 2] = [32, 4];

/// Posts events until every page has received one. Returns how many it took.
pub(crate) async fn wait_for_all(options: &Options, received: &Rc<RefCell<Received>>) -> Result<usize> {
    let mut writer = connect(options, 0).await?;
    let mut posted = 0;
    let posting = async {
        loop {
            for _ in 0..options.scopes.unwrap_or(1) {
                exchange(&mut writer, &options.post(posted)).await?;
                posted += 1;
            }
            sleep(Duration::from_millis(200)).await;
            if received.borrow().listening == options.pages {
                return Result::Ok(());
            }
        }
    };
    timeout(PATIENCE, posting).await.map_err(|_| "not all pages listen")??;
    Ok(posted)
}

/// Posts the events that are measured; returns how many, and how many of them failed.
pub(crate) async fn post_all(
    options: Options,
    first: usize,
    begun: Instant,
    due: Arc<[AtomicU64]>,
) -> Result<(usize, usize)> {
    let mut senders = JoinSet::new();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..SENDERS[usize::from(options.rate.is_some())] {
        let (options, next, due) = (options.clone(), next.clone(), due.clone());
        senders.spawn(async move {
            let mut stream = connect(&options, 0).await?;
            let (mut posted, mut failed) = (0, 0);
            // What is due at a fixed time is posted however late it gets.
            while options.rate.is_some() || begun.elapsed().as_secs_f64() < options.seconds {
                let event = next.fetch_add(1, Ordering::Relaxed);
                let at = match options.rate {
                    Some(rate) => Duration::from_secs_f64(event as f64 / rate),
                    None => begun.elapsed(),
                };
                if at.as_secs_f64() >= options.seconds || event >= due.len() {
                    break;
                }
                // Exactly, and later events are due later anyway.
                thread::sleep(at.saturating_sub(begun.elapsed()));
                due[event].store(at.as_nanos() as u64, Ordering::Relaxed);
                let (head, _) = exchange(&mut stream, &options.post(first + event)).await?;
                posted += 1;
                failed += usize::from(!head.starts_with("http/1.1 2"));
            }
            Result::Ok((posted, failed))
        });
    }
    let sent: Vec<(usize, usize)> = senders.join_all().await.into_iter().collect::<Result<_>>()?;
    Ok(sent.into_iter().fold((0, 0), |sum, of_one| (sum.0 + of_one.0, sum.1 + of_one.1)))
}
