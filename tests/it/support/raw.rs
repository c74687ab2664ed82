//! A client that sends bytes no library would send, and sees every byte that comes back.

use std::{fmt, io, time::Duration};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::End;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;
/// The bit of a frame's first byte that marks the last frame of a message.
pub const FIN: u8 = 0x80;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A whole message in one masked frame, as a browser sends it.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(FIN | opcode, true, payload.len() as u64);
    frame.extend(masked(payload));
    frame
}

/// A text frame.
pub fn text(message: &str) -> Vec<u8> {
    frame(TEXT, message.as_bytes())
}

/// The header of a frame of `length` bytes, with the mask where it is masked.
pub fn header(first: u8, is_masked: bool, length: u64) -> Vec<u8> {
    let bit = if is_masked { 0x80 } else { 0 };
    let mut header = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => vec![first, bit | short],
        (_, Ok(medium)) => [&[first, bit | 126][..], &medium.to_be_bytes()].concat(),
        _ => [&[first, bit | 127][..], &length.to_be_bytes()].concat(),
    };
    if is_masked {
        header.extend(MASK);
    }
    header
}

/// A payload under the mask.
pub fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// An upgrade request with these header lines instead of the usual ones where they name the same header.
pub fn upgrade_request(address: &str, lines: &[(&str, &str)]) -> String {
    const USUAL: [(&str, &str); 5] = [
        ("Host", "live.example"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let usual = USUAL.iter().filter(|(name, _)| !lines.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
    let lines: String = usual.chain(lines).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {address} HTTP/1.1\r\n{lines}\r\n")
}

/// The head of an HTTP answer.
#[derive(Debug)]
pub struct Head(String);

impl Head {
    pub fn status(&self) -> u16 {
        self.0.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
    }

    /// Names in lower case, with values.
    pub fn headers(&self) -> Vec<(String, String)> {
        let lines = self.0.lines().skip(1).filter(|line| !line.is_empty());
        lines
            .map(|line| line.split_once(": ").expect("a header line"))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers().into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One connection.
pub struct Raw {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Raw")
    }
}

impl Raw {
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), unread: Vec::new() }
    }

    /// Upgrades, and leaves everything after the head of the 101 unread.
    pub async fn upgrade(&mut self, address: &str) {
        self.write(upgrade_request(address, &[]).as_bytes()).await.expect("an open connection");
        let head = self.head().await;
        assert_eq!(head.status(), 101, "{head:?}");
    }

    /// An accepted socket that has had its start message.
    pub async fn socket(stream: impl Stream + 'static) -> Self {
        let mut raw = Self::new(stream);
        raw.upgrade("/api/v1?token=demo&ws=1").await;
        assert_eq!(raw.json().await["action"], "start");
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends a text message on a socket that must be open.
    pub async fn send_text(&mut self, message: &str) {
        self.write(&text(message)).await.expect("an open socket");
    }

    /// Waits until the server has acted on everything sent so far.
    pub async fn barrier(&mut self) {
        self.write(&frame(PING, b"barrier")).await.expect("an open socket");
        let answer = self.frame().await.expect("an open socket");
        assert_eq!(answer, (FIN | PONG, b"barrier".to_vec()));
    }

    /// An answer up to the empty line.
    pub async fn head(&mut self) -> Head {
        loop {
            if let Some(end) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = self.unread.drain(..end + 4).collect();
                return Head(String::from_utf8(head).expect("text"));
            }
            assert!(self.more().await, "an answer before the end");
        }
    }

    /// An answer and its body, whose length is in the head.
    pub async fn answer(&mut self) -> (Head, String) {
        let head = self.head().await;
        let length = head.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        let body = self.bytes(length).await.expect("a whole body");
        (head, String::from_utf8(body).expect("text"))
    }

    /// The next frame's first byte and payload, or nothing at the end.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let start = self.bytes(2).await?;
        assert!(start[1] < 0x80, "servers do not mask");
        let length = match start[1] {
            126 => u16::from_be_bytes(self.bytes(2).await?.try_into().expect("two bytes")).into(),
            127 => u64::from_be_bytes(self.bytes(8).await?.try_into().expect("eight bytes")),
            short => short.into(),
        };
        let length = usize::try_from(length).expect("a length that fits");
        Some((start[0], self.bytes(length).await?))
    }

    /// The next frame, which must be a whole JSON text message.
    pub async fn json(&mut self) -> Value {
        let (first, payload) = self.frame().await.expect("a message");
        assert_eq!(first, FIN | TEXT);
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// How the socket ends, which must be its next frame. Pings do not count.
    pub async fn end(&mut self) -> End {
        loop {
            match self.frame().await {
                None => return End::Gone,
                Some((first, _)) if first == FIN | PING => {}
                Some((first, payload)) => {
                    assert_eq!(first, FIN | CLOSE, "{:?}", String::from_utf8_lossy(&payload));
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    return End::Close(code, String::from_utf8(payload[2..].to_vec()).expect("text"));
                }
            }
        }
    }

    /// True when nothing more comes and the connection is over.
    pub async fn is_over(&mut self) -> bool {
        self.unread.is_empty() && !self.more().await
    }

    /// So many bytes, or nothing when the connection ends before.
    pub async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.unread.drain(..count).collect())
    }

    /// Reads on; false at the end. Two minutes at most: longer than anything the server waits for.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = tokio::time::timeout(Duration::from_secs(120), self.stream.read(&mut buffer));
        match read.await.expect("bytes, or an end, within two minutes") {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.unread.extend_from_slice(&buffer[..read]);
                true
            }
        }
    }
}
