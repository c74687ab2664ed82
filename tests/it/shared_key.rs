//! Two pages with one key: a cache has answered the handshake of one with the other's. Each must receive everything
//! nevertheless, whatever the other has acknowledged.

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, added, adds, patient, publish, wait},
    usual,
};

#[tokio::test(start_paused = true)]
async fn a_page_that_resumes_receives_what_only_the_other_page_has_acknowledged() {
    for transport in TRANSPORTS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        wait(100.0).await;
        let key = Client::load(&server, transport).await.key;
        let page = || Client::with_key(&server, transport, &key);
        let first = page().open().await;
        let mut second = page().open().await;
        second.received_in(20.0).await;
        first.cut(&live).await;
        for id in 1..=3 {
            publish(&live, [added(id, "missed")]);
            second.received_in(20.0).await;
        }
        let mut back = page().open().await;
        // The second one answers that it is there still.
        second.received_in(0.1).await;
        let received = back.received_in(0.1).await;
        assert!(
            received.ends_with(&adds(&[(1, "missed"), (2, "missed"), (3, "missed")])),
            "{transport:?}: {received:?}"
        );
        second.cut(&live).await;
        let again = page().open().await.received().await;
        assert!(
            again.starts_with(&adds(&[(1, "missed"), (2, "missed"), (3, "missed")])),
            "{transport:?}: for good: {again:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_dead_connection_is_still_open_resumes_at_its_position() {
    for transport in TRANSPORTS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        wait(100.0).await;
        let page = Client::load(&server, transport).await;
        let mut dead = page.open().await;
        publish(&live, [added(1, "received")]);
        dead.received_in(20.0).await;
        publish(&live, [added(2, "received")]);
        dead.received_in(20.0).await;
        let mut tab = page.open().await;
        // What the server sends to the first is not read.
        assert_eq!(tab.received().await, adds(&[(2, "received")]), "{transport:?}");
        drop(dead);
    }
}
