//! What the pages have received.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Stands in an event's text before its number, and nowhere else.
pub(crate) const MARKER: char = '~';

/// What all pages have received.
pub(crate) struct Received {
    pub(crate) begun: Instant,
    /// When each event is due, in nanoseconds since then.
    due: Arc<[AtomicU64]>,
    /// The first event that is measured; those before show that every page receives.
    pub(crate) first: usize,
    pub(crate) listening: usize,
    pub(crate) closed: usize,
    pub(crate) reads: u64,
    pub(crate) frames: u64,
    pub(crate) repeats: u64,
    pub(crate) times: Histogram,
}

impl Received {
    pub(crate) fn new(due: Arc<[AtomicU64]>) -> Self {
        Self {
            begun: Instant::now(),
            due,
            first: usize::MAX,
            listening: 0,
            closed: 0,
            reads: 0,
            frames: 0,
            repeats: 0,
            times: Histogram(vec![0; 64 * 64]),
        }
    }
}

/// Times in steps of less than two percent.
pub(crate) struct Histogram(Vec<u64>);

impl Histogram {
    fn add(&mut self, nanoseconds: u64) {
        let octave = (nanoseconds | 64).ilog2();
        self.0[((octave as usize) << 6) + ((nanoseconds >> (octave - 6)) & 63) as usize] += 1;
    }

    pub(crate) fn milliseconds(&self, quantile: f64) -> f64 {
        let mut left = (self.0.iter().sum::<u64>() as f64 * quantile) as u64;
        let bucket = self.0.iter().position(|&count| {
            let is_here = left < count;
            left = left.saturating_sub(count);
            is_here
        });
        let (octave, step) = bucket.map_or((6, 0), |bucket| (bucket >> 6, bucket & 63));
        (((64 + step) as u64) << (octave - 6)) as f64 / 1e6
    }
}

/// One page: what it has read of a frame, and the events it knows.
pub(crate) struct Page {
    rest: Vec<u8>,
    known: Vec<u64>,
}

impl Page {
    /// A page that has read so much already.
    pub(crate) fn new(rest: Vec<u8>) -> Self {
        Self { rest, known: Vec::new() }
    }

    /// True the first time.
    fn is_new(&mut self, event: usize) -> bool {
        let (word, bit) = (event / 64, 1 << (event % 64));
        if self.known.len() <= word {
            self.known.resize(word + 1, 0);
        }
        let is_new = self.known[word] & bit == 0;
        self.known[word] |= bit;
        is_new
    }

    /// Reads the whole frames; returns how many bytes they have. Pings are to be answered.
    fn read(&mut self, bytes: &[u8], received: &mut Received, pongs: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some((code, payload, length)) = frame(&bytes[at..]) {
            match code {
                1 => self.event(payload, received),
                9 => pongs.extend(masked(10, payload)),
                _ => {}
            }
            at += length;
        }
        at
    }

    fn event(&mut self, payload: &[u8], received: &mut Received) {
        let Some(marker) = payload.iter().position(|&byte| byte == MARKER as u8) else {
            return;
        };
        let digits = payload[marker + 1..].iter().take_while(|byte| byte.is_ascii_digit());
        let event = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        if event < received.first {
            received.listening += usize::from(self.known.is_empty());
            self.is_new(event);
        } else if self.is_new(event) {
            received.frames += 1;
            let due = received.due[event - received.first].load(Ordering::Relaxed);
            received.times.add((received.begun.elapsed().as_nanos() as u64).saturating_sub(due));
        } else {
            received.repeats += 1;
        }
    }

    /// Handles what has been read; the beginning of a frame is kept.
    pub(crate) fn receive(&mut self, bytes: &[u8], received: &mut Received, pongs: &mut Vec<u8>) {
        received.reads += 1;
        if self.rest.is_empty() {
            let used = self.read(bytes, received, pongs);
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            let mut all = std::mem::take(&mut self.rest);
            all.extend_from_slice(bytes);
            let used = self.read(&all, received, pongs);
            all.drain(..used);
            self.rest = all;
        }
    }
}

/// The first frame: its code, its payload and its length.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (head, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    Some((bytes[0] & 15, bytes.get(head..head + length)?, head + length))
}

/// A frame of a client. Its mask is zero.
pub(crate) fn masked(code: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x80 | code, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}
