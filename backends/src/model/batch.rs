//! A batch: consecutive items of one map, encoded, with their place in the input.
//! Made by the host's adapter, carried by a [`Run`](crate::Run), read item by item in a worker.
//! The layout of items (fixed stride, or a length before each) is defined here and nowhere else.

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
    /// The records that its items' function may log.
    level: LevelFilter,
    /// A header, ready to be sent, and the payload behind it: one buffer, so that a local send is one write.
    packet: Arc<Packet>,
}

/// The bytes of a batch; the buffer is used again once nobody holds them.
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

    /// The batch's name within its run.
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

    /// `Some(n)`, n above 0: each item is n bytes; `None`: a little-endian `u32` length stands before each.
    pub fn stride(&self) -> Option<u32> {
        self.stride
    }

    /// Names the bytes on their way to a worker: each batch and each piece of one has its own.
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// How often the only item of this batch was tried before, and failed or had its process die. 0 for a batch above
    /// suspicion.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Bytes of results after which the worker stops and gives the rest of the batch back unstarted.
    pub fn result_credit(&self) -> u64 {
        self.result_credit
    }

    /// Limits what all answers to this batch may have, in bytes of results and failures. A jailed worker is held to it, and
    /// to [`Batch::result_credit`] where no limit is set; a worker of this program's own is not.
    pub fn limit_answer(mut self, bytes: u64) -> Batch {
        self.answer_limit = Some(bytes);
        self.write_header();
        self
    }

    /// Has the function log records up to this level while it runs these items; without, up to that of this
    /// process's logger when the batch was made.
    pub fn log_up_to(mut self, level: LevelFilter) -> Batch {
        self.level = level;
        self.write_header();
        self
    }

    /// The records that the function may log while it runs these items.
    pub fn level(&self) -> LevelFilter {
        self.level
    }

    fn write_header(&mut self) {
        let header = Header::before(self.message(), self.payload().len());
        if let Some(packet) = Arc::get_mut(&mut self.packet) {
            header.write(&mut packet.0);
        }
    }

    /// Bytes of results and failures that a jailed worker may answer.
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

    /// What a worker learns of it beside the payload.
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
        items.pass(from);
        let start = items.at;
        items.pass(to - from);
        self.cut(id, from..to, start..items.at, attempt)
    }

    /// Batches of one item each: those at these positions, which ascend, with how often each was tried. The batch is
    /// walked through once, however many they are.
    ///
    /// # Panics
    /// If the positions don't ascend or reach beyond the batch, or if the payload is not `items` items.
    pub fn singles(&self, positions: &[(u32, u32)], mut id: impl FnMut() -> BatchId) -> Vec<Batch> {
        let mut items = Items::new(self.payload(), self.stride);
        let mut passed = 0;
        let single = |(position, attempt): &(u32, u32)| {
            assert!(*position >= passed && *position < self.items, "item {position} of {}", self.items);
            items.pass(position - passed);
            let start = items.at;
            items.pass(1);
            passed = position + 1;
            self.cut(id(), *position..passed, start..items.at, *attempt)
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

/// Room that a batch may leave unused: less than it takes to give it back.
const SPARE: usize = 64 * 1024;

/// Collects encoded items for one [`Batch`].
#[derive(Debug)]
pub struct BatchBuilder {
    packet: Vec<u8>,
    /// End of the last item that was counted.
    end: usize,
    items: u32,
    stride: Option<u32>,
}

impl BatchBuilder {
    /// An empty builder for items of that layout (see [`Batch::stride`]).
    ///
    /// # Panics
    /// If the stride is `Some(0)`: items of no bytes need lengths to be told apart.
    pub fn new(stride: Option<u32>) -> Self {
        assert!(stride != Some(0), "a stride of 0 bytes");
        let mut packet = Vec::with_capacity(HEADER + 256);
        packet.resize(HEADER, 0);
        BatchBuilder { end: packet.len(), packet, items: 0, stride }
    }

    /// Makes room for so many bytes of items, so that appending them moves nothing.
    pub fn reserve(&mut self, bytes: usize) {
        if self.items == 0 && bytes > self.packet.capacity() - HEADER {
            let mut packet = buffer_pool::take(HEADER + bytes);
            packet.resize(HEADER, 0);
            buffer_pool::give(std::mem::replace(&mut self.packet, packet));
        }
    }

    /// Where the next item is appended: its bytes, behind its length where there is no stride.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.packet
    }

    /// Counts the items that were appended since the last call.
    #[inline]
    pub fn added(&mut self, items: u32) {
        self.items += items;
        self.end = self.packet.len();
    }

    /// Room for `items` items of a fixed size, to be written one by one. What is not written goes when the slots are
    /// dropped, also by a panic; what is written is counted.
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

    /// Takes away what was appended and not counted: an item whose encoding was broken off by a panic.
    pub fn drop_uncounted(&mut self) {
        self.packet.truncate(self.end);
    }

    /// Items so far.
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

    /// The batch.
    ///
    /// # Panics
    /// If no item was added.
    pub fn finish(mut self, job: JobId, id: BatchId, first: u64, result_credit: u64) -> Batch {
        assert!(self.items > 0, "a batch holds at least one item");
        // What stays is held until the batch is answered: give back what growing left over.
        if self.packet.capacity() - self.packet.len() > SPARE.max(self.packet.len() / 8) {
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

/// See [`BatchBuilder::slots`].
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
    /// If there are no more.
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

/// Reads items off a payload, one slice each. Ends early (with `None`) where the bytes are cut short.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    bytes: &'a [u8],
    stride: Option<u32>,
    at: usize,
}

impl<'a> Items<'a> {
    /// The items of `bytes`, laid out as [`Batch::stride`] says.
    pub fn new(bytes: &'a [u8], stride: Option<u32>) -> Self {
        Items { bytes, stride, at: 0 }
    }

    /// Continues after `at` bytes, a value of [`Items::position`].
    pub fn resume(bytes: &'a [u8], stride: Option<u32>, at: usize) -> Self {
        Items { bytes, stride, at }
    }

    /// Goes past so many items.
    ///
    /// # Panics
    /// If there are fewer.
    fn pass(&mut self, items: u32) {
        match self.stride {
            Some(stride) => self.at += items as usize * stride as usize,
            None => (0..items).for_each(|_| _ = self.next().expect("a batch holds its items")),
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// So many bytes are read.
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
