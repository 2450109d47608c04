//! The file under a checkpoint's database, as one that may be damaged: what redb takes at its word, and would cost the
//! host its memory or a minute, is compared with what there is. Put by `store` between redb and the file.

use std::io;

use redb::StorageBackend;

/// The number of pages that a region can have, four bytes little-endian; redb makes maps of so many.
const REGION_PAGES: usize = 20;
/// A page's place in its region has 20 bits.
const MOST_PAGES: u32 = 1 << 20;

/// Reads what is there and nothing else: a page's number says how long the page is, up to 8 TiB, for which redb asks the
/// allocator before it reads, and a host that gets no memory aborts.
#[derive(Debug)]
pub(crate) struct BoundedStorage<B>(B);

impl<B: StorageBackend> BoundedStorage<B> {
    /// # Errors
    /// If the file can't be read, or is a database whose head was damaged.
    pub(crate) fn new(backend: B) -> io::Result<Self> {
        const HEAD: usize = REGION_PAGES + size_of::<u32>();
        if backend.len()? >= HEAD as u64 {
            let head = backend.read(0, HEAD)?;
            let pages = head.last_chunk().map_or(0, |pages| u32::from_le_bytes(*pages));
            // With four billion of them it took a minute until another part of the file was looked at.
            if head.starts_with(b"redb") && pages > MOST_PAGES {
                return Err(damaged(format!("regions of {pages} pages")));
            }
        }
        Ok(BoundedStorage(backend))
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

impl<B: StorageBackend> StorageBackend for BoundedStorage<B> {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let there = self.0.len()?;
        if offset.checked_add(len as u64).is_none_or(|end| end > there) {
            return Err(damaged(format!("{len} bytes at {offset} of a file of {there}")));
        }
        self.0.read(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self, eventual: bool) -> io::Result<()> {
        self.0.sync_data(eventual)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::power_loss::{Disk, identity, segment};
    use crate::checkpoint::store::{Store, guarded};

    fn sound() -> Vec<u8> {
        let disk = Disk::new(Vec::new(), usize::MAX);
        let store = Store::on(disk.clone(), Path::new("disk")).expect("a new one");
        store.identify(&identity()).expect("it can be written");
        store.write(&[segment(0)]).expect("it can be written");
        drop(store);
        disk.bytes()
    }

    fn open(bytes: Vec<u8>) -> Result<Store, crate::Error> {
        guarded(Path::new("disk"), || Store::on(Disk::new(bytes, usize::MAX), Path::new("disk")))
    }

    #[test]
    fn a_head_with_any_place_damaged_costs_neither_the_host_nor_its_memory() {
        let sound = sound();
        let mut refused = 0;
        // Behind the mark of the file: its head and both commits, roots and all.
        for at in (9..320).step_by(5) {
            // As it was closed, and as if it had been killed.
            for killed in [0, 2] {
                let mut bytes = sound.clone();
                bytes[9] |= killed;
                bytes[at..at + 4].fill(0xff);
                let opened = open(bytes);
                refused += usize::from(opened.is_err());
                if let Ok(store) = opened {
                    let path = Path::new("disk");
                    let _some_error = guarded(path, || store.compare(&identity()));
                    let _some_error = store.segment_from(0);
                    let _some_error = guarded(path, || {
                        drop(store);
                        Ok(())
                    });
                }
            }
        }
        println!("{refused} refused");
        assert!(refused > 0, "none of the damage was seen");
    }

    #[test]
    fn regions_that_no_file_has_are_damage() {
        for (pages, sound_so_far) in [(MOST_PAGES, true), (MOST_PAGES + 1, false), (u32::MAX, false)] {
            let mut bytes = sound();
            bytes[REGION_PAGES..REGION_PAGES + 4].copy_from_slice(&pages.to_le_bytes());
            let result = open(bytes).map(drop).map_err(|error| error.to_string());
            assert_eq!(result.is_ok(), sound_so_far, "{result:?}");
            assert!(result.is_ok() || result.is_err_and(|result| result.contains("it is damaged")));
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let doubted = BoundedStorage::new(Disk::new(vec![7; 100], usize::MAX)).expect("it can be read");
        assert_eq!(doubted.read(90, 10).expect("it is there"), [7; 10]);
        for (offset, len) in [(91, 10), (0, 1 << 43), (u64::MAX, 2)] {
            let error = doubted.read(offset, len).expect_err("it is not there");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
