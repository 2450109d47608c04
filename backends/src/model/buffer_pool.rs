//! Pool of large byte buffers: for batches to send, and for received answers. Used by the batch builder and
//! by the readers of workers; buffers are returned when a batch or a payload is dropped. A fresh buffer costs
//! a page fault for each 4 KB, which takes longer than writing the 4 KB.

use std::sync::Mutex;

/// Smaller buffers are left to the allocator, which pools them itself.
const MIN_CAPACITY: usize = 16 * 1024;
/// Maximum ratio of a buffer's capacity to the requested size.
const MAX_RATIO: usize = 4;
/// Maximum bytes in the pool of this process.
const MAX_POOLED: usize = 4 << 20;

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Returns an empty buffer with room for this many bytes.
pub(crate) fn take(room: usize) -> Vec<u8> {
    if room >= MIN_CAPACITY
        // Never block: a fork may have copied the lock while it was held.
        && let Ok(mut free) = FREE.try_lock()
        && let Some(at) =
            free.iter().position(|buffer| (room..=MAX_RATIO * room).contains(&buffer.capacity()))
    {
        return free.swap_remove(at);
    }
    Vec::with_capacity(room)
}

/// Returns a buffer to the pool.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() < MIN_CAPACITY {
        return;
    }
    buffer.clear();
    if let Ok(mut free) = FREE.try_lock() {
        let pooled: usize = free.iter().map(Vec::capacity).sum();
        if pooled + buffer.capacity() <= MAX_POOLED {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_is_bounded_and_buffers_are_empty() {
        for _ in 0..100 {
            let mut buffer = take(1 << 20);
            assert!(buffer.is_empty() && buffer.capacity() >= 1 << 20);
            buffer.push(1);
            give(buffer);
            give(Vec::with_capacity(1 << 20));
        }
        let pooled: usize = FREE.lock().expect("no holder panics").iter().map(Vec::capacity).sum();
        assert!(pooled <= MAX_POOLED, "{pooled}");
    }
}
