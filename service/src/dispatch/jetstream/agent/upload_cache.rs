//! Uploads on an agent's machine: by hash, fetched once, kept until others need their place. What a pool uses stays.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use async_trait::async_trait;
use axum::body::Bytes;
use fastmap_backends::cloud::{hexadecimal, is_digest};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use fastmap_sandbox::jail::wait_for_writers;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

use crate::dispatch::work::Upload;
use crate::private;

/// Why a file is not available.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// Its gateway does not give it.
    #[error("its gateway is gone, or has no such file any more")]
    Gone,
    /// It is not what it was said to be.
    #[error("what came hashes to {0}, not to {1}")]
    Hash(String, String),
    /// Its name is no hash.
    #[error("{0:?} is not a hash")]
    Name(String),
    /// The disk refuses.
    #[error("the folder of uploads can't be written to")]
    Disk(#[from] io::Error),
}

/// Where the bytes of a file come from.
#[async_trait]
pub(super) trait Source: Send + Sync {
    /// Bytes from `offset` on, as many as one message has; empty at the end of the file. `None`: it is not
    /// available.
    async fn bytes(&self, offset: u64) -> Option<Bytes>;
}

/// The files of an agent.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Bytes that unused files may take.
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<String, Kept>,
    /// Those that are being fetched: each by one alone.
    fetched: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    size: u64,
    /// When it was asked for last, by count.
    used: u64,
    user: Weak<User>,
}

/// Held by each user of a file.
#[derive(Debug)]
struct User;

impl Cache {
    /// Files in that folder, which is made; what is there from before is taken up.
    ///
    /// # Errors
    /// If the folder can't be made or read.
    pub fn new(folder: &Path, most: u64) -> io::Result<Self> {
        private::folder(folder)?;
        let mut state = State::default();
        for entry in fs::read_dir(folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_digest(&name) {
                let size = entry.metadata()?.len();
                // Not hashed again: its name was given to it when its hash was known. As the oldest it goes
                // first.
                state.files.insert(name, Kept { size, used: 0, user: Weak::new() });
            } else if name.starts_with(BEGUN) {
                // It may be gone already.
                let _ = fs::remove_file(entry.path());
            }
        }
        let cache = Cache { folder: folder.to_owned(), most, state: Mutex::new(state) };
        cache.evict();
        Ok(cache)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock_unpoisoned()
    }

    /// The file of that hash, from `source` where it is not here.
    pub(super) async fn get(&self, hash: &str, source: &dyn Source) -> Result<Upload, FileError> {
        if !is_digest(hash) {
            return Err(FileError::Name(hash.to_owned()));
        }
        // Several runs may need one program at once: the first fetches it, and the others find it when they
        // get this lock.
        let alone = Arc::clone(self.lock().fetched.entry(hash.to_owned()).or_default());
        let fetching = alone.lock().await;
        let found = match self.find(hash) {
            Some(upload) => Ok(upload),
            None => self.fetch(hash, source).await,
        };
        drop(fetching);
        let mut state = self.lock();
        // The map's and this one: no other call waits for the lock.
        if Arc::strong_count(&alone) == 2 {
            state.fetched.remove(hash);
        }
        found
    }

    fn find(&self, hash: &str) -> Option<Upload> {
        let mut state = self.lock();
        state.uses += 1;
        let used = state.uses;
        let kept = state.files.get_mut(hash)?;
        kept.used = used;
        // All users of a file share one mark: the file may go when the last of them is gone.
        let user = kept.user.upgrade().unwrap_or_else(|| Arc::new(User));
        kept.user = Arc::downgrade(&user);
        Some(Upload { hash: hash.to_owned(), path: self.folder.join(hash), kept: Some(user) })
    }

    async fn fetch(&self, hash: &str, source: &dyn Source) -> Result<Upload, FileError> {
        let mut file = tempfile::Builder::new().prefix(BEGUN).tempfile_in(&self.folder)?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        loop {
            let bytes = source.bytes(size).await.ok_or(FileError::Gone)?;
            if bytes.is_empty() {
                break;
            }
            size += bytes.len() as u64;
            // Written without a thread of its own: a piece is a message, a megabyte at most, which the disk's
            // cache takes.
            hasher.update(&bytes);
            file.write_all(&bytes)?;
        }
        let found = hexadecimal(&hasher.finalize());
        // The gateway named this hash, but what comes is checked: other runs, by other gateways, use the file
        // by its hash.
        if found != hash {
            return Err(FileError::Hash(found, hash.to_owned()));
        }
        self.keep(file, hash, size).await?;
        self.evict();
        self.find(hash).ok_or(FileError::Gone)
    }

    async fn keep(&self, file: NamedTempFile, hash: &str, size: u64) -> io::Result<()> {
        // In a jail another user runs it.
        file.as_file().set_permissions(Permissions::from_mode(0o555))?;
        let target = self.folder.join(hash);
        let kept = spawn_blocking(move || {
            // After a power failure the name must not lead to an empty file: the cache takes files up by their names.
            file.as_file().sync_all()?;
            let file = file.into_temp_path();
            // Workers of other runs may be starting, with copies of this process's descriptors at first.
            wait_for_writers(&file)?;
            file.persist(target).map_err(|error| error.error)
        });
        kept.await.map_err(io::Error::other)??;
        let mut state = self.lock();
        state.uses += 1;
        let used = state.uses;
        state.files.insert(hash.to_owned(), Kept { size, used, user: Weak::new() });
        Ok(())
    }

    /// Removes the unused files that were asked for longest ago, until the rest is small enough; the newest stays.
    fn evict(&self) {
        let mut state = self.lock();
        let unused = |kept: &Kept| kept.user.strong_count() == 0;
        // The newest may be larger than all that may be kept, and its run is about to use it.
        let newest = state.files.values().map(|kept| kept.used).max().unwrap_or(0);
        while state.files.values().filter(|kept| unused(kept)).map(|kept| kept.size).sum::<u64>() > self.most
        {
            let oldest = state.files.iter().filter(|(_, kept)| unused(kept) && kept.used < newest);
            let Some(oldest) = oldest.min_by_key(|(_, kept)| kept.used).map(|(hash, _)| hash.clone()) else {
                return;
            };
            state.files.remove(&oldest);
            // It may be gone already.
            let _ = fs::remove_file(self.folder.join(&oldest));
        }
    }
}

/// What names of files begin with that are not whole.
const BEGUN: &str = ".begun-";

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use fastmap_backends::cloud::digest;

    use super::*;

    /// Some bytes, three at a time, and how often they were asked for.
    struct Counted<'a>(&'a [u8], &'a AtomicU64);

    #[async_trait]
    impl Source for Counted<'_> {
        async fn bytes(&self, offset: u64) -> Option<Bytes> {
            self.1.fetch_add(u64::from(offset == 0), Ordering::Relaxed);
            let rest = &self.0[offset as usize..];
            Some(Bytes::copy_from_slice(&rest[..rest.len().min(3)]))
        }
    }

    struct Nothing;

    #[async_trait]
    impl Source for Nothing {
        async fn bytes(&self, _: u64) -> Option<Bytes> {
            None
        }
    }

    async fn get(cache: &Cache, content: &[u8], fetched: &AtomicU64) -> Upload {
        cache.get(&digest(content), &Counted(content, fetched)).await.expect("a file")
    }

    #[tokio::test]
    async fn a_file_is_fetched_once_and_the_longest_unused_goes_unless_it_is_used() {
        let (folder, fetched) = (tempfile::tempdir().expect("a folder"), AtomicU64::new(0));
        let cache = Cache::new(folder.path(), 20).expect("a cache");
        let used = get(&cache, b"used used ", &fetched).await;
        assert_eq!(fs::read(&used.path).expect("it is there"), b"used used ");
        let first = get(&cache, b"first first ", &fetched).await.path;
        get(&cache, b"used used ", &fetched).await;
        let second = get(&cache, b"second second ", &fetched).await.path;
        assert_eq!(fetched.load(Ordering::Relaxed), 3);
        assert!(used.path.exists() && !first.exists() && second.exists());
        drop(used);
        let third = get(&cache, b"third third ", &fetched).await;
        assert!(!second.exists() || !folder.path().join(digest(b"used used ")).exists());
        // Another process takes up what is there.
        drop(cache);
        let next = Cache::new(folder.path(), 20).expect("a cache");
        assert_eq!(get(&next, b"third third ", &fetched).await.path, third.path);
        assert_eq!(fetched.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn what_is_not_what_it_was_said_to_be_is_not_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path(), 20).expect("a cache");
        let hash = digest(b"good");
        let asked = AtomicU64::new(0);
        assert!(matches!(cache.get(&hash, &Counted(b"bad", &asked)).await, Err(FileError::Hash(..))));
        assert!(matches!(cache.get(&hash, &Nothing).await, Err(FileError::Gone)));
        assert!(matches!(cache.get("../x", &Nothing).await, Err(FileError::Name(_))));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
