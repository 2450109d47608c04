//! Puts packets together to frames. Used by `reader` in the host and by `receiver` in a worker.

use std::fmt;
use std::marker::PhantomData;

use crate::model::frame::{HEADER, Header, Message, PACKET};
use crate::model::protocol_error::ProtocolError;

/// A frame that is complete: what its header says, and all of its bytes.
pub(crate) type Whole<M> = (Header<M>, Vec<u8>);

/// The frame that is arriving. One for each direction of a channel.
pub(crate) struct Assembler<M> {
    frame: Vec<u8>,
    missing: u64,
    /// The longest payload that is taken.
    most: Option<u64>,
    /// Only a frame's last packet may be shorter than the longest.
    full: bool,
    direction: PhantomData<M>,
}

impl<M> fmt::Debug for Assembler<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembler").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl<M> Default for Assembler<M> {
    fn default() -> Self {
        Assembler { frame: Vec::new(), missing: 0, most: None, full: false, direction: PhantomData }
    }
}

impl<M: Message> Assembler<M> {
    /// One that takes no frame with more than `most` bytes of payload.
    pub(crate) fn bounded(most: Option<u64>) -> Self {
        Assembler { most, ..Assembler::default() }
    }

    /// The same for a peer that is trusted with nothing.
    pub(crate) fn strict(most: Option<u64>) -> Self {
        Assembler { most, full: true, ..Assembler::default() }
    }

    /// Bytes of memory that are held for a frame that is not complete.
    #[cfg(fuzzing)]
    pub(crate) fn room(&self) -> usize {
        self.frame.capacity()
    }

    /// Takes the next packet; gives the frame that it completes.
    ///
    /// # Errors
    /// If the bytes are not a frame. The peer that sent them is not to be listened to again.
    pub(crate) fn packet(&mut self, packet: Vec<u8>) -> Result<Option<Whole<M>>, ProtocolError> {
        self.packet_if(packet, |_| Ok(()))
    }

    /// The same; a frame that begins is shown to `admit` before anything is kept of it.
    ///
    /// # Errors
    /// As [`Assembler::packet`], and those of `admit`.
    pub(crate) fn packet_if(
        &mut self,
        mut packet: Vec<u8>,
        admit: impl FnOnce(&Header<M>) -> Result<(), ProtocolError>,
    ) -> Result<Option<Whole<M>>, ProtocolError> {
        // Each packet costs a receive and a wake-up, however short it is: a stranger's worker could keep its
        // reader busy with single bytes.
        let short = self.full && packet.len() < PACKET;
        let length = packet.len();
        if self.missing == 0 {
            let header = Header::read(&packet)?;
            let came = (length - HEADER) as u64;
            let expected = header.behind();
            if expected < came {
                return Err(ProtocolError::MoreThanClaimed { came, claimed: expected });
            }
            // Also a payload that lies in the shared memory counts: it is copied out into this process.
            if self.most.is_some_and(|most| header.length > most) {
                return Err(ProtocolError::FrameTooLong { length: header.length });
            }
            // Before memory is reserved: `admit` may wait for a budget, or refuse the frame.
            admit(&header)?;
            if expected == came {
                // A received packet has room for the largest one. A copy, not `shrink_to_fit`: a small piece left at
                // the begin of each large one scatters the heap, which then grows from map to map.
                let packet = if packet.capacity() / 2 > length { packet.as_slice().to_vec() } else { packet };
                return Ok(Some((header, packet)));
            }
            if short {
                return Err(ProtocolError::ShortFirstPacket { length, frame: expected });
            }
            self.missing = expected - came;
            // Grows with what comes, not with what is claimed: a peer's word does not allocate.
            packet.reserve(usize::try_from(self.missing).unwrap_or(usize::MAX).min(16 * PACKET));
            self.frame = packet;
            return Ok(None);
        }
        let last = length as u64 == self.missing;
        if length == 0 || length as u64 > self.missing || (short && !last) {
            return Err(ProtocolError::UnfitPacket { length, missing: self.missing });
        }
        self.missing -= length as u64;
        if self.frame.capacity() - self.frame.len() < length {
            // At most doubled, so that the memory stays in proportion to what has come.
            let more = usize::try_from(self.missing).unwrap_or(usize::MAX).min(self.frame.len());
            self.frame.reserve_exact(length + more);
        }
        self.frame.append(&mut packet);
        if self.missing > 0 {
            return Ok(None);
        }
        let frame = std::mem::take(&mut self.frame);
        let header = Header::read(&frame).expect("it was read from the first packet");
        Ok(Some((header, frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::frame::{DoneHead, ToHost, ToWorker};
    use crate::model::ids::JobId;

    const OPEN: ToWorker = ToWorker::Open { job: JobId(1), context_at: None };

    fn done() -> ToHost {
        ToHost::Done(DoneHead::default())
    }

    #[test]
    fn packets_become_the_frame_again_whatever_their_sizes() {
        let payload: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let frame = Header::frame(OPEN, &payload);
        for size in [72, 73, 100, 999, 2000] {
            let mut assembler = Assembler::<ToWorker>::default();
            let mut whole = None;
            for packet in frame.chunks(size) {
                assert!(whole.is_none());
                whole = assembler.packet(packet.to_vec()).expect("a good packet");
            }
            let (header, bytes) = whole.expect("the frame is complete");
            assert_eq!((header.length, header.message), (1000, OPEN));
            assert_eq!(&bytes[HEADER..], &payload[..]);
        }
    }

    #[test]
    fn a_frame_whose_payload_lies_elsewhere_is_its_header() {
        let placed = Header::placed(done(), 64, 1 << 20).to_vec();
        let mut assembler = Assembler::<ToHost>::default();
        let whole = assembler.packet(placed.clone()).expect("a good packet");
        assert_eq!(whole.map(|(header, _)| header.shared()), Some(Some((64, 1 << 20))));
        assert_eq!(Header::before(done(), 1 << 20).shared(), None);
        let longer = [placed, vec![0]].concat();
        assert!(assembler.packet(longer).is_err());
    }

    #[test]
    fn a_frame_of_a_stranger_comes_in_full_packets_and_is_looked_at_before_it_is_kept() {
        let frame = Header::frame(done(), &vec![7; 3 * PACKET]);
        let (mut assembler, mut seen) = (Assembler::<ToHost>::strict(None), 0);
        let packets = frame.chunks(PACKET).map(|packet| {
            assembler.packet_if(packet.to_vec(), |header| {
                seen += 1;
                (header.message == done()).then_some(()).ok_or(ProtocolError::Unasked)
            })
        });
        assert_eq!(packets.filter(|whole| matches!(whole, Ok(Some(_)))).count(), 1);
        assert_eq!(seen, 1);
        let strict = || Assembler::<ToHost>::strict(None);
        let refused = strict().packet_if(frame[..PACKET].to_vec(), |_| Err(ProtocolError::Unasked));
        assert!(matches!(refused, Err(ProtocolError::Unasked)), "{refused:?}");
        let refused = strict().packet(frame[..PACKET - 1].to_vec());
        assert!(matches!(refused, Err(ProtocolError::ShortFirstPacket { .. })), "{refused:?}");
        let mut assembler = strict();
        assert!(matches!(assembler.packet(frame[..PACKET].to_vec()), Ok(None)));
        let refused = assembler.packet(vec![7; 100]);
        assert!(matches!(refused, Err(ProtocolError::UnfitPacket { length: 100, .. })), "{refused:?}");
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused_without_allocating_what_they_claim() {
        for bytes in [vec![1, 2, 3], vec![0xff; HEADER]] {
            let refused = Assembler::<ToHost>::default().packet(bytes);
            assert!(matches!(refused, Err(ProtocolError::NoHeader { .. })), "{refused:?}");
        }
        let mut claim = Header::frame(done(), &[]);
        claim[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut assembler = Assembler::<ToHost>::default();
        assert!(matches!(assembler.packet(claim), Ok(None)));
        assert!(assembler.frame.capacity() <= 17 * PACKET);
        assert!(assembler.packet(Vec::new()).is_err());
    }
}
