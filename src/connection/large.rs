//! Messages that are larger than the WebSocket library may read, or that come in fragments: they are taken out of the
//! stream before it sees them, where pages may make calls.
//!
//! A call may be larger than any other message, and one that is too large needs an answer too. So such a message is kept
//! as far as calls may be kept, of a larger one only the ids of its calls, and of any other message nothing.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::meter::READ_BUFFER;
use crate::{
    call_message::{CallId, Outcome},
    call_scanner::CallScanner,
    calls::{Calls, MemoryPermit, NO_MEMORY, TOO_SLOW, too_large},
    protocol::close,
};

/// Bytes read at one time of a message that is taken out.
const CHUNK: usize = 4096;
/// Bytes of the longest header of a page's frame.
const MAX_HEADER: usize = 14;
/// A message that takes longer to arrive is not kept.
const LONGEST: Duration = Duration::from_secs(30);

/// A message that was taken out of the stream, at its end.
#[derive(Debug)]
pub(super) enum LargeMessage {
    Text(String),
    /// Calls that were not kept.
    Calls(Vec<CallId>, Outcome),
    Binary,
    /// It breaks the protocol, or the limits; the close code.
    Broken(u16),
}

/// Divides what a page sends.
pub(super) struct LargeMessages {
    calls: Arc<Calls>,
    /// Larger messages are taken out.
    message_bytes: usize,
    header: Header,
    part: Part,
    /// What was read and not divided yet.
    unread: Vec<u8>,
    message: Option<Box<Message>>,
    /// Boxed, since nearly every socket has none.
    ended: Option<Box<LargeMessage>>,
    /// Bytes have been taken out since that was last asked.
    has_arrived: bool,
}

/// The header of a frame, as far as it has been read, and as far as the library has it.
#[derive(Default)]
struct Header {
    bytes: [u8; MAX_HEADER],
    read: usize,
    passed: usize,
}

/// Where the next byte belongs.
enum Part {
    Header,
    /// The payload of a frame for the library; so many bytes remain.
    Passed(u64),
    /// The payload of a frame that is taken out.
    Taken {
        left: u64,
        mask: [u8; 4],
        is_last: bool,
    },
}

struct Message {
    /// The text; none of a binary message, and of one that is not kept.
    text: Option<Vec<u8>>,
    memory: Option<MemoryPermit>,
    is_binary: bool,
    bytes: usize,
    scanner: CallScanner,
    /// Why it is not kept.
    refused: Option<Cow<'static, str>>,
    since: Instant,
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;

impl Header {
    /// Its length in bytes, as far as that is known.
    fn length(&self) -> usize {
        if self.read < 2 {
            return 2;
        }
        let of_length = match self.bytes[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + of_length + if self.bytes[1] & MASKED == 0 { 0 } else { 4 }
    }

    /// Bytes of the payload.
    fn payload(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match self.bytes[1] & !MASKED {
            126 => number(&self.bytes[2..4]),
            127 => number(&self.bytes[2..10]),
            short => u64::from(short),
        }
    }

    fn mask(&self) -> [u8; 4] {
        let end = self.length();
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.bytes[end - 4..end]);
        mask
    }
}

impl LargeMessages {
    /// `read` has arrived already.
    pub(super) fn new(calls: Arc<Calls>, message_bytes: usize, read: &[u8]) -> Self {
        Self {
            calls,
            message_bytes,
            header: Header::default(),
            part: Part::Header,
            unread: read.to_vec(),
            message: None,
            ended: None,
            has_arrived: false,
        }
    }

    /// The message that has ended. Until it is taken, nothing more is read.
    pub(super) fn take_ended(&mut self) -> Option<LargeMessage> {
        self.ended.take().map(|ended| *ended)
    }

    /// Whether a part of a large message has arrived since this was last asked. Its page can answer no ping before the end
    /// of it.
    pub(super) fn take_arrival(&mut self) -> bool {
        std::mem::take(&mut self.has_arrived)
    }

    /// Whether calls are arriving.
    pub(super) fn is_reading_calls(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.scanner.is_call() == Some(true))
    }

    /// Keeps no more of a message that arrives too slowly.
    pub(super) fn give_up_slow(&mut self, now: Instant) {
        let slow = self.message.as_mut().filter(|message| now.saturating_duration_since(message.since) >= LONGEST);
        if let Some(message) = slow {
            message.refuse(TOO_SLOW.into());
        }
    }

    /// Reads for the library: from `stream`, without what is taken out.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        mut stream: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let unread = std::mem::take(&mut self.unread);
            let passed = self.divide(&unread, buffer);
            if passed > 0 {
                return Ok(passed);
            }
            if self.ended.is_some() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut chunk = [0; CHUNK];
            let most = match self.part {
                // No byte of the next frame, so that it need not be kept.
                Part::Taken { left, .. } => usize::try_from(left).unwrap_or(CHUNK).min(CHUNK),
                Part::Header | Part::Passed(_) => READ_BUFFER.min(buffer.len()),
            };
            let read = stream(&mut chunk[..most])?;
            if read == 0 {
                return Ok(0);
            }
            let passed = self.divide(&chunk[..read], buffer);
            if passed > 0 {
                return Ok(passed);
            }
        }
    }

    /// Divides `input`: returns how many bytes of `buffer` are for the library. What is behind them in a message that is
    /// taken out, or does not fit, stays unread, so that messages keep their order.
    fn divide(&mut self, mut input: &[u8], buffer: &mut [u8]) -> usize {
        let mut passed = 0;
        while self.ended.is_none() {
            match &mut self.part {
                Part::Header if self.header.read < self.header.length() => {
                    let [byte, rest @ ..] = input else { break };
                    self.header.bytes[self.header.read] = *byte;
                    self.header.read += 1;
                    input = rest;
                }
                Part::Header => self.begin_frame(),
                Part::Passed(left) => {
                    let of_header = &self.header.bytes[self.header.passed..self.header.read];
                    let is_header = !of_header.is_empty();
                    let of_payload = &input[..usize::try_from(*left).unwrap_or(usize::MAX).min(input.len())];
                    let source = if is_header { of_header } else { of_payload };
                    let room = &mut buffer[passed..];
                    let count = source.len().min(room.len());
                    room[..count].copy_from_slice(&source[..count]);
                    passed += count;
                    if is_header {
                        self.header.passed += count;
                    } else {
                        *left -= count as u64;
                        input = &input[count..];
                    }
                    if *left == 0 && self.header.passed == self.header.read {
                        self.end_frame();
                    } else if count == 0 {
                        break;
                    }
                }
                Part::Taken { .. } if passed > 0 => break,
                Part::Taken { left: 0, is_last, .. } => {
                    let is_last = *is_last;
                    self.end_frame();
                    if is_last {
                        self.ended = self.message.take().map(|message| Box::new(message.end(self.message_bytes)));
                    }
                }
                Part::Taken { left, mask, .. } => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    if count == 0 {
                        break;
                    }
                    let mut payload = input[..count].to_vec();
                    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
                    mask.rotate_left(count % 4);
                    *left -= count as u64;
                    input = &input[count..];
                    self.has_arrived = true;
                    if let Some(message) = &mut self.message {
                        message.extend(&payload, &self.calls);
                        if message.is_too_large(self.message_bytes) {
                            self.ended = Some(Box::new(LargeMessage::Broken(close::TOO_LARGE)));
                        }
                    }
                }
            }
        }
        if !input.is_empty() {
            self.unread = input.to_vec();
        }
        passed
    }

    /// The header is complete: decides whose the frame is. The library refuses what is no good frame.
    fn begin_frame(&mut self) {
        let [first, second, ..] = self.header.bytes;
        let (opcode, is_last, left) = (first & 0x0f, first & FIN != 0, self.header.payload());
        let is_usual = first & (RESERVED | CONTROL) == 0 && second & MASKED != 0 && opcode <= BINARY;
        let begins = opcode != CONTINUATION;
        let is_taken = match &self.message {
            Some(_) => true,
            None => begins && (!is_last || left > self.message_bytes as u64),
        };
        if !is_usual || !is_taken {
            self.part = Part::Passed(left);
            return;
        }
        if begins && self.message.is_some() {
            self.ended = Some(Box::new(LargeMessage::Broken(close::PROTOCOL)));
            return;
        }
        if begins {
            self.message = Some(Box::new(Message::new(opcode == BINARY, &self.calls)));
        }
        self.part = Part::Taken { left, mask: self.header.mask(), is_last };
    }

    fn end_frame(&mut self) {
        self.header = Header::default();
        self.part = Part::Header;
    }
}

impl Message {
    fn new(is_binary: bool, calls: &Calls) -> Self {
        Self {
            text: (!is_binary).then(Vec::new),
            memory: calls.memory.take(0),
            is_binary,
            bytes: 0,
            scanner: CallScanner::default(),
            refused: None,
            since: Instant::now(),
        }
    }

    fn extend(&mut self, payload: &[u8], calls: &Calls) {
        self.bytes = self.bytes.saturating_add(payload.len());
        if self.is_binary {
            return;
        }
        self.scanner.read(payload);
        if self.bytes > calls.limits.bytes {
            self.refuse(too_large(calls.limits.bytes));
        } else if !self.memory.as_mut().is_some_and(|memory| memory.grow(payload.len())) {
            self.refuse(NO_MEMORY.into());
        }
        if let Some(text) = &mut self.text {
            text.extend_from_slice(payload);
        }
    }

    fn refuse(&mut self, why: Cow<'static, str>) {
        (self.text, self.memory) = (None, None);
        self.refused.get_or_insert(why);
    }

    /// Only calls may be larger than other messages.
    fn is_too_large(&self, message_bytes: usize) -> bool {
        self.bytes > message_bytes && self.scanner.is_call() != Some(true)
    }

    fn end(self, message_bytes: usize) -> LargeMessage {
        if self.is_too_large(message_bytes) {
            return LargeMessage::Broken(close::TOO_LARGE);
        }
        match (self.is_binary, self.text, self.refused) {
            (true, ..) => LargeMessage::Binary,
            (_, Some(text), _) => {
                String::from_utf8(text).map_or(LargeMessage::Broken(close::INVALID_TEXT), LargeMessage::Text)
            }
            (_, None, why) => LargeMessage::Calls(self.scanner.into_ids(), Outcome::Failed(why.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        calls::{CallLimits, Methods},
        rate::Rate,
    };

    const MESSAGE_BYTES: usize = 200;
    const CALL_BYTES: usize = 2000;

    fn calls(memory: usize) -> Arc<Calls> {
        let rate = Rate { burst: 1, per_second: 1 };
        let limits = CallLimits { bytes: CALL_BYTES, rate, waiting: 1, concurrent: 1, memory };
        let methods = Methods::new(Vec::new()).unwrap();
        Arc::new(Calls::new(methods, limits, Duration::from_secs(5), Arc::default(), Arc::default()))
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first];
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(short), _) if short < 126 => frame.push(MASKED | short),
            (_, Ok(medium)) => frame.extend([&[MASKED | 126], &medium.to_be_bytes()[..]].concat()),
            _ => frame.extend([&[MASKED | 127], &(payload.len() as u64).to_be_bytes()[..]].concat()),
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// A page's message, as its frames.
    fn message(first: u8, payload: &[u8], fragment: usize) -> Vec<Vec<u8>> {
        let parts: Vec<&[u8]> = payload.chunks(fragment.max(1)).collect();
        let ends = |place: usize| if place + 1 == parts.len() { FIN } else { 0 };
        let begins = |place: usize| if place == 0 { first } else { CONTINUATION };
        parts.iter().enumerate().map(|(place, part)| frame(ends(place) | begins(place), part)).collect()
    }

    #[derive(Debug, PartialEq)]
    enum Seen {
        Passed(Vec<u8>),
        Taken(String),
    }

    fn words(message: LargeMessage) -> String {
        match message {
            LargeMessage::Text(text) => text,
            LargeMessage::Calls(ids, why) => format!("{ids:?} {why:?}"),
            LargeMessage::Binary => "binary".to_owned(),
            LargeMessage::Broken(code) => code.to_string(),
        }
    }

    /// What the library and the socket get of these bytes, in order.
    fn divided(bytes: &[u8], chunks: &[usize], buffers: &[usize]) -> Vec<Seen> {
        let mut large = LargeMessages::new(calls(1 << 20), MESSAGE_BYTES, &[]);
        let (mut rest, mut chunks, mut buffers) = (bytes, chunks.iter().cycle(), buffers.iter().cycle());
        let mut seen = Vec::new();
        loop {
            let mut buffer = vec![0; *buffers.next().unwrap()];
            let read = large.read(&mut buffer, |chunk| {
                let count = (*chunks.next().unwrap()).min(rest.len()).min(chunk.len());
                chunk[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
            });
            match (read, large.take_ended()) {
                (Err(_), Some(ended)) => seen.push(Seen::Taken(words(ended))),
                (Err(_), None) => return seen,
                (Ok(count), None) => match seen.last_mut() {
                    Some(Seen::Passed(passed)) => passed.extend(&buffer[..count]),
                    _ => seen.push(Seen::Passed(buffer[..count].to_vec())),
                },
                (Ok(_), Some(ended)) => panic!("{ended:?} overtakes"),
            }
        }
    }

    fn call_of(bytes: usize) -> String {
        format!(r#"{{"action":"call","body":[{{"id":"7","name":"a.b","args":["{}"]}}]}}"#, "x".repeat(bytes))
    }

    proptest! {
        #[test]
        fn messages_keep_their_order_and_their_bytes(
            messages in prop::collection::vec((0..5_u8, 0..4000_usize, 1..5000_usize), 1..8),
            chunks in prop::collection::vec(1..300_usize, 1..10),
            buffers in prop::collection::vec(1..150_usize, 1..10),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            let pass = |expected: &mut Vec<Seen>, frame: &[u8]| match expected.last_mut() {
                Some(Seen::Passed(passed)) => passed.extend(frame),
                _ => expected.push(Seen::Passed(frame.to_vec())),
            };
            for (kind, size, fragment) in messages {
                let (frames, taken) = match kind {
                    // A small text, a ping, a call in one frame, and in several with pings between.
                    0 => (vec![frame(FIN | 1, &vec![b'x'; size % MESSAGE_BYTES])], None),
                    1 => (vec![frame(FIN | 9, &vec![b'p'; size % 126])], None),
                    2 => (vec![frame(FIN | 1, call_of(size).as_bytes())], Some(call_of(size))),
                    _ => (message(1, call_of(size).as_bytes(), fragment), Some(call_of(size))),
                };
                let is_taken = frames.len() > 1 || taken.as_ref().is_some_and(|text| text.len() > MESSAGE_BYTES);
                let count = frames.len();
                for (place, one) in frames.into_iter().enumerate() {
                    bytes.extend(&one);
                    if !is_taken {
                        pass(&mut expected, &one);
                    } else if place + 1 < count && kind == 4 {
                        let ping = frame(FIN | 9, b"between");
                        bytes.extend(&ping);
                        pass(&mut expected, &ping);
                    }
                }
                if let Some(text) = taken.filter(|_| is_taken) {
                    expected.push(Seen::Taken(if text.len() <= CALL_BYTES {
                        text
                    } else {
                        let refused = Outcome::Failed(too_large(CALL_BYTES));
                        words(LargeMessage::Calls(vec![CallId::numbered(7)], refused))
                    }));
                }
            }
            prop_assert_eq!(divided(&bytes, &chunks, &buffers), expected);
        }

        #[test]
        fn junk_is_divided_without_panic(junk: Vec<u8>, chunks in prop::collection::vec(1..50_usize, 1..5)) {
            divided(&junk, &chunks, &[7, 128]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrives_too_slowly_or_finds_no_room_is_not_kept_and_gives_its_memory_back() {
        let (calls, call) = (calls(1500), frame(FIN | 1, call_of(1000).as_bytes()));
        let mut buffer = [0; 128];
        let mut read = |large: &mut LargeMessages, mut bytes: &[u8]| {
            let _ = large.read(&mut buffer, |chunk| {
                let count = bytes.len().min(chunk.len());
                chunk[..count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
            });
            large.take_ended().map(words)
        };
        let mut slow = LargeMessages::new(calls.clone(), MESSAGE_BYTES, &[]);
        assert_eq!(read(&mut slow, &call[..1000]), None);
        assert!(slow.take_arrival() && !slow.take_arrival() && slow.is_reading_calls());
        let mut second = LargeMessages::new(calls.clone(), MESSAGE_BYTES, &[]);
        assert!(read(&mut second, &call).unwrap().contains(NO_MEMORY));
        tokio::time::advance(LONGEST - Duration::from_millis(1)).await;
        slow.give_up_slow(Instant::now());
        assert!(calls.memory.take(1000).is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        slow.give_up_slow(Instant::now());
        assert!(calls.memory.take(1500).is_some());
        assert_eq!(read(&mut second, &call).unwrap(), call_of(1000));
        assert!(read(&mut slow, &call[1000..]).unwrap().contains(TOO_SLOW));
        assert!(calls.memory.take(1500).is_some());
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<LargeMessages>() <= 128, "{}", size_of::<LargeMessages>());
    }
}
