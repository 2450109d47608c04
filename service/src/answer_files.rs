//! Answers on the disk, beside the database: one behind the other in files of some megabytes, in a folder for each run.
//! (A file for each answer was half of what a small batch cost: making and deleting one takes longer than filling it.) The
//! database holds where each answer is and its digest, so that one that is cut short or gone is noticed, and its batch run
//! again at no charge. A file goes when all answers in it were acknowledged: at once where this process wrote it and heard
//! so, else when the gateway asks the database which files it still needs (`full`, `remove_files`). Several gateways may share
//! the folder: each fills files of its own. Called by the gateway from its tasks; the calls wait for the disk's cache, not for
//! the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Bytes;
use fastmap_backends::cloud::digest;
use fastmap_backends::unpoisoned::LockUnpoisoned;

/// A file that has so many bytes is followed by another.
const FULL: u64 = 16 << 20;

/// Where an answer is in the folder of its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The file's number.
    pub file: u64,
    /// Bytes before it in the file.
    pub at: u64,
    /// Its bytes.
    pub length: u64,
}

/// The folder of answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AnswerFiles {
    folder: Arc<PathBuf>,
    runs: Arc<Mutex<HashMap<String, Files>>>,
    /// Large answers that were found to be other than they were kept, by run.
    damaged: Arc<Mutex<HashMap<String, HashSet<Position>>>>,
}

/// The files of a run that this process has written to.
#[derive(Debug)]
struct Files {
    /// The one that is filled now, and how far.
    current: u64,
    end: u64,
    /// Answers in each that are not acknowledged.
    kept: BTreeMap<u64, u64>,
}

impl AnswerFiles {
    /// Answers in that folder.
    pub fn new(folder: &Path) -> Self {
        AnswerFiles { folder: Arc::new(folder.to_owned()), runs: Arc::default(), damaged: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Files>> {
        self.runs.lock_unpoisoned()
    }

    fn folder(&self, run: &str) -> PathBuf {
        self.folder.join(run)
    }

    fn file(&self, run: &str, number: u64) -> PathBuf {
        self.folder(run).join(number.to_string())
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// If the disk refuses; its place is lost then, the others are not.
    pub fn put(&self, run: &str, answer: &[u8]) -> io::Result<Position> {
        let place = self.place(run, answer.len() as u64)?;
        let written =
            OpenOptions::new().write(true).create(true).truncate(false).open(self.file(run, place.file));
        let written = written.and_then(|file| file.write_all_at(answer, place.at));
        if written.is_err() {
            self.remove(run, place);
        }
        written.map(|()| place)
    }

    /// Numbers of the files of a run.
    fn numbers(&self, run: &str) -> io::Result<Vec<u64>> {
        let entries = fs::read_dir(self.folder(run))?.flatten();
        Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Makes a file behind all that there are. The last of a run stays until its end: so no number is used twice, and none of
    /// which another process still counts answers.
    fn claim(&self, run: &str) -> io::Result<u64> {
        let mut number = self.numbers(run)?.into_iter().max().map_or(0, |last| last + 1);
        loop {
            match File::create_new(self.file(run, number)) {
                Ok(_) => return Ok(number),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The place of the next answer.
    fn place(&self, run: &str, length: u64) -> io::Result<Position> {
        let mut runs = self.lock();
        if !runs.contains_key(run) {
            fs::create_dir_all(self.folder(run))?;
            let current = self.claim(run)?;
            runs.insert(run.to_owned(), Files { current, end: 0, kept: BTreeMap::new() });
        }
        let Some(files) = runs.get_mut(run) else { return Err(io::ErrorKind::NotFound.into()) };
        let mut done = None;
        if files.end >= FULL {
            let next = self.claim(run)?;
            done = Some(files.current).filter(|current| !files.kept.contains_key(current));
            files.current = next;
            files.end = 0;
        }
        let place = Position { file: files.current, at: files.end, length };
        files.end += length;
        *files.kept.entry(place.file).or_default() += 1;
        drop(runs);
        if let Some(done) = done {
            unlink(self.file(run, done));
        }
        Ok(place)
    }

    /// The file of an answer, whose bytes are still to be compared with their digest; `None` where the answer
    /// is not there.
    pub fn open(&self, run: &str, place: Position) -> Option<File> {
        let damaged = self.damaged.lock_unpoisoned();
        if damaged.get(run).is_some_and(|places| places.contains(&place)) {
            return None;
        }
        drop(damaged);
        let file = File::open(self.file(run, place.file)).ok()?;
        // What the file does not have is not allocated, whatever the database says.
        (file.metadata().ok()?.len() >= place.at.checked_add(place.length)?).then_some(file)
    }

    /// An answer that hashes to `wanted`; `None` where it is not there as it was.
    pub fn get(&self, run: &str, place: Position, wanted: &str) -> Option<Bytes> {
        let file = self.open(run, place)?;
        let mut answer = vec![0; usize::try_from(place.length).ok()?];
        file.read_exact_at(&mut answer, place.at).ok()?;
        (digest(&answer) == wanted).then(|| answer.into())
    }

    /// An answer was read and did not hash to its digest: it is not there any more.
    pub fn is_damaged(&self, run: &str, place: Position) {
        let mut damaged = self.damaged.lock_unpoisoned();
        damaged.entry(run.to_owned()).or_default().insert(place);
    }

    /// Forgets an answer; with the last one of a file that is full, the file.
    pub fn remove(&self, run: &str, place: Position) {
        let mut runs = self.lock();
        let Some(files) = runs.get_mut(run) else { return };
        let Some(kept) = files.kept.get_mut(&place.file) else { return };
        *kept -= 1;
        if *kept > 0 {
            return;
        }
        files.kept.remove(&place.file);
        let current = place.file == files.current;
        drop(runs);
        if !current {
            unlink(self.file(run, place.file));
        }
    }

    /// Files to which nothing is added any more, by run: full, not the run's last, and not written to for so long. Whoever
    /// wrote them may not know that their answers were acknowledged.
    pub fn full(&self, rested: Duration) -> Vec<(String, Vec<u64>)> {
        let mut all = Vec::new();
        for run in self.runs() {
            let Ok(numbers) = self.numbers(&run) else { continue };
            let Some(last) = numbers.iter().copied().max() else { continue };
            if let Some(files) = self.lock().get_mut(&run) {
                // What another process has removed need not be counted.
                files.kept.retain(|number, _| *number >= last || numbers.contains(number));
            }
            let is_full = |number: &u64| {
                let Ok(file) = fs::metadata(self.file(&run, *number)) else { return false };
                let rests = || file.modified().ok()?.elapsed().ok();
                *number != last && file.len() >= FULL && rests().is_some_and(|rests| rests >= rested)
            };
            let full: Vec<u64> = numbers.iter().copied().filter(is_full).collect();
            if !full.is_empty() {
                all.push((run, full));
            }
        }
        all
    }

    /// Forgets all answers in these files of a run.
    pub fn remove_files(&self, run: &str, files: &[u64]) {
        if let Some(counted) = self.lock().get_mut(run) {
            counted.kept.retain(|number, _| !files.contains(number));
        }
        for number in files {
            // It may be gone already.
            let _ = fs::remove_file(self.file(run, *number));
        }
    }

    /// Names of the runs of which there are answers, or have been: another process may have removed them.
    pub fn runs(&self) -> Vec<String> {
        let entries = fs::read_dir(&*self.folder).into_iter().flatten().flatten();
        let mut runs: BTreeSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        runs.extend(self.lock().keys().cloned());
        runs.into_iter().collect()
    }

    /// Forgets all answers of a run.
    pub fn remove_run(&self, run: &str) {
        self.lock().remove(run);
        self.damaged.lock_unpoisoned().remove(run);
        // It may be gone already.
        let _ = fs::remove_dir_all(self.folder(run));
    }
}

/// Removes a file of some megabytes, which takes the disk's time: not a runtime's thread's.
fn unlink(path: PathBuf) {
    let remove = move || {
        // It may be gone already.
        let _ = fs::remove_file(path);
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(remove)),
        Err(_) => remove(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("run")).expect("the run's folder");
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn answers_that_come_at_once_do_not_meet() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = AnswerFiles::new(folder.path());
        for run in 0..50u8 {
            let name = format!("run{run}");
            let begin = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for seq in 0..4u8 {
                    let (begin, spool, name) = (&begin, &spool, &name);
                    scope.spawn(move || {
                        begin.wait();
                        let answer = [run, seq].repeat(1000 + usize::from(seq));
                        let place = spool.put(name, &answer).expect("room on the disk");
                        assert_eq!(spool.get(name, place, &digest(&answer)).as_deref(), Some(&answer[..]));
                    });
                }
            });
        }
    }

    #[test]
    fn answers_of_two_gateways_do_not_meet() {
        let folder = tempfile::tempdir().expect("a folder");
        let spools = [AnswerFiles::new(folder.path()), AnswerFiles::new(folder.path())];
        let begin = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (n, spool) in (0u8..).zip(&spools) {
                let begin = &begin;
                scope.spawn(move || {
                    for run in 0..50 {
                        begin.wait();
                        let (run, answer) = (format!("run{run}"), vec![n; 1000]);
                        let places = [(); 3].map(|()| spool.put(&run, &answer).expect("room on the disk"));
                        begin.wait();
                        for place in places {
                            assert!(spool.get(&run, place, &digest(&answer)).is_some());
                        }
                    }
                });
            }
        });
        let mut runs = spools[0].runs();
        runs.sort();
        assert_eq!((runs.len(), runs[0].as_str()), (50, "run0"));
    }

    #[test]
    fn an_answer_is_given_as_it_was_put_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = AnswerFiles::new(folder.path());
        let place = spool.put("run", b"answer").expect("room on the disk");
        let get = |spool: &AnswerFiles| spool.get("run", place, &digest(b"answer"));
        assert_eq!(get(&spool).as_deref(), Some(&b"answer"[..]));
        // Another process goes on behind it.
        let next = AnswerFiles::new(folder.path());
        let other = next.put("run", b"other").expect("room on the disk");
        assert_ne!(other.file, place.file);
        assert_eq!(get(&next).as_deref(), Some(&b"answer"[..]));
        fs::write(folder.path().join("run/0"), b"answe").expect("room on the disk");
        assert_eq!(get(&spool), None);
        fs::write(folder.path().join("run/0"), b"answex").expect("room on the disk");
        assert_eq!(get(&spool), None);
        let far = Position { at: u64::MAX, length: u64::MAX, ..place };
        assert_eq!(spool.get("run", far, ""), None);
        spool.remove_run("run");
        assert_eq!(next.get("run", other, &digest(b"other")), None);
    }

    #[test]
    fn a_file_is_kept_as_long_as_one_of_its_answers() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = AnswerFiles::new(folder.path());
        let large = vec![7; (FULL / 2) as usize];
        let put = || spool.put("run", &large).expect("room on the disk");
        let (one, two, three) = (put(), put(), put());
        assert_eq!((one.file, two.file, three.file), (0, 0, 1));
        spool.remove("run", one);
        assert_eq!(files(folder.path()), ["0", "1"]);
        assert!(spool.get("run", two, &digest(&large)).is_some());
        spool.remove("run", two);
        assert_eq!(files(folder.path()), ["1"]);
        // Acknowledged before the file is full: it goes when it is.
        spool.remove("run", three);
        let four = put();
        assert_eq!(four.file, 1);
        spool.remove("run", four);
        assert_eq!(files(folder.path()), ["1"]);
        put();
        assert_eq!(files(folder.path()), ["2"]);
    }

    #[test]
    fn files_whose_acknowledgements_came_elsewhere_are_found_when_they_are_full() {
        let folder = tempfile::tempdir().expect("a folder");
        let (spool, other) = (AnswerFiles::new(folder.path()), AnswerFiles::new(folder.path()));
        let large = vec![7; FULL as usize];
        let put = |spool: &AnswerFiles| spool.put("run", &large).expect("room on the disk");
        let places = [put(&spool), put(&spool), put(&other), put(&spool)];
        assert_eq!(places.map(|place| place.file), [0, 1, 2, 3]);
        let small = other.put("run", b"small").expect("room on the disk");
        assert_eq!(small.file, 4);
        // Neither has written what the other hears of.
        other.remove("run", places[0]);
        spool.remove("run", places[2]);
        assert_eq!(files(folder.path()), ["0", "1", "2", "3", "4"]);
        assert!(other.full(Duration::from_hours(1)).is_empty());
        let mut full = other.full(Duration::ZERO);
        full[0].1.sort_unstable();
        assert_eq!(full, [("run".to_owned(), vec![0, 1, 2, 3])], "and not the last, which is filled");
        other.remove_files("run", &[0, 2]);
        assert_eq!(files(folder.path()), ["1", "3", "4"]);
        assert!(spool.get("run", places[1], &digest(&large)).is_some());
        // The number of one that is gone is not used again: who wrote it may count its answers still.
        assert_eq!(put(&spool).file, 5);
        spool.remove("run", places[1]);
        assert_eq!(files(folder.path()), ["3", "4", "5"]);
        spool.full(Duration::ZERO);
        let kept: Vec<u64> = spool.lock()["run"].kept.keys().copied().collect();
        assert_eq!(kept, [3, 5], "what another has removed is not counted");
    }

    #[test]
    fn the_last_file_of_a_run_stays_full_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = AnswerFiles::new(folder.path());
        let large = vec![7; FULL as usize];
        assert_eq!(spool.put("run", &large).expect("room on the disk").file, 0);
        assert!(spool.full(Duration::ZERO).is_empty());
        // Of a process that is gone.
        let next = AnswerFiles::new(folder.path());
        assert_eq!(next.put("run", b"small").expect("room on the disk").file, 1);
        assert_eq!(next.full(Duration::ZERO), [("run".to_owned(), vec![0])]);
    }
}
