//! Answers on the disk, beside the database: a file for each, in a folder for each run. The database holds their
//! digests, so that a file that is cut short or gone is noticed, and its batch run again at no charge.
//! Called by the gateway from its tasks; the calls wait for the disk's cache, not for the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use fastmap_backends::cloud::digest;

/// The folder of answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool(PathBuf);

impl Spool {
    /// Answers in that folder.
    pub fn new(folder: &Path) -> Self {
        Spool(folder.to_owned())
    }

    fn folder(&self, run: &str) -> PathBuf {
        self.0.join(run)
    }

    fn file(&self, run: &str, seq: u64) -> PathBuf {
        self.folder(run).join(seq.to_string())
    }

    /// Keeps an answer; one that was there is replaced.
    ///
    /// # Errors
    /// If the disk refuses; nothing of it stays then.
    pub fn put(&self, run: &str, seq: u64, answer: &[u8]) -> io::Result<()> {
        let file = self.file(run, seq);
        let written = fs::write(&file, answer).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                fs::create_dir_all(self.folder(run)).and_then(|()| fs::write(&file, answer))
            }
            _ => Err(error),
        });
        if written.is_err() {
            let _absent = fs::remove_file(&file);
        }
        written
    }

    /// An answer that hashes to `wanted`; `None` where it is not there as it was.
    pub fn get(&self, run: &str, seq: u64, wanted: &str) -> Option<Bytes> {
        let answer = fs::read(self.file(run, seq)).ok()?;
        (digest(&answer) == wanted).then(|| answer.into())
    }

    /// Forgets an answer.
    pub fn remove(&self, run: &str, seq: u64) {
        let _absent = fs::remove_file(self.file(run, seq));
    }

    /// Forgets all answers of a run.
    pub fn remove_run(&self, run: &str) {
        let _absent = fs::remove_dir_all(self.folder(run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answers_of_a_run_may_come_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::new(folder.path());
        for run in 0..50 {
            let put = |seq| spool.put(&format!("run{run}"), seq, b"answer").expect("room on the disk");
            let begin = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for seq in 0..4 {
                    let begin = &begin;
                    scope.spawn(move || {
                        begin.wait();
                        put(seq);
                    });
                }
            });
        }
    }

    #[test]
    fn an_answer_is_given_as_it_was_put_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::new(folder.path());
        spool.put("run", 7, b"answer").expect("room on the disk");
        assert_eq!(spool.get("run", 7, &digest(b"answer")).as_deref(), Some(&b"answer"[..]));
        fs::write(folder.path().join("run/7"), b"answe").expect("room on the disk");
        assert_eq!(spool.get("run", 7, &digest(b"answer")), None);
        spool.put("run", 7, b"answer").expect("room on the disk");
        spool.remove_run("run");
        assert_eq!(spool.get("run", 7, &digest(b"answer")), None);
    }
}
