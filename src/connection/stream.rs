//! The two kinds of streams under a socket: a plain TCP stream, which the fan-out writes to directly, and any other.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    net::TcpStream,
};

use super::outbox::Outbox;

/// The writing half of a stream that is no plain TCP stream.
pub(crate) type Half = WriteHalf<TokioIo<Upgraded>>;

/// An upgraded connection, taken apart.
pub(crate) struct Opened {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) reader: Reader,
    pub(crate) half: Option<Half>,
    /// What hyper had read already: it belongs to the socket.
    pub(crate) read: Bytes,
}

/// Finds the TCP stream under hyper's `Upgraded`, or does without.
pub(crate) fn open(upgraded: Upgraded) -> Opened {
    match tcp_under(upgraded) {
        Ok((tcp, read)) => {
            let outbox = Arc::new(Outbox::new(Some(tcp)));
            Opened { reader: Reader::Tcp(outbox.clone()), outbox, half: None, read }
        }
        Err(upgraded) => {
            let (reader, half) = tokio::io::split(TokioIo::new(upgraded));
            Opened {
                outbox: Arc::new(Outbox::new(None)),
                reader: Reader::Any(reader),
                half: Some(half),
                read: Bytes::new(),
            }
        }
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

/// The way in of one connection.
pub(crate) enum Reader {
    Tcp(Arc<Outbox>),
    Any(ReadHalf<TokioIo<Upgraded>>),
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outbox = match &mut *self {
            Self::Any(half) => return Pin::new(half).poll_read(cx, buffer),
            Self::Tcp(outbox) => outbox,
        };
        let Some(tcp) = outbox.tcp() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            match tcp.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// What tungstenite reads from and answers into: reads come from the socket, answers go into the outbox.
pub(crate) struct Wire {
    pub(crate) reader: Reader,
    pub(crate) outbox: Arc<Outbox>,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.outbox.poll_room(cx));
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, frame: &[u8]) -> Poll<io::Result<usize>> {
        self.outbox.poll_answer(cx, frame).map(|()| Ok(frame.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
