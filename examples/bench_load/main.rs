//! Pages and writers that measure a server from outside, and print one line of JSON.
//!
//! `cargo run --release --example bench_load -- --port 4000 --pid 4711 --pages 1000 --rate 30`: each page makes its
//! handshake, opens a socket with the key it got and subscribes `events`; then events are posted to `/events`. A frame
//! counts when its page receives the event for the first time. What was measured with it stands in
//! `docs/performance.md`; `benches/growth.py` runs it. It knows nothing of this crate: any server will do that gives
//! pages a `key`, or takes their token instead.

mod received;
mod sockets;
mod writers;

use std::{
    cell::RefCell,
    error::Error,
    fs,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_blocking, spawn_local, yield_now},
    time::{sleep, timeout},
};

use self::{
    received::{MARKER, Received},
    sockets::open_all,
    writers::{post_all, wait_for_all},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long to wait until all pages receive, and then for the last frame.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_EVENTS: usize = 1_000_000;

#[derive(Clone, Parser)]
struct Options {
    /// Port of the server, on the loopback address.
    #[arg(long)]
    port: u16,
    /// Process of the server, whose CPU and memory are read.
    #[arg(long)]
    pid: u32,
    /// Path of the handshake and the sockets.
    #[arg(long, default_value = "/api/v1")]
    endpoint: String,
    #[arg(long, default_value_t = 1000)]
    pages: usize,
    /// Events posted in a second; without it, as many as get through.
    #[arg(long)]
    rate: Option<f64>,
    /// How long events are posted.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Bytes of an event.
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Scopes of pages and events: the pages' tokens are `token-0`, `token-1` and so on, the events' header `x-scope`.
    /// Without it the token is `token`.
    #[arg(long)]
    scopes: Option<usize>,
    /// Seconds between the last subscription and the first event: the replay is sent a second time.
    #[arg(long, default_value_t = 6.0)]
    rest: f64,
    /// Never sleeps while it reads, so that the server pays for no wake-ups, as it would not on a network.
    #[arg(long)]
    spin: bool,
}

impl Options {
    fn scope(&self, number: usize) -> Option<usize> {
        self.scopes.map(|scopes| number % scopes)
    }

    fn token(&self, page: usize) -> String {
        self.scope(page).map_or_else(|| "token".to_owned(), |scope| format!("token-{scope}"))
    }

    /// How many pages receive an event.
    fn audience(&self, event: usize) -> usize {
        let scopes = self.scopes.unwrap_or(1);
        (self.pages + scopes - 1 - event % scopes) / scopes
    }

    fn post(&self, event: usize) -> String {
        let scope = self.scope(event).map(|scope| format!("x-scope: {scope}\r\n")).unwrap_or_default();
        let head =
            format!(r#"{{"start_date":"2026-11-25 09:00","end_date":"2026-11-25 10:00","text":"{MARKER}{event} "#);
        let body = format!(r#"{head}{}"}}"#, "x".repeat(self.payload.saturating_sub(head.len() + 2)));
        format!(
            "POST /events HTTP/1.1\r\nhost: localhost\r\n{scope}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// CPU time of all threads of the server, in nanoseconds.
fn cpu(pid: u32) -> Result<u64> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let times = fs::read_to_string(thread?.path().join("schedstat"))?;
        total += times.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(total)
}

/// Memory of the server, in KiB.
fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

async fn measure(options: Options) -> Result<Value> {
    let due: Arc<[AtomicU64]> = (0..MAX_EVENTS).map(|_| AtomicU64::new(0)).collect();
    let received = Rc::new(RefCell::new(Received::new(due.clone())));
    let empty = memory(options.pid)?;
    open_all(&options, &received).await?;
    let first = wait_for_all(&options, &received).await?;
    sleep(Duration::from_secs_f64(options.rest)).await;
    let idle = memory(options.pid)?;
    if options.spin {
        spawn_local(async {
            loop {
                yield_now().await;
            }
        });
    }

    let (cpu_before, begun) = (cpu(options.pid)?, Instant::now());
    let reads_before = received.borrow().reads;
    received.borrow_mut().begun = begun;
    received.borrow_mut().first = first;
    let posting = options.clone();
    let (events, failed) = spawn_blocking(move || {
        Builder::new_current_thread().enable_all().build()?.block_on(post_all(posting, first, begun, due))
    })
    .await??;
    let expected: usize = (first..first + events).map(|event| options.audience(event)).sum();
    let everything = async {
        while received.borrow().frames < expected as u64 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let is_complete = timeout(PATIENCE, everything).await.is_ok();
    let (cpu, seconds) = (cpu(options.pid)? - cpu_before, begun.elapsed().as_secs_f64());

    let received = received.borrow();
    Ok(json!({
        "pages": options.pages,
        "rate": options.rate,
        "payload": options.payload,
        "scopes": options.scopes,
        "ok": is_complete && failed == 0 && received.closed == 0,
        "events": events,
        "frames": received.frames,
        "repeats": received.repeats,
        "failed_posts": failed,
        "closed_pages": received.closed,
        "cpu_us_per_event": cpu as f64 / 1e3 / events as f64,
        "cpu_us_per_frame": cpu as f64 / 1e3 / received.frames as f64,
        "p50_ms": received.times.milliseconds(0.5),
        "p99_ms": received.times.milliseconds(0.99),
        "frames_per_second": received.frames as f64 / seconds,
        "frames_per_read": received.frames as f64 / (received.reads - reads_before) as f64,
        "rss_empty_kib": empty,
        "rss_idle_kib": idle,
        "rss_end_kib": memory(options.pid)?,
    }))
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(LocalSet::new().run_until(measure(options)))?;
    println!("{measured}");
    Ok(())
}
