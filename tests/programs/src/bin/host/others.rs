//! Maps whose function starts programs, this one among them, and a pool of another program.

use std::process::Command;

use fastmap::backends::{Local, LocalOptions};
use fastmap::{FastmapConfig, Options};
use fastmap_test_programs::report;

use crate::{Outcome, config};

#[allow(clippy::needless_pass_by_value, reason = "items are handed over by value")]
fn output(command: Vec<String>) -> String {
    let (program, arguments) = command.split_first().expect("a command has a program");
    // A program that starts itself finds its own path.
    let own = std::env::current_exe().expect("this program has a path");
    let program = if program == "self" { own.as_os_str() } else { program.as_ref() };
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => error.to_string(),
    }
}

/// Four items each start that program and give what it prints.
pub(crate) fn start(program: &str, arguments: &[String]) -> Outcome {
    let mut command = vec![program.to_owned()];
    command.extend_from_slice(arguments);
    for printed in config()?.fastmap(output, vec![command; 4]) {
        println!("printed {}", printed?.trim().replace('\n', "; "));
    }
    Ok(())
}

/// Maps and says what came.
pub(crate) fn squares(items: u64) -> Outcome {
    report(config()?.fastmap(|n: u64| n * n, 0..items), |n| n * n);
    Ok(())
}

/// Has another program started for its workers.
pub(crate) fn with_program(path: &str) -> Outcome {
    let mut options = LocalOptions::new(2);
    options.program = Some(path.into());
    let config: FastmapConfig = fastmap::init(Options::new().backend(Local::new(options)?))?;
    report(config.fastmap(|n: u64| n, 0..100), |n| n);
    Ok(())
}
