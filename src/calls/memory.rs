//! Bounds the bytes that pages may make the server keep.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that are free, of a number that all pages share.
#[derive(Debug)]
pub(crate) struct Memory {
    free: AtomicUsize,
}

/// Bytes in use; given back when dropped.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(bytes) })
    }

    /// `None` where so many are not free.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<MemoryPermit> {
        let mut permit = MemoryPermit { memory: self.clone(), bytes: 0 };
        permit.grow(bytes).then_some(permit)
    }
}

impl MemoryPermit {
    /// Takes more. False, and nothing is taken, where so many are not free.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let take = |free: usize| free.checked_sub(bytes);
        let is_taken = self.memory.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.memory.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_back() {
        let memory = Memory::new(100);
        let mut first = memory.take(60).unwrap();
        assert!(memory.take(41).is_none() && !first.grow(41));
        assert!(first.grow(40));
        drop(first);
        assert!(memory.take(100).is_some());
    }
}
