//! Memory that the host shares with each worker: a page with what runs there now and how much was received,
//! and behind it an area for large payloads in each direction (see `arena`). Made by the host before the
//! worker starts, handed over through its stdin (see `channel`); sealed, so that no worker can shrink it
//! under the host's hands. What a worker writes into the page is a hint, never a length or an address; what
//! it writes into its area is copied out before anything reads it, for the worker can go on writing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use fastmap_sandbox::DenialLog;
use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sched::sched_getcpu;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Pid, ftruncate};

use crate::local::affinity::SavedAffinity;
use crate::local::ipc::arena::AREA;
use crate::local::ipc::channel::Channel;
use crate::local::process::descriptors::above_standard;
use crate::model::death::Running;

const PAGE: usize = 4096;
const SIZE: usize = PAGE + 2 * AREA;
/// Where the areas begin: what goes to the worker, what comes from it.
const TO_WORKER: usize = PAGE;
const FROM_WORKER: usize = PAGE + AREA;
/// Where the record of what the sandbox refused begins.
const RECORD: usize = 2048;
const MAGIC: u64 = 0x6661_7374_6d61_7001;
/// `item` while a function is being prepared, and while nothing runs.
pub(crate) const SETUP: u32 = u32::MAX - 1;
const IDLE: u32 = u32::MAX;
/// `core` before the first batch.
const NOWHERE: u32 = u32::MAX;
/// All items are run, and the answer is on its way.
const SENDING: u32 = u32::MAX - 2;

/// A limit on the size of files holds for those in memory as well, and to pass it is a deadly signal.
///
/// # Errors
/// In words, if it is too low for the page.
fn check_file_size() -> io::Result<()> {
    match getrlimit(Resource::RLIMIT_FSIZE)?.0 {
        most if most < SIZE as u64 => Err(io::Error::other(format!(
            "files of this process, those in memory among them, may have {most} bytes at most (RLIMIT_FSIZE), and a \
             worker needs one of {} KiB: raise the limit (ulimit -f)",
            SIZE.div_ceil(1024)
        ))),
        _ => Ok(()),
    }
}

#[derive(Debug)]
#[repr(C)]
struct Fields {
    magic: AtomicU64,
    /// Packets that the worker has taken from its channel.
    received: AtomicU64,
    /// Ticket of the batch that runs, or ran last.
    ticket: AtomicU64,
    /// Answers that the host has copied out of the worker's area.
    copied: AtomicU64,
    /// Its item that runs; `SETUP`; `IDLE`.
    item: AtomicU32,
    /// The core on which its last batch began or ended.
    core: AtomicU32,
    /// The number of the thread that runs the batches; 0 before there is one.
    thread: AtomicU32,
    /// The cores that it is to have back, see `affinity`.
    owed: SavedAffinity,
}

const _: () = assert!(size_of::<Fields>() <= RECORD && RECORD + size_of::<DenialLog>() <= PAGE);

/// The page, mapped.
#[derive(Debug)]
pub(crate) struct SharedPage {
    map: MmapRaw,
    /// The channel that the page came over, and everything else goes.
    pub(crate) channel: Channel,
}

impl SharedPage {
    /// Stands for the ticket while the state of an ended map is freed.
    pub(crate) const FREEING: u64 = u64::MAX;

    /// A new page, and the descriptor that a worker gets as its stdin, over which it comes.
    pub(crate) fn create() -> io::Result<(SharedPage, OwnedFd)> {
        check_file_size()?;
        // A file in memory has no name: nothing is left behind where the host dies.
        let fd = memfd_create("fastmap", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let fd = above_standard(fd)?;
        ftruncate(&fd, SIZE as i64)?;
        // Without the first seal a worker could cut the file, and the host would end by SIGBUS at its next
        // look. The last keeps the worker from adding seals of its own.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        let file = File::from(fd);
        let (channel, stdin) = Channel::pair()?;
        let page = SharedPage { map: MmapOptions::new().len(SIZE).map_raw(&file)?, channel };
        page.fields().item.store(IDLE, Ordering::Relaxed);
        page.fields().core.store(NOWHERE, Ordering::Relaxed);
        // Last, and released: a worker that reads it (acquired) sees the fields before it.
        page.fields().magic.store(MAGIC, Ordering::Release);
        page.channel.give(&file)?;
        Ok((page, stdin))
    }

    /// The worker's side: maps what it was handed.
    pub(crate) fn open(stdin: OwnedFd) -> io::Result<SharedPage> {
        let channel = Channel::open(stdin);
        let file = File::from(channel.first_file()?);
        if file.metadata()?.len() != SIZE as u64 {
            return Err(io::Error::other("standard input is not the page of a fastmap host"));
        }
        let page = SharedPage { map: MmapOptions::new().len(SIZE).map_raw(&file)?, channel };
        if page.fields().magic.load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::other("standard input is not the page of a fastmap host"));
        }
        // The page was sent before this process was started and was there without a wait; what follows is
        // waited for.
        page.channel.make_waiting()?;
        Ok(page)
    }

    fn fields(&self) -> &Fields {
        // SAFETY: the mapping is SIZE bytes, page-aligned, lives as long as `self`, and can't be shrunk (sealed);
        // all fields are atomics, for which any bytes are valid and concurrent writers are allowed.
        #[allow(clippy::cast_ptr_alignment)]
        unsafe {
            &*self.map.as_ptr().cast::<Fields>()
        }
    }

    /// What the sandbox refused to the items of the batch that runs, or ran last. It is there when the worker is dead.
    pub(crate) fn record(&self) -> &DenialLog {
        // SAFETY: as for the fields, behind which it lies; aligned as they are.
        #[allow(clippy::cast_ptr_alignment)]
        unsafe {
            &*self.map.as_ptr().cast::<u8>().add(RECORD).cast::<DenialLog>()
        }
    }

    /// The place of the running item's number.
    pub(crate) fn item(&self) -> &AtomicU32 {
        &self.fields().item
    }

    /// Worker: one more packet was taken. Released behind the receive, so that a host that sees the count finds the room.
    pub(crate) fn count_received(&self) {
        self.fields().received.fetch_add(1, Ordering::Release);
    }

    /// Host: how many packets the worker has taken.
    pub(crate) fn received(&self) -> u64 {
        self.fields().received.load(Ordering::Acquire)
    }

    /// Host: one more answer is copied out of the area. Released behind the copy: the worker writes the next answer to the
    /// place as soon as it sees the count.
    pub(crate) fn count_copied(&self) {
        self.fields().copied.fetch_add(1, Ordering::Release);
    }

    /// Worker: how many of its answers the host has copied out.
    pub(crate) fn copied(&self) -> u64 {
        self.fields().copied.load(Ordering::Acquire)
    }

    /// Host: writes a payload to its place in the worker's view. The place must lie in the area.
    pub(crate) fn write_to_worker(&self, place: usize, bytes: &[u8]) {
        self.write(TO_WORKER, place, bytes);
    }

    /// Worker: writes an answer to its place in the host's view. The place must lie in the area.
    pub(crate) fn write_to_host(&self, place: usize, bytes: &[u8]) {
        self.write(FROM_WORKER, place, bytes);
    }

    /// Worker: where an answer is written in place. The place must lie in the area.
    ///
    /// # Safety
    /// The host must not know of the place yet, and no other caller may have asked for it.
    #[allow(clippy::mut_from_ref, reason = "it is the kernel's memory, of which the caller owns this place")]
    pub(crate) unsafe fn place_for_host(&self, place: usize, length: usize) -> &mut [u8] {
        assert!(place <= AREA && length <= AREA - place, "{length} bytes at {place}");
        // SAFETY: the bytes lie in the mapping, by the line above, and are the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(FROM_WORKER + place), length) }
    }

    fn write(&self, area: usize, place: usize, bytes: &[u8]) {
        assert!(place <= AREA && bytes.len() <= AREA - place, "{} bytes at {place}", bytes.len());
        // SAFETY: the target lies in the mapping, by the line above; no thread holds a reference into a place
        // before the frame that names it is sent, which is behind this.
        unsafe {
            let target = self.map.as_mut_ptr().add(area + place);
            target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Worker: a payload that the host has placed; `None` if that is not in the area.
    ///
    /// # Safety
    /// The host must not learn that the place is free again while the bytes are used.
    pub(crate) unsafe fn placed_by_host(&self, place: usize, length: usize) -> Option<&[u8]> {
        if place > AREA || length > AREA - place {
            return None;
        }
        // SAFETY: the bytes lie in the mapping, by the line above, and the host, of which this process is a part,
        // writes to no place that is taken, which the caller vouches for.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(TO_WORKER + place), length) })
    }

    /// Host: appends what a worker has placed to `out`; false if that is not in the area.
    pub(crate) fn copy_from_worker(&self, place: usize, length: usize, out: &mut Vec<u8>) -> bool {
        if place > AREA || length > AREA - place {
            return false;
        }
        out.reserve(length);
        // SAFETY: the source lies in the mapping, by the line above; the target is room that was just reserved. The
        // worker may write meanwhile: the bytes are then any bytes, and are taken for that.
        unsafe {
            let source = self.map.as_ptr().add(FROM_WORKER + place);
            out.as_mut_ptr().add(out.len()).copy_from_nonoverlapping(source, length);
            out.set_len(out.len() + length);
        }
        true
    }

    /// Worker: the function of a batch is being prepared.
    pub(crate) fn begin_setup(&self, ticket: u64) {
        self.record().begin();
        // In the order of `begin`, for the same reason.
        self.fields().item.store(IDLE, Ordering::Release);
        self.fields().ticket.store(ticket, Ordering::Release);
        self.fields().item.store(SETUP, Ordering::Release);
    }

    /// Worker: a batch begins; where the number of its running item is kept up to date.
    pub(crate) fn begin(&self, ticket: u64) -> &AtomicU32 {
        self.record().begin();
        self.tell_core();
        // In this order: a worker that dies in between ran nothing, and no item of either batch is accused.
        self.fields().item.store(IDLE, Ordering::Release);
        self.fields().ticket.store(ticket, Ordering::Release);
        self.fields().item.store(0, Ordering::Release);
        &self.fields().item
    }

    /// Worker: no item runs any more, and the answer is being sent. To die of that is the fault of any of them.
    pub(crate) fn begin_sending(&self) {
        self.tell_core();
        self.fields().item.store(SENDING, Ordering::Release);
    }

    /// Worker: this thread runs the batches.
    pub(crate) fn tell_thread(&self, thread: Pid) {
        self.fields().thread.store(thread.as_raw().cast_unsigned(), Ordering::Release);
    }

    /// Host: the thread that runs the batches, as the worker says; `None` before it does.
    pub(crate) fn thread(&self) -> Option<Pid> {
        i32::try_from(self.fields().thread.load(Ordering::Acquire))
            .ok()
            .filter(|thread| *thread > 0)
            .map(Pid::from_raw)
    }

    fn tell_core(&self) {
        let core = sched_getcpu().map_or(NOWHERE, |core| core as u32);
        // Relaxed, because it is a hint for where the next batch wakes this worker: an old one costs time and
        // nothing else.
        self.fields().core.store(core, Ordering::Relaxed);
    }

    /// Host: where the worker's last batch began or ended, as it says; `None` before the first.
    pub(crate) fn core(&self) -> Option<usize> {
        let core = self.fields().core.load(Ordering::Relaxed);
        (core != NOWHERE).then_some(core as usize)
    }

    /// The worker's cores, where it is kept off some.
    pub(crate) fn owed(&self) -> &SavedAffinity {
        &self.fields().owed
    }

    /// Worker: nothing runs.
    pub(crate) fn end(&self) {
        self.fields().item.store(IDLE, Ordering::Release);
    }

    /// The batch that runs, or ran last.
    pub(crate) fn last_ticket(&self) -> u64 {
        self.fields().ticket.load(Ordering::Acquire)
    }

    /// What runs now: the batch's ticket, and the item or the preparation. Of a worker that lives this is a hint: between the
    /// two reads it may have begun its next batch. Of a dead one it is what it died of.
    pub(crate) fn running(&self) -> Option<(u64, Running)> {
        // The item first: what it shows was stored after its ticket, so that the ticket read behind it is
        // that one or a later one.
        let item = self.fields().item.load(Ordering::Acquire);
        let ticket = self.fields().ticket.load(Ordering::Acquire);
        match item {
            IDLE => None,
            SETUP => Some((ticket, Running::Setup)),
            SENDING => Some((ticket, Running::Unknown)),
            item => Some((ticket, Running::Item(item))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_page_and_nobody_can_shrink_it() {
        let (host, stdin) = SharedPage::create().expect("a page");
        let again = stdin.try_clone().expect("a descriptor");
        let fd = Channel::open(stdin).first_file().expect("it was handed over");
        host.channel.give(&fd).expect("room for it");
        let worker = SharedPage::open(again).expect("the same page");
        assert_eq!(host.running(), None);
        worker.begin(9).store(3, Ordering::Relaxed);
        worker.count_received();
        assert_eq!(host.running(), Some((9, Running::Item(3))));
        assert_eq!(host.received(), 1);
        assert!(ftruncate(&fd, 0).is_err());
    }

    #[test]
    fn payloads_reach_the_other_side_and_nothing_beyond_the_areas_is_touched() {
        let (host, fd) = SharedPage::create().expect("a page");
        let worker = SharedPage::open(fd).expect("the same page");
        host.write_to_worker(AREA - 3, b"abc");
        worker.write_to_host(0, b"defg");
        // SAFETY: nothing else is written to that place.
        let placed = unsafe { worker.placed_by_host(AREA - 3, 3) };
        assert_eq!(placed, Some(&b"abc"[..]));
        let mut out = b"x".to_vec();
        assert!(host.copy_from_worker(0, 4, &mut out));
        assert_eq!(out, b"xdefg");
        for (place, length) in [(AREA, 1), (AREA + 1, 0), (0, AREA + 1), (usize::MAX, 1), (1, usize::MAX)] {
            assert!(!host.copy_from_worker(place, length, &mut out));
            // SAFETY: it gives no bytes.
            assert_eq!(unsafe { worker.placed_by_host(place, length) }, None);
        }
    }

    #[test]
    fn another_file_is_no_page() {
        let file = File::open("/dev/null").expect("the null device");
        assert!(SharedPage::open(file.into()).is_err());
    }
}
