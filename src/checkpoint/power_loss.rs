//! The store against power loss, at every write: a disk that keeps what was synced and, of what was written since, any
//! part. What was committed must be there, and nothing that was never written.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fastmap_backends::{BatchBuilder, BatchId, JobId};
use redb::StorageBackend;
use sha2::{Digest, Sha256};

use super::Checkpoint;
use super::recorder::Answers;
use super::store::{Identity, Segment, Store};
use crate::checkpoint::journal::Open;

/// A disk in memory. After so many operations it takes no more: the power is off.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What the process sees.
    seen: Vec<u8>,
    /// What is on the disk for certain.
    synced: Vec<u8>,
    /// Writes since, as place and bytes.
    since: Vec<(usize, Vec<u8>)>,
    operations: usize,
    most: usize,
}

impl State {
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.operations > self.most { Err(io::Error::other("no power")) } else { Ok(()) }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    bytes.resize(bytes.len().max(at + part.len()), 0);
    bytes[at..at + part.len()].copy_from_slice(part);
}

fn next(random: &mut u64) -> usize {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*random >> 33) as usize
}

impl Disk {
    pub(super) fn new(bytes: Vec<u8>, most: usize) -> Disk {
        let state = State { seen: bytes.clone(), synced: bytes, most, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }

    /// What the process sees.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    fn is_off(&self) -> bool {
        let state = self.state();
        state.operations > state.most
    }

    /// What a power loss leaves: of the writes that were not synced some are there, some not, some by half.
    fn left(&self, random: &mut u64) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.synced.clone();
        for (at, part) in &state.since {
            let length = match next(random) % 3 {
                0 => 0,
                1 => part.len(),
                // Sectors are written whole.
                _ => (next(random) % (part.len() + 1)) / 512 * 512,
            };
            put(&mut bytes, *at, &part[..length]);
        }
        // A longer file that was not synced may be there or not.
        if next(random).is_multiple_of(2) {
            bytes.resize(bytes.len().max(state.seen.len()), 0);
        }
        bytes
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.state().seen.get(offset as usize..offset as usize + len).map(<[u8]>::to_vec);
        bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        state.seen.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self, _eventual: bool) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        state.synced = state.seen.clone();
        state.since.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        put(&mut state.seen, offset as usize, data);
        state.since.push((offset as usize, data.to_vec()));
        Ok(())
    }
}

pub(super) fn identity() -> Identity {
    let text = |text: &str| text.to_owned();
    Identity { function: text("f"), version: text("1"), context: text("none") }
}

pub(super) fn segment(first: u64) -> Segment {
    let results = vec![first as u8; 1 + first as usize * 97 % 9000];
    Segment { first, items: 1, inputs: [first as u8; 32], results }
}

/// Segments written behind the `known` ones until the power goes; how many are committed then.
fn write(disk: &Disk, known: u64) -> u64 {
    let Ok(store) = Store::on(disk.clone(), Path::new("disk")) else { return known };
    let Ok(from) = store.end() else { return known };
    assert_eq!(from, known);
    let batches = (from..from + 12).step_by(3).map(|first| [0, 1, 2].map(|n| segment(first + n)));
    let mut end = from;
    for batch in batches {
        if store.write(&batch).is_err() {
            break;
        }
        end += 3;
    }
    end
}

#[test]
fn what_was_committed_outlives_a_power_loss_at_any_write_and_nothing_else_is_read() {
    let begun = Disk::new(Vec::new(), usize::MAX);
    let store = Store::on(begun.clone(), Path::new("disk")).expect("a new one");
    store.identify(&identity()).expect("it can be written");
    drop(store);
    let mut bytes = begun.bytes();
    let mut random = 11;
    let (mut known, mut losses) = (0, 0);
    for most in 1..150 {
        let disk = Disk::new(bytes.clone(), most % 45 + 1);
        let committed = write(&disk, known);
        losses += usize::from(disk.is_off());
        let left = disk.left(&mut random);
        let after = Disk::new(left.clone(), usize::MAX);
        let store = Store::on(after, Path::new("disk")).expect("it opens again");
        store.compare(&identity()).expect("it is the same map's");
        let end = store.end().expect("it can be read");
        // The commit that was under way may have come through.
        assert!(
            (committed..=committed + 3).contains(&end),
            "loss {most}: {committed} committed, {end} there"
        );
        for first in 0..end {
            let found = store.segment_from(first).expect("it can be read");
            assert_eq!(found, Some(segment(first)), "loss {most}");
        }
        if end > committed || most % 5 == 0 {
            drop(store);
            (bytes, known) = if end > 60 { (begun.bytes(), 0) } else { (left, end) };
        }
    }
    println!("{losses} losses");
    assert!(losses > 100, "{losses}");
}

#[test]
fn what_can_be_read_no_more_since_a_write_failed_is_told_by_that_write() {
    const ITEM: &[u8] = b"x";
    let segment = |first| Segment {
        first,
        items: 1,
        inputs: Sha256::digest(ITEM).into(),
        results: vec![first as u8; 5000],
    };
    let disk = Disk::new(Vec::new(), usize::MAX);
    let store = Store::on(disk.clone(), Path::new("disk")).expect("a new one");
    store.write(&[0, 1, 2, 3, 4, 5].map(segment)).expect("it can be written");
    drop(store);

    // The power goes with the first write, while the map still reads what is recorded.
    let disk = Disk::new(disk.bytes(), usize::MAX);
    let store = Store::on(disk.clone(), Path::new("disk")).expect("it opens again");
    let mut checkpoint = Checkpoint::default();
    checkpoint.open = Some(Open::new(store, "disk".into(), None).expect("it can be read"));
    disk.state().most = 0;
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().push(7);
    builder.added(1);
    let batch = builder.finish(JobId::next(), BatchId(1), 6, 0);
    let answers = Answers { batch, from: 0, items: 1, failed: Vec::new(), results: vec![7], stride: Some(1) };
    let open = checkpoint.open.as_ref().expect("it is open");
    open.recorder.put(answers).expect("nothing has failed before");
    open.recorder.wait_below(1);
    let error = (0..6).find_map(|_| checkpoint.compare(1, ITEM).err()).expect("it can't be read");
    assert!(error.to_string().contains("can't be written"), "{error}");
    assert!(error.to_string().contains("no power"), "{error}");
}
