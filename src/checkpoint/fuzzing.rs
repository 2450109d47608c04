//! What the fuzzer of the checkpoint's reader calls: a file that anybody may have written or damaged. Compiled for it alone.

use std::io;
use std::sync::{Mutex, MutexGuard, Once, OnceLock};

use redb::{ReadableTable, StorageBackend};

use super::store::{Identity, SEGMENTS, Segment, Store};

fn identity() -> Identity {
    let text = |part: &str| part.to_owned();
    Identity { function: text("f"), version: text("1"), context: text("none") }
}

/// Segments of a sound file.
fn sound() -> Vec<Segment> {
    let segment = |first: u64, items: u32| Segment {
        first,
        items,
        inputs: [first as u8; 32],
        results: (0..items as u8).collect(),
    };
    vec![segment(0, 3), segment(3, 100), segment(110, 1)]
}

/// A sound file, which the bytes then damage.
fn file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("fastmap-fuzz-{}", std::process::id()));
        let store = Store::open(&path, &identity()).expect("a file can be made");
        store.write(&sound()).expect("room on the disk");
        drop(store);
        let bytes = std::fs::read(&path).expect("it is there");
        std::fs::remove_file(path).expect("it is there");
        bytes
    })
}

/// The fuzzer takes each panic for a crash; redb's own are caught where the file is read.
fn let_redb_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let aborting = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|place| place.file().contains("/redb-")) {
                aborting(panic);
            }
        }));
    });
}

/// The first byte says what the rest is: one record, a whole file, or changes to a sound file, each of a place (4 bytes)
/// and what stands there from then on (a byte of length, then so many). Every way ends in an error or in
/// segments that are sound; those of a file that was sound are the ones that were written, or are missing.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let_redb_panic();
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 8 {
        0 => {
            let Some((first, record)) = bytes.split_first_chunk() else { return };
            let first = u64::from_le_bytes(*first);
            if let Some(segment) = Segment::from_bytes(first, record) {
                assert_eq!(segment.to_bytes(), record);
                assert!(segment.end() > segment.first);
            }
        }
        1 => read(bytes, None),
        2 => {
            // A record that stands where it should, in a sound file.
            let backend = loaded(file());
            let Ok(store) = Store::on(backend, "fuzz".as_ref()) else { panic!("a sound file") };
            store.insert_raw(3, bytes);
            walk(&store, None);
        }
        _ => {
            let mut damaged = file().to_vec();
            let mut changes = bytes;
            while let Some((at, rest)) = changes.split_first_chunk::<4>() {
                let Some((length, rest)) = rest.split_first() else { break };
                let (new, rest) = rest.split_at(rest.len().min(usize::from(*length)));
                changes = rest;
                let at = u32::from_le_bytes(*at) as usize % damaged.len();
                let end = damaged.len().min(at + new.len());
                damaged[at..end].copy_from_slice(&new[..end - at]);
            }
            read(&damaged, Some(&sound()));
        }
    }
}

/// A file in memory. redb's own grows byte by byte, which takes longer than all the rest.
#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no holder panics")
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.bytes()[offset as usize..][..len].to_vec())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // A disk has an end.
        if len > 1 << 28 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self, _eventual: bool) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let there = (offset as usize).checked_add(data.len()).is_some_and(|end| end <= bytes.len());
        if !there {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bytes[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn loaded(bytes: &[u8]) -> Memory {
    Memory(Mutex::new(bytes.to_vec()))
}

fn read(bytes: &[u8], written: Option<&[Segment]>) {
    // As the file itself is opened: an empty one would be made anew.
    if bytes.is_empty() {
        return;
    }
    let opened = super::store::guarded("fuzz".as_ref(), || Store::on(loaded(bytes), "fuzz".as_ref()));
    let Ok(store) = opened else { return };
    let compared = super::store::guarded("fuzz".as_ref(), || store.compare(&identity()));
    if compared.is_ok() {
        walk(&store, written);
    }
    // redb tidies up behind itself, and may find what is damaged only then.
    let _damaged = super::store::guarded("fuzz".as_ref(), || {
        drop(store);
        Ok(())
    });
}

fn walk(store: &Store, written: Option<&[Segment]>) {
    let Ok(_end) = store.end() else { return };
    let mut at = 0;
    for _ in 0..10 {
        let Ok(Some(segment)) = store.segment_from(at) else { return };
        assert!(segment.first >= at && segment.end() > segment.first);
        if let Some(written) = written {
            assert!(written.contains(&segment), "a wrong result: {segment:?}");
        }
        at = segment.end();
    }
}

impl Store {
    /// Puts bytes where a segment should be.
    fn insert_raw(&self, first: u64, bytes: &[u8]) {
        let transaction = self.database.begin_write().expect("a sound file");
        {
            let mut table = transaction.open_table(SEGMENTS).expect("a sound file");
            table.insert(first, bytes).expect("memory");
            assert!(table.first().expect("a sound file").is_some());
        }
        transaction.commit().expect("memory");
    }
}
