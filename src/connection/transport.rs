//! The stream under a socket: a plain TCP stream, which the fan-out writes to directly, or another one.

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::TcpStream,
    task::coop::poll_proceed,
    time::Instant,
};

use super::{
    large::LargeMessages,
    meter::{Meter, ReadLimits},
    outbox::{Outbox, WriteProgress},
};

/// What tungstenite reads from and writes to: reads come from the stream, writes go into the outbox.
///
/// It never waits: where it would have to, it returns [`WouldBlock`](io::ErrorKind::WouldBlock), and
/// [`Transport::poll_more`] waits instead. That spares each socket the two wakers that tokio-tungstenite's own stream
/// keeps for it.
pub(crate) struct Transport {
    pub(crate) outbox: Arc<Outbox>,
    /// `None` where it is a plain TCP stream: the outbox has that.
    other: Option<Box<OtherStream>>,
    /// What its page sends passes this first; none where it is read as fast as it sends.
    pub(super) intake: Option<Box<Intake>>,
}

/// What comes between the stream and the WebSocket library, in one piece of memory.
pub(super) struct Intake {
    /// Limits how fast the page is read.
    pub(super) meter: Meter,
    /// Takes large messages out; none where pages make no calls.
    pub(super) large: Option<Box<LargeMessages>>,
}

/// A stream that is no plain TCP stream: only its own task reads and writes it.
struct OtherStream {
    stream: TokioIo<Upgraded>,
    task: Waker,
}

impl Transport {
    /// Finds the TCP stream under hyper's `Upgraded`, or does without. Returns the bytes that hyper has read already:
    /// they belong to the socket.
    pub(crate) fn of(upgraded: Upgraded) -> (Self, Bytes) {
        match tcp_under(upgraded) {
            // Without TCP_NODELAY, which servers leave off, the kernel holds a frame back until the page has
            // acknowledged the one before it, for up to 40 ms. A broken socket shows at its first write.
            Ok((tcp, read)) => {
                let _ = tcp.set_nodelay(true);
                (Self { outbox: Arc::new(Outbox::new(Some(tcp))), other: None, intake: None }, read)
            }
            Err(upgraded) => {
                let other = OtherStream { stream: TokioIo::new(upgraded), task: Waker::noop().clone() };
                (Self { outbox: Arc::new(Outbox::new(None)), other: Some(Box::new(other)), intake: None }, Bytes::new())
            }
        }
    }

    /// Reads its page no faster than these limits allow, and without large messages. The bytes of `read` count too.
    pub(super) fn limit(&mut self, limits: Arc<ReadLimits>, large: Option<LargeMessages>, read: &[u8]) {
        let mut meter = Meter::new(limits);
        meter.count(read, Instant::now());
        self.intake = Some(Box::new(Intake { meter, large: large.map(Box::new) }));
    }

    pub(super) fn meter(&self) -> Option<&Meter> {
        self.intake.as_ref().map(|intake| &intake.meter)
    }

    pub(super) fn large(&mut self) -> Option<&mut LargeMessages> {
        self.intake.as_mut()?.large.as_deref_mut()
    }

    fn is_paused(&self) -> bool {
        self.meter().is_some_and(|meter| meter.paused_until() > Instant::now())
    }

    /// Has this task woken when there is more to read.
    pub(crate) fn listen(&mut self, cx: &Context<'_>) {
        if let Some(other) = &mut self.other {
            other.task.clone_from(cx.waker());
        }
    }

    /// Waits after a read that would have blocked, for the task that [listens](Self::listen). Where the page is not
    /// read for a while, the task has its timer wake it.
    pub(crate) fn poll_more(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.outbox.tcp {
            Some(tcp) if !self.is_paused() && self.outbox.has_room() => tcp.poll_read_ready(cx),
            // Another stream was read already and has our waker; and the outbox wakes the task when there is room.
            _ => Poll::Pending,
        }
    }

    /// Writes what waits in the outbox, once: ready when something was written or nothing is left.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<WriteProgress>> {
        self.outbox.poll_write(cx, self.other.as_mut().map(|other| &mut other.stream))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while ready!(self.poll_write(cx))? == WriteProgress::Remaining {}
        Poll::Ready(Ok(()))
    }

    /// Writes out the outbox while another future runs, and once more at its end. False where the stream is broken.
    pub(crate) async fn write_while(&mut self, other: impl Future<Output = ()>) -> bool {
        let mut other = pin!(other);
        let other_ends_first = poll_fn(|cx| {
            self.outbox.signals.listen(cx);
            self.outbox.signals.take();
            match (self.poll_flush(cx), other.as_mut().poll(cx)) {
                (Poll::Ready(Err(_)), _) => Poll::Ready(false),
                (_, Poll::Ready(())) => Poll::Ready(true),
                (_, Poll::Pending) => Poll::Pending,
            }
        });
        other_ends_first.await && poll_fn(|cx| self.poll_flush(cx)).await.is_ok()
    }

    /// Writes out the outbox, and discards what arrives until the peer ends.
    pub(crate) async fn finish(&mut self) {
        poll_fn(|cx| {
            self.outbox.signals.listen(cx);
            self.outbox.signals.take();
            self.listen(cx);
            let is_at_end = self.poll_until_eof(cx).is_ready();
            self.poll_finish(is_at_end, cx)
        })
        .await;
    }

    /// Discards what arrives until the peer ends; ready then, and each time after.
    pub(crate) fn poll_until_eof(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut sink = [0; 1024];
        loop {
            match self.read(&mut sink) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(self.poll_more(cx)).is_err() {
                        return Poll::Ready(());
                    }
                }
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Writes out the outbox: ready when it is written and the peer has been read to its end.
    ///
    /// Unread bytes would make the kernel reset the connection, and our close frame would be lost with it.
    pub(crate) fn poll_finish(&mut self, is_at_end: bool, cx: &mut Context<'_>) -> Poll<()> {
        let flushed = ready!(self.poll_flush(cx));
        if flushed.is_ok() && !is_at_end { Poll::Pending } else { Poll::Ready(()) }
    }
}

fn tcp_under(upgraded: Upgraded) -> Result<(TcpStream, Bytes), Upgraded> {
    #[cfg(feature = "axum")]
    let upgraded = match hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => return Ok((parts.io.into_inner(), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let parts = upgraded.downcast::<TokioIo<TcpStream>>()?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut large) = self.intake.as_mut().and_then(|intake| intake.large.take()) else {
            return self.read_stream(buffer);
        };
        let read = large.read(buffer, |chunk| self.read_stream(chunk));
        if let Some(intake) = &mut self.intake {
            intake.large = Some(large);
        }
        read
    }
}

impl Transport {
    /// Reads what the page has sent, as fast as it may send.
    fn read_stream(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.outbox.has_room() || self.is_paused() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = match &mut self.other {
            Some(other) => Poll::Ready(other.read(buffer)),
            None => poll_read_some(self.outbox.tcp.as_ref().ok_or(io::ErrorKind::NotConnected)?, buffer),
        };
        let Poll::Ready(read) = read else { return Err(io::ErrorKind::WouldBlock.into()) };
        if let Some(Intake { meter, .. }) = self.intake.as_deref_mut() {
            match &read {
                Ok(read) => meter.count(&buffer[..*read], Instant::now()),
                Err(_) => meter.nothing_left(),
            }
        }
        read
    }
}

/// Reads what has arrived. Where that is less than the buffer holds, nothing is left, and the next read need not ask
/// the kernel to find that out. Pending where this task must let others run first.
fn poll_read_some(tcp: &TcpStream, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    // A peer that sends without end must not keep the worker to itself: where its budget is used up, `poll_more`
    // yields.
    let budget = ready!(poll_proceed(&mut Context::from_waker(Waker::noop())));
    let mut read = 0;
    // `WouldBlock` clears the readiness that was seen before the read, and no later one.
    let outcome = tcp.try_io(Interest::READABLE, || {
        read = tcp.try_read(buffer)?;
        let is_all = read > 0 && read < buffer.len();
        if is_all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if read > 0 || outcome.is_ok() {
        budget.made_progress();
    }
    Poll::Ready(if read > 0 { Ok(read) } else { outcome.map(|()| read) })
}

impl Read for OtherStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(&self.task), &mut buffer) {
            Poll::Ready(outcome) => outcome.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        if self.outbox.try_answer(frame) { Ok(frame.len()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response, StatusCode, header};
    use http_body_util::Empty;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};

    use super::*;

    #[tokio::test]
    async fn nagles_algorithm_is_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        assert!(!far.nodelay().unwrap(), "servers leave it so");
        let (give, mut upgraded) = mpsc::unbounded_channel();
        let upgrade = service_fn(move |mut request: Request<Incoming>| {
            let (give, upgrade) = (give.clone(), hyper::upgrade::on(&mut request));
            tokio::spawn(async move { give.send(upgrade.await.unwrap()) });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "websocket");
            std::future::ready(Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap()))
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(far), upgrade).with_upgrades());
        near.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let (transport, _) = Transport::of(upgraded.recv().await.unwrap());
        assert!(transport.outbox.tcp.as_ref().unwrap().nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_peer_that_sends_without_end_lets_others_run() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        near.write_all(&[b'x'; 100_000]).await.unwrap();
        far.readable().await.unwrap();
        let mut transport = Transport { outbox: Arc::new(Outbox::new(Some(far))), other: None, intake: None };
        let mut buffer = [0; 128];
        let mut read_on = || std::iter::from_fn(|| transport.read(&mut buffer).ok()).sum::<usize>();
        let at_once = poll_fn(|_| Poll::Ready(read_on())).await;
        assert!((1..50_000).contains(&at_once), "{at_once}");
        poll_fn(|cx| transport.poll_more(cx)).await.unwrap();
        assert!(transport.read(&mut buffer).is_ok(), "it continues in its next poll");
    }
}
