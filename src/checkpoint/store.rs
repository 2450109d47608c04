//! The file of a checkpoint: one redb database with the map's identity and its recorded segments.
//! Opened, read and written for `Checkpoint`; calls redb. What is read back is checked by a hash of its own, so that
//! damage is an error or work done again, never a result.

#![allow(clippy::result_large_err, reason = "redb's own error, once in the life of a file")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Builder, CommitError, Database, DatabaseError, StorageBackend, StorageError, TableDefinition, TableHandle,
};
use sha2::{Digest, Sha256};

use crate::checkpoint::bounded_storage::BoundedStorage;
use crate::error::{Error, ErrorKind};

/// What the map is: words for each part of its identity.
const IDENTITY: TableDefinition<&str, &str> = TableDefinition::new("fastmap identity");
/// Index of the first item, and the [`Segment`] as bytes.
pub(super) const SEGMENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("fastmap segments");
/// redb would take a gigabyte.
const CACHE: usize = 16 << 20;
/// Digest of the inputs, check of the whole, number of items.
const HEADER: usize = 32 + 32 + 4;

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// What a map must have in common with the one that wrote the file.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Types and path of the function.
    pub(super) function: String,
    /// The executable and the place of the function in it, or the user's version key.
    pub(super) version: String,
    /// Hash of the encoded context.
    pub(super) context: String,
}

/// Results of consecutive items, none of which failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) items: u32,
    /// Hash of the encoded items.
    pub(super) inputs: Hash,
    /// The encoded results.
    pub(super) results: Vec<u8>,
}

impl Segment {
    /// Index behind the last item.
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.items)
    }

    fn check(first: u64, items: &[u8], inputs: &[u8], results: &[u8]) -> Hash {
        let hash = Sha256::new().chain_update(first.to_le_bytes()).chain_update(items);
        hash.chain_update(inputs).chain_update(results).finalize().into()
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let items = self.items.to_le_bytes();
        let check = Segment::check(self.first, &items, &self.inputs, &self.results);
        let mut bytes = Vec::with_capacity(HEADER + self.results.len());
        for part in [&self.inputs[..], &check, &items, &self.results] {
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// `None` where the bytes are not what was written.
    pub(super) fn from_bytes(first: u64, bytes: &[u8]) -> Option<Segment> {
        let (inputs, rest) = bytes.split_first_chunk()?;
        let (check, rest) = rest.split_first_chunk::<32>()?;
        let (items, results) = rest.split_first_chunk()?;
        let sound = Segment::check(first, items, inputs, results) == *check;
        let items = u32::from_le_bytes(*items);
        let sound = sound && items > 0 && first.checked_add(u64::from(items)).is_some();
        sound.then(|| Segment { first, items, inputs: *inputs, results: results.to_vec() })
    }
}

/// An open file, which no other process or map can open meanwhile.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// If it can't be opened, is in use, is no checkpoint, or is that of another map.
    pub(super) fn open(path: &Path, identity: &Identity) -> Result<Store, Error> {
        guarded(path, || match begun(path)? {
            true => Store::open_begun(path, identity),
            false => Store::create(path, identity),
        })
    }

    fn open_begun(path: &Path, identity: &Identity) -> Result<Store, Error> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| refused(path, error.into()))?;
        let backend = FileBackend::new(file).map_err(|error| refused(path, error))?;
        // It may have been emptied since: a database would be made of it.
        if !begun(path)? {
            return Err(store_error(path, "it was emptied while it was opened"));
        }
        let store = Store::on(backend, path)?;
        store.compare(identity)?;
        Ok(store)
    }

    /// Made under another name, so that the file is never there by half: a kill in between leaves a file `….new`,
    /// which the next one takes over.
    fn create(path: &Path, identity: &Identity) -> Result<Store, Error> {
        let wrong = |error: io::Error| failed(path, "it can't be made", error);
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&new);
        let file = file.map_err(wrong)?;
        // Locks it, and stays the lock of the file under its later name.
        let backend = FileBackend::new(file.try_clone().map_err(wrong)?).map_err(|e| refused(path, e))?;
        // Somebody else may have been here before the lock was ours: then this may be the finished file.
        if begun(path)? {
            drop(backend);
            return Store::open_begun(path, identity);
        }
        file.set_len(0).map_err(wrong)?;
        let store = Store::on(backend, path)?;
        store.identify(identity).map_err(|error| store.unwritten(error))?;
        fs::rename(&new, path).map_err(wrong)?;
        // The name as well must outlive a power loss.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(wrong)?;
        folder.sync_all().map_err(wrong)?;
        Ok(store)
    }

    /// On a file, or what a test puts in its place.
    pub(super) fn on(backend: impl StorageBackend, path: &Path) -> Result<Store, Error> {
        let backend = BoundedStorage::new(backend).map_err(|error| refused(path, error.into()))?;
        let database = builder().create_with_backend(backend).map_err(|error| refused(path, error))?;
        Ok(Store { database, path: path.to_owned() })
    }

    pub(super) fn identify(&self, identity: &Identity) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(IDENTITY)?;
            for (name, value) in identity.parts() {
                table.insert(name, value)?;
            }
            transaction.open_table(SEGMENTS)?;
        }
        Ok(transaction.commit()?)
    }

    /// # Errors
    /// If the file is of another map.
    pub(super) fn compare(&self, identity: &Identity) -> Result<(), Error> {
        let unread = |error: redb::Error| failed(&self.path, "it can't be read", error);
        let transaction = self.database.begin_read().map_err(|error| unread(error.into()))?;
        let known: Vec<String> = match transaction.list_tables() {
            Ok(tables) => tables.map(|table| table.name().to_owned()).collect(),
            Err(error) => return Err(unread(error.into())),
        };
        if !known.iter().any(|name| name == IDENTITY.name()) {
            return Err(store_error(
                &self.path,
                "it is a database of another program, which is left as it is",
            ));
        }
        let table = transaction.open_table(IDENTITY).map_err(|error| unread(error.into()))?;
        for (name, value) in identity.parts() {
            let recorded = table.get(name).map_err(|error| unread(error.into()))?;
            let recorded = recorded.as_ref().map_or("", |recorded| recorded.value());
            if recorded != value {
                let what = format!(
                    "its results are of another {name}: {recorded:?}, now it is {value:?}; give another path, \
                     delete the file{}",
                    match name {
                        "version" =>
                            ", or, where the results still hold, keep one checkpoint_version from the beginning",
                        _ => "",
                    }
                );
                return Err(store_error(&self.path, &what));
            }
        }
        Ok(())
    }

    /// The first segment that begins at `index` or behind it.
    ///
    /// # Errors
    /// If the file can't be read, or is damaged.
    pub(super) fn segment_from(&self, index: u64) -> Result<Option<Segment>, Error> {
        guarded(&self.path, || {
            let found = self.find(index, false).map_err(|error| self.unread(error))?;
            let Some((first, bytes)) = found else { return Ok(None) };
            match Segment::from_bytes(first, &bytes) {
                Some(segment) => Ok(Some(segment)),
                None => Err(store_error(
                    &self.path,
                    &format!(
                        "it is damaged at the results from item {first} on; delete it, or restore a copy"
                    ),
                )),
            }
        })
    }

    /// Index behind the last item that is recorded.
    pub(super) fn end(&self) -> Result<u64, Error> {
        guarded(&self.path, || {
            let last = self.find(0, true).map_err(|error| self.unread(error))?;
            // What is damaged is told when its turn comes.
            Ok(last.map_or(0, |(first, bytes)| {
                Segment::from_bytes(first, &bytes).map_or(first.saturating_add(1), |last| last.end())
            }))
        })
    }

    /// The first segment from `index` on, or the last.
    fn find(&self, index: u64, last: bool) -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
        let table = self.database.begin_read()?.open_table(SEGMENTS)?;
        let mut range = table.range(index..)?;
        let entry = if last { range.next_back() } else { range.next() };
        Ok(entry.transpose()?.map(|(first, bytes)| (first.value(), bytes.value().to_vec())))
    }

    /// Writes segments, all or none; they are on the disk when this returns.
    ///
    /// # Errors
    /// If they could not be written. What was written before stays.
    pub(super) fn write(&self, segments: &[Segment]) -> Result<(), Error> {
        let write = || {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(SEGMENTS)?;
                for segment in segments {
                    table.insert(segment.first, segment.to_bytes().as_slice())?;
                }
            }
            transaction.commit().map_err(CommitError::into)
        };
        guarded(&self.path, || write().map_err(|error: redb::Error| self.unwritten(error)))
    }

    fn unread(&self, error: redb::Error) -> Error {
        failed(&self.path, "it can't be read", error)
    }

    fn unwritten(&self, error: redb::Error) -> Error {
        failed(&self.path, "results can't be written; those written before are kept", error)
    }
}

impl Identity {
    fn parts(&self) -> [(&'static str, &str); 4] {
        [
            // Of the layout of this file and of encoded items.
            ("format", "1"),
            ("function", &self.function),
            ("version", &self.version),
            ("context", &self.context),
        ]
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).create_with_file_format_v3(true);
    builder
}

/// Whether there is a file that is not empty.
fn begun(path: &Path) -> Result<bool, Error> {
    match fs::metadata(path) {
        Ok(about) if about.is_file() => Ok(about.len() > 0),
        Ok(_) => Err(store_error(path, "this is not a file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, "it can't be looked at", error)),
    }
}

/// redb asserts where a damaged file leads it astray.
pub(super) fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(store_error(path, "it is damaged; delete it, or restore a copy")))
}

/// Why a file could not be opened.
fn refused(path: &Path, error: DatabaseError) -> Error {
    let what = match &error {
        DatabaseError::DatabaseAlreadyOpen => "another process or map is using it",
        DatabaseError::Storage(StorageError::Io(io)) if io.kind() == io::ErrorKind::InvalidData => {
            "this is not a checkpoint, and is left as it is"
        }
        DatabaseError::Storage(StorageError::Io(io)) if io.kind() != io::ErrorKind::UnexpectedEof => {
            "it can't be opened to read and write"
        }
        DatabaseError::Storage(_) | DatabaseError::RepairAborted => {
            "it is damaged; delete it, or restore a copy"
        }
        _ => "it can't be opened",
    };
    failed(path, what, error)
}

fn store_error(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Checkpoint, format!("checkpoint {}: {what}", path.display()))
}

fn failed(path: &Path, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    store_error(path, &format!("{what} ({source})")).with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_any_bit_changed_is_none() {
        let segment = Segment { first: 70, items: 3, inputs: [7; 32], results: vec![1, 2, 3] };
        let bytes = segment.to_bytes();
        assert_eq!(Segment::from_bytes(70, &bytes), Some(segment));
        assert_eq!(Segment::from_bytes(71, &bytes), None);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Segment::from_bytes(70, &changed), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Segment::from_bytes(70, &bytes[..length]), None, "{length} bytes");
        }
    }
}
