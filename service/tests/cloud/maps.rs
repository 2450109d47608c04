//! Maps that go to the cloud come out as those that stay here: values, order, failures, state. What workers print
//! comes, too, and nothing is uploaded twice.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use fastmap::{Error, ErrorKind, Fastmap, FastmapConfig};
use fastmap_backends::cloud::CloudOptions;
use fastmap_backends::{
    Backend, BatchBuilder, BatchId, Context, Descriptor, FunctionId, Job, JobId, Outcome, Run,
};

use crate::common::{Ear, Tenancy, cloud, config, local};

type Answer<R> = Result<R, (ErrorKind, Option<usize>)>;

fn answers<I: Iterator<Item = T>, T, R>(map: Fastmap<I, R>) -> Vec<Answer<R>>
where
    Fastmap<I, R>: Iterator<Item = Result<R, Error>>,
{
    map.map(|answer| answer.map_err(|error| (error.kind(), error.index()))).collect()
}

/// The same map here and there.
fn same<R: PartialEq + std::fmt::Debug>(
    options: CloudOptions,
    map: impl Fn(&FastmapConfig) -> Vec<Answer<R>>,
) {
    let (here, there) = (map(&local()), map(&config(options)));
    assert!(
        here == there,
        "{:?}",
        here.iter().zip(&there).enumerate().find(|(_, (here, there))| here != there)
    );
}

fn collatz(start: u64) -> (u64, u32) {
    let (mut n, mut steps) = (start, 0);
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    (start, steps)
}

#[test]
fn values_and_their_order_are_those_of_local() {
    let tenancy = Tenancy::shared();
    same(tenancy.options(), |config| answers(config.fastmap(collatz, 1..20_000)));
    let words = || (0..3000).map(|n| "word ".repeat(n % 50));
    same(tenancy.options(), |config| answers(config.fastmap(|word: String| word.to_uppercase(), words())));
}

#[test]
fn compressed_on_the_way_they_are_the_same() {
    let tenancy = Tenancy::shared();
    let options = CloudOptions { compress: Some(true), ..tenancy.options() };
    let words = || (0..3000).map(|n| "word ".repeat(n % 50));
    same(options, |config| answers(config.fastmap(|word: String| word.len(), words())));
}

#[test]
fn panics_stand_at_their_items() {
    let tenancy = Tenancy::shared();
    let odd = |n: u64| {
        assert!(n % 7 != 3, "{n} is not for me");
        n
    };
    same(tenancy.options(), |config| answers(config.fastmap(odd, 0..500)));
    let error =
        config(tenancy.options()).fastmap(odd, [3u64]).next().expect("an answer").expect_err("a panic");
    assert!(error.to_string().contains("3 is not for me"), "{error}");
}

#[test]
fn contexts_and_states_reach_the_function() {
    let tenancy = Tenancy::shared();
    let table: BTreeMap<u64, String> = (0..5000).map(|n| (n, format!("number {n}"))).collect();
    same(tenancy.options(), |config| {
        answers(config.fastmap_with(
            table.clone(),
            |table: &BTreeMap<u64, String>, n: u64| table[&n].clone(),
            0..2000,
        ))
    });
    same(tenancy.options(), |config| {
        answers(config.fastmap_init(|| vec![1u64; 10], |state: &mut Vec<u64>, n: u64| state[0] + n, 0..500))
    });
}

#[test]
fn items_that_crash_or_run_too_long_cost_themselves_alone() {
    let tenancy = Tenancy::shared();
    let fragile = |n: u32| {
        match n {
            17 => std::process::abort(),
            80 => std::process::exit(3),
            150 => std::thread::sleep(Duration::from_mins(1)),
            _ => {}
        }
        n + 1
    };
    same(tenancy.options(), |config| {
        answers(config.fastmap(fragile, 0..200).item_timeout(Duration::from_millis(500)))
    });
}

#[test]
fn a_function_that_can_not_be_prepared_ends_the_map_with_its_own_words() {
    let tenancy = Tenancy::shared();
    let init = || -> u64 { panic!("no such table") };
    let mut map = config(tenancy.options()).fastmap_init(init, |state: &mut u64, n: u64| *state + n, 0..10);
    let error = map.next().expect("an answer").expect_err("nothing can be prepared");
    assert_eq!(error.kind(), ErrorKind::Panic);
    assert!(error.to_string().contains("no such table"), "{error}");
    assert!(map.next().is_none());
}

#[test]
fn what_workers_print_is_handed_on() {
    let tenancy = Tenancy::shared();
    let ear = Ear::default();
    let options = CloudOptions { relay: Arc::new(ear.clone()), ..tenancy.options() };
    let speak = |n: u64| {
        println!("to stdout: {n}");
        eprintln!("to stderr: {n}");
        n
    };
    let config = config(options);
    assert_eq!(config.fastmap(speak, 0..20).count(), 20);
    for n in 0..20 {
        for line in [format!("Stdout to stdout: {n}\n"), format!("Stderr to stderr: {n}\n")] {
            assert!(ear.has_heard(&line), "{line:?} is missing in {:?}", ear.heard());
        }
    }
}

/// The host's logger: keeps what comes.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<String>>);

impl log::Log for Kept {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {} {}", record.level(), record.target(), record.args());
        self.0.lock().expect("no panic").push(line);
    }

    fn flush(&self) {}
}

#[test]
fn what_functions_log_comes_to_the_hosts_logger_as_without_a_service() {
    static KEPT: LazyLock<Kept> = LazyLock::new(Kept::default);
    log::set_logger(&*KEPT).expect("no other test sets one");
    let tenancy = Tenancy::shared();
    let speak = |n: u64| {
        log::warn!(target: "of_the_function", "item {n}");
        log::log_enabled!(log::Level::Warn)
    };
    for (config, first) in [(config(tenancy.options()), 0), (local(), 100)] {
        // The level travels with each batch: nothing is sent that the host does not want.
        for (level, logged) in [(log::LevelFilter::Off, 0), (log::LevelFilter::Info, 20)] {
            log::set_max_level(level);
            let told = config.fastmap(speak, first..first + 20).filter(|told| matches!(told, Ok(true)));
            assert_eq!(told.count(), logged);
        }
        for n in first..first + 20 {
            let wanted = |line: &String| {
                line.starts_with("WARN of_the_function [worker-") && line.ends_with(&format!("] item {n}"))
            };
            let kept = KEPT.0.lock().expect("no panic");
            assert_eq!(kept.iter().filter(|line| wanted(line)).count(), 1, "{n}: {kept:?}");
        }
    }
}

#[test]
fn the_program_and_a_context_are_uploaded_once() {
    let tenancy = Tenancy::start(&[]);
    let uploads = |parts: &Ear| parts.heard().iter().filter(|line| line.starts_with("uploading")).count();
    let map = |config: &FastmapConfig| {
        let numbers: Vec<u32> = (0..100_000).collect();
        let map = config.fastmap_with(numbers, |numbers: &Vec<u32>, n: usize| numbers[n], 0..100);
        assert_eq!(map.collect::<Result<Vec<_>, _>>().expect("values"), (0..100).collect::<Vec<_>>());
    };
    let first = Ear::default();
    let one = config(CloudOptions { notices: Arc::new(first.clone()), ..tenancy.options() });
    map(&one);
    let seen = uploads(&first);
    assert!(first.has_heard("uploading the executable") && first.has_heard("uploading the context"));
    // By the same client, and by one that knows nothing yet.
    map(&one);
    assert_eq!(uploads(&first), seen);
    let second = Ear::default();
    map(&config(CloudOptions { notices: Arc::new(second.clone()), ..tenancy.options() }));
    assert_eq!(uploads(&second), 0, "{:?}", second.heard());
    assert!(second.has_heard("the account a is charged automatically"), "{:?}", second.heard());
}

/// A run of a function that is never called.
fn open(options: CloudOptions) -> (JobId, Box<dyn Run>) {
    static NEVER: Descriptor = Descriptor::new(|| "never", |_| unreachable!("no item can be sent"));
    let job = Job {
        id: JobId::next(),
        function: FunctionId::of(&NEVER),
        context: Context::default(),
        label: Some("é".repeat(150)),
        items: None,
        item_timeout: None,
        fail_fast: false,
        cancel_running: false,
    };
    (job.id, cloud(options).open(Arc::new(job)).expect("a run"))
}

#[test]
fn an_item_that_the_service_does_not_take_is_answered_by_why() {
    let tenancy = Tenancy::shared();
    let (job, mut run) = open(tenancy.options());
    let mut builder = BatchBuilder::new(Some(65 << 20));
    builder.buffer().extend(std::iter::repeat_n(0, 65 << 20));
    builder.added(1);
    run.submit(builder.finish(job, BatchId(1), 0, 1)).expect("there is room");
    let answer = run.poll(Instant::now() + crate::server::LIMIT).expect("no end").expect("an answer");
    let Outcome::Done(results) = answer.outcome else { panic!("{answer:?}") };
    let message = &results.failures[0].message;
    assert!(message.contains("68157440 bytes") && message.contains("67108864"), "{message}");
    assert_eq!(run.close().microcredits, 0);
}
