//! The checkpoint of one map: records results, and answers from the records of an earlier run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fastmap_backends::{Batch, FunctionId, Results, counted, hexadecimal, identity};
use sha2::{Digest, Sha256};

use crate::checkpoint::recorder::{Answers, Recorder};
use crate::checkpoint::store::{Identity, Segment, Store};
use crate::error::{Error, ErrorKind};

/// The checkpoint of one map; without a path it does nothing.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    path: Option<PathBuf>,
    version: Option<String>,
    pub(super) open: Option<Open>,
}

#[derive(Debug)]
pub(super) struct Open {
    path: PathBuf,
    pub(super) recorder: Recorder,
    store: Arc<Store>,
    /// The process that opened it.
    process: u32,
    /// The next segment that the input will reach.
    next: Option<Segment>,
    /// Index behind what was recorded when the map began.
    end: u64,
    /// Items of `next` that were compared, and their hash so far.
    compared: u32,
    hash: Sha256,
    /// Batches as they were pulled that have items without a last answer, and how many, by the index of their first. An
    /// item is in one of them at most: what is cut out of a batch to be sent again has no entry of its own.
    pub(super) batches: BTreeMap<u64, (Batch, u32)>,
    result_stride: Option<u32>,
}

/// Recorded results whose items were found to be the same.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) items: u32,
    pub(crate) results: Vec<u8>,
}

impl Checkpoint {
    pub(crate) fn set_path(&mut self, path: PathBuf) {
        self.path = Some(path);
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.path.is_some()
    }

    pub(crate) fn set_version(&mut self, key: String) {
        self.version = Some(key);
    }

    /// Opens the file, if one is asked for.
    ///
    /// # Errors
    /// If it can't be used for this map.
    pub(crate) fn open(
        &mut self,
        function: &FunctionId,
        context: &[u8],
        result_stride: Option<u32>,
    ) -> Result<(), Error> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let version = match &self.version {
            Some(key) => format!("key {key}"),
            // Functions of one name differ by their place.
            None => format!("executable {}, function at {}", identity(), function.offset),
        };
        let context = hexadecimal(&Sha256::digest(context));
        let store = Store::open(&path, &Identity { function: function.name.clone(), version, context })?;
        self.open = Some(Open::new(store, path, result_stride)?);
        Ok(())
    }

    /// How many of so many items from `first` on may be pulled at once: those up to the next border between what is
    /// recorded and what is not.
    pub(crate) fn limit(&self, first: u64, items: u32) -> u32 {
        let Some((open, next)) = self.next() else { return items };
        if next.first <= first {
            return next.items - open.compared;
        }
        u32::try_from(next.first - first).map_or(items, |gap| items.min(gap))
    }

    /// Whether the item `first`, the first that was not sent or answered, is in a recorded segment.
    pub(crate) fn is_restoring(&self, first: u64) -> bool {
        self.next().is_some_and(|(_, next)| next.first == first)
    }

    /// Items of the recorded segment that were compared: they are pulled, but not counted elsewhere.
    pub(crate) fn compared(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| u64::from(open.compared))
    }

    fn next(&self) -> Option<(&Open, &Segment)> {
        let open = self.open.as_ref()?;
        Some((open, open.next.as_ref()?))
    }

    /// Compares the next items of a recorded segment. Gives its results once all its items were there.
    ///
    /// # Errors
    /// If the items are others than those that were recorded.
    pub(crate) fn compare(&mut self, items: u32, bytes: &[u8]) -> Result<Option<Restored>, Error> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let Some(next) = open.next.as_ref() else { return Ok(None) };
        open.hash.update(bytes);
        open.compared += items;
        if open.compared < next.items {
            return Ok(None);
        }
        open.compared = 0;
        if open.hash.finalize_reset()[..] != next.inputs {
            let (first, last) = (next.first, next.end() - 1);
            let which = if first == last { "this item is" } else { "at least one is" };
            return Err(changed(open, &format!("items {first} to {last}: {which} not what it was")));
        }
        let end = next.end();
        let following = if end < open.end { open.store.segment_from(end) } else { Ok(None) };
        // Once a write has failed nothing can be read either, and only the write says why (the disk is full).
        let following = following.map_err(|unread| open.recorder.close().err().unwrap_or(unread))?;
        let done = std::mem::replace(&mut open.next, following);
        Ok(done.map(|segment| Restored { items: segment.items, results: segment.results }))
    }

    /// The input has ended behind so many items.
    ///
    /// # Errors
    /// If results of more are recorded.
    pub(crate) fn input_ended(&self, items: u64) -> Result<(), Error> {
        match &self.open {
            Some(open) if items < open.end => Err(changed(
                open,
                &format!(
                    "it ends after {}, and results of {} are recorded",
                    counted(items, "item"),
                    open.end
                ),
            )),
            _ => Ok(()),
        }
    }

    /// A recorded item can't be encoded any more.
    pub(crate) fn unwritable(&self, error: Error, index: u64) -> Error {
        let Some(open) = &self.open else { return error };
        changed(open, &format!("item {index} can't be written any more ({error})")).with_source(error)
    }

    /// A batch was pulled: its bytes are kept until each of its items is settled.
    pub(crate) fn pulled(&mut self, batch: &Batch) {
        if let Some(open) = &mut self.open {
            open.batches.insert(batch.first(), (batch.clone(), batch.items()));
        }
    }

    /// Records answers to `items` items from `first` on. `sent` is the batch that they answer, if it was kept: an item
    /// that was tried again alone is at hand there, and in what it was pulled with only behind all others before it.
    ///
    /// # Errors
    /// If earlier ones could not be recorded.
    pub(crate) fn answered(
        &self,
        first: u64,
        items: u32,
        results: &Results,
        sent: Option<&Batch>,
    ) -> Result<(), Error> {
        let Some(open) = &self.open else { return Ok(()) };
        let sent = sent.filter(|sent| holds(sent, first));
        let Some(batch) = sent.or_else(|| open.pulled_with(first)) else { return Ok(()) };
        let from = (first - batch.first()) as u32;
        open.recorder.put(Answers {
            from,
            items: items.min(batch.items() - from),
            batch: batch.clone(),
            failed: results.failures.iter().map(|failure| failure.offset).collect(),
            results: results.payload.bytes().to_vec(),
            stride: open.result_stride,
        })
    }

    /// So many items of the batch that `first` was pulled with have their last answer: what was recorded, or an error,
    /// which is not (the next map tries them again). Not those that failed and are tried again.
    pub(crate) fn settled(&mut self, first: u64, items: u32) {
        let Some(open) = &mut self.open else { return };
        let Some((start, (batch, left))) = open.batches.range_mut(..=first).next_back() else { return };
        if !holds(batch, first) {
            return;
        }
        *left = left.saturating_sub(items);
        if *left == 0 {
            let start = *start;
            open.batches.remove(&start);
        }
    }

    /// Before a batch is sent: waits until it and those that are not on the disk yet fit into so many free places.
    /// So what a kill costs is never more than the batches that the backend has places for.
    pub(crate) fn wait_for_room(&self, places: usize) {
        if let Some(open) = &self.open {
            open.recorder.wait_below(places.max(1));
        }
    }

    /// Waits until all that was answered is on the disk, and lets go of the file.
    ///
    /// # Errors
    /// If something could not be written.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        match self.open.take() {
            Some(open) if open.process == std::process::id() => {
                let Open { mut recorder, .. } = open;
                recorder.close()
            }
            Some(open) => {
                // A fork: to close the database would write to it.
                open.recorder.forget();
                std::mem::forget(open.store);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        let _nobody_to_tell = self.close();
    }
}

impl Open {
    /// # Errors
    /// If the file can't be read, or no thread be started.
    pub(super) fn new(store: Store, path: PathBuf, result_stride: Option<u32>) -> Result<Open, Error> {
        let store = Arc::new(store);
        Ok(Open {
            path,
            recorder: Recorder::start(Arc::clone(&store))?,
            process: std::process::id(),
            next: store.segment_from(0)?,
            end: store.end()?,
            store,
            compared: 0,
            hash: Sha256::new(),
            batches: BTreeMap::new(),
            result_stride,
        })
    }

    /// The batch that an item was pulled with, if that is kept still.
    fn pulled_with(&self, item: u64) -> Option<&Batch> {
        let (_, (batch, _)) = self.batches.range(..=item).next_back()?;
        holds(batch, item).then_some(batch)
    }
}

fn holds(batch: &Batch, item: u64) -> bool {
    (batch.first()..batch.first() + u64::from(batch.items())).contains(&item)
}

fn changed(open: &Open, what: &str) -> Error {
    let path = open.path.display();
    let advice = "the input must be the same, byte by byte and in the same order; give another path, or delete \
                  the file, to begin anew";
    Error::new(ErrorKind::Checkpoint, format!("checkpoint {path}: the input has changed: {what}; {advice}"))
}
