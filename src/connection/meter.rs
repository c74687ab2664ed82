//! The rate limit of what one page sends: counts frames, and the reads that their bytes take.
//!
//! It counts below the WebSocket library, which reports neither fragments nor halves of messages.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::rate::{Bucket, Rate};

/// Bytes read at one time: a subscription is some fifty bytes, and every idle socket keeps a buffer of this size.
pub(super) const READ_BUFFER: usize = 128;
/// A page that has sent more than it may for this long is closed.
const MAX_TIME_OVER: Duration = Duration::from_secs(30);

/// What one page may send, and the start of the buckets' clock.
pub(super) struct ReadLimits {
    start: Instant,
    /// Of data frames, of control frames, and of reads in which no frame begins.
    rates: [Rate; 3],
}

impl ReadLimits {
    /// With as many reads as messages of the largest size take.
    pub(super) fn new(messages: Rate, control_frames: Rate, message_bytes: usize) -> Self {
        Self { start: Instant::now(), rates: [messages, control_frames, reads_of(messages, message_bytes)] }
    }

    /// With as many reads besides as so many calls of the largest size take.
    pub(super) fn with_calls(mut self, calls: Rate, call_bytes: usize) -> Self {
        let (reads, more) = (&mut self.rates[2], reads_of(calls, call_bytes));
        reads.burst = reads.burst.saturating_add(more.burst);
        reads.per_second = reads.per_second.saturating_add(more.per_second);
        self
    }
}

/// The reads that messages of this size take.
fn reads_of(messages: Rate, bytes: usize) -> Rate {
    let each = u32::try_from(bytes / READ_BUFFER).unwrap_or(u32::MAX).saturating_add(1);
    Rate { burst: messages.burst.saturating_mul(each), per_second: messages.per_second.saturating_mul(each) }
}

/// Counts what one page sends. A page that exceeds a rate limit is not read for a while, and TCP makes it wait.
pub(super) struct Meter {
    limits: Arc<ReadLimits>,
    buckets: [Bucket; 3],
    frames: FrameCursor,
    /// Since when it has been over its limits, and had more to send, in nanoseconds of the buckets' clock from 1: every
    /// socket has a meter, and this takes half as much as an `Instant`.
    over_since: Option<NonZeroU64>,
}

impl Meter {
    pub(super) fn new(limits: Arc<ReadLimits>) -> Self {
        Self { limits, buckets: Default::default(), frames: FrameCursor::default(), over_since: None }
    }

    /// Counts bytes that have been read.
    pub(super) fn count(&mut self, bytes: &[u8], now: Instant) {
        let [data, control] = self.frames.begun_in(bytes);
        let reads = u32::try_from(bytes.len().div_ceil(READ_BUFFER)).unwrap_or(u32::MAX);
        let counts = [data, control, if data == 0 && control == 0 { reads } else { 0 }];
        let clock = now.saturating_duration_since(self.limits.start);
        for ((bucket, rate), count) in self.buckets.iter_mut().zip(self.limits.rates).zip(counts) {
            bucket.take(rate, clock, count);
        }
        if self.paused_until() > now && self.over_since.is_none() {
            let nanos = u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX);
            self.over_since = NonZeroU64::new(nanos.saturating_add(1));
        }
    }

    /// The stream holds nothing more at the moment.
    pub(super) fn nothing_left(&mut self) {
        self.over_since = None;
    }

    /// Its page is slowed down only, and not closed, while it makes calls: those are answered.
    pub(super) fn excuse(&mut self) {
        self.over_since = None;
    }

    /// Has it read as fast as it sends.
    pub(super) fn lift(&mut self) {
        let rate = Rate { burst: u32::MAX, per_second: u32::MAX };
        self.limits = Arc::new(ReadLimits { start: self.limits.start, rates: [rate; 3] });
        self.buckets = Default::default();
        self.excuse();
    }

    /// When it may be read again; the past where it may be at once.
    pub(super) fn paused_until(&self) -> Instant {
        let waits = self.buckets.iter().zip(self.limits.rates).map(|(bucket, rate)| bucket.next_at(rate));
        self.limits.start + waits.fold(Duration::ZERO, Duration::max)
    }

    /// When it has been over its limits for too long.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.over_since.map(|since| self.limits.start + Duration::from_nanos(since.get() - 1) + MAX_TIME_OVER)
    }
}

/// The position of a client's bytes within its frames.
#[derive(Default)]
struct FrameCursor {
    /// Bytes of the mask and the payload that remain; the length so far while that is read.
    left: u64,
    part: Part,
}

#[derive(Clone, Copy, Default)]
enum Part {
    #[default]
    First,
    Second,
    /// So many bytes of the length remain.
    Length(u8),
    Rest,
}

const CONTROL: u8 = 0x08;
/// Clients mask all frames; the library refuses one that is not.
const MASK_BYTES: u64 = 4;

impl FrameCursor {
    /// How many data frames and how many control frames begin in these bytes.
    fn begun_in(&mut self, mut bytes: &[u8]) -> [u32; 2] {
        let (mut data, mut control) = (0, 0);
        while let [byte, rest @ ..] = bytes {
            bytes = rest;
            self.part = match self.part {
                Part::First => {
                    let begun = if byte & CONTROL == 0 { &mut data } else { &mut control };
                    *begun += 1;
                    Part::Second
                }
                Part::Second => match byte & 0x7f {
                    126 => self.length_of(2),
                    127 => self.length_of(8),
                    short => self.rest(u64::from(short)),
                },
                Part::Length(remaining) => {
                    self.left = self.left << 8 | u64::from(*byte);
                    if remaining > 1 { Part::Length(remaining - 1) } else { self.rest(self.left) }
                }
                Part::Rest => {
                    let skipped = usize::try_from(self.left - 1).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.left -= skipped as u64 + 1;
                    if self.left == 0 { Part::First } else { Part::Rest }
                }
            };
        }
        [data, control]
    }

    fn length_of(&mut self, bytes: u8) -> Part {
        self.left = 0;
        Part::Length(bytes)
    }

    fn rest(&mut self, payload: u64) -> Part {
        self.left = payload.saturating_add(MASK_BYTES);
        Part::Rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: (Rate, Rate) = (Rate { burst: 40, per_second: 10 }, Rate { burst: 20, per_second: 5 });

    fn meter() -> Meter {
        Meter::new(Arc::new(ReadLimits::new(LIMITS.0, LIMITS.1, 1024)))
    }

    /// A client's frame of this length.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short), _) if short < 126 => frame.push(0x80 | short),
            (_, Ok(medium)) => frame.extend([&[0x80 | 126], &medium.to_be_bytes()[..]].concat()),
            _ => frame.extend([&[0x80 | 127], &(length as u64).to_be_bytes()[..]].concat()),
        }
        frame.extend(vec![0xff; 4 + length]);
        frame
    }

    fn wait(meter: &Meter) -> Duration {
        meter.paused_until().saturating_duration_since(Instant::now())
    }

    proptest! {
        #[test]
        fn frames_are_counted_however_their_bytes_arrive(
            frames in prop::collection::vec((any::<bool>(), prop_oneof![0..130_usize, 65_530..65_540_usize]), 0..8),
            cuts in prop::collection::vec(1..200_usize, 1..50),
        ) {
            let bytes: Vec<u8> =
                frames.iter().flat_map(|(is_control, length)| frame(if *is_control { 0x8a } else { 0x81 }, *length)).collect();
            let (mut cursor, mut counted, mut rest, mut cuts) = (FrameCursor::default(), [0, 0], &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                let [data, control] = cursor.begun_in(now);
                counted = [counted[0] + data, counted[1] + control];
                rest = later;
            }
            let control = frames.iter().filter(|(is_control, _)| *is_control).count();
            prop_assert_eq!(counted.map(|count| count as usize), [frames.len() - control, control]);
        }

        #[test]
        fn junk_is_counted_without_panic(junk: Vec<u8>) {
            FrameCursor::default().begun_in(&junk);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_within_the_rate_limit_does_not_pause_a_page_but_more_does() {
        for (first, burst, each) in [(0x81, 40, 100), (0x00, 40, 100), (0x89, 20, 200)] {
            let mut meter = meter();
            for sent in 1..burst {
                meter.count(&frame(first, 0), Instant::now());
                assert_eq!((wait(&meter), meter.over_at()), (Duration::ZERO, None), "{sent}");
            }
            meter.count(&frame(first, 0), Instant::now());
            assert_eq!(wait(&meter).as_millis(), each, "{first:x}");
            // Several frames come in one read.
            meter.count(&frame(first, 0).repeat(5), Instant::now());
            assert_eq!(wait(&meter).as_millis(), 6 * each, "{first:x}");
            tokio::time::advance(wait(&meter)).await;
            assert_eq!(wait(&meter), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_bytes_of_the_largest_messages_do_not_pause_a_page_but_single_bytes_do() {
        let mut meter = meter();
        for chunk in frame(0x81, 1024).repeat(39).chunks(READ_BUFFER) {
            meter.count(chunk, Instant::now());
        }
        assert_eq!(wait(&meter), Duration::ZERO);
        let bytes = frame(0x81, 1024);
        assert!(bytes.iter().any(|byte| {
            meter.count(&[*byte], Instant::now());
            wait(&meter) > Duration::ZERO
        }));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_page_that_sends_without_a_break_is_over_its_limits_for_long() {
        let mut meter = meter();
        meter.count(&frame(0x81, 0).repeat(41), Instant::now());
        let since = Instant::now();
        for _ in 0..299 {
            tokio::time::advance(Duration::from_millis(100)).await;
            meter.count(&frame(0x81, 0), Instant::now());
        }
        assert_eq!(meter.over_at(), Some(since + MAX_TIME_OVER));
        meter.nothing_left();
        assert_eq!(meter.over_at(), None);
        meter.count(&frame(0x81, 0), Instant::now());
        assert_eq!(meter.over_at(), Some(Instant::now() + MAX_TIME_OVER));
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Meter>() <= 56, "{}", size_of::<Meter>());
    }
}
