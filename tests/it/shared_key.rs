//! Two pages with one key: a cache has answered the handshake of one with the other's. Each must hear everything
//! nevertheless, whatever the other has acknowledged.

use crate::support::{
    Server,
    client::{Client, WAYS, added, adds, patient, publish, wait},
    usual,
};

#[tokio::test(start_paused = true)]
async fn a_page_that_was_away_hears_what_the_other_one_has_acknowledged() {
    for way in WAYS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        wait(100.0).await;
        let key = Client::load(&server, way).await.key;
        let page = || Client::with_key(&server, way, &key);
        let first = page().open().await;
        let mut second = page().open().await;
        second.hears_in(20.0).await;
        first.cut(&live).await;
        for id in 1..=3 {
            publish(&live, [added(id, "missed")]);
            second.hears_in(20.0).await;
        }
        let mut back = page().open().await;
        // The second one answers that it is there still.
        second.hears_in(0.1).await;
        let heard = back.hears_in(0.1).await;
        assert!(heard.ends_with(&adds(&[(1, "missed"), (2, "missed"), (3, "missed")])), "{way:?}: {heard:?}");
        second.cut(&live).await;
        let again = page().open().await.heard().await;
        assert!(
            again.starts_with(&adds(&[(1, "missed"), (2, "missed"), (3, "missed")])),
            "{way:?}: for good: {again:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_dead_connection_is_open_still_is_believed() {
    for way in WAYS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        wait(100.0).await;
        let page = Client::load(&server, way).await;
        let mut dead = page.open().await;
        publish(&live, [added(1, "heard")]);
        dead.hears_in(20.0).await;
        publish(&live, [added(2, "heard")]);
        dead.hears_in(20.0).await;
        let mut tab = page.open().await;
        // Nobody reads what the server sends to the first.
        assert_eq!(tab.heard().await, adds(&[(2, "heard")]), "{way:?}");
        drop(dead);
    }
}
