//! The wire: a socket's buffer at the server's end, and what a page reads from it.

use std::{
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    hub::{Accepted, Cleared, FrameSink},
    lock::lock,
};

/// A socket's buffer.
pub(super) struct Pipe {
    pub(super) direct: bool,
    pub(super) capacity: usize,
    pub(super) room: Mutex<usize>,
    pub(super) out: Mutex<Vec<Bytes>>,
    pub(super) woken: AtomicBool,
    pub(super) news: Arc<Notify>,
}

impl FrameSink for Pipe {
    fn try_send(&self, frames: &[&Cleared]) -> Accepted {
        let mut room = lock(&self.room);
        let taken = frames.len().min(*room);
        *room -= taken;
        lock(&self.out).extend(frames[..taken].iter().map(|frame| frame.to_bytes()));
        self.news.notify_one();
        Accepted { frames: taken, clear: *room > 0 }
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }
}

pub(super) enum Part {
    Ping(Vec<u8>),
    /// What the handlers are given.
    Message(Value),
}

/// What is in one or more frames.
pub(super) fn read(bytes: &[u8]) -> Rc<[Part]> {
    let mut rest = bytes;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (opcode, payload);
        (opcode, payload, rest) = frame_of(rest);
        parts.push(if opcode == 9 {
            Part::Ping(payload.to_vec())
        } else {
            let mut message: Value = serde_json::from_slice(payload).unwrap_or_default();
            Part::Message(message["body"]["value"].take())
        });
    }
    parts.into()
}

/// Opcode and payload of the first frame, and what follows it.
fn frame_of(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, head) = match bytes[1] {
        126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
        short => (usize::from(short), 2),
    };
    (bytes[0] & 0xf, &bytes[head..head + length], &bytes[head + length..])
}
