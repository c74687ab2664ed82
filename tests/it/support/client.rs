//! A page as the vendor's client makes it: one handshake, then sockets that name its key. What it receives is
//! recorded in few words: `add 7 lunch`, `delete 7`.

use std::{fmt, sync::mpsc, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;
use tower_live_updates::{Change, Entity, LiveUpdates, LiveUpdatesBuilder, builder::HasAuth};

use super::{
    End, Server, TOKEN, converging,
    raw::{CLOSE, FIN, PING, PONG, Raw, TEXT, frame},
    until,
};

/// How frames are written: by the socket's task, or by the fan-out straight to TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    AnyStream,
    Tcp,
}

pub const TRANSPORTS: [Transport; 2] = [Transport::AnyStream, Transport::Tcp];

/// The default delivery without pings that only keep a socket alive: those that come ride along with something.
pub fn patient() -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    converging().tokens([TOKEN]).ping_interval(2 * hour).pong_timeout(3 * hour)
}

/// The same of one entity alone.
pub fn converging_events(events: Entity) -> LiveUpdatesBuilder<HasAuth> {
    let hour = Duration::from_secs(3600);
    LiveUpdates::builder("/api/v1").entity(events).tokens([TOKEN]).ping_interval(2 * hour).pong_timeout(3 * hour)
}

/// Lets the paused clock run on.
pub async fn wait(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds)).await;
}

/// Holds the paused clock while bytes travel: it would run on whenever all tasks wait for a TCP stream.
pub struct Still(mpsc::Sender<()>);

impl Still {
    pub fn stand() -> Self {
        let (sender, receiver) = mpsc::channel();
        // The clock stands while a blocking task runs. This one gives up by real time, and then timeouts end the test.
        tokio::task::spawn_blocking(move || receiver.recv_timeout(Duration::from_secs(20)));
        Self(sender)
    }
}

impl fmt::Debug for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Still").field(&self.0).finish()
    }
}

/// What stays of a page when its socket breaks.
#[derive(Clone, Debug)]
pub struct Client {
    server: Server,
    transport: Transport,
    /// What it names at its socket: the handshake's key, or its token where it got none.
    pub key: String,
}

impl Client {
    /// A page that is loaded now: it makes its handshake.
    pub async fn load(server: &Server, transport: Transport) -> Self {
        Self::load_with(server, transport, TOKEN).await
    }

    pub async fn load_with(server: &Server, transport: Transport, token: &str) -> Self {
        let answer: Value = serde_json::from_slice(server.handshake(token).await.body()).expect("JSON");
        Self::with_key(server, transport, answer["key"].as_str().unwrap_or(token))
    }

    /// A page that names something of its own.
    pub fn with_key(server: &Server, transport: Transport, key: &str) -> Self {
        Self { server: server.clone(), transport, key: key.to_owned() }
    }

    /// A socket that has subscribed nothing yet.
    pub async fn connect(&self) -> Tab {
        let _still = Still::stand();
        let mut raw = match self.transport {
            Transport::AnyStream => Raw::new(self.server.connect()),
            Transport::Tcp => Raw::new(self.server.connect_tcp(None).await),
        };
        raw.upgrade(&format!("/api/v1?token={}&ws=1", self.key)).await;
        assert_eq!(raw.json().await["action"], "start");
        Tab { raw, pings: Vec::new(), answers: true, unread: Vec::new() }
    }

    /// A socket that has subscribed `events`.
    pub async fn open(&self) -> Tab {
        let mut tab = self.connect().await;
        tab.subscribe("events").await;
        tab
    }
}

/// One socket of a page.
#[derive(Debug)]
pub struct Tab {
    pub raw: Raw,
    /// The payloads of the pings it has had.
    pub pings: Vec<Vec<u8>>,
    /// Whether it answers them, as browsers do by themselves.
    pub answers: bool,
    /// What has arrived since `received` was called last.
    unread: Vec<Vec<u8>>,
}

impl Tab {
    /// Subscribes, and waits until that is done.
    pub async fn subscribe(&mut self, name: &str) {
        self.send_text(&json!({"action": "subscribe", "name": name})).await;
    }

    /// Unsubscribes, and waits until that is done.
    pub async fn unsubscribe(&mut self, name: &str) {
        self.send_text(&json!({"action": "unsubscribe", "name": name})).await;
    }

    async fn send_text(&mut self, message: &Value) {
        let _still = Still::stand();
        self.raw.send_text(&message.to_string()).await;
        self.receives_anything().await;
    }

    pub async fn pong(&mut self, payload: &[u8]) {
        self.raw.write(&frame(PONG, payload)).await.expect("an open socket");
    }

    /// What has arrived since the last call, up to this moment. The server has its pongs by then.
    pub async fn received(&mut self) -> Vec<String> {
        let _still = Still::stand();
        while self.receives_anything().await {}
        std::mem::take(&mut self.unread).iter().map(|message| words(message)).collect()
    }

    /// The same, as the values of the events.
    pub async fn values(&mut self) -> Vec<Value> {
        let _still = Still::stand();
        while self.receives_anything().await {}
        let value = |message: Vec<u8>| serde_json::from_slice::<Value>(&message).expect("JSON")["body"]["value"].take();
        std::mem::take(&mut self.unread).into_iter().map(value).collect()
    }

    /// Reads what is in flight, until the server has acted on everything sent so far; false when there was nothing.
    async fn receives_anything(&mut self) -> bool {
        // What was published a moment ago goes out first.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        self.raw.write(&frame(PING, b"all")).await.expect("an open socket");
        let mut is_any = false;
        loop {
            match self.raw.frame().await.expect("an open socket") {
                (first, payload) if first == FIN | TEXT => self.unread.push(payload),
                (first, payload) if first == FIN | PING => self.is_pinged(payload).await,
                (first, payload) => {
                    assert_eq!((first, &payload[..]), (FIN | PONG, &b"all"[..]));
                    return is_any;
                }
            }
            is_any = true;
        }
    }

    async fn is_pinged(&mut self, payload: Vec<u8>) {
        if self.answers {
            self.pong(&payload).await;
        }
        self.pings.push(payload);
    }

    /// What it receives while the clock runs on for so long.
    pub async fn received_in(&mut self, seconds: f64) -> Vec<String> {
        wait(seconds).await;
        self.received().await
    }

    /// Closes the connection without a word, and waits until the server has noticed.
    pub async fn cut(self, live: &LiveUpdates) {
        let before = live.stats().connections;
        drop(self);
        until("the server has noticed", || live.stats().connections < before).await;
    }

    /// What it receives until its socket ends, and how that ends.
    pub async fn end(&mut self) -> (Vec<String>, End) {
        let mut received: Vec<String> = std::mem::take(&mut self.unread).iter().map(|message| words(message)).collect();
        loop {
            match self.raw.frame().await {
                None => return (received, End::Gone),
                Some((first, payload)) if first == FIN | TEXT => received.push(words(&payload)),
                Some((first, payload)) if first == FIN | PING => self.pings.push(payload),
                Some((first, payload)) => {
                    assert_eq!(first, FIN | CLOSE);
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    return (received, End::Close(code, String::from_utf8(payload[2..].to_vec()).expect("text")));
                }
            }
        }
    }
}

/// An event message in few words: what happened to which object, or the value itself.
fn words(message: &[u8]) -> String {
    let message: Value = serde_json::from_slice(message).expect("JSON");
    assert_eq!(message["action"], "event", "{message}");
    let (name, value) = (message["body"]["name"].as_str().expect("a name"), &message["body"]["value"]);
    let whose = if name == "events" { String::new() } else { format!("{name}: ") };
    let kind = value["type"].as_str().and_then(|kind| kind.split_once('-'));
    let what = match kind {
        Some((verb @ ("add" | "update" | "delete"), key)) => {
            let object = &value[key];
            let id = object["id"].as_str().map_or_else(|| object["id"].to_string(), str::to_owned);
            let text = match object["text"].as_str() {
                Some(text) => format!(" {text}"),
                // What makes an exception of a series an event like others.
                None if object.get("original_start").is_some_and(Value::is_null) => " ordinary".to_owned(),
                None => String::new(),
            };
            format!("{verb} {id}{text}")
        }
        _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    whose + &what
}

/// A new event with everything a Scheduler needs.
pub fn added(id: u32, text: &str) -> Change {
    Change::add(&event(id, text)).expect("an event with an id")
}

/// The same event with another text.
pub fn updated(id: u32, text: &str) -> Change {
    Change::update(&event(id, text)).expect("an event with an id")
}

pub fn deleted(id: u32) -> Change {
    Change::delete(id).expect("an id")
}

pub fn event(id: u32, text: &str) -> Value {
    json!({"id": id, "text": text, "start_date": "2026-05-13 09:00", "end_date": "2026-05-13 10:00"})
}

/// Each object's state as pages receive it that may have the object or not.
pub fn upserts(objects: &[(u32, &str)]) -> Vec<String> {
    objects.iter().flat_map(|(id, text)| [format!("add {id} {text}"), format!("update {id} {text}")]).collect()
}

/// Objects that were only ever added, as they are repeated.
pub fn adds(objects: &[(u32, &str)]) -> Vec<String> {
    objects.iter().map(|(id, text)| format!("add {id} {text}")).collect()
}

/// Publishes changes one by one.
pub fn publish(live: &LiveUpdates, changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        live.publish("events", change).expect("a change that pages can bear");
    }
}
