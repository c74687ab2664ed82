//! One `LiveUpdates` on several runtimes, which come and go.

use std::{net::SocketAddr, thread::JoinHandle, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::oneshot,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::either::Either;
use tower_live_updates::{AuthError, AuthRequest, Change, Identity, LiveUpdates};

use crate::support::{End, Page, Server, TOKEN, converging, until, usual};

/// A listener on a runtime of its own, in a thread of its own.
struct Host {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    has_workers: bool,
    /// Its streams are plain TCP streams.
    is_tcp: bool,
}

const KINDS: [Kind; 4] = [
    Kind { has_workers: true, is_tcp: true },
    Kind { has_workers: true, is_tcp: false },
    Kind { has_workers: false, is_tcp: true },
    Kind { has_workers: false, is_tcp: false },
];

impl Host {
    async fn start(server: &Server, kind: Kind) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (listens, address) = oneshot::channel();
        let server = server.clone();
        let thread = std::thread::spawn(move || {
            // One worker: then all pages are in one shard, whichever task serves it.
            let runtime = match kind.has_workers {
                true => Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
                false => Builder::new_current_thread().enable_all().build().unwrap(),
            };
            runtime.block_on(async {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
                listens.send(listener.local_addr().unwrap()).unwrap();
                let accept = async {
                    loop {
                        let stream = listener.accept().await.unwrap().0;
                        match kind.is_tcp {
                            true => server.serve(stream),
                            false => server.serve(Either::<_, TcpStream>::Left(stream)),
                        }
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address: address.await.unwrap(), stop, thread }
    }

    async fn page(&self) -> Page<TcpStream> {
        self.page_of(TOKEN, "events").await
    }

    async fn page_of(&self, token: &str, entity: &str) -> Page<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut page = Page::open(stream, &format!("/api/v1?token={token}&ws=1"), &[]).await.unwrap();
        page.send_text(&format!(r#"{{"action":"subscribe","name":"{entity}"}}"#)).await;
        // Earlier changes may be resent at any time: only the pong counts.
        page.socket.send(Message::Ping(Bytes::new())).await.unwrap();
        while !matches!(page.socket.next().await, Some(Ok(Message::Pong(_)))) {}
        page
    }

    /// Ends, and its runtime with it.
    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

/// A page receives two changes that come close together, and both again once writes have gone quiet.
async fn receives_and_settles(live: &LiveUpdates, page: &mut Page<TcpStream>, text: &str) {
    for id in [7, 8] {
        live.publish("events", Change::update(&json!({ "id": id, "text": text })).unwrap()).unwrap();
    }
    let mut received = Vec::new();
    while received.len() < 4 {
        let (kind, event) = page.event().await;
        // Earlier changes may be resent in between.
        if event["text"] == text {
            received.push((kind, event["id"].clone()));
        }
    }
    let expected = [7, 8, 7, 8].map(|id| ("update-event".to_owned(), json!(id)));
    assert_eq!(received, expected, "{text}");
}

fn live() -> LiveUpdates {
    let milliseconds = Duration::from_millis;
    let settling = converging().settle_quiet(milliseconds(20)).settle_overlap(milliseconds(100));
    settling.tokens([TOKEN]).build().unwrap()
}

#[tokio::test]
async fn pages_stay_served_when_the_runtime_of_the_first_one_ends() {
    join_all(KINDS.map(|kind| async move {
        let live = live();
        let server = Server::layered(&live.layer(), usual);
        let (first, second) = (Host::start(&server, kind).await, Host::start(&server, kind).await);
        let (mut goes, mut stays) = (first.page().await, second.page().await);
        receives_and_settles(&live, &mut goes, "both runtimes").await;
        receives_and_settles(&live, &mut stays, "across runtimes").await;

        first.stop().await;
        receives_and_settles(&live, &mut stays, "without the first").await;
        assert_eq!(goes.end().await, End::Gone, "{kind:?}");

        // A listener that is started again.
        let third = Host::start(&server, kind).await;
        let mut comes = third.page().await;
        second.stop().await;
        receives_and_settles(&live, &mut comes, "with the third").await;

        let end = async move { comes.end().await };
        let (end, ()) = tokio::join!(end, live.shutdown());
        assert_eq!(end, End::Close(1001, "Going away".into()), "{kind:?}");
        third.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_restarted_listener_serves_new_pages() {
    join_all(KINDS.map(|kind| async move {
        let live = live();
        let server = Server::layered(&live.layer(), usual);
        for text in ["before", "after"] {
            let host = Host::start(&server, kind).await;
            receives_and_settles(&live, &mut host.page().await, text).await;
            host.stop().await;
        }
    }))
    .await;
}

#[tokio::test]
async fn who_has_gone_with_a_runtime_and_shortly_before_it_is_deleted_on_the_pages_of_another() {
    join_all(KINDS.map(|kind| async move {
        let by_token =
            async |(): (), request: AuthRequest| Ok::<_, AuthError>(Identity::new(request.token().to_owned()));
        let builder = LiveUpdates::builder("/api/v1").authenticate_fn((), by_token);
        let people = builder.presence("people", |identity: &Identity| Some(json!({"id": identity.principal()})));
        let live = people.presence_timeout(Duration::from_millis(300)).build().unwrap();
        let server = Server::layered(&live.layer(), usual);
        let (first, second) = (Host::start(&server, kind).await, Host::start(&server, kind).await);
        let mut stays = second.page_of("stays", "people").await;
        let goes_before = first.page_of("goes%20before", "people").await;
        let _goes_with = first.page_of("goes%20with", "people").await;
        drop(goes_before);
        until("it has gone", || live.stats().connections == 2).await;
        first.stop().await;
        let mut gone = Vec::new();
        while gone.len() < 2 {
            let message = stays.message().await.unwrap();
            let value = &message["body"]["value"];
            if value["type"] == "delete-people" {
                gone.push(value["people"]["id"].as_str().unwrap().to_owned());
            }
        }
        gone.sort_unstable();
        assert_eq!(gone, ["goes before", "goes with"], "{kind:?}");
        second.stop().await;
    }))
    .await;
}
