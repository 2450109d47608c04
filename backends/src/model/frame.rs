//! Frames between the host and a worker: a fixed header, then a payload of any length.
//! Written by the adapter (batches) and by both ends of a local channel; [`Header`] is the whole format.
//! A frame travels as packets of at most [`PACKET`] bytes, each of which a socket takes whole.

use std::time::Duration;

use crate::model::failure::ItemFailure;
use crate::model::result_credit::{FAILURE, of_failures};

/// Largest packet in bytes. It fits a socket's buffer, which has 208 KB on most systems.
pub(crate) const PACKET: usize = 200 * 1024;

/// Version of the frames and of the greeting; a worker of another version is refused.
pub(crate) const VERSION: u32 = 6;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Host: a function and its context, before its first batch. Payload: postcard of [`crate::local::Opening`], then the
    /// context, unless that is a file which was handed over beside (`from` = 0).
    Open = 1,
    /// Host: items to be mapped. Payload: the items.
    Batch = 2,
    /// Host: give back what you have not begun of this batch (`from` = 1: half of it). No payload.
    Recall = 3,
    /// Host: forget the function and its context. No payload.
    Close = 4,
    /// Worker: answers to the first `items` items of a batch. Payload: results, then failures.
    Done = 5,
    /// Worker: items from `from` on were not begun and won't be. No payload.
    Returned = 6,
    /// Worker: a job could not be opened. Payload: postcard of [`crate::ItemFailure`].
    OpenFailed = 7,
    /// Worker: a record for the host's logger. Payload: postcard of [`crate::local::Record`].
    Log = 8,
    /// Worker: items of a batch (or the preparation) were refused calls, and went on; or files are not there. Comes
    /// before the batch's answer. Payload: postcard of the calls, each with its item, whether that answered an
    /// error of its own, and whether it is a file.
    SandboxDenial = 9,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::{Batch, Close, Done, Log, Open, OpenFailed, Recall, Returned, SandboxDenial};
        [Open, Batch, Recall, Close, Done, Returned, OpenFailed, Log, SandboxDenial]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The first 72 bytes of each frame, little-endian. What a kind does not use is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Number of items (a batch), or how many of them are answered (done).
    pub(crate) items: u32,
    /// The job. Done: one more than the nanoseconds that the worker's thread was ready to run and had no core; 0: not
    /// known.
    pub(crate) job: u64,
    /// The ticket of the batch.
    pub(crate) batch: u64,
    /// Batch: bytes of one item; 0: a length stands before each. Done: microseconds that the slowest item took; 0: not known.
    pub(crate) stride: u32,
    /// Returned: the first item given back. Done: the slowest item. Batch: the level up to which records are
    /// logged, see `log_level`.
    pub(crate) from: u32,
    /// Bytes of the payload: behind this header, or at `place`.
    pub(crate) length: u64,
    /// Batch: bytes of results after which the worker stops. Done: how many bytes of the payload's end are failures.
    pub(crate) credit: u64,
    /// Batch: bytes of results and failures that a jailed worker may answer. Done: nanoseconds on the clock.
    pub(crate) wall: u64,
    /// Done: nanoseconds on the CPU.
    pub(crate) cpu: u64,
    /// Batch and done: one more than where the payload lies in the shared area; 0: behind this header.
    pub(crate) place: u64,
}

impl Header {
    pub(crate) const LEN: usize = 72;

    pub(crate) const EMPTY: Header = Header {
        kind: Kind::Batch,
        items: 0,
        job: 0,
        batch: 0,
        stride: 0,
        from: 0,
        length: 0,
        credit: 0,
        wall: 0,
        cpu: 0,
        place: 0,
    };

    /// Writes the header over the first bytes of `frame`.
    pub(crate) fn write(&self, frame: &mut [u8]) {
        frame[0..4].copy_from_slice(&u32::from(self.kind as u8).to_le_bytes());
        frame[4..8].copy_from_slice(&self.items.to_le_bytes());
        frame[8..16].copy_from_slice(&self.job.to_le_bytes());
        frame[16..24].copy_from_slice(&self.batch.to_le_bytes());
        frame[24..28].copy_from_slice(&self.stride.to_le_bytes());
        frame[28..32].copy_from_slice(&self.from.to_le_bytes());
        frame[32..40].copy_from_slice(&self.length.to_le_bytes());
        frame[40..48].copy_from_slice(&self.credit.to_le_bytes());
        frame[48..56].copy_from_slice(&self.wall.to_le_bytes());
        frame[56..64].copy_from_slice(&self.cpu.to_le_bytes());
        frame[64..72].copy_from_slice(&self.place.to_le_bytes());
    }

    /// A frame with that payload; the length is filled in.
    pub(crate) fn frame(mut self, payload: &[u8]) -> Vec<u8> {
        self.length = payload.len() as u64;
        let mut frame = Vec::with_capacity(Header::LEN + payload.len());
        frame.resize(Header::LEN, 0);
        frame.extend_from_slice(payload);
        self.write(&mut frame);
        frame
    }

    /// Reads a header; `None` where the bytes are not one.
    pub(crate) fn read(frame: &[u8]) -> Option<Header> {
        let head = frame.get(..Header::LEN)?;
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        Some(Header {
            kind: Kind::of(u8::try_from(u32_at(0)).ok()?)?,
            items: u32_at(4),
            job: u64_at(8),
            batch: u64_at(16),
            stride: u32_at(24),
            from: u32_at(28),
            length: u64_at(32),
            credit: u64_at(40),
            wall: u64_at(48),
            cpu: u64_at(56),
            place: u64_at(64),
        })
    }

    /// This header for a payload that lies at `place` of the shared area; the whole frame.
    pub(crate) fn placed(mut self, place: usize) -> Vec<u8> {
        self.place = place as u64 + 1;
        let mut frame = vec![0; Header::LEN];
        self.write(&mut frame);
        frame
    }

    /// Done: the slowest item and its time, where the worker knows.
    pub(crate) fn slowest(&self) -> Option<(u32, Duration)> {
        (self.stride > 0 && self.from < self.items)
            .then(|| (self.from, Duration::from_micros(u64::from(self.stride))))
    }

    /// Done: what `job` says of the time without a core.
    pub(crate) fn queued_as(queued: Option<Duration>) -> u64 {
        queued.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_add(1))
    }

    /// Done: how long the worker's thread was ready to run and had no core, where the worker knows.
    pub(crate) fn queued(&self) -> Option<Duration> {
        self.job.checked_sub(1).map(Duration::from_nanos)
    }

    /// Where the payload lies in the shared area, and how long it is; `None` where it stands behind the header.
    pub(crate) fn shared(&self) -> Option<(usize, usize)> {
        // What does not fit a usize lies in no area.
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.place.checked_sub(1).map(|place| (size(place), size(self.length)))
    }
}

impl Header {
    /// Done, with the payload behind the header: where the results end, and the failures behind them. They
    /// may count no more than `most` bytes. Failures in memory take more than their bytes: they are counted
    /// before they are read.
    ///
    /// # Errors
    /// Says how this is no answer of a worker.
    pub(crate) fn told(&self, frame: &[u8], most: u64) -> Result<(usize, Vec<ItemFailure>), String> {
        let end = (frame.len() as u64).checked_sub(self.credit).map(|end| end as usize);
        let end = end.filter(|end| *end >= Header::LEN).ok_or("failures of more bytes than came")?;
        let most = most.saturating_sub((end - Header::LEN) as u64);
        let unreadable = "failures that can't be read";
        let count: u64 = match self.credit {
            0 => 0,
            _ => postcard::take_from_bytes(&frame[end..]).map_err(|_| unreadable)?.0,
        };
        if count.saturating_mul(FAILURE) > most {
            return Err(format!("{count} failures, which is too much"));
        }
        let failures: Vec<ItemFailure> = match self.credit {
            0 => Vec::new(),
            _ => postcard::from_bytes(&frame[end..]).map_err(|_| unreadable)?,
        };
        let ascending = failures.windows(2).all(|pair| pair[0].offset < pair[1].offset);
        if !ascending || failures.last().is_some_and(|last| last.offset >= self.items) {
            return Err("failures of items that it was not asked".to_owned());
        }
        if of_failures(&failures) > most {
            return Err(format!("{count} failures with too much text"));
        }
        Ok((end, failures))
    }
}

/// Puts packets together to frames. One for each direction of a channel.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    frame: Vec<u8>,
    missing: u64,
    /// The longest payload that is taken.
    most: Option<u64>,
    /// Only a frame's last packet may be shorter than the longest: each costs its taker the same.
    full: bool,
}

impl Assembler {
    /// One that takes no frame with more than `most` bytes behind its header.
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
    /// Says what is wrong with bytes that are not a frame. The peer that sent them is not to be listened to again.
    pub(crate) fn packet(&mut self, packet: Vec<u8>) -> Result<Option<(Header, Vec<u8>)>, String> {
        self.packet_if(packet, |_| Ok(()))
    }

    /// The same; a frame that begins is shown to `admit` before anything is kept of it.
    ///
    /// # Errors
    /// As [`Assembler::packet`], and what `admit` says.
    pub(crate) fn packet_if(
        &mut self,
        mut packet: Vec<u8>,
        admit: impl FnOnce(&Header) -> Result<(), String>,
    ) -> Result<Option<(Header, Vec<u8>)>, String> {
        let short = self.full && packet.len() < PACKET;
        if self.missing == 0 {
            let header = Header::read(&packet)
                .ok_or_else(|| format!("{} bytes that begin with no frame header", packet.len()))?;
            let there = (packet.len() - Header::LEN) as u64;
            let expected = if header.place == 0 { header.length } else { 0 };
            if expected < there {
                return Err(format!("a frame of {there} bytes that is said to be {expected}"));
            }
            if self.most.is_some_and(|most| header.length > most) {
                return Err(format!("{} bytes at a time, which is too much", header.length));
            }
            admit(&header)?;
            if expected == there {
                // A received packet has room for the largest one. A copy, not `shrink_to_fit`: a small piece left at
                // the begin of each large one scatters the heap, which then grows from map to map.
                let packet =
                    if packet.capacity() / 2 > packet.len() { packet.as_slice().to_vec() } else { packet };
                return Ok(Some((header, packet)));
            }
            if short {
                return Err(format!("a packet of {} bytes begins a frame of {expected}", packet.len()));
            }
            self.missing = expected - there;
            // Grows with what comes, not with what is claimed: a peer's word does not allocate.
            packet.reserve(usize::try_from(self.missing).unwrap_or(usize::MAX).min(16 * PACKET));
            self.frame = packet;
            return Ok(None);
        }
        let last = packet.len() as u64 == self.missing;
        if packet.is_empty() || packet.len() as u64 > self.missing || (short && !last) {
            return Err(format!("a packet of {} bytes where {} were missing", packet.len(), self.missing));
        }
        self.missing -= packet.len() as u64;
        if self.frame.capacity() - self.frame.len() < packet.len() {
            let more = usize::try_from(self.missing).unwrap_or(usize::MAX).min(self.frame.len());
            self.frame.reserve_exact(packet.len() + more);
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

    #[test]
    fn a_header_survives_the_way() {
        let header = Header {
            kind: Kind::Done,
            items: 1,
            job: 2,
            batch: 3,
            stride: 4,
            from: 5,
            length: 6,
            credit: 7,
            wall: 8,
            cpu: 9,
            place: 10,
        };
        let mut bytes = [0; Header::LEN];
        header.write(&mut bytes);
        assert_eq!(Header::read(&bytes), Some(header));
    }

    #[test]
    fn packets_become_the_frame_again_whatever_their_sizes() {
        let payload: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let frame = Header { kind: Kind::Batch, ..Header::EMPTY }.frame(&payload);
        for size in [72, 73, 100, 999, 2000] {
            let mut assembler = Assembler::default();
            let mut whole = None;
            for packet in frame.chunks(size) {
                assert!(whole.is_none());
                whole = assembler.packet(packet.to_vec()).expect("a good packet");
            }
            let (header, bytes) = whole.expect("the frame is complete");
            assert_eq!(header.length, 1000);
            assert_eq!(&bytes[Header::LEN..], &payload[..]);
        }
    }

    #[test]
    fn a_frame_whose_payload_lies_elsewhere_is_its_header() {
        let header = Header { kind: Kind::Done, length: 1 << 20, ..Header::EMPTY };
        let mut assembler = Assembler::default();
        let whole = assembler.packet(header.placed(64)).expect("a good packet");
        assert_eq!(whole.map(|(header, _)| header.shared()), Some(Some((64, 1 << 20))));
        assert_eq!(header.shared(), None);
        let mut longer = header.placed(64);
        longer.push(0);
        assert!(assembler.packet(longer).is_err());
    }

    #[test]
    fn a_frame_of_a_stranger_comes_in_full_packets_and_is_looked_at_before_it_is_kept() {
        let frame = Header { kind: Kind::Done, ..Header::EMPTY }.frame(&vec![7; 3 * PACKET]);
        let (mut assembler, mut seen) = (Assembler::strict(None), 0);
        let packets = frame.chunks(PACKET).map(|packet| {
            assembler.packet_if(packet.to_vec(), |header| {
                seen += 1;
                (header.items == 0).then_some(()).ok_or("items".to_owned())
            })
        });
        assert_eq!(packets.filter(|whole| matches!(whole, Ok(Some(_)))).count(), 1);
        assert_eq!(seen, 1);
        let refused = Assembler::strict(None).packet_if(frame[..PACKET].to_vec(), |_| Err("no".to_owned()));
        assert_eq!(refused, Err("no".to_owned()));
        assert!(Assembler::strict(None).packet(frame[..PACKET - 1].to_vec()).is_err());
        let mut assembler = Assembler::strict(None);
        assert_eq!(assembler.packet(frame[..PACKET].to_vec()), Ok(None));
        assert!(assembler.packet(vec![7; 100]).is_err());
    }

    #[test]
    fn failures_are_counted_before_they_are_read() {
        let failures: Vec<(u32, u32, &str)> = (0..1000).map(|offset| (offset, 0, "")).collect();
        let bytes = postcard::to_stdvec(&failures).expect("bytes");
        let header = Header { kind: Kind::Done, items: 1000, credit: bytes.len() as u64, ..Header::EMPTY };
        let frame = header.frame(&bytes);
        assert_eq!(header.told(&frame, 1000 * FAILURE).map(|told| told.1.len()), Ok(1000));
        assert!(header.told(&frame, 1000 * FAILURE - 1).is_err());
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused_without_allocating_what_they_claim() {
        assert!(Assembler::default().packet(vec![1, 2, 3]).is_err());
        assert!(Assembler::default().packet(vec![0xff; Header::LEN]).is_err());
        let mut claim = Header { kind: Kind::Done, ..Header::EMPTY }.frame(&[]);
        claim[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut assembler = Assembler::default();
        assert_eq!(assembler.packet(claim), Ok(None));
        assert!(assembler.frame.capacity() <= 17 * PACKET);
        assert!(assembler.packet(Vec::new()).is_err());
    }
}
