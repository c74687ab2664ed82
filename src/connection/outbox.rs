//! Everything that waits to be written to one socket: whole frames, in order, the rest of a half-written one first.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{io::AsyncWrite, net::TcpStream};

use super::signals::{Signal, Signals};
use crate::{
    frame::Frame,
    hub::{Accepted, Cleared, FrameSink},
    lock::lock,
};

/// Slices in one vectored write; the kernel takes 1024 at most, and more than this gains nothing.
const SLICES: usize = 64;
/// Bytes of answers (pongs, a close) that may wait here; beyond that tungstenite keeps them, and of pongs the last.
const MAX_ANSWERS: usize = 4 * 1024;
/// Bytes of answers, to calls too, at which nothing more is read until they are out.
const PAUSE_READING: usize = 4 * MAX_ANSWERS;

/// What one socket is sent. The fields that the fan-out needs come first and lie together.
#[repr(C)]
pub(crate) struct Outbox {
    /// The socket, where it is a plain TCP stream: frames then go straight to it.
    pub(crate) tcp: Option<TcpStream>,
    waiting: Mutex<Waiting>,
    pub(crate) signals: Signals,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written already.
    begun: usize,
    /// Bytes of the frames that answer what was read.
    answers: usize,
    /// True when the reading side waits for room.
    reader_waits: bool,
    broken: bool,
    /// True when frames of the fan-out are dropped.
    discards: bool,
}

impl Outbox {
    pub(crate) fn new(tcp: Option<TcpStream>) -> Self {
        Self { tcp, waiting: Mutex::default(), signals: Signals::default() }
    }

    pub(crate) fn push(&self, frame: impl Into<Frame>) {
        lock(&self.waiting).frames.push_back(frame.into());
        self.signals.raise(Signal::SEND);
    }

    /// Queues the answer to a message.
    pub(crate) fn answer(&self, frame: Bytes) {
        let mut waiting = lock(&self.waiting);
        waiting.answers += frame.len();
        waiting.frames.push_back(frame.into());
        drop(waiting);
        self.signals.raise(Signal::SEND);
    }

    /// The same for the result of a call, which other tasks bring.
    pub(crate) fn answer_call(&self, frame: Bytes) {
        if !lock(&self.waiting).discards {
            self.answer(frame);
        }
    }

    /// Drops the frames that wait, and those of the fan-out from now on. A frame that is half written is written to its
    /// end, else no later one could be read; and control frames stay.
    pub(crate) fn discard_pending(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.discards = true;
        let mut is_begun = waiting.begun > 0;
        // True for the first frame at most.
        waiting.frames.retain(|frame| std::mem::take(&mut is_begun) || is_control(frame));
        self.release_if_empty(&mut waiting);
    }

    /// Whether few answers wait. A page that sends without reading its answers is not read until they are written; then
    /// its task is woken.
    pub(crate) fn has_room(&self) -> bool {
        self.has_room_below(PAUSE_READING)
    }

    fn has_room_below(&self, bytes: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        let has_room = waiting.answers <= bytes || waiting.broken;
        waiting.reader_waits |= !has_room;
        has_room
    }

    /// Queues an answer. False where tungstenite must keep it until earlier ones are written; then its task is woken.
    pub(crate) fn try_answer(&self, frame: &[u8]) -> bool {
        let has_room = self.has_room_below(MAX_ANSWERS);
        if has_room {
            self.answer(Bytes::copy_from_slice(frame));
        }
        has_room
    }

    /// Bytes of the frames that wait, the written part of the first included.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.waiting).frames.iter().map(Frame::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.waiting).frames.is_empty()
    }

    /// Frees the queue when nothing is left in it: most sockets are idle most of the time. Then there is room for
    /// answers.
    fn release_if_empty(&self, waiting: &mut Waiting) {
        if waiting.frames.is_empty() {
            waiting.answers = 0;
            waiting.frames = VecDeque::new();
            if std::mem::take(&mut waiting.reader_waits) {
                self.signals.raise(Signal::SEND);
            }
        }
    }

    /// Writes what waits, once: ready when something was written or nothing is left. `other` is the stream of a socket
    /// that is no plain TCP stream.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        other: Option<&mut W>,
    ) -> Poll<io::Result<WriteProgress>> {
        let mut waiting = lock(&self.waiting);
        if waiting.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let outcome = waiting.poll_write(cx, self.tcp.as_ref(), other);
        if matches!(outcome, Poll::Ready(Err(_))) {
            waiting.mark_broken();
        }
        self.release_if_empty(&mut waiting);
        outcome
    }
}

/// What is left after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteProgress {
    Drained,
    Remaining,
}

impl Waiting {
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        tcp: Option<&TcpStream>,
        other: Option<&mut W>,
    ) -> Poll<io::Result<WriteProgress>> {
        let written = match (tcp, other) {
            (Some(_), _) if self.frames.is_empty() => return Poll::Ready(Ok(WriteProgress::Drained)),
            (Some(tcp), _) => ready!(poll_write_tcp(cx, tcp, self.slices().get()))?,
            (None, Some(other)) if self.frames.is_empty() => {
                return Pin::new(other).poll_flush(cx).map_ok(|()| WriteProgress::Drained);
            }
            (None, Some(other)) => ready!(Pin::new(other).poll_write_vectored(cx, self.slices().get()))?,
            (None, None) => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        // Another stream may hold bytes back until it is flushed.
        let is_drained = tcp.is_some() && self.frames.is_empty();
        Poll::Ready(Ok(if is_drained { WriteProgress::Drained } else { WriteProgress::Remaining }))
    }

    /// What one write can take.
    fn slices(&self) -> Slices<'_> {
        let mut slices = Slices::new();
        let mut begun = self.begun;
        let _ = self.frames.iter().all(|frame| slices.add(frame, std::mem::take(&mut begun)));
        slices
    }

    /// Removes what was written.
    fn advance(&mut self, bytes: usize) {
        self.begun += bytes;
        while let Some(length) = self.frames.front().map(Frame::len).filter(|length| *length <= self.begun) {
            self.begun -= length;
            self.frames.pop_front();
        }
    }

    /// Queues a frame of which so many bytes are written already; nothing waits before it.
    fn push_begun(&mut self, frame: &Cleared, written: usize) {
        self.frames.push_back(frame.clone().into_frame());
        self.begun = written;
    }

    fn mark_broken(&mut self) {
        self.broken = true;
        (self.frames, self.begun) = (VecDeque::new(), 0);
    }
}

fn poll_write_tcp(cx: &mut Context<'_>, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    loop {
        let outcome = match slices {
            [one] => tcp.try_write(one),
            several => tcp.try_write_vectored(several),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_write_ready(cx))?,
            outcome => return Poll::Ready(outcome),
        }
    }
}

/// Pings, pongs and closes (RFC 6455 5.5).
fn is_control(frame: &Frame) -> bool {
    frame.first().is_some_and(|first| first & 0x08 != 0)
}

/// The pieces of some frames, for one write.
struct Slices<'f> {
    slices: [IoSlice<'f>; SLICES],
    count: usize,
    bytes: usize,
}

impl<'f> Slices<'f> {
    fn new() -> Self {
        Self { slices: [IoSlice::new(&[]); SLICES], count: 0, bytes: 0 }
    }

    /// Adds a frame without its first `begun` bytes; false where there is no room for more.
    fn add(&mut self, frame: &'f Frame, mut begun: usize) -> bool {
        for piece in frame.pieces() {
            let left = piece.get(begun..).unwrap_or_default();
            begun = begun.saturating_sub(piece.len());
            if left.is_empty() {
                continue;
            }
            let Some(slice) = self.slices.get_mut(self.count) else { return false };
            *slice = IoSlice::new(left);
            self.count += 1;
            self.bytes += left.len();
        }
        self.count < SLICES
    }

    fn get(&self) -> &[IoSlice<'f>] {
        &self.slices[..self.count]
    }
}

impl FrameSink for Outbox {
    fn is_direct(&self) -> bool {
        self.tcp.is_some()
    }

    fn prefetch(&self) {
        std::hint::black_box((self.tcp.is_some(), self.waiting.is_poisoned()));
    }

    fn ping(&self) {
        self.signals.raise(Signal::PING);
    }

    fn wake(&self) {
        self.signals.raise(Signal::SEND);
    }

    fn try_send(&self, frames: &[&Cleared]) -> Accepted {
        let mut waiting = lock(&self.waiting);
        if waiting.discards {
            return Accepted { frames: frames.len(), clear: true };
        }
        let Some(tcp) = &self.tcp else {
            waiting.frames.extend(frames.iter().map(|&frame| frame.clone().into_frame()));
            return Accepted { frames: frames.len(), clear: waiting.frames.is_empty() };
        };
        // Most of the time it is one frame, and nothing waits: that needs no list of slices.
        if let ([frame], true) = (frames, waiting.frames.is_empty() && !waiting.broken) {
            if let [bytes] = frame.pieces() {
                // An error shows again below.
                if let Ok(written) = tcp.try_write(bytes) {
                    let clear = written == bytes.len();
                    if !clear {
                        waiting.push_begun(frame, written);
                    }
                    return Accepted { frames: 1, clear };
                }
            }
        }
        let mut taken = 0;
        // What waits already goes first, then these frames, as far as the socket takes them.
        while !waiting.broken && (taken < frames.len() || !waiting.frames.is_empty()) {
            let mut slices = waiting.slices();
            let before = slices.bytes;
            // If what waits does not fit, none of these frames does.
            let _ = frames[taken..].iter().all(|frame| slices.add(frame, 0));
            let offered = slices.bytes;
            match tcp.try_write_vectored(slices.get()) {
                Ok(written) => {
                    waiting.advance(written.min(before));
                    let mut rest = written.saturating_sub(before);
                    while rest > 0 && taken < frames.len() {
                        let frame = frames[taken];
                        taken += 1;
                        let length = frame.len();
                        if rest < length {
                            waiting.push_begun(frame, rest);
                            break;
                        }
                        rest -= length;
                    }
                    if written < offered {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => waiting.mark_broken(),
            }
        }
        self.release_if_empty(&mut waiting);
        // With an empty queue the socket's task would not wait for the stream but poll again and again. So the next
        // frame is queued.
        if waiting.frames.is_empty() && !waiting.broken {
            if let Some(&next) = frames.get(taken) {
                waiting.frames.push_back(next.clone().into_frame());
                taken += 1;
            }
        }
        Accepted { frames: taken, clear: waiting.frames.is_empty() && taken == frames.len() && !waiting.broken }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::{
        io::{AsyncReadExt, DuplexStream},
        net::TcpListener,
    };

    use super::*;

    type NoStream = DuplexStream;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    fn frame(byte: u8, length: usize) -> Bytes {
        Bytes::from(vec![byte; length])
    }

    fn cleared(byte: u8, length: usize) -> Cleared {
        Cleared::unseen(frame(byte, length))
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_however_little_the_socket_takes() {
        let (mut near, far) = pair().await;
        let outbox = Outbox::new(Some(far));
        outbox.push(frame(b'a', 10));
        // Far more than the kernel's buffers hold, so that some frame is cut in the middle.
        let frames: Vec<Cleared> = (0..200).map(|n| cleared(b'b' + (n % 20), 100_000)).collect();
        let refs: Vec<&Cleared> = frames.iter().collect();
        let first = outbox.try_send(&refs);
        assert!(first.frames < refs.len() && !first.clear, "{first:?}");

        let expected: Vec<u8> =
            std::iter::once(frame(b'a', 10)).chain(frames.iter().map(|it| it.to_bytes())).flatten().collect();
        let reading = tokio::spawn(async move {
            let mut read = vec![0; expected.len()];
            near.read_exact(&mut read).await.unwrap();
            read == expected
        });
        let mut taken = first.frames;
        while taken < refs.len() {
            while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == WriteProgress::Remaining
            {
            }
            taken += outbox.try_send(&refs[taken..]).frames;
        }
        while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == WriteProgress::Remaining {}
        assert!(reading.await.unwrap());
    }

    /// As the frame of a large object: pieces of very different lengths, an empty one among them.
    fn in_pieces(byte: u8, object: usize) -> Cleared {
        let lengths = [90, object, 3, 0, 1, object, 3];
        Cleared::unseen(Frame::Pieces(
            lengths.into_iter().zip(byte..).map(|(length, byte)| frame(byte, length)).collect(),
        ))
    }

    #[tokio::test]
    async fn frames_in_pieces_arrive_whole_and_in_order_however_little_a_socket_takes() {
        let (mut near, far) = pair().await;
        let outbox = Outbox::new(Some(far));
        // More pieces than one write takes, and among them some that no buffer takes at once.
        let frames: Vec<Cleared> = (0..100)
            .map(|n| match n % 3 {
                0 => cleared(b'a' + n, 50),
                1 => in_pieces(n, 100),
                _ => in_pieces(n, 300_000),
            })
            .collect();
        let refs: Vec<&Cleared> = frames.iter().collect();
        let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.to_bytes()).collect();
        let reading = tokio::spawn(async move {
            let mut read = vec![0; expected.len()];
            near.read_exact(&mut read).await.unwrap();
            read == expected
        });
        let mut taken = 0;
        while taken < refs.len() {
            let next = outbox.try_send(&refs[taken..]);
            taken += next.frames;
            assert!(next.clear || lock(&outbox.waiting).frames.len() <= 1, "no more is queued than has begun");
            while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == WriteProgress::Remaining
            {
            }
        }
        assert!(reading.await.unwrap());
    }

    #[tokio::test]
    async fn a_frame_in_pieces_that_is_half_written_is_written_to_its_end() {
        // Up to a byte within, or at the end of, each of its pieces.
        let (begun, published) = (in_pieces(b'p', 40), cleared(b'q', 40));
        for written in 1..begun.len() {
            let (mut near, mut far) = tokio::io::duplex(written);
            let outbox = Outbox::new(None);
            outbox.try_send(&[&begun, &published]);
            while lock(&outbox.waiting).begun < written {
                poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap();
            }
            outbox.discard_pending();
            outbox.push(frame(0x88, 4));
            let reading = tokio::spawn(async move {
                let mut read = Vec::new();
                near.read_to_end(&mut read).await.unwrap();
                read
            });
            while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == WriteProgress::Remaining {}
            drop(far);
            assert_eq!(reading.await.unwrap(), [begun.to_bytes(), frame(0x88, 4)].concat(), "{written}");
        }
        let ping = in_pieces(0x89, 40);
        let outbox = Outbox::new(None);
        outbox.try_send(&[&published, &ping]);
        outbox.discard_pending();
        assert_eq!(lock(&outbox.waiting).frames.len(), 1, "its first byte marks it as a control frame");
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        let (_near, far) = pair().await;
        far.writable().await.unwrap();
        // Until the kernel takes no more: then nothing is queued, and yet nothing can be written.
        while far.try_write(&[0; 4096]).is_ok() {}
        let outbox = Outbox::new(Some(far));
        assert_eq!(outbox.try_send(&[&cleared(b'x', 10), &cleared(b'y', 10)]), Accepted { frames: 1, clear: false });
        let pending = poll_fn(|cx| Poll::Ready(outbox.poll_write(cx, None::<&mut NoStream>).is_pending()));
        assert!(pending.await, "the writer waits for the socket");
    }

    #[tokio::test]
    async fn a_page_that_does_not_read_its_answers_is_not_read() {
        let (_near, mut far) = tokio::io::duplex(64 * 1024);
        let outbox = Outbox::new(None);
        assert!(outbox.has_room());
        outbox.answer(frame(b'x', PAUSE_READING + 1));
        assert!(!outbox.has_room());
        outbox.signals.take();
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == WriteProgress::Remaining {}
        assert!(outbox.has_room());
        assert!(outbox.signals.take().has(Signal::SEND), "the reading side is woken");
    }

    #[tokio::test]
    async fn a_stream_that_is_no_tcp_stream_is_written_by_its_own_task() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let outbox = Outbox::new(None);
        assert!(!outbox.is_direct());
        assert_eq!(outbox.try_send(&[&cleared(b'x', 40)]), Accepted { frames: 1, clear: false });
        let reading = tokio::spawn(async move {
            let mut read = vec![0; 40];
            near.read_exact(&mut read).await.unwrap();
            read
        });
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == WriteProgress::Remaining {}
        assert_eq!(reading.await.unwrap(), vec![b'x'; 40]);
    }

    #[tokio::test]
    async fn answers_wait_until_earlier_ones_are_out() {
        let (_near, mut far) = tokio::io::duplex(64 * 1024);
        let outbox = Outbox::new(None);
        let answer = [0; 1000];
        for _ in 0..5 {
            assert!(outbox.try_answer(&answer));
        }
        assert!(!outbox.try_answer(&answer));
        outbox.signals.take();
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == WriteProgress::Remaining {}
        assert!(outbox.signals.take().has(Signal::SEND), "the writer wakes the reader");
        assert!(outbox.try_answer(&answer));
    }

    #[tokio::test]
    async fn a_discarding_outbox_writes_only_the_begun_frame_and_control_frames() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let outbox = Outbox::new(None);
        let [begun, published] = [b'p', b'q'].map(|byte| cleared(byte, 40));
        let (pong, close) = (frame(0x8A, 3), frame(0x88, 4));
        outbox.try_send(&[&begun, &published]);
        outbox.push(pong.clone());
        outbox.try_send(&[&published]);
        let first = poll_fn(|cx| outbox.poll_write(cx, Some(&mut far)));
        assert_eq!(first.await.unwrap(), WriteProgress::Remaining);

        outbox.discard_pending();
        assert_eq!(outbox.try_send(&[&published]), Accepted { frames: 1, clear: true }, "accepted and dropped");
        outbox.push(close.clone());
        let expected = [begun.to_bytes(), pong, close].concat();
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            near.read_to_end(&mut read).await.unwrap();
            read
        });
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == WriteProgress::Remaining {}
        drop(far);
        assert_eq!(reading.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_discarding_outbox_drops_a_frame_that_has_not_begun() {
        let (_near, far) = pair().await;
        far.writable().await.unwrap();
        while far.try_write(&[0; 4096]).is_ok() {}
        let outbox = Outbox::new(Some(far));
        outbox.try_send(&[&cleared(b'p', 10)]);
        outbox.discard_pending();
        assert!(lock(&outbox.waiting).frames.is_empty());
    }

    #[tokio::test]
    async fn a_frame_that_a_tcp_stream_has_taken_in_part_is_written_to_its_end() {
        let (mut near, far) = pair().await;
        // Older versions of tokio try no write before the runtime has reported the socket writable.
        far.writable().await.unwrap();
        let outbox = Outbox::new(Some(far));
        let big = cleared(b'p', 100_000_000);
        assert_eq!(outbox.try_send(&[&big, &cleared(b'q', 10)]), Accepted { frames: 1, clear: false });
        outbox.discard_pending();
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            near.read_to_end(&mut read).await.unwrap();
            read.len()
        });
        while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == WriteProgress::Remaining {}
        drop(outbox);
        assert_eq!(reading.await.unwrap(), big.len());
    }

    #[tokio::test]
    async fn a_broken_socket_accepts_nothing_and_holds_nothing() {
        let (near, far) = pair().await;
        let outbox = Outbox::new(Some(far));
        drop(near);
        let big = cleared(b'x', 1_000_000);
        let broken = async {
            loop {
                outbox.try_send(&[&big]);
                if poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), broken).await.expect("the kernel reports it");
        assert_eq!(outbox.try_send(&[&big]), Accepted { frames: 0, clear: false });
        assert!(lock(&outbox.waiting).frames.is_empty());
    }
}
