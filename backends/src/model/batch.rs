//! A batch: consecutive items of one map, encoded, with their position in the input. Created by the host's
//! adapter, transported by a [`Run`](crate::Run), read item by item in a worker. The layout of items (fixed
//! stride, or a length before each) is defined only in this file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log::LevelFilter;

use crate::model::buffer_pool;
use crate::model::frame::{BatchHead, HEADER, Header, ToWorker};
use crate::model::ids::{BatchId, JobId};

/// Encoded items, in input order. Cloning shares the bytes.
#[derive(Clone)]
pub struct Batch {
    job: JobId,
    id: BatchId,
    ticket: u64,
    first: u64,
    items: u32,
    stride: Option<u32>,
    attempt: u32,
    result_credit: u64,
    answer_limit: Option<u64>,
    /// Maximum level of the function's log records.
    level: LevelFilter,
    /// A header, ready to be sent, and the payload after it: one buffer, so that a local send is one write.
    packet: Arc<Packet>,
}

/// The bytes of a batch; the buffer returns to the pool when the last clone is dropped.
#[derive(Debug)]
struct Packet(Vec<u8>);

impl Drop for Packet {
    fn drop(&mut self) {
        buffer_pool::give(std::mem::take(&mut self.0));
    }
}

impl Batch {
    /// The job whose function these items are for.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The batch's id within its run.
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// Index in the input of the first item.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Number of items, at least 1.
    pub fn items(&self) -> u32 {
        self.items
    }

    /// `Some(n)`, n above 0: each item is n bytes; `None`: a little-endian `u32` length precedes each.
    pub fn stride(&self) -> Option<u32> {
        self.stride
    }

    /// Unique id of the bytes sent to a worker: each batch and each piece of one has its own.
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Number of earlier attempts of the only item of this batch, which failed or ended its process. 0 for a
    /// batch that is not suspected.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Bytes of results after which the worker stops and returns the rest of the batch unstarted.
    pub fn result_credit(&self) -> u64 {
        self.result_credit
    }

    /// Limits the bytes of results and failures in all answers to this batch. The host enforces it for a
    /// jailed worker, or [`Batch::result_credit`] if no limit is set, but not for a worker of this program's
    /// own.
    pub fn limit_answer(mut self, bytes: u64) -> Batch {
        self.answer_limit = Some(bytes);
        self.write_header();
        self
    }

    /// Sets the maximum level of the function's log records for these items. The default is the level of this
    /// process's logger when the batch was created.
    pub fn log_up_to(mut self, level: LevelFilter) -> Batch {
        self.level = level;
        self.write_header();
        self
    }

    /// Maximum level of the function's log records for these items.
    pub fn level(&self) -> LevelFilter {
        self.level
    }

    fn write_header(&mut self) {
        let header = Header::before(self.message(), self.payload().len());
        if let Some(packet) = Arc::get_mut(&mut self.packet) {
            header.write(&mut packet.0);
        }
    }

    /// Maximum bytes of results and failures in a jailed worker's answer.
    pub(crate) fn granted(&self) -> u64 {
        self.answer_limit.unwrap_or(self.result_credit)
    }

    /// The encoded items.
    pub fn payload(&self) -> &[u8] {
        &self.packet.0[HEADER..]
    }

    /// Header and payload as one buffer.
    pub(crate) fn packet(&self) -> &[u8] {
        &self.packet.0
    }

    /// The frame's fields, without the payload.
    pub(crate) fn message(&self) -> ToWorker {
        ToWorker::Batch(BatchHead {
            job: self.job,
            ticket: self.ticket,
            items: self.items,
            stride: self.stride,
            level: Some(self.level),
            result_credit: self.result_credit,
            granted: self.granted(),
        })
    }

    /// A batch of the items `from..to` of this one.
    ///
    /// # Panics
    /// If the range is empty or reaches beyond the batch, or if the payload is not `items` items.
    pub fn piece(&self, id: BatchId, from: u32, to: u32, attempt: u32) -> Batch {
        assert!(from < to && to <= self.items, "items {from}..{to} of a batch of {}", self.items);
        let mut items = Items::new(self.payload(), self.stride);
        items.skip_items(from);
        let start = items.at;
        items.skip_items(to - from);
        self.cut(id, from..to, start..items.at, attempt)
    }

    /// Batches of one item each: those at these ascending positions, each with its number of attempts. Reads
    /// the batch only once, for any number of positions.
    ///
    /// # Panics
    /// If the positions don't ascend or reach beyond the batch, or if the payload is not `items` items.
    pub fn singles(&self, positions: &[(u32, u32)], mut id: impl FnMut() -> BatchId) -> Vec<Batch> {
        let mut items = Items::new(self.payload(), self.stride);
        let mut next_position = 0;
        let single = |(position, attempt): &(u32, u32)| {
            assert!(
                *position >= next_position && *position < self.items,
                "item {position} of {}",
                self.items
            );
            items.skip_items(position - next_position);
            let start = items.at;
            items.skip_items(1);
            next_position = position + 1;
            self.cut(id(), *position..next_position, start..items.at, *attempt)
        };
        positions.iter().map(single).collect()
    }

    fn cut(&self, id: BatchId, items: Range<u32>, bytes: Range<usize>, attempt: u32) -> Batch {
        let mut builder = BatchBuilder::new(self.stride);
        builder.buffer().extend_from_slice(&self.payload()[bytes]);
        builder.added(items.end - items.start);
        let first = self.first + u64::from(items.start);
        let mut piece = builder.finish(self.job, id, first, self.result_credit);
        piece.answer_limit = self.answer_limit;
        piece.level = self.level;
        piece.write_header();
        piece.attempt = attempt;
        piece
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("id", &self.id.0)
            .field("first", &self.first)
            .field("items", &self.items)
            .field("attempt", &self.attempt)
            .field("bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// Unused capacity that a batch may keep: releasing less costs more than it frees.
const MAX_SLACK: usize = 64 * 1024;

/// Collects encoded items for one [`Batch`].
#[derive(Debug)]
pub struct BatchBuilder {
    packet: Vec<u8>,
    /// End of the last counted item.
    end: usize,
    items: u32,
    stride: Option<u32>,
}

impl BatchBuilder {
    /// An empty builder for items of this layout (see [`Batch::stride`]).
    ///
    /// # Panics
    /// If the stride is `Some(0)`: items without bytes need lengths to be counted.
    pub fn new(stride: Option<u32>) -> Self {
        assert!(stride != Some(0), "a stride of 0 bytes");
        let mut packet = Vec::with_capacity(HEADER + 256);
        packet.resize(HEADER, 0);
        BatchBuilder { end: packet.len(), packet, items: 0, stride }
    }

    /// Reserves room for this many bytes of items, so that appending them moves nothing.
    pub fn reserve(&mut self, bytes: usize) {
        if self.items == 0 && bytes > self.packet.capacity() - HEADER {
            let mut packet = buffer_pool::take(HEADER + bytes);
            packet.resize(HEADER, 0);
            buffer_pool::give(std::mem::replace(&mut self.packet, packet));
        }
    }

    /// The buffer to which the next item is appended: its bytes, after its length if there is no stride.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.packet
    }

    /// Counts the items that were appended since the last call.
    #[inline]
    pub fn added(&mut self, items: u32) {
        self.items += items;
        self.end = self.packet.len();
    }

    /// Room for `items` items of a fixed size, to be written one by one. When the slots are dropped, also by
    /// a panic, unwritten ones are removed and written ones are counted.
    ///
    /// # Panics
    /// If the items have no stride.
    #[inline]
    pub fn slots(&mut self, items: u32) -> Slots<'_> {
        let stride = self.stride.expect("slots are of a fixed size") as usize;
        self.drop_uncounted();
        self.packet.resize(self.end + items as usize * stride, 0);
        Slots { builder: self, stride, written: 0 }
    }

    /// Removes bytes that were appended and not counted: an item whose encoding was interrupted by a panic.
    pub fn drop_uncounted(&mut self) {
        self.packet.truncate(self.end);
    }

    /// Number of items so far.
    pub fn items(&self) -> u32 {
        self.items
    }

    /// Bytes of payload so far.
    pub fn bytes(&self) -> usize {
        self.packet.len() - HEADER
    }

    /// The items so far, encoded.
    pub fn encoded(&self) -> &[u8] {
        &self.packet[HEADER..]
    }

    /// Creates the batch.
    ///
    /// # Panics
    /// If no item was added.
    pub fn finish(mut self, job: JobId, id: BatchId, first: u64, result_credit: u64) -> Batch {
        assert!(self.items > 0, "a batch holds at least one item");
        // The buffer is held until the batch is answered: release the capacity that growing left over.
        if self.packet.capacity() - self.packet.len() > MAX_SLACK.max(self.packet.len() / 8) {
            self.packet.shrink_to_fit();
        }
        static TICKET: AtomicU64 = AtomicU64::new(1);
        let ticket = TICKET.fetch_add(1, Ordering::Relaxed);
        let mut batch = Batch {
            job,
            id,
            ticket,
            first,
            items: self.items,
            stride: self.stride,
            attempt: 0,
            result_credit,
            answer_limit: None,
            level: log::max_level(),
            packet: Arc::new(Packet(self.packet)),
        };
        batch.write_header();
        batch
    }
}

/// Slots for items of a fixed size: see [`BatchBuilder::slots`].
#[derive(Debug)]
pub struct Slots<'a> {
    builder: &'a mut BatchBuilder,
    stride: usize,
    written: u32,
}

impl Slots<'_> {
    /// The bytes of the next item, which counts as written.
    ///
    /// # Panics
    /// If there are no more slots.
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "an iterator can't lend")]
    pub fn next(&mut self) -> &mut [u8] {
        let start = self.builder.end + self.written as usize * self.stride;
        self.written += 1;
        &mut self.builder.packet[start..start + self.stride]
    }
}

impl Drop for Slots<'_> {
    #[inline]
    fn drop(&mut self) {
        let builder = &mut *self.builder;
        builder.packet.truncate(builder.end + self.written as usize * self.stride);
        builder.added(self.written);
    }
}

/// Iterator over the items of a payload, one slice each. Ends early (with `None`) if the bytes are truncated.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    bytes: &'a [u8],
    stride: Option<u32>,
    at: usize,
}

impl<'a> Items<'a> {
    /// The items of `bytes`, in the layout of [`Batch::stride`].
    pub fn new(bytes: &'a [u8], stride: Option<u32>) -> Self {
        Items { bytes, stride, at: 0 }
    }

    /// Continues after `at` bytes, a value of [`Items::position`].
    pub fn resume(bytes: &'a [u8], stride: Option<u32>, at: usize) -> Self {
        Items { bytes, stride, at }
    }

    /// Skips this many items.
    ///
    /// # Panics
    /// If there are fewer items.
    fn skip_items(&mut self, items: u32) {
        match self.stride {
            Some(stride) => self.at += items as usize * stride as usize,
            None => (0..items).for_each(|_| _ = self.next().expect("a batch holds its items")),
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The unread bytes.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Skips this many bytes.
    pub(crate) fn skip_bytes(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (start, length) = match self.stride {
            Some(stride) => (self.at, stride as usize),
            None => {
                let length = self.bytes.get(self.at..self.at + 4)?;
                (self.at + 4, u32::from_le_bytes(length.try_into().ok()?) as usize)
            }
        };
        let item = self.bytes.get(start..start + length)?;
        self.at = start + length;
        Some(item)
    }
}

#[cfg(test)]
mod tests;
