//! SIGINT and SIGTERM end the sockets in good order, and the future that waits for them.
#![cfg(unix)]

#[path = "it/support/mod.rs"]
mod support;

use std::process::Command;

use support::{End, Server, live, usual};

/// One test for both: signals are for the whole process.
#[tokio::test]
async fn both_signals_close_every_socket() {
    for signal in ["-INT", "-TERM"] {
        let live = live();
        let server = Server::layered(&live.layer(), usual);
        let mut pages = [server.page().await, server.subscribed().await];
        let shutdown = tokio::spawn(live.shutdown_on_signals());
        // A page's question and answer later the other task has run, and listens.
        pages[0].barrier().await;
        assert!(!shutdown.is_finished());

        let sent = Command::new("kill").args([signal, &std::process::id().to_string()]).status();
        assert!(sent.expect("the kill command").success());
        for page in &mut pages {
            assert_eq!(page.end().await, End::Close(1001, "Going away".into()), "{signal}");
        }
        drop(pages);
        shutdown.await.expect("no panic");
        assert_eq!(live.stats().connections, 0, "{signal}");
    }
}
