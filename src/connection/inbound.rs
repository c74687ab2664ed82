//! What a page sends: its subscriptions, calls, pongs and close.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{
    large::LargeMessage,
    meter::Meter,
    registry::{Connections, Registration},
    state::{ConnectionState, Ending, Received},
};
use crate::{
    entity::EntityIndex,
    protocol::{ClientMessage, close},
};

impl ConnectionState {
    /// Reads what has arrived, as fast as the rate limits allow. Ready when the socket is to end.
    pub(super) fn poll_inbound(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Ending> {
        let transport = self.socket.get_mut();
        let is_calling = transport.large().is_some_and(|large| large.is_reading_calls());
        let meter = transport.meter();
        if let Some(over_at) = meter.and_then(Meter::over_at) {
            if over_at <= now && !is_calling {
                return Poll::Ready(too_many_messages(&self.registration.connections));
            }
            // Its pongs may be among what is not read yet.
            self.last_received = now;
        }
        if meter.is_some_and(|meter| meter.paused_until() > now) {
            return Poll::Pending;
        }
        loop {
            match ready!(self.poll_message(cx)) {
                Ok(received) => {
                    let ending = match received {
                        Received::Message(message) => self.receive(message),
                        Received::Large(message) => self.receive_large(message),
                    };
                    if let Some(ending) = ending {
                        return Poll::Ready(ending);
                    }
                }
                Err(error) => return Poll::Ready(ending_for(&error)),
            }
        }
    }

    fn receive(&mut self, message: Message) -> Option<Ending> {
        let Registration { connections, open, .. } = &self.registration;
        self.last_received = Instant::now();
        match message {
            Message::Text(text) => self.receive_text(&text),
            Message::Binary(_) => connections.observer().messages_ignored.up(),
            Message::Pong(payload) => open.subscriber.pong(&payload),
            Message::Close(frame) => {
                if frame.is_some_and(|frame| u16::from(frame.code) == close::GOING_AWAY) {
                    open.subscriber.goes_away(self.last_received);
                }
                return Some(Ending::ClosedByPage);
            }
            Message::Ping(_) | Message::Frame(_) => {}
        }
        None
    }

    fn receive_large(&mut self, message: LargeMessage) -> Option<Ending> {
        self.last_received = Instant::now();
        match message {
            LargeMessage::Text(text) => self.receive_text(&text),
            LargeMessage::Calls(ids, why) => self.refuse_calls(&ids, &why),
            LargeMessage::Binary => self.registration.connections.observer().messages_ignored.up(),
            LargeMessage::Broken(code) => return Some(Ending::Broken(code)),
        }
        None
    }

    fn receive_text(&mut self, text: &str) {
        if self.act_on(text).is_none() {
            self.registration.connections.observer().messages_ignored.up();
        }
    }

    /// `None` where the message is not understood. Such a message is ignored: a page that is closed for it would only
    /// reconnect and send it again.
    fn act_on(&mut self, text: &str) -> Option<()> {
        let Registration { connections, open, .. } = &self.registration;
        match ClientMessage::decode(text)? {
            ClientMessage::Subscribe(name) => {
                let entity = connections.hub().core.find(&name);
                if entity.is_none() {
                    connections.diagnosis().unknown_name(&name);
                }
                self.subscribe(entity?);
            }
            ClientMessage::Unsubscribe(name) => {
                let entity = connections.hub().core.find(&name)?;
                if let Some(auth) = self.cold.as_mut().and_then(|cold| cold.subscription_auth.as_mut()) {
                    auth.unsubscribe(entity);
                }
                connections.unsubscribe(&open.subscriber, entity);
            }
            ClientMessage::Call(calls) => self.receive_calls(calls),
        }
        Some(())
    }

    fn subscribe(&mut self, entity: EntityIndex) {
        let Registration { connections, open, .. } = &self.registration;
        let subscriber = &open.subscriber;
        let auth = self.cold.as_ref().and_then(|cold| cold.subscription_auth.as_ref());
        let waiting = auth.map_or(0, |auth| auth.waiting(subscriber));
        let is_full = subscriber.subscriptions() + waiting >= connections.limits.subscriptions;
        let is_known = subscriber.follows(entity) || auth.is_some_and(|auth| auth.wants(entity));
        if is_full && !is_known {
            let observer = connections.observer();
            observer.subscriptions_refused.up();
            observer.warn(format_args!("a subscription is refused: the page has as many as max_subscriptions allows"));
            return;
        }
        if connections.authorize(entity).is_some() {
            let cold = self.cold.get_or_insert_default();
            cold.subscription_auth.get_or_insert_default().subscribe(&self.registration, entity);
        } else {
            connections.subscribe(subscriber, entity);
        }
    }
}

fn too_many_messages(connections: &Connections) -> Ending {
    let observer = connections.observer();
    observer.sockets_closed_rate_limited.up();
    observer.warn(format_args!("a page that has sent more than max_message_rate allows for 30 s is closed"));
    Ending::Close(close::POLICY, "Too many messages")
}

fn ending_for(error: &Error) -> Ending {
    match error {
        Error::Capacity(_) => Ending::Broken(close::TOO_LARGE),
        Error::Utf8(_) => Ending::Broken(close::INVALID_TEXT),
        Error::Protocol(_) => Ending::Broken(close::PROTOCOL),
        _ => Ending::Gone,
    }
}
