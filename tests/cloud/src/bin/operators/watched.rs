//! A map under way, whose results and words are seen as they come.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_test_cloud::Account;
use fastmap_test_programs::{LIMIT, Running};

use crate::place::Place;

/// A client waits for so long, and then some.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long a trouble lasts at least.
pub(crate) const LASTS: Duration = Duration::from_secs(6);

/// Where an account is reached, and by which certificate.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) account: Account,
    pub(crate) certificate: Option<PathBuf>,
}

/// What a trouble was like.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) noticed: (Duration, String),
    pub(crate) back: Duration,
}

/// A map and what came of it so far.
#[derive(Debug)]
pub(crate) struct Watched {
    running: Running,
    items: u64,
    seen: usize,
    results: u64,
    last: Instant,
    /// What the client has said.
    words: Vec<(Instant, String)>,
}

impl Client {
    /// Starts the program that maps; what it says on stderr is among its lines.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let host = Place::host();
        let words = [&["-c", "exec \"$0\" \"$@\" 2>&1", host.to_str().expect("text")], arguments].concat();
        let mut program = self.account.program("/bin/sh", &words);
        if let Some(certificate) = &self.certificate {
            program.env("SSL_CERT_FILE", certificate);
        }
        Running::start(&mut program)
    }

    /// What `fastmap dashboard` prints.
    pub(crate) fn link(&self, place: &Place) -> String {
        let mut fastmap = place.fastmap(&["dashboard", "--url", &self.account.url]);
        if let Some(certificate) = &self.certificate {
            fastmap.env("SSL_CERT_FILE", certificate);
        }
        let output = fastmap.env("FASTMAP_SECRET", &self.account.secret).output().expect("it can be started");
        let link = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(link.contains("/sign-in/"), "a link: {output:?}");
        link
    }

    /// Starts a map of items that sleep for so many milliseconds, and waits for its first results.
    pub(crate) fn watch(&self, items: u64, milliseconds: u64) -> Watched {
        let running = self.start(&["watched", &items.to_string(), &milliseconds.to_string()]);
        let now = Instant::now();
        let mut map = Watched { running, items, seen: 0, results: 0, last: now, words: Vec::new() };
        map.until("the first results", LIMIT, |map| (map.results >= 40).then_some(()));
        map
    }
}

impl Watched {
    /// Takes what has come.
    fn look(&mut self) {
        let now = Instant::now();
        for line in self.running.so_far().skip(self.seen) {
            self.seen += 1;
            if line.starts_with("told ") {
                self.results += 1;
                self.last = now;
            } else {
                self.words.push((now, line.to_owned()));
            }
        }
    }

    fn until<T>(&mut self, what: &str, limit: Duration, mut so: impl FnMut(&mut Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            self.look();
            if let Some(found) = so(self) {
                return found;
            }
            let (results, words) = (self.results, &self.words);
            assert!(begun.elapsed() < limit, "not within {limit:?}: {what}; {results} results, {words:#?}");
            assert!(!self.running.has_ended(), "the map has ended: {what}; {results} results, {words:#?}");
            sleep(Duration::from_millis(10));
        }
    }

    /// A warning of the client since then.
    pub(crate) fn warns(&self, since: Instant) -> Option<String> {
        let mut words = self.words.iter().filter(|(at, _)| *at > since).map(|(_, line)| line.as_str());
        let warning = words.find_map(|line| line.split_once("warning: "));
        warning.map(|(_, line)| format!("the client: “{line}”"))
    }

    /// Makes a trouble, waits until it is noticed and has lasted, ends it, and waits until results come
    /// again.
    pub(crate) fn trouble<S, E>(
        &mut self,
        begin: impl FnOnce() -> S,
        mut notice: impl FnMut(&Watched, Instant) -> Option<String>,
        end: impl FnOnce(S) -> E,
    ) -> (Met, E) {
        let begun = Instant::now();
        let state = begin();
        let said = self.until("that the trouble is noticed", PATIENCE, |map| notice(map, begun));
        let noticed = (begun.elapsed(), said);
        self.until("the end of the trouble", PATIENCE, |_| (begun.elapsed() > LASTS).then_some(()));
        let before = self.results;
        let ended = end(state);
        let over = Instant::now();
        let last = self
            .until("results after the trouble", PATIENCE, |map| (map.results > before).then_some(map.last));
        (Met { noticed, back: last.saturating_duration_since(over) }, ended)
    }

    /// Makes a trouble that others step in for, and gives how long a result was waited for at most.
    pub(crate) fn longest_wait(&mut self, make: impl FnOnce(), results: u64) -> Duration {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        make();
        let wanted = self.results + results;
        self.until("results after the trouble", PATIENCE, |map| {
            longest = longest.max(map.last.saturating_duration_since(last));
            last = last.max(map.last);
            (map.results >= wanted).then_some(())
        });
        longest
    }

    /// Waits for the end; each result has come once, in order.
    pub(crate) fn finish(mut self) {
        let wanted = self.items;
        let words = self
            .until("the end of the map", PATIENCE, |map| (map.results == wanted).then(|| map.words.clone()));
        let ended = self.running.finish();
        assert!(ended.status.success(), "{ended:#?}");
        assert!(!ended.stdout.iter().any(|line| line.starts_with("wrong")), "{words:#?}");
    }
}
