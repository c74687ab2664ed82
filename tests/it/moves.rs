//! Writes that move an object among its siblings: a message of their own as they happen, and an update afterwards.

use std::convert::Infallible;

use http::{Method, Request, header};
use serde_json::{Value, json};
use tower_live_updates::{ChangeKind, Entity, Identity, LiveUpdates};

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, Transport, converging_events, wait},
    json as answer, read,
};

const CARD: &str = r#"{"card":{"text":"a","column":1}}"#;
const MOVE: &str = r#"{"columnId":2,"before":5}"#;
/// What pages receive of it as it happens.
const MOVED: &str = r#"cards: {"before":5,"card":{"column":2,"id":7,"text":"a"},"type":"move-card"}"#;

fn live(cards: Entity) -> LiveUpdates {
    converging_events(cards).build().expect("a good configuration")
}

/// A server whose answers name the id alone, as the maker's do.
fn server(live: &LiveUpdates) -> Server {
    Server::layered(&live.layer(), |request| async {
        read(request).await.expect("a whole request");
        answer(200, r#"{"id":7}"#)
    })
}

async fn write(server: &Server, method: Method, path: &str, body: &'static str) {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    assert_eq!(server.send(request.body(body).unwrap()).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_move_is_sent_with_its_place_and_replayed_as_an_update() {
    for transport in TRANSPORTS {
        let live = live(Entity::kanban_cards("/"));
        let server = server(&live);
        wait(100.0).await;
        let page = Client::load(&server, transport).await;
        let mut tab = page.connect().await;
        tab.subscribe("cards").await;
        write(&server, Method::POST, "/cards", CARD).await;
        write(&server, Method::PUT, "/cards/7/move", MOVE).await;
        assert_eq!(tab.received().await, ["cards: add 7 a", MOVED], "{transport:?}");
        tab.cut(&live).await;

        write(&server, Method::PUT, "/cards/7/move", r#"{"columnId":3,"before":9}"#).await;
        let mut tab = page.connect().await;
        tab.subscribe("cards").await;
        let received = tab.received().await;
        assert!(
            received.ends_with(&["cards: add 7 a".into(), "cards: update 7 a".into()]),
            "{transport:?} {received:?}"
        );
        assert!(!received.iter().any(|message| message.contains("move-card")), "{transport:?} {received:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_row_is_moved_as_it_is_stored() {
    let row = async |(), _: String| Ok::<_, Infallible>(Some(json!({"id": 7, "text": "stored", "column": 2})));
    let cards = Entity::kanban_cards("/").load((), row);
    let cases = [
        (cards.clone(), r#"cards: {"before":5,"card":{"column":2,"id":7,"text":"stored"},"type":"move-card"}"#),
        // A page may see its own part of the cards, in which the sibling need not be.
        (cards.visible((), async |(), _: Identity, _: Value| Ok::<_, Infallible>(true)), "cards: update 7 stored"),
    ];
    for (cards, expected) in cases {
        let live = live(cards);
        let server = server(&live);
        wait(100.0).await;
        let mut tab = Client::load(&server, Transport::AnyStream).await.connect().await;
        tab.subscribe("cards").await;
        write(&server, Method::PUT, "/cards/7/move", MOVE).await;
        let received = tab.received_in(1.0).await;
        assert_eq!(received.last().map(String::as_str), Some(expected), "{received:?}");
    }
}

#[test]
fn a_route_that_moves_names_the_object() {
    let cards = |path| Entity::new("cards").move_route(Method::PUT, path);
    let build = |cards| LiveUpdates::builder("/api/v1").allow_anonymous().entity(cards).build();
    let error = build(cards("/cards/move")).unwrap_err().to_string();
    assert!(error.contains("\"/cards/move\"") && error.contains("so it must name the id"), "{error}");
    assert!(build(cards("/cards/{id}/move")).is_ok());
    let twice = cards("/cards/{id}/move").route(Method::PUT, "/cards/{id}/move", ChangeKind::Update);
    assert!(build(twice).is_err());
}

#[tokio::test(start_paused = true)]
async fn the_page_that_moved_a_card_is_not_sent_that_where_it_can_be_told_apart() {
    // One page of its own token; two that share one; and one that has none.
    for (tokens, writer, skipped) in [
        (["own", "other"], "own", &[true, false][..]),
        (["shared", "shared"], "shared", &[false, false]),
        (["own", "other"], "", &[false, false]),
        (["own", "other"], "stranger", &[false, false]),
    ] {
        let live = LiveUpdates::builder("/api/v1").entity(Entity::kanban_cards("/"));
        let live = live.tokens(["own", "other", "shared"]).build().expect("a good configuration");
        let server = server(&live);
        wait(100.0).await;
        let mut tabs = Vec::new();
        for token in tokens {
            let mut tab = Client::load_with(&server, Transport::AnyStream, token).await.connect().await;
            tab.subscribe("cards").await;
            tabs.push(tab);
        }
        let request = Request::builder().method(Method::PUT).uri("/cards/7/move").header("remote-token", writer);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        assert_eq!(server.send(request.body(MOVE).unwrap()).await.status(), 200);
        for (tab, skipped) in tabs.iter_mut().zip(skipped) {
            let received = tab.received_in(1.0).await;
            assert_eq!(received.is_empty(), *skipped, "{tokens:?} {writer:?} {received:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_without_a_token_is_of_no_page() {
    let live = LiveUpdates::builder("/api/v1").allow_anonymous().entity(Entity::kanban_cards("/"));
    let live = live.build().expect("a good configuration");
    let server = server(&live);
    wait(100.0).await;
    let mut tab = Client::load_with(&server, Transport::AnyStream, "").await.connect().await;
    tab.subscribe("cards").await;
    write(&server, Method::PUT, "/cards/7/move", MOVE).await;
    assert_eq!(tab.received_in(1.0).await.len(), 1);
}
