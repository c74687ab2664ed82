//! The fast path: what the fan-out sends to one subscriber.

use tokio::time::Instant;

use super::{
    super::{
        delivery::batch::{Batch, RepeatBatch, Resent},
        visibility::{Addressed, AuditBuffer, Cleared},
    },
    state::{Path, Subscriber},
};
use crate::{lock::lock, sequence::Sequence};

impl Subscriber {
    /// Sends a batch, or leaves it to the subscriber's own task.
    pub(crate) fn deliver<'b>(
        &self,
        batch: &'b Batch,
        addressed: &mut Vec<Addressed<'b>>,
        (sequences, frames): (&mut Vec<Sequence>, &mut Vec<&'b Cleared>),
    ) {
        let mut state = lock(&self.state);
        match state.path {
            Path::Left | Path::Checking(_) => return,
            Path::Fast if state.cursor >= batch.start && !batch.is_torn => {}
            Path::Fast | Path::Slow => {
                state.goes_slow();
                drop(state);
                self.wake();
                return;
            }
        }
        addressed.clear();
        sequences.clear();
        frames.clear();
        let mut end = batch.end;
        let mut is_fast = true;
        let received =
            if state.cursor == batch.start { 0 } else { batch.records.partition_point(|(at, _)| *at < state.cursor) };
        for &(sequence, ref envelope) in &batch.records[received..] {
            if state.is_wanted_live(envelope.entity, sequence) {
                if envelope.only_slowly {
                    (end, is_fast) = (sequence, false);
                    break;
                }
                if let Some(it) = envelope.to(&state.recipient) {
                    frames.push(it.frame);
                    addressed.push(it);
                    sequences.push(sequence);
                }
            }
        }
        let cursor = state.cursor.max(end);
        let mut audit = AuditBuffer::default();
        let mut stays = is_fast;
        let mut rest = cursor;
        if !frames.is_empty() {
            let ping = state.ping_when_due(&self.core, cursor, batch.now);
            let sink = (&*self.core, &*self.sink);
            let (accepted, reminds) = state.hand_over(sink, addressed, frames, ping, batch.now, &mut audit);
            rest = sequences.get(accepted.frames).copied().unwrap_or(cursor);
            // Its own task must know when to remind its page.
            stays &= accepted.frames == frames.len() && accepted.clear && !reminds;
        }
        state.cursor = rest;
        if !stays {
            state.goes_slow();
        }
        drop(state);
        audit.write(&self.core, || self.identity());
        if !stays {
            self.wake();
        }
    }

    /// Resends what has settled to one that stands at the end of the log; others are sent it when they get there.
    pub(crate) fn repeat(&self, batch: &RepeatBatch, now: Instant) {
        let mut state = lock(&self.state);
        let (entity, cursor) = (batch.repeat.entity, state.cursor);
        let is_there = matches!(state.path, Path::Fast) && cursor == batch.until;
        let known = state.subscriptions.iter().find(|known| known.entity == entity);
        let Some(known) = known.filter(|known| !known.needs_snapshot() && !matches!(state.path, Path::Left)) else {
            return;
        };
        let from = match &batch.repeat.what {
            Resent::Settled { .. } => Sequence::ZERO,
            Resent::Deletions(_) => known.deletions_from,
        };
        let waits = known.awaits_rest(&self.core);
        let mut audit = AuditBuffer::default();
        let mut is_done = false;
        if let Some(envelopes) = batch.frames.as_ref().filter(|_| is_there && !waits) {
            let recipient = &state.recipient;
            let envelopes = envelopes.iter().filter(|(at, _)| *at >= from);
            let addressed: Vec<Addressed<'_>> = envelopes.filter_map(|(_, it)| it.to(recipient)).collect();
            let frames: Vec<&Cleared> = addressed.iter().map(|it| it.frame).collect();
            let sink = (&*self.core, &*self.sink);
            let (accepted, reminds) = state.hand_over(sink, &addressed, &frames, None, now, &mut audit);
            self.core.counters.repeats.add(accepted.frames as u64);
            is_done = accepted.frames == frames.len();
            if is_done && (!accepted.clear || reminds) {
                state.goes_slow();
            }
        }
        if !is_done {
            state.postpone(&self.core, &batch.repeat, now);
        }
        let wakes = matches!(state.path, Path::Slow);
        drop(state);
        audit.write(&self.core, || self.identity());
        if wakes {
            self.wake();
        }
    }
}
