//! Lists: their cache headers, and what pages that may have received an old one are sent.

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_live_updates::{Delivery, Entity, LiveUpdates, body::RequestBody};

use crate::support::{
    Server,
    client::{Client, TRANSPORTS, Transport, added, adds, patient, publish, updated, wait},
    full,
};

fn live(entity: Entity, delivery: Delivery) -> LiveUpdates {
    LiveUpdates::builder("/api/v1").tokens(["demo"]).entity(entity).delivery(delivery).build().unwrap()
}

#[tokio::test]
async fn lists_without_cache_headers_stay_out_of_caches() {
    for delivery in [Delivery::Converging, Delivery::Plain] {
        for (name, value, expected) in [
            ("x-other", "1", Some("no-store")),
            ("cache-control", "max-age=5", Some("max-age=5")),
            ("expires", "0", None),
        ] {
            let live = live(Entity::scheduler("/events").list_route("/all"), delivery);
            let server = Server::layered(&live.layer(), move |_| async move {
                Response::builder().header(name, value).body(full("[]")).unwrap()
            });
            for (path, is_list) in [("/events", true), ("/all/", true), ("/events/7", false), ("/other", false)] {
                let answer = server.write(Method::GET, path, "").await;
                let found = answer.headers().get("cache-control").map(|value| value.to_str().unwrap().to_owned());
                let own = (name == "cache-control").then_some(value);
                assert_eq!(found.as_deref(), if is_list { expected } else { own }, "{delivery:?} {path} {name}");
            }
        }
    }
}

#[tokio::test]
async fn what_caches_may_do_with_lists_can_be_left_to_the_application() {
    let live = live(Entity::scheduler("/events").cacheable_lists(), Delivery::Converging);
    let server = Server::layered(&live.layer(), |_| async { Response::new(full("[]")) });
    assert_eq!(server.write(Method::GET, "/events", "").await.headers().get("cache-control"), None);
}

#[tokio::test]
async fn a_list_leaves_in_pieces_so_that_its_end_can_be_seen() {
    let live = live(Entity::scheduler("/events"), Delivery::Converging);
    let text: String = (0..100_000).map(|number: u32| char::from(b'a' + (number % 26) as u8)).collect();
    let list = Bytes::from(text);
    let answer = list.clone();
    let mut service = live.layer().layer(service_fn(move |_: http::Request<RequestBody<Full<Bytes>>>| {
        let answer = answer.clone();
        async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(answer))) }
    }));
    let request = http::Request::get("/events").body(Full::<Bytes>::default()).unwrap();
    let mut body = service.call(request).await.unwrap().into_body();
    let (mut pieces, mut read) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let left = http_body::Body::size_hint(&body).exact();
        read.extend_from_slice(frame.unwrap().data_ref().unwrap());
        assert_eq!(left, Some((list.len() - read.len()) as u64), "its length is as it was promised");
        pieces += 1;
    }
    assert!(pieces >= 6, "{pieces}");
    assert_eq!(read, list);
}

#[tokio::test(start_paused = true)]
async fn a_new_page_is_sent_again_what_a_late_list_may_lack() {
    for transport in TRANSPORTS {
        for has_list in [true, false] {
            let live = patient().build().unwrap();
            let server = Server::layered(&live.layer(), |_| async { Response::new(full("[]")) });
            wait(100.0).await;
            let mut tab = Client::load(&server, transport).await.open().await;
            if has_list {
                // As far as can be seen here it leaves at once, whatever stands in buffers after it.
                server.write(Method::GET, "/events", "").await;
            }
            wait(6.0).await;
            publish(&live, [updated(1, "a")]);
            assert_eq!(tab.received_in(19.0).await[0], "update 1 a", "{transport:?}");
            for seconds in [10.0, 90.0] {
                assert_eq!(!tab.received_in(seconds).await.is_empty(), has_list, "{transport:?} {seconds}");
            }
            assert_eq!(tab.received_in(300.0).await, [""; 0], "{transport:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_is_where_it_has_come_back_meanwhile() {
    let live = patient().build().unwrap();
    let server = Server::layered(&live.layer(), |_| async { Response::new(full("[]")) });
    wait(100.0).await;
    let page = Client::load(&server, Transport::Tcp).await;
    let mut tab = page.open().await;
    server.write(Method::GET, "/events", "").await;
    wait(6.0).await;
    publish(&live, [added(1, "a")]);
    tab.received_in(14.0).await;
    tab.cut(&live).await;
    let mut tab = page.open().await;
    tab.received_in(7.0).await;
    assert_eq!(tab.received_in(10.0).await, adds(&[(1, "a")]), "thirty seconds after it came");
    assert_eq!(tab.received_in(100.0).await, adds(&[(1, "a")]), "and two minutes");
}

#[tokio::test(start_paused = true)]
async fn so_it_is_where_all_pages_were_sent_a_repeat_meanwhile() {
    for transport in TRANSPORTS {
        let live = patient().build().unwrap();
        let server = Server::layered(&live.layer(), |_| async { Response::new(full("[]")) });
        wait(100.0).await;
        let mut tab = Client::load(&server, transport).await.open().await;
        server.write(Method::GET, "/events", "").await;
        wait(3.8).await;
        publish(&live, [updated(1, "a"), updated(2, "a")]);
        assert_eq!(tab.received_in(25.0).await.len(), 4, "{transport:?}: live, and when they have settled");
        for seconds in [2.0, 90.0] {
            assert_eq!(tab.received_in(seconds).await, ["update 1 a", "update 2 a"], "{transport:?} {seconds}");
        }
    }
}
