//! Encoding of a batch sent to the service and of its answer, little-endian.
//! A batch is a head of 48 bytes and its items. An answer is a head of 32 bytes and parts, each with a head
//! of 48 bytes, its results, and a little JSON. A reader never trusts a length before it has the bytes.

use std::time::Duration;

use log::LevelFilter;

use super::meta::{DoneMeta, LostMeta, json, of_json};
use crate::cloud::bytes::{BodyError, Reader, bad};
use crate::model::batch::Items;
use crate::model::completion::{Origin, Payload, Results};
use crate::model::death::WorkerLoss;
use crate::model::failure::ItemFailure;
use crate::model::log_level;

/// Flag of a batch: its items are a zstd frame.
pub const FLAG_ZSTD: u32 = 1;
/// Position (in bits) of the byte in a batch's flags that holds the maximum log level of its function.
const LEVEL_SHIFT: u32 = 8;

const BATCH_MAGIC: &[u8; 4] = b"FMB1";
const ANSWER_MAGIC: &[u8; 4] = b"FMA1";
const BATCH_HEAD: usize = 48;
const ANSWER_HEAD: usize = 32;
const PART_HEAD: usize = 48;

/// Body of `PUT /runs/{run}/batches/{seq}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBody<'a> {
    /// Index in the input of the first item.
    pub first: u64,
    /// Number of items, at least 1.
    pub items: u32,
    /// As [`Batch::stride`](crate::Batch::stride).
    pub stride: Option<u32>,
    /// As [`Batch::result_credit`](crate::Batch::result_credit).
    pub result_credit: u64,
    /// Bytes of the items, decompressed.
    pub length: u64,
    /// Whether `payload` is a zstd frame.
    pub compressed: bool,
    /// Maximum level of the function's log records that are sent; `None`: `Info`.
    pub level: Option<LevelFilter>,
    /// The items as sent: compressed if `compressed` is set.
    pub payload: &'a [u8],
}

impl<'a> BatchBody<'a> {
    /// Encodes the batch.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BATCH_HEAD + self.payload.len());
        bytes.extend_from_slice(BATCH_MAGIC);
        let flags = if self.compressed { FLAG_ZSTD } else { 0 };
        let level = u32::from(log_level::to_byte(self.level)) << LEVEL_SHIFT;
        bytes.extend_from_slice(&(flags | level).to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.items.to_le_bytes());
        bytes.extend_from_slice(&self.stride.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&self.result_credit.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(self.payload);
        bytes
    }

    /// Reads the head. Does not read the items: see [`BatchBody::check_items`].
    ///
    /// # Errors
    /// If the head is malformed.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BodyError> {
        let mut head = Reader(bytes);
        if head.take(4)? != BATCH_MAGIC {
            return bad("a batch begins with FMB1");
        }
        let flags = head.u32()?;
        let level = flags >> LEVEL_SHIFT & 0xff;
        if flags & !FLAG_ZSTD != level << LEVEL_SHIFT {
            return bad(format!("flags {flags:#x} that this version does not know"));
        }
        let level = log_level::of_byte(level as u8).map_err(BodyError)?;
        let (first, items, stride) = (head.u64()?, head.u32()?, head.u32()?);
        let (result_credit, length, reserved) = (head.u64()?, head.u64()?, head.u64()?);
        let compressed = flags & FLAG_ZSTD != 0;
        let payload = head.0;
        if items == 0 {
            return bad("a batch holds at least one item");
        }
        if reserved != 0 {
            return bad("bytes 40 to 47 must be zero");
        }
        if first.checked_add(u64::from(items)).is_none() {
            return bad("an index beyond 2^64");
        }
        if !compressed && payload.len() as u64 != length {
            return bad(format!("{} bytes of items where the head says {length}", payload.len()));
        }
        let stride = (stride > 0).then_some(stride);
        Ok(BatchBody { first, items, stride, result_credit, length, compressed, level, payload })
    }

    /// Checks that the decompressed `payload` has exactly the items that the head declares.
    ///
    /// # Errors
    /// If it has more or fewer bytes or items.
    pub fn check_items(&self, payload: &[u8]) -> Result<(), BodyError> {
        let whole = match self.stride {
            Some(stride) => u64::from(stride) * u64::from(self.items) == payload.len() as u64,
            None => {
                let mut items = Items::new(payload, None);
                // Reads no more items than declared: the bytes after them may be anything.
                let found = items.by_ref().take(self.items as usize).count();
                found == self.items as usize && items.position() == payload.len()
            }
        };
        if whole { Ok(()) } else { bad(format!("the bytes are not {} items", self.items)) }
    }
}

/// Answer to a batch: its parts cover each item of the batch once.
#[derive(Debug)]
pub struct Answer {
    /// Cost in millionths of a credit.
    pub charge: i64,
    /// CPU time used.
    pub cpu: Duration,
    /// In the order of arrival.
    pub parts: Vec<Part>,
}

/// Outcome of consecutive items of a batch.
#[derive(Debug)]
pub struct Part {
    /// Position of the first item in the batch.
    pub offset: u32,
    /// Number of items.
    pub items: u32,
    /// Their outcome.
    pub outcome: PartOutcome,
}

/// As [`Outcome`](crate::Outcome), without the items that the client has anyway.
#[derive(Debug)]
pub enum PartOutcome {
    /// Each item was answered.
    Done(Results),
    /// No item was started.
    Returned,
    /// Their worker died.
    Lost(WorkerLoss),
}

const DONE: u32 = 1;
const RETURNED: u32 = 2;
const LOST: u32 = 3;

impl Answer {
    /// Encodes the answer, as it is sent and stored.
    pub fn encode(&self) -> Vec<u8> {
        let payloads: usize = self.parts.iter().map(|part| part.payload().len()).sum();
        let mut bytes = Vec::with_capacity(ANSWER_HEAD + payloads + self.parts.len() * (PART_HEAD + 64));
        bytes.extend_from_slice(ANSWER_MAGIC);
        bytes.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.charge.to_le_bytes());
        bytes.extend_from_slice(&nanos(self.cpu).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for part in &self.parts {
            let (kind, wall, cpu, meta) = match &part.outcome {
                PartOutcome::Done(results) => (DONE, results.wall, results.cpu, json(&DoneMeta::of(results))),
                PartOutcome::Returned => (RETURNED, Duration::ZERO, Duration::ZERO, Vec::new()),
                PartOutcome::Lost(loss) => (LOST, Duration::ZERO, Duration::ZERO, json(&LostMeta::of(loss))),
            };
            let payload = part.payload();
            for word in [kind, part.offset, part.items, meta.len() as u32] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            for word in [nanos(wall), nanos(cpu), payload.len() as u64, 0] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.extend_from_slice(payload);
            bytes.extend_from_slice(&meta);
        }
        bytes
    }

    /// Writes the cost into an encoded answer.
    pub fn set_charge(bytes: &mut [u8], charge: i64) {
        if let Some(place) = bytes.get_mut(8..16) {
            place.copy_from_slice(&charge.to_le_bytes());
        }
    }

    /// Decodes an answer to a batch of `items` items.
    ///
    /// # Errors
    /// If the bytes are malformed, or the parts do not cover each item once.
    pub fn decode(bytes: &[u8], items: u32) -> Result<Self, BodyError> {
        let mut rest = Reader(bytes);
        if rest.take(4)? != ANSWER_MAGIC {
            return bad("an answer begins with FMA1");
        }
        let count = rest.u32()?;
        let (charge, cpu, _reserved) = (rest.u64()? as i64, Duration::from_nanos(rest.u64()?), rest.u64()?);
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(Part::decode(&mut rest)?);
        }
        if !rest.0.is_empty() {
            return bad("bytes behind the last part");
        }
        let mut ranges: Vec<(u32, u32)> = parts.iter().map(|part| (part.offset, part.items)).collect();
        ranges.sort_unstable();
        let end = ranges.iter().try_fold(0u32, |end, (offset, items)| {
            if *offset == end && *items > 0 { end.checked_add(*items) } else { None }
        });
        if end != Some(items) {
            return bad(format!("the parts are not the {items} items, each once"));
        }
        Ok(Answer { charge, cpu, parts })
    }
}

impl Part {
    /// Bytes of a part without results or JSON. Also an upper bound of an answer's bytes beyond its
    /// [`Part::extent`]s, which are its head.
    pub const HEAD: u64 = PART_HEAD as u64;

    /// Bytes of the part in an answer: its head, its results, its failures.
    pub fn extent(&self) -> u64 {
        let json = match &self.outcome {
            PartOutcome::Done(results) => json(&DoneMeta::of(results)).len(),
            PartOutcome::Returned => 0,
            PartOutcome::Lost(loss) => json(&LostMeta::of(loss)).len(),
        };
        (PART_HEAD + self.payload().len() + json) as u64
    }

    fn payload(&self) -> &[u8] {
        match &self.outcome {
            PartOutcome::Done(results) => results.payload.bytes(),
            PartOutcome::Returned | PartOutcome::Lost(_) => &[],
        }
    }

    fn decode(rest: &mut Reader<'_>) -> Result<Part, BodyError> {
        let (kind, offset, items, meta) = (rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?);
        let (wall, cpu, length, _reserved) = (rest.u64()?, rest.u64()?, rest.u64()?, rest.u64()?);
        let payload = rest.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        let meta = rest.take(meta as usize)?;
        let outcome = match kind {
            DONE => {
                let DoneMeta { worker, failures, refused } = of_json(meta)?;
                let failures: Vec<ItemFailure> =
                    failures.into_iter().map(super::meta::FailureMeta::failure).collect();
                let ascending = failures.windows(2).all(|pair| pair[0].offset < pair[1].offset);
                if !ascending || failures.last().is_some_and(|last| last.offset >= items) {
                    return bad("failures of items that the part does not have");
                }
                let (wall, cpu) = (Duration::from_nanos(wall), Duration::from_nanos(cpu));
                PartOutcome::Done(Results {
                    payload: Payload::from(payload.to_vec()),
                    failures,
                    wall,
                    cpu,
                    worker,
                    place: Origin::Cloud,
                    refused: DoneMeta::refused(refused),
                    ..Results::default()
                })
            }
            RETURNED => PartOutcome::Returned,
            LOST => PartOutcome::Lost(of_json::<LostMeta>(meta)?.loss()),
            other => return bad(format!("a part of kind {other}")),
        };
        Ok(Part { offset, items, outcome })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::death::{ExitReason, Running, WorkerExit};
    use crate::model::failure::FailureKind;
    use crate::model::refused_call::RefusedCall;

    fn answer() -> Answer {
        let refused = |index, call: &str, missing| RefusedCall {
            index,
            call: call.to_owned(),
            own_error: missing,
            missing,
        };
        let failure = ItemFailure { offset: 1, kind: FailureKind::Panic, message: "no \"luck\"".to_owned() };
        let results = Results {
            payload: Payload::from(vec![1, 2, 3, 4]),
            failures: vec![failure],
            wall: Duration::from_nanos(7),
            cpu: Duration::from_nanos(5),
            worker: "worker-1".to_owned(),
            place: Origin::Cloud,
            refused: vec![refused(None, "socket", false), refused(Some(7), "/usr/share/x", true)],
            ..Results::default()
        };
        let death = WorkerExit {
            worker: "worker-2".to_owned(),
            pid: 77,
            cause: ExitReason::Signal(11),
            refused: Some("clone".to_owned()),
            stderr: vec!["last words".to_owned()],
        };
        let loss = WorkerLoss { running: Running::Item(0), death };
        Answer {
            charge: 42,
            cpu: Duration::from_nanos(5),
            parts: vec![
                Part { offset: 3, items: 1, outcome: PartOutcome::Lost(loss) },
                Part { offset: 0, items: 3, outcome: PartOutcome::Done(results) },
                Part { offset: 4, items: 6, outcome: PartOutcome::Returned },
            ],
        }
    }

    #[test]
    fn answers_round_trip() {
        let sent = answer();
        let mut bytes = sent.encode();
        let extents: u64 = sent.parts.iter().map(Part::extent).sum();
        assert_eq!(bytes.len() as u64, ANSWER_HEAD as u64 + extents);
        Answer::set_charge(&mut bytes, 42);
        assert_eq!(bytes, sent.encode());
        let got = Answer::decode(&bytes, 10).expect("an answer");
        assert_eq!(format!("{got:?}").replace("start", ""), format!("{sent:?}").replace("start", ""));
    }

    #[test]
    fn refused_calls_are_optional_limited_and_sanitized() {
        let part = |refused: Vec<RefusedCall>| {
            let results = Results { refused, place: Origin::Cloud, ..Results::default() };
            let outcome = PartOutcome::Done(results);
            let bytes =
                Answer { charge: 0, cpu: Duration::ZERO, parts: vec![Part { offset: 0, items: 1, outcome }] }
                    .encode();
            let PartOutcome::Done(results) =
                Answer::decode(&bytes, 1).expect("an answer").parts.remove(0).outcome
            else {
                panic!("it was done")
            };
            (String::from_utf8_lossy(&bytes).into_owned(), results.refused)
        };
        let (bytes, refused) = part(Vec::new());
        assert!(refused.is_empty() && !bytes.contains("refused"), "clients of before see what they know");
        let call = RefusedCall {
            index: None,
            call: format!("\u{1b}[2J{}", "x".repeat(10_000)),
            own_error: false,
            missing: false,
        };
        let (_, refused) = part(vec![call; 1000]);
        assert_eq!(refused.len(), 64);
        assert!(refused[0].call.len() < 600 && !refused[0].call.contains('\u{1b}'), "{}", refused[0].call);
    }

    #[test]
    fn truncated_or_oversized_answers_are_rejected() {
        let bytes = answer().encode();
        for cut in 0..bytes.len() {
            assert!(Answer::decode(&bytes[..cut], 10).is_err(), "{cut}");
        }
        for items in [0, 9, 11] {
            assert!(Answer::decode(&bytes, items).is_err(), "{items}");
        }
        let mut claim = bytes.clone();
        claim[ANSWER_HEAD + 32..ANSWER_HEAD + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Answer::decode(&claim, 10).is_err());
    }

    #[test]
    fn batches_round_trip_and_their_items_are_checked() {
        let payload = [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0];
        let batch = BatchBody {
            first: 9,
            items: 2,
            stride: None,
            result_credit: 100,
            length: 10,
            compressed: false,
            level: Some(LevelFilter::Warn),
            payload: &payload,
        };
        let bytes = batch.encode();
        let got = BatchBody::decode(&bytes).expect("a batch");
        assert_eq!(got, batch);
        let default_level = BatchBody { level: None, ..batch };
        assert_eq!(default_level.encode()[4..8], [0; 4]);
        assert_eq!(BatchBody::decode(&default_level.encode()), Ok(default_level));
        for unknown in [[2, 0], [0, 7], [0, 0xff]] {
            let wrong = [&bytes[..4], &unknown, &[0, 0], &bytes[8..]].concat();
            assert!(BatchBody::decode(&wrong).is_err(), "{unknown:?}");
        }
        assert_eq!(got.check_items(got.payload), Ok(()));
        assert!(BatchBody { items: 1, ..got }.check_items(&payload).is_err());
        assert!(BatchBody { items: 3, ..got }.check_items(&payload).is_err());
        assert!(BatchBody { stride: Some(5), ..got }.check_items(&payload).is_ok());
        assert!(BatchBody { stride: Some(4), ..got }.check_items(&payload).is_err());
        for cut in 0..bytes.len() {
            assert!(BatchBody::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(BatchBody::decode(&BatchBody { items: 0, ..batch }.encode()).is_err());
    }
}
