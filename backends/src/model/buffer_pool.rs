//! Large byte buffers, used again: batches on their way out, answers on their way in.
//! Taken by the batch builder and by the readers of workers, given back when a batch or a payload is dropped. A fresh
//! one costs a page fault for each 4 KB, which is more than to write the 4 KB.

use std::sync::Mutex;

/// Smaller ones are left to the allocator, which keeps them by itself.
const SMALLEST: usize = 16 * 1024;
/// A buffer may be so many times larger than what it is wanted for.
const TOO_LARGE: usize = 4;
/// Bytes that are kept, in all, in this process.
const KEPT: usize = 4 << 20;

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty buffer with room for so many bytes.
pub(crate) fn take(room: usize) -> Vec<u8> {
    if room >= SMALLEST
        // Never waits: a fork may have copied the lock in the moment it was held.
        && let Ok(mut free) = FREE.try_lock()
        && let Some(at) =
            free.iter().position(|buffer| (room..=TOO_LARGE * room).contains(&buffer.capacity()))
    {
        return free.swap_remove(at);
    }
    Vec::with_capacity(room)
}

/// Gives a buffer back that is not needed any more.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() < SMALLEST {
        return;
    }
    buffer.clear();
    if let Ok(mut free) = FREE.try_lock() {
        let kept: usize = free.iter().map(Vec::capacity).sum();
        if kept + buffer.capacity() <= KEPT {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_comes_back_empty() {
        for _ in 0..100 {
            let mut buffer = take(1 << 20);
            assert!(buffer.is_empty() && buffer.capacity() >= 1 << 20);
            buffer.push(1);
            give(buffer);
            give(Vec::with_capacity(1 << 20));
        }
        let kept: usize = FREE.lock().expect("no holder panics").iter().map(Vec::capacity).sum();
        assert!(kept <= KEPT, "{kept}");
    }
}
