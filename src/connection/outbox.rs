//! Everything written to one socket: whole frames, in order, the rest of a half-written one first.

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
const MUTE: usize = 4 * MAX_ANSWERS;

/// The way out of one connection. What an offer needs comes first and lies together.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Outbox {
    /// The socket, where it is a plain TCP stream: frames then go straight to it.
    tcp: Option<TcpStream>,
    waiting: Mutex<Waiting>,
    signals: Signals,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Frames to be written …
    frames: VecDeque<Frame>,
    /// … of the first of which so many bytes have been.
    begun: usize,
    /// Bytes among them that answer what was read.
    answers: usize,
    /// True when the reading side waits for room.
    is_awaited: bool,
    broken: bool,
    /// True when nothing that is told is taken any more.
    silent: bool,
}

impl Outbox {
    pub(crate) fn new(tcp: Option<TcpStream>) -> Self {
        Self { tcp, waiting: Mutex::default(), signals: Signals::default() }
    }

    /// What its task is to act on.
    pub(crate) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The socket itself, where it is a plain TCP stream.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        self.tcp.as_ref()
    }

    /// Puts a frame in line.
    pub(crate) fn push(&self, frame: impl Into<Frame>) {
        lock(&self.waiting).frames.push_back(frame.into());
        self.signals.raise(Signal::NEWS);
    }

    /// Puts the answer to a message in line.
    pub(crate) fn answer(&self, frame: Bytes) {
        let mut waiting = lock(&self.waiting);
        waiting.answers += frame.len();
        waiting.frames.push_back(frame.into());
        drop(waiting);
        self.signals.raise(Signal::NEWS);
    }

    /// Drops what has been told and not been written yet, and all that is told from now on. A frame that is half written
    /// is written to its end, else no later one could be read; and control frames keep their place.
    pub(crate) fn silence(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.silent = true;
        let mut is_begun = waiting.begun > 0;
        // True for the first frame at most.
        waiting.frames.retain(|frame| std::mem::take(&mut is_begun) || is_control(frame));
        self.rest(&mut waiting);
    }

    /// Whether few answers wait: who asks without reading is not heard until they are out. Its task is woken then.
    pub(crate) fn has_room(&self) -> bool {
        self.has_room_below(MUTE)
    }

    fn has_room_below(&self, bytes: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        let has_room = waiting.answers <= bytes || waiting.broken;
        waiting.is_awaited |= !has_room;
        has_room
    }

    /// Puts an answer in line, or has tungstenite keep it until earlier ones are out; its task is woken then.
    pub(crate) fn try_answer(&self, frame: &[u8]) -> bool {
        let has_room = self.has_room_below(MAX_ANSWERS);
        if has_room {
            self.answer(Bytes::copy_from_slice(frame));
        }
        has_room
    }

    /// Bytes of the frames that wait, and of what has been written of the first.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.waiting).frames.iter().map(Frame::len).sum()
    }

    /// True when nothing waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.waiting).frames.is_empty()
    }

    /// With nothing left to write there is room for answers.
    fn rest(&self, waiting: &mut Waiting) {
        if waiting.frames.is_empty() {
            waiting.answers = 0;
            // Most sockets are idle most of the time.
            waiting.frames = VecDeque::new();
            if std::mem::take(&mut waiting.is_awaited) {
                self.signals.raise(Signal::NEWS);
            }
        }
    }

    /// Writes the line out as far as the socket goes at once: ready when something was written or nothing is left.
    /// `any` is the stream of a socket that is no plain TCP stream.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        any: Option<&mut W>,
    ) -> Poll<io::Result<Line>> {
        let mut waiting = lock(&self.waiting);
        if waiting.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let outcome = match (&self.tcp, any) {
            (Some(tcp), _) => waiting.poll_tcp(cx, tcp),
            (None, Some(any)) => waiting.poll_any(cx, any),
            (None, None) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        if matches!(outcome, Poll::Ready(Err(_))) {
            waiting.break_off();
        }
        self.rest(&mut waiting);
        outcome
    }
}

/// How a line stands after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Empty,
    Waiting,
}

impl Waiting {
    fn poll_tcp(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<io::Result<Line>> {
        loop {
            if self.frames.is_empty() {
                return Poll::Ready(Ok(Line::Empty));
            }
            let outcome = match self.slices().get() {
                [one] => tcp.try_write(one),
                several => tcp.try_write_vectored(several),
            };
            match outcome {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.written(written);
                    return Poll::Ready(Ok(self.line()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_write_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_any<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, any: &mut W) -> Poll<io::Result<Line>> {
        if self.frames.is_empty() {
            return Pin::new(any).poll_flush(cx).map_ok(|()| Line::Empty);
        }
        let written = ready!(Pin::new(&mut *any).poll_write_vectored(cx, self.slices().get()))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.written(written);
        // Not `Empty` yet: the stream may hold bytes back until it is flushed.
        Poll::Ready(Ok(Line::Waiting))
    }

    /// What can be written at once.
    fn slices(&self) -> Slices<'_> {
        let mut slices = Slices::new();
        let mut begun = self.begun;
        for frame in &self.frames {
            if !slices.add(frame, std::mem::take(&mut begun)) {
                break;
            }
        }
        slices
    }

    /// Takes what was written off the line.
    fn written(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(first) = self.frames.front() else {
                break;
            };
            let left = first.len() - self.begun;
            if bytes < left {
                self.begun += bytes;
                break;
            }
            bytes -= left;
            self.frames.pop_front();
            self.begun = 0;
        }
    }

    /// So much of a frame has been written, and nothing waits before it.
    fn begin(&mut self, frame: &Cleared, written: usize) {
        self.frames.push_back(frame.clone().into_frame());
        self.begun = written;
    }

    fn line(&self) -> Line {
        if self.frames.is_empty() { Line::Empty } else { Line::Waiting }
    }

    fn break_off(&mut self) {
        self.broken = true;
        (self.frames, self.begun) = (VecDeque::new(), 0);
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

    /// Adds what follows the first so many bytes of a frame; false where there is no room for more.
    fn add(&mut self, frame: &'f Frame, mut begun: usize) -> bool {
        for piece in frame.pieces() {
            let left = piece.get(begun..).unwrap_or_default();
            begun = begun.saturating_sub(piece.len());
            if left.is_empty() {
                continue;
            }
            let Some(slice) = self.slices.get_mut(self.count) else {
                return false;
            };
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
        self.signals.raise(Signal::NEWS);
    }

    fn try_send(&self, frames: &[&Cleared]) -> Accepted {
        let mut waiting = lock(&self.waiting);
        if waiting.silent {
            return Accepted { frames: frames.len(), clear: true };
        }
        let Some(tcp) = &self.tcp else {
            waiting.frames.extend(frames.iter().map(|&frame| frame.clone().into_frame()));
            return Accepted { frames: frames.len(), clear: waiting.frames.is_empty() };
        };
        // Most of the time it is one frame, and nothing waits: that needs no list of slices.
        if let ([frame], true) = (frames, waiting.frames.is_empty() && !waiting.broken) {
            if let [bytes] = frame.pieces() {
                match tcp.try_write(bytes) {
                    Ok(written) if written == bytes.len() => return Accepted { frames: 1, clear: true },
                    Ok(written) => {
                        waiting.begin(frame, written);
                        return Accepted { frames: 1, clear: false };
                    }
                    // What is wrong shows below.
                    Err(_) => {}
                }
            }
        }
        let mut taken = 0;
        // What waits already goes first, and then these, as far as the socket takes them.
        while !waiting.broken && (taken < frames.len() || !waiting.frames.is_empty()) {
            let mut slices = waiting.slices();
            let before = slices.bytes;
            // If what waits does not fit, nothing of this does.
            let _ = frames[taken..].iter().all(|frame| slices.add(frame, 0));
            let offered = slices.bytes;
            match tcp.try_write_vectored(slices.get()) {
                Ok(written) => {
                    waiting.written(written.min(before));
                    let mut rest = written.saturating_sub(before);
                    while rest > 0 && taken < frames.len() {
                        let frame = frames[taken];
                        taken += 1;
                        let length = frame.len();
                        if rest < length {
                            waiting.begin(frame, rest);
                            break;
                        }
                        rest -= length;
                    }
                    if written < offered {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => waiting.break_off(),
            }
        }
        self.rest(&mut waiting);
        // An empty line is written out at once: whoever waits for it would ask again and again. So the next frame waits.
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
            while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == Line::Waiting {}
            taken += outbox.try_send(&refs[taken..]).frames;
        }
        while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == Line::Waiting {}
        assert!(reading.await.unwrap());
    }

    /// As what is told of a large object: pieces of very different lengths, an empty one among them.
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
            assert!(next.clear || lock(&outbox.waiting).frames.len() <= 1, "no more is held than has begun");
            while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == Line::Waiting {}
        }
        assert!(reading.await.unwrap());
    }

    #[tokio::test]
    async fn a_frame_in_pieces_that_is_half_written_is_written_to_its_end() {
        // Up to a byte within, or at the end of, each of its pieces.
        let (begun, told) = (in_pieces(b'p', 40), cleared(b'q', 40));
        for written in 1..begun.len() {
            let (mut near, mut far) = tokio::io::duplex(written);
            let outbox = Outbox::new(None);
            outbox.try_send(&[&begun, &told]);
            while lock(&outbox.waiting).begun < written {
                poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap();
            }
            outbox.silence();
            outbox.push(frame(0x88, 4));
            let reading = tokio::spawn(async move {
                let mut read = Vec::new();
                near.read_to_end(&mut read).await.unwrap();
                read
            });
            while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == Line::Waiting {}
            drop(far);
            assert_eq!(reading.await.unwrap(), [begun.to_bytes(), frame(0x88, 4)].concat(), "{written}");
        }
        let ping = in_pieces(0x89, 40);
        let outbox = Outbox::new(None);
        outbox.try_send(&[&told, &ping]);
        outbox.silence();
        assert_eq!(lock(&outbox.waiting).frames.len(), 1, "its first byte says that it is a control frame");
    }

    #[tokio::test]
    async fn a_socket_full_to_the_byte_is_waited_for() {
        let (_near, far) = pair().await;
        far.writable().await.unwrap();
        // Until the kernel takes no more: then nothing of ours waits, and yet nothing can be written.
        while far.try_write(&[0; 4096]).is_ok() {}
        let outbox = Outbox::new(Some(far));
        assert_eq!(outbox.try_send(&[&cleared(b'x', 10), &cleared(b'y', 10)]), Accepted { frames: 1, clear: false });
        let pending = poll_fn(|cx| Poll::Ready(outbox.poll_write(cx, None::<&mut NoStream>).is_pending()));
        assert!(pending.await, "whoever writes waits for the socket");
    }

    #[tokio::test]
    async fn whoever_asks_without_reading_is_not_heard_until_the_answers_are_out() {
        let (_near, mut far) = tokio::io::duplex(64 * 1024);
        let outbox = Outbox::new(None);
        assert!(outbox.has_room());
        outbox.answer(frame(b'x', MUTE + 1));
        assert!(!outbox.has_room());
        outbox.signals.take();
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == Line::Waiting {}
        assert!(outbox.has_room());
        assert!(outbox.signals.take().has(Signal::NEWS), "whoever waits for room is woken");
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
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == Line::Waiting {}
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
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == Line::Waiting {}
        assert!(outbox.signals.take().has(Signal::NEWS), "the writer wakes the reader");
        assert!(outbox.try_answer(&answer));
    }

    #[tokio::test]
    async fn a_silent_socket_says_only_what_it_has_begun_and_control_frames() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let outbox = Outbox::new(None);
        let [begun, told] = [b'p', b'q'].map(|byte| cleared(byte, 40));
        let (pong, close) = (frame(0x8A, 3), frame(0x88, 4));
        outbox.try_send(&[&begun, &told]);
        outbox.push(pong.clone());
        outbox.try_send(&[&told]);
        let first = poll_fn(|cx| outbox.poll_write(cx, Some(&mut far)));
        assert_eq!(first.await.unwrap(), Line::Waiting);

        outbox.silence();
        assert_eq!(outbox.try_send(&[&told]), Accepted { frames: 1, clear: true }, "it does as if");
        outbox.push(close.clone());
        let expected = [begun.to_bytes(), pong, close].concat();
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            near.read_to_end(&mut read).await.unwrap();
            read
        });
        while poll_fn(|cx| outbox.poll_write(cx, Some(&mut far))).await.unwrap() == Line::Waiting {}
        drop(far);
        assert_eq!(reading.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn of_what_a_silent_socket_has_not_begun_nothing_is_said() {
        let (_near, far) = pair().await;
        far.writable().await.unwrap();
        while far.try_write(&[0; 4096]).is_ok() {}
        let outbox = Outbox::new(Some(far));
        outbox.try_send(&[&cleared(b'p', 10)]);
        outbox.silence();
        assert!(lock(&outbox.waiting).frames.is_empty());
    }

    #[tokio::test]
    async fn a_frame_that_a_tcp_stream_has_taken_in_part_is_written_to_its_end() {
        let (mut near, far) = pair().await;
        // Older versions of tokio try no write before the runtime has said that the socket can be written to.
        far.writable().await.unwrap();
        let outbox = Outbox::new(Some(far));
        let big = cleared(b'p', 100_000_000);
        assert_eq!(outbox.try_send(&[&big, &cleared(b'q', 10)]), Accepted { frames: 1, clear: false });
        outbox.silence();
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            near.read_to_end(&mut read).await.unwrap();
            read.len()
        });
        while poll_fn(|cx| outbox.poll_write(cx, None::<&mut NoStream>)).await.unwrap() == Line::Waiting {}
        drop(outbox);
        assert_eq!(reading.await.unwrap(), big.len());
    }

    #[tokio::test]
    async fn a_broken_socket_takes_nothing_and_holds_nothing() {
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
        tokio::time::timeout(Duration::from_secs(5), broken).await.expect("the kernel says so");
        assert_eq!(outbox.try_send(&[&big]), Accepted { frames: 0, clear: false });
        assert!(lock(&outbox.waiting).frames.is_empty());
    }
}
