//! Where payloads lie in the memory that a host shares with a worker: one area for each direction. The sender
//! of a direction chooses the places and remembers which are taken: the host in `connection`, the worker in
//! `sender`. The bytes themselves are in `shared_page`.

use std::ops::Range;

/// Bytes of one area: four items of 1 MiB fit. Low places are taken first, and memory that is not touched costs nothing.
pub(crate) const AREA: usize = (4 << 20) + (64 << 10);

/// Payloads from this size on go through an area, smaller ones with their header through the channel.
/// One that finds no room goes through the channel as well.
pub(crate) const SHARED_FROM: usize = 8 * 1024;

/// Places begin at a multiple of it, so that two payloads never share a cache line.
const ALIGN: usize = 64;

/// The lowest place with room for `length` bytes that overlaps none of those taken.
pub(crate) fn free_place(taken: impl Iterator<Item = Range<usize>>, length: usize) -> Option<Range<usize>> {
    let mut taken: Vec<Range<usize>> = taken.collect();
    // They come in the order in which they were taken, and a low place may have been taken again after a high
    // one.
    taken.sort_unstable_by_key(|place| place.start);
    let mut start = 0;
    for place in taken {
        if place.start >= start && place.start - start >= length {
            break;
        }
        start = start.max(place.end.next_multiple_of(ALIGN));
    }
    let end = start.checked_add(length)?;
    (end <= AREA).then_some(start..end)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one place that is taken")]
mod tests {
    use super::*;

    fn free(taken: &[Range<usize>], length: usize) -> Option<Range<usize>> {
        free_place(taken.iter().cloned(), length)
    }

    #[test]
    fn the_lowest_gap_that_is_large_enough_is_taken() {
        assert_eq!(free(&[], 100), Some(0..100));
        assert_eq!(free(&[0..100], 10), Some(128..138));
        assert_eq!(free(&[128..256, 0..100], 28), Some(256..284));
        assert_eq!(free(&[192..256, 0..100], 28), Some(128..156));
        assert_eq!(free(&[64..128], 64), Some(0..64));
    }

    #[test]
    fn what_does_not_fit_has_no_place() {
        assert_eq!(free(&[], AREA), Some(0..AREA));
        assert_eq!(free(&[], AREA + 1), None);
        assert_eq!(free(&[], usize::MAX), None);
        assert_eq!(free(&[0..1], AREA - 63), None);
        assert_eq!(free(&[0..1], AREA - 64), Some(64..AREA));
    }
}
