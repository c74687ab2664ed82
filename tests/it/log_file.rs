//! The log file: after a restart pages resume, receive what they missed, and no more.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use crate::support::{
    Server, TOKEN,
    client::{
        Client, TRANSPORTS, Tab, Transport, added, converging_events, deleted, event, publish, updated, upserts, wait,
    },
    raw::{CLOSE, FIN, PING, Raw, TEXT},
    until, usual,
};
use serde_json::json;
use tokio::sync::Notify;
use tower_live_updates::{
    ConfigError, Delivery, Entity, Identity, LiveUpdates, LiveUpdatesBuilder, Snapshot, builder::HasAuth,
};

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tower-live-updates-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("live.log")
    }

    fn holds_log(&self) -> bool {
        let content = fs::read(self.file()).unwrap();
        let first = content.split(|byte| *byte == b'\n').next().unwrap();
        String::from_utf8_lossy(first).contains(r#""holds":"log""#)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A snapshot sends what the store holds now, and names itself.
fn builder(folder: &Folder) -> LiveUpdatesBuilder<HasAuth> {
    let rows = async |(): (), _: Identity| Ok::<_, std::io::Error>(Snapshot::new([event(9, "snapshot")]));
    converging_events(Entity::scheduler("/events").snapshot((), rows)).log_file(folder.file())
}

/// Ends a server as a page sees it that answers pings: what the page receives until its close.
async fn shut_down(live: &LiveUpdates, tab: &mut Tab) -> usize {
    let shutdown = tokio::spawn({
        let live = live.clone();
        async move { live.shutdown().await }
    });
    let mut received = 0;
    loop {
        match tab.raw.frame().await.expect("a goodbye") {
            (first, payload) if first == FIN | PING => tab.pong(&payload).await,
            (first, _) if first == FIN | TEXT => received += 1,
            (first, _) if first == FIN | CLOSE => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    shutdown.await.unwrap();
    received
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_page_receives_the_gap_and_no_more() {
    let folder = Folder::new("gap");
    let sealed = |builder: LiveUpdatesBuilder<HasAuth>| match cfg!(feature = "sealed-keys") {
        #[cfg(feature = "sealed-keys")]
        true => builder.sealed_keys(["a secret of this test: 0123456789-0123456789"]),
        _ => builder,
    };
    let plain = |builder: LiveUpdatesBuilder<HasAuth>| builder;
    for keys in [plain as fn(_) -> _, sealed] {
        for transport in TRANSPORTS {
            let _ = fs::remove_file(folder.file());
            let live = keys(builder(&folder)).build().unwrap();
            let server = Server::layered(&live.layer(), usual);
            publish(&live, (1..=100).map(|id| added(id, "there")));
            wait(100.0).await;
            let page = Client::load(&server, transport).await;
            let mut tab = page.open().await;
            publish(&live, [updated(1, "before")]);
            wait(60.0).await;
            let _ = tab.received().await;
            shut_down(&live, &mut tab).await;
            assert!(folder.holds_log(), "{transport:?}");

            // HTTP goes on meanwhile.
            publish(&live, [updated(3, "while the server drains"), deleted(4)]);
            until("the log is written again", || folder.holds_log()).await;

            let next = keys(builder(&folder)).build().unwrap();
            assert_eq!(next.stats().log_restored, 103);
            let server = Server::layered(&next.layer(), usual);
            let page = Client::with_key(&server, transport, &page.key);
            let mut tab = page.open().await;
            let received = tab.received_in(1.0).await;
            let mut expected = upserts(&[(3, "while the server drains")]);
            expected.extend(["delete 4".to_owned(), "update 4".to_owned()]);
            assert_eq!(received, expected, "{transport:?}");
            let stats = next.stats();
            assert_eq!((stats.snapshots, stats.unrecovered_gaps, stats.replays), (0, 0, 1), "{transport:?}");

            publish(&next, [updated(5, "new")]);
            let received = tab.received_in(0.1).await;
            assert_eq!(received, ["update 5 new"], "{transport:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_has_missed_nothing_receives_nothing() {
    let folder = Folder::new("nothing");
    let live = builder(&folder).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    publish(&live, (1..=1000).map(|id| added(id, "there")));
    wait(100.0).await;
    let page = Client::load(&server, Transport::Tcp).await;
    let mut tab = page.open().await;
    wait(1.0).await;
    shut_down(&live, &mut tab).await;
    let next = builder(&folder).build().unwrap();
    let server = Server::layered(&next.layer(), usual);
    let mut tab = Client::with_key(&server, Transport::Tcp, &page.key).open().await;
    assert_eq!(tab.received_in(60.0).await, [""; 0]);
    // Nor does one that is loaded now.
    let mut tab = Client::load(&server, Transport::Tcp).await.open().await;
    assert_eq!(tab.received_in(60.0).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_leaves_no_history() {
    let folder = Folder::new("dies");
    let live = builder(&folder).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    publish(&live, [added(1, "there")]);
    let page = Client::load(&server, Transport::AnyStream).await;
    page.open().await.cut(&live).await;
    drop(live);
    let next = builder(&folder).build().unwrap();
    let server = Server::layered(&next.layer(), usual);
    let mut tab = Client::with_key(&server, Transport::AnyStream, &page.key).open().await;
    assert_eq!(tab.received_in(1.0).await, upserts(&[(9, "snapshot")]));
    let stats = next.stats();
    assert_eq!((stats.log_restored, stats.snapshots), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_does_not_answer_does_not_hold_the_end_up() {
    let folder = Folder::new("silent");
    let live = builder(&folder).build().unwrap();
    let server = Server::layered(&live.layer(), usual);
    let tab = Client::load(&server, Transport::AnyStream).await.open().await;
    let began = tokio::time::Instant::now();
    live.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(folder.holds_log());
    drop(tab);
}

/// A write is in flight when the server begins to end, and is answered when `shutdown` has long returned.
#[test]
fn a_write_that_ends_after_shutdown_is_in_the_log() {
    let folder = Folder::new("late");
    let live = builder(&folder).build().unwrap();
    let (began, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let handler = {
            let (began, goes_on) = (began.clone(), goes_on.clone());
            async move |_: axum::body::Bytes| {
                began.notify_one();
                goes_on.notified().await;
                axum::Json(json!({"action": "updated"}))
            }
        };
        let app = axum::Router::<()>::new().route("/events/{id}", axum::routing::put(handler)).layer(live.layer());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped, is_shut) = (Arc::new(Notify::new()), live.clone(), Arc::new(Notify::new()));
        let shutdown = {
            let (stop, is_shut) = (stop.clone(), is_shut.clone());
            async move {
                stop.notified().await;
                stopped.shutdown().await;
                is_shut.notify_one();
            }
        };
        let server = tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(shutdown).into_future());
        let mut raw = Raw::new(tokio::net::TcpStream::connect(address).await.unwrap());
        let body = event(7, "late").to_string();
        let head = "PUT /events/7 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        raw.write(request.as_bytes()).await.unwrap();
        began.notified().await;
        stop.notify_one();
        is_shut.notified().await;
        assert!(!folder.holds_log(), "what it changes is not in the log yet");
        goes_on.notify_one();
        assert_eq!(raw.head().await.status(), 200);
        server.await.unwrap().unwrap();
    });
    // As at the end of `main`.
    drop(runtime);
    assert!(folder.holds_log());
    assert_eq!(builder(&folder).build().unwrap().stats().log_restored, 1);
}

#[tokio::test]
async fn what_is_sent_after_shutdown_is_in_the_log_too() {
    let folder = Folder::new("sent");
    let live = builder(&folder).build().unwrap();
    live.shutdown().await;
    live.send("events", "hello").unwrap();
    until("a message is in the log", || folder.holds_log()).await;
    live.refresh("events").unwrap();
    until("a refresh is in the log", || folder.holds_log()).await;
    // A second call changes nothing.
    live.shutdown().await;
    assert_eq!(builder(&folder).build().unwrap().stats().log_restored, 2);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let folder = Folder::new("refused");
    let nowhere = folder.0.join("missing/live.log");
    let error = builder(&folder).log_file(&nowhere).build().unwrap_err();
    assert!(matches!(&error, ConfigError::LogFile { path, .. } if *path == nowhere));
    assert!(error.to_string().contains("folder that exists") && std::error::Error::source(&error).is_some());
    let error = builder(&folder).delivery(Delivery::Plain).build().unwrap_err();
    assert!(matches!(error, ConfigError::LogFileWithPlain));
    assert!(!folder.file().exists(), "nothing was written");
    let error = LiveUpdates::builder("/api/v1").tokens([TOKEN]).log_file(&folder.0).build().unwrap_err();
    assert!(matches!(error, ConfigError::LogFile { .. }), "a folder is no file");
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_file_that_is_not_used_is_named_with_the_reason_and_the_remedy() {
    let folder = Folder::new("unused");
    let logs = crate::support::logs::Logs::capture();
    let old = builder(&folder).build().unwrap();
    assert!(logs.lines("WARN").is_empty(), "at the first start there is nothing to log");
    let new = builder(&folder).build().unwrap();
    let lines = logs.lines("is not used: the process that used it before did not end with shutdown");
    assert!(lines.len() == 1 && lines[0].contains("live.log") && lines[0].contains("shutdown()"), "{lines:?}");
    old.shutdown().await;
    assert_eq!(logs.lines("is not written: a newer process uses it").len(), 1);
    new.shutdown().await;
    assert!(folder.holds_log());
    fs::write(folder.file(), "{}").unwrap();
    let _live = builder(&folder).build().unwrap();
    assert_eq!(logs.lines("is not used: it is no log file").len(), 1);
}
