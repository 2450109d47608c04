//! What is charged: what the bill says, never more than allowed, and what was paid for is delivered.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use fastmap_backends::cloud::{Cloud, CloudOptions};
use fastmap_backends::{Backend, BackendError, Receipt, Run};

use crate::common::{Tenancy, cause, config};
use crate::server::until;

fn grow(n: u32) -> Vec<u8> {
    vec![n as u8; 100_000]
}

/// How many items were answered by their values before the map ended, and the error that ended it.
fn until_error(options: CloudOptions) -> (u32, fastmap::Error) {
    let mut values = 0;
    let mut last = None;
    for (n, answer) in (0..).zip(config(options).fastmap(grow, 0..100_000)) {
        match answer {
            Ok(value) => {
                assert_eq!(value, grow(n));
                values += 1;
            }
            // Items that could not be paid, where some behind them were.
            Err(error) => last = Some(error),
        }
    }
    (values, last.expect("it can't be paid to the end"))
}

#[test]
fn when_the_account_is_empty_what_was_paid_for_comes_first() {
    // Bytes are dear: an item costs 0.01 credits.
    let tenancy = Tenancy::with_credits(&["--price-result-gb", "100"], "1");
    let (values, error) = until_error(tenancy.options());
    assert!(matches!(cause(&error), BackendError::OutOfCredits(_)), "{error:?}");
    assert!(error.to_string().contains("fastmap credits add"), "{error}");
    tenancy.server.audit();
    let left = tenancy.server.balance("a");
    assert!((0..300_000).contains(&left), "{left} left");
    let paid = (1_000_000 - left) / 10_000;
    // What an item goes beyond its reservation is the service's.
    assert!((-15..=1).contains(&(paid - i64::from(values))), "{paid} paid, {values} delivered");
}

#[test]
fn a_run_spends_no_more_than_its_cap() {
    let tenancy = Tenancy::start(&["--price-result-gb", "100"]);
    let options = CloudOptions { max_credits: Some(500_000), ..tenancy.options() };
    let (values, error) = until_error(options);
    assert!(matches!(cause(&error), BackendError::OutOfCredits(_)), "{error:?}");
    assert!(error.to_string().contains("FASTMAP_MAX_CREDITS"), "{error}");
    let spent = tenancy.spent();
    assert!((300_000..=500_000).contains(&spent), "{spent} spent");
    assert!((-15..=1).contains(&(spent / 10_000 - i64::from(values))), "{spent} spent, {values} delivered");
}

fn grow_large(n: u32) -> Vec<u8> {
    vec![n as u8; 8_000_000]
}

#[test]
fn results_larger_than_what_their_batch_was_granted_come_whole_and_are_paid() {
    let tenancy = Tenancy::start(&[]);
    let values: Vec<Vec<u8>> =
        config(tenancy.options()).fastmap(grow_large, 0..6).collect::<Result<_, _>>().expect("credits");
    assert!((0..).zip(&values).all(|(n, value)| *value == grow_large(n)) && values.len() == 6);
    assert!(tenancy.spent() >= 6 * 80_000, "{}", tenancy.spent());
    tenancy.server.audit();
}

/// Waits for a file `go`, unless it was called with that name before.
fn once_and_for_all((folder, name): (String, String)) -> String {
    let folder = Path::new(&folder);
    if File::create_new(folder.join(&name)).is_ok() {
        until("the word to go on", || folder.join("go").exists().then_some(()));
    }
    name
}

#[test]
fn a_batch_that_was_cut_for_what_others_held_is_paid_when_they_have_given_it_back() {
    // A second costs a credit, and each batch wants to be able to use 16 of them.
    let tenancy =
        Tenancy::start(&["--price-cpu-hour", "3600", "--price-result-gb", "0", "--batch-cpu", "16"]);
    let folder = tempfile::tempdir().expect("a folder");
    let item = |name: &str| (folder.path().to_str().expect("text").to_owned(), name.to_owned());
    let amount = |name: &str| tenancy.runs().first().and_then(|run| run[name].as_i64()).unwrap_or(0);
    let (sender, input) = channel();
    let config = config(tenancy.options());
    let map = std::thread::spawn(move || {
        config.fastmap(once_and_for_all, input).collect::<Result<Vec<String>, _>>()
    });
    sender.send(item("first")).expect("the map reads on");
    until("the reservation of the first", || (amount("held") > 0).then_some(()));
    // Beside it four are left, a quarter of which the second gets: one, which pays four seconds on the clock.
    tenancy.server.json(&["credits", "add", "a", "-980"]);
    sender.send(item("second")).expect("the map reads on");
    until("the end of what the second may use", || (amount("spent") > 0).then_some(()));
    fs::write(folder.path().join("go"), "").expect("room on the disk");
    drop(sender);
    let names = map.join().expect("no panic").expect("there are credits");
    assert_eq!(names, ["first", "second"]);
    let spent = amount("spent");
    assert!((1_000_000..2_000_000).contains(&spent), "{spent}: one was used up, and next to nothing else");
    tenancy.server.audit();
}

/// Keeps the last receipt of a backend's runs.
#[derive(Debug)]
struct Billed(Cloud, Arc<std::sync::Mutex<Option<Receipt>>>);

struct BilledRun(Box<dyn Run>, Arc<std::sync::Mutex<Option<Receipt>>>);

impl Backend for Billed {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn open(&self, job: Arc<fastmap_backends::Job>) -> Result<Box<dyn Run>, BackendError> {
        Ok(Box::new(BilledRun(self.0.open(job)?, Arc::clone(&self.1))))
    }
}

impl Run for BilledRun {
    fn capacity(&mut self) -> fastmap_backends::Capacity {
        self.0.capacity()
    }

    fn submit(&mut self, batch: fastmap_backends::Batch) -> Result<(), fastmap_backends::SubmitError> {
        self.0.submit(batch)
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<fastmap_backends::Completion>, BackendError> {
        self.0.poll(deadline)
    }

    fn cancel(&mut self, batch: fastmap_backends::BatchId) {
        self.0.cancel(batch);
    }

    fn close(self: Box<Self>) -> Receipt {
        let receipt = self.0.close();
        *self.1.lock().expect("no panic") = Some(receipt);
        receipt
    }
}

#[test]
fn the_receipt_is_what_the_ledger_says() {
    let tenancy = Tenancy::start(&[]);
    let receipt = Arc::default();
    let cloud = Cloud::new(tenancy.options()).expect("an address");
    let options = fastmap::Options::new().exec_policy(fastmap::ExecPolicy::Local);
    let options = options.verbosity(fastmap::Verbosity::Quiet).backend(Billed(cloud, Arc::clone(&receipt)));
    let config = fastmap::init(options).expect("options");
    let map = config.fastmap(grow, 0..300).label("paid");
    assert_eq!(map.flatten().count(), 300);
    let receipt = receipt.lock().expect("no panic").expect("the run was closed");
    let spent = tenancy.spent();
    assert!(spent > 0);
    assert_eq!(receipt, Receipt { microcredits: spent as u64, balance: Some(1_000_000_000 - spent) });
    let run = &tenancy.runs()[0];
    assert_eq!((run["state"].as_str(), run["label"].as_str()), (Some("done"), Some("paid")), "{run}");
}
