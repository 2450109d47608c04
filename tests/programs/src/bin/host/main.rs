//! A program that maps, in the ways that its first argument names. The tests start it, signal it and read its output.

mod adverse;
mod checkpoint;
mod confined;
mod context;
mod descriptors;
mod faults;
mod lifetime;
mod measures;
mod others;
mod parts;
mod printed;
mod shown;

use std::env;
use std::error::Error;

use fastmap::{FastmapConfig, Options};
use nix::sys::signal::{SigHandler, Signal, signal};

type Outcome = Result<(), Box<dyn Error>>;

/// With the options that the environment gives.
fn config() -> Result<FastmapConfig, fastmap::Error> {
    fastmap::init(Options::new())
}

fn run(scenario: &str, rest: &[String]) -> Outcome {
    let number = |at: usize| rest.get(at).map_or(Ok(0), |text| text.parse::<u64>());
    let text = |at: usize| rest.get(at).map_or("", String::as_str);
    match scenario {
        "faults" => faults::faults(text(0), number(1)?, number(2)?, number(3)?),
        "dumps" => faults::dumps(),
        "slow" => faults::slow(number(0)?, number(1)?),
        "sparse" => faults::sparse(number(0)?, number(1)?),
        "until-file" => faults::until_file(text(0)),
        "greedy" => faults::greedy(text(0)),
        "stopped-idle" => faults::stopped_idle(text(0)),
        "send-limits" => lifetime::send_limits(),
        "library-ends" => faults::library_ends(number(0)?),
        "leaves" => lifetime::leaves(text(0)),
        "own-errors" => confined::own_errors(),
        "stack" => confined::stack(),
        "init-abort" => faults::init_abort(),
        "init-limit" => faults::init_limit(number(0)?),
        "hold" => lifetime::hold(text(0)),
        "drop" => lifetime::drop_config(),
        "global" => lifetime::global(number(0)?, text(1)),
        "handles" => lifetime::handles(text(0)),
        "ends-children" => lifetime::ends_children(),
        "forks" => lifetime::forks(),
        "serve" => lifetime::serve(),
        "inside" => lifetime::inside(),
        "lines" => lifetime::lines(number(0)?),
        "logs" => lifetime::logs(),
        "prints" => printed::prints(text(0), number(1)?, number(2)?, text(3)),
        "levels" => printed::levels(),
        "panics" => printed::panics(),
        "shown" => shown::shown(number(0)?, number(1)?, number(2)?),
        "long-labels" => shown::long_labels(number(0)?),
        "end-suspended" => shown::end_suspended(text(0)),
        "timed" => shown::timed(number(0)?, number(1)?),
        "timed-cost" => shown::timed_cost(number(0)?),
        "timed-twice" => shown::timed_twice(text(0)),
        "start" => others::start(text(0), &rest[1..]),
        "squares" => others::squares(number(0)?),
        "with-program" => others::with_program(text(0)),
        "maps" => measures::maps(number(0)?),
        "configs" => measures::configs(number(0)?),
        "dropped" => measures::dropped(number(0)?),
        "contexts" => measures::contexts(number(0)?),
        "context" => context::context(text(0), number(1)? as usize),
        "stopped" => measures::stopped(number(0)?),
        "stuck" => measures::stuck(),
        "results" => measures::results(number(0)?),
        "stream" => measures::stream(number(0)?),
        "one" => measures::one(number(0)?),
        "zipped" => measures::zipped(),
        "init-panics" => adverse::init_panics(),
        "stdout-held" => adverse::stdout_held(number(0)?),
        "stdout-unread" => adverse::stdout_unread(number(0)?),
        "gives-up-root" => adverse::gives_up_root(text(0)),
        "stdout-full" => adverse::stdout_full(number(0)?),
        "logger-panics" => adverse::logger_panics(number(0)?),
        "soft-limited" => descriptors::soft_limited(number(0)?, number(1)?),
        "without-standard" => descriptors::without_standard(text(0), text(1)),
        "constructor-log" => descriptors::constructor_log(number(0)?),
        "deep" => descriptors::deep(number(0)?),
        "few-descriptors" => adverse::few_descriptors(number(0)?, number(1)?),
        "anything" => {
            adverse::report_all(number(0)?);
            Ok(())
        }
        "no-pidfd" => adverse::no_pidfd(),
        "no-folders" => adverse::no_folders(number(0)?),
        "left-in-init" => adverse::left_in_init(),
        "drop-blocks" => adverse::clinging_state::<true>(number(0)?),
        "drop-panics" => adverse::clinging_state::<false>(number(0)?),
        "idle-killed" => adverse::idle_killed(text(0), number(1)?),
        "no-more-workers" => adverse::no_more_workers(),
        "long-messages" => adverse::long_messages(number(0)?),
        "passed-on" => adverse::passed_on(number(0)?),
        "checkpoint" => checkpoint::checkpoint(text(0), text(1), number(2)?, number(3)?, &rest[4..]),
        "recorded" => checkpoint::recorded(text(0), number(1)?, number(2)?, number(3)?),
        "breach" => confined::breach(text(0), number(1)?),
        "breach-in-init" => confined::breach_in_init(text(0)),
        "kernel-without" => confined::kernel_without(text(0)),
        "moves-beside-orphan" => adverse::moves_beside_orphan(text(0), number(1)?, number(2)? as usize),
        other => Err(format!("no scenario {other:?}").into()),
    }
}

/// What the variable `SIGNALS` asks for: surroundings that programs inherit or make for themselves.
fn settle_signals() -> nix::Result<()> {
    let wish = env::var("SIGNALS").unwrap_or_default();
    for (name, number, handler) in [
        ("ignore-sigchld", Signal::SIGCHLD, SigHandler::SigIgn),
        ("default-sigpipe", Signal::SIGPIPE, SigHandler::SigDfl),
    ] {
        if wish.contains(name) {
            // SAFETY: both are the kernel's own handlers.
            unsafe { signal(number, handler) }?;
        }
    }
    Ok(())
}

fn main() -> Outcome {
    // Before `enter`, so that workers are counted as well.
    fastmap_test_programs::count_this_process();
    fastmap::enter();
    settle_signals()?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (scenario, rest) = arguments.split_first().ok_or("the first argument is a scenario")?;
    run(scenario, rest)
}
