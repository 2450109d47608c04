//! The host of a round: runs the maps of its plan, looks at every answer, and at what it holds when all is dropped.
//! Says in lines what came; `round`, which started it, reads them.

use std::fs::read_dir;
use std::path::Path;
use std::process::id;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use fastmap::{Error, ErrorKind, ExecPolicy, Fastmap, FastmapConfig, Options, Verbosity};
use fastmap_test_programs::{children, status_number};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::de::DeserializeOwned;

use crate::items::{Item, answer, item, right, tiny, tiny_answer, tiny_right};
use crate::plan::{Consumer, Fault, Hardship, MapPlan, Mode, Plan, Shape, Shortage, Together};
use crate::round::CHECKPOINTS;

/// What came of an item: its place, and whether it is what it should be.
type Heard = (Option<u64>, Result<bool, Error>);
type Answers<'a> = Box<dyn Iterator<Item = Heard> + 'a>;

pub(crate) fn run(plan: &Plan) -> Result<(), Error> {
    std::env::set_current_dir(std::env::temp_dir()).expect("it is there");
    let (files, threads) = held();
    let mut options = Options::new()
        .exec_policy(ExecPolicy::Local)
        .verbosity(Verbosity::Quiet)
        .local_processes(plan.processes);
    if let Some(bytes) = plan.read_ahead {
        options = options.read_ahead(bytes);
    }
    if let Some(limit) = plan.item_timeout {
        options = options.item_timeout(limit);
    }
    let config = fastmap::init(options)?;
    let over = AtomicBool::new(false);
    scope(|threads| {
        if let Some(hardship) = plan.hardship {
            let over = &over;
            threads.spawn(move || suffer(hardship, over));
        }
        maps(plan, &config);
        over.store(true, Ordering::Relaxed);
    });
    drop(config);
    left(files, threads);
    println!("end");
    Ok(())
}

fn maps(plan: &Plan, config: &FastmapConfig) {
    let spoiled = plan.hardship.is_some();
    let tally = |(number, map)| Tally::new(map, number, spoiled, plan.small_disk.is_some());
    let mut tallies: Vec<Tally<'_>> = plan.maps.iter().enumerate().map(tally).collect();
    match plan.together {
        Together::InTurn => tallies.iter_mut().for_each(|tally| tally.run(config)),
        Together::Threads => scope(|threads| {
            for tally in &mut tallies {
                threads.spawn(move || tally.run(config));
            }
        }),
        Together::Zipped => {
            let each = plan.maps.iter().enumerate();
            let mut all: Vec<Answers<'_>> = each.map(|(number, map)| answers(config, map, number)).collect();
            let mut live = true;
            while live {
                live = false;
                for (answers, tally) in all.iter_mut().zip(&mut tallies) {
                    live |= tally.step(answers);
                }
            }
        }
    }
    for tally in &tallies {
        let Tally { heard, failed, blamed, cut, .. } = tally;
        println!("items {heard} lethal {failed} blamed {blamed} cut {}", u64::from(*cut));
    }
}

/// Counts the answers of one map.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what was refused, and how it went, are facts of their own"
)]
struct Tally<'a> {
    plan: &'a MapPlan,
    /// Which of the round's maps it is.
    number: usize,
    /// The disk may be full.
    small_disk: bool,
    /// Something was refused to the host: the map may end early, by one error.
    spoiled: bool,
    seen: Vec<bool>,
    heard: u64,
    failed: u64,
    /// Items in which worker after worker was killed, and that were taken for the cause.
    blamed: u64,
    cut: bool,
    ended: bool,
}

impl<'a> Tally<'a> {
    fn new(plan: &'a MapPlan, number: usize, spoiled: bool, small_disk: bool) -> Self {
        let seen = vec![false; plan.items as usize];
        Tally {
            plan,
            number,
            small_disk,
            spoiled,
            seen,
            heard: 0,
            failed: 0,
            blamed: 0,
            cut: false,
            ended: false,
        }
    }

    fn run(&mut self, config: &FastmapConfig) {
        let mut answers = answers(config, self.plan, self.number);
        while self.step(&mut answers) {}
    }

    /// Takes one answer; false when there is none to be taken any more.
    fn step(&mut self, answers: &mut Answers<'_>) -> bool {
        if self.ended {
            return false;
        }
        match self.plan.consumer {
            Consumer::Leaves(after) if self.heard >= after => {
                self.ended = true;
                // As a consumer leaves: the map is dropped in the middle of things.
                *answers = Box::new(std::iter::empty());
                return false;
            }
            Consumer::Pauses(each) if self.heard % each == each - 1 => sleep(Duration::from_millis(20)),
            _ => {}
        }
        match answers.next() {
            Some(heard) => self.hear(heard),
            None => {
                self.ended = true;
                if !self.cut && self.heard != self.plan.items {
                    println!("wrong: {} answers to {} items", self.heard, self.plan.items);
                }
            }
        }
        !self.ended
    }

    fn hear(&mut self, (place, outcome): Heard) {
        if self.cut {
            println!("wrong: an answer behind the error that ended the map");
        }
        if let Err(error) = &outcome
            && error.index().is_none()
        {
            self.cut = true;
            let refused = self.spoiled && [ErrorKind::AllWorkersDied, ErrorKind::Io].contains(&error.kind());
            let unrecorded = self.plan.checkpoint
                && error.kind() == ErrorKind::Checkpoint
                && (self.small_disk && error.to_string().contains("No space left")
                    || self.spoiled && !error.to_string().contains("changed"));
            if !refused && !unrecorded {
                println!("wrong: the map ended by {error:?}");
            }
            return;
        }
        let ordered = self.plan.mode != Mode::Unordered;
        let place = place.unwrap_or(u64::MAX);
        match self.seen.get_mut(place as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => println!("wrong: an answer to {place}, which was answered or is no item"),
        }
        if ordered && place != self.heard {
            println!("wrong: {place} where {} should come", self.heard);
        }
        self.heard += 1;
        let fault = self.plan.lethal.get(&place);
        // One that hangs is there to be hit, and whose worker is killed four times is taken for the cause.
        let hanging = fault == Some(&Fault::Hang);
        let wanted = fault.map(|fault| match fault {
            Fault::Panic => ErrorKind::Panic,
            Fault::Hang => ErrorKind::Timeout,
            _ => ErrorKind::Crash,
        });
        match (outcome, wanted) {
            (Ok(true), None) => {}
            (Err(error), Some(kind))
                if error.index() == Some(place as usize)
                    && (error.kind() == kind || hanging && error.kind() == ErrorKind::Crash) =>
            {
                self.failed += 1;
            }
            // By design after the fourth kill from outside in the same item: `round` compares it with the kills.
            (Err(error), None)
                if error.index() == Some(place as usize)
                    && error.kind() == ErrorKind::Crash
                    && error.to_string().contains("SIGKILL") =>
            {
                self.blamed += 1;
            }
            (outcome, wanted) => println!("wrong: item {place} is {outcome:?}, should fail: {wanted:?}"),
        }
    }
}

fn answers<'a>(config: &FastmapConfig, plan: &'a MapPlan, number: usize) -> Answers<'a> {
    let listen = Listener { plan, number };
    let whole = |n: u64, answer: &_| right(plan, n, answer);
    let small = |n: u64, answer: &u64| tiny_right(n, *answer);
    if plan.shape == Shape::Tiny {
        let input = (0..plan.items).map(|n| tiny(plan, n));
        return match plan.mode {
            Mode::Context(bytes) => {
                let context = vec![7u8; bytes];
                listen.to(config.fastmap_with(context, tiny_beside, input), small)
            }
            Mode::State => listen.to(config.fastmap_init(state, tiny_counted, input), small),
            _ => listen.to(config.fastmap(tiny_answer, input), small),
        };
    }
    let input = (0..plan.items).map(|n| item(plan, n));
    match plan.mode {
        Mode::Context(bytes) => listen.to(config.fastmap_with(vec![7u8; bytes], beside, input), whole),
        Mode::State => listen.to(config.fastmap_init(state, counted, input), whole),
        _ => listen.to(config.fastmap(answer, input), whole),
    }
}

fn state() -> Vec<u64> {
    Vec::new()
}

fn tiny_counted(state: &mut Vec<u64>, item: u64) -> u64 {
    state.push(item);
    tiny_answer(item)
}

fn counted(state: &mut Vec<u64>, item: Item) -> crate::items::Answer {
    state.push(0);
    answer(item)
}

#[allow(clippy::ptr_arg, reason = "a context comes as what it was handed in as")]
fn tiny_beside(context: &Vec<u8>, item: u64) -> u64 {
    assert!(context.iter().step_by(1 << 16).all(|byte| *byte == 7), "another context");
    tiny_answer(item)
}

#[allow(clippy::ptr_arg, reason = "a context comes as what it was handed in as")]
fn beside(context: &Vec<u8>, item: Item) -> crate::items::Answer {
    assert!(context.iter().step_by(1 << 16).all(|byte| *byte == 7), "another context");
    answer(item)
}

/// Asks a map for its answers as the plan says.
struct Listener<'a> {
    plan: &'a MapPlan,
    number: usize,
}

impl<'a> Listener<'a> {
    fn to<I, R>(self, map: Fastmap<I, R>, right: impl Fn(u64, &R) -> bool + Copy + 'a) -> Answers<'a>
    where
        I: Iterator + 'a,
        R: DeserializeOwned + 'a,
    {
        let Listener { plan, number } = self;
        let mut map = map.retries(plan.retries);
        if plan.checkpoint {
            map = map.checkpoint(Path::new(CHECKPOINTS).join(number.to_string()));
        }
        let mut at = 0;
        let mut place = move || {
            at += 1;
            at - 1
        };
        match plan.mode {
            Mode::Unordered => Box::new(map.unordered().map(move |answer| match answer {
                Ok((index, value)) => (Some(index as u64), Ok(right(index as u64, &value))),
                Err(error) => (error.index().map(|index| index as u64), Err(error)),
            })),
            Mode::Batches => Box::new(map.batches().flat_map(move |batch| {
                match batch {
                    Ok(values) => values
                        .iter()
                        .map(|value| {
                            let place = place();
                            (Some(place), Ok(right(place, value)))
                        })
                        .collect::<Vec<Heard>>(),
                    Err(error) => vec![(Some(place()), Err(error))],
                }
            })),
            _ => Box::new(map.map(move |answer| {
                let place = place();
                (Some(place), answer.map(|value| right(place, &value)))
            })),
        }
    }
}

/// Has the system refuse this process something, for a while or until the maps are over.
fn suffer(hardship: Hardship, over: &AtomicBool) {
    let pause = |time: Duration| {
        let begun = Instant::now();
        while begun.elapsed() < time && !over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(2));
        }
    };
    pause(hardship.begins);
    let (resource, limit) = match hardship.shortage {
        Shortage::Descriptors => (Resource::RLIMIT_NOFILE, held().0 + 3),
        Shortage::Processes => (Resource::RLIMIT_NPROC, 1),
        // Not enough for what a worker shares with its host, and enough for small things.
        Shortage::Memory => (Resource::RLIMIT_AS, status_number("self", "VmSize") * 1024 + (6 << 20)),
    };
    let Ok((soft, hard)) = getrlimit(resource) else { return };
    if setrlimit(resource, limit, hard).is_ok() {
        pause(hardship.lasts);
        setrlimit(resource, soft, hard).expect("what was lowered may be raised again");
    }
}

/// Descriptors and threads of this process.
fn held() -> (u64, u64) {
    let files = read_dir("/proc/self/fd").map_or(u64::MAX, |files| files.count() as u64);
    (files, status_number("self", "Threads"))
}

/// Everything is dropped: nothing may be left. A thread that is not joined gets a moment to end.
fn left(files: u64, threads: u64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let now = held();
        let processes = children(id().cast_signed());
        if now.0 <= files && now.1 <= threads && processes.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            return println!("wrong: left {now:?} of {:?}, processes {processes:?}", (files, threads));
        }
        sleep(Duration::from_millis(2));
    }
}
