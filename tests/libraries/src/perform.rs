//! The acts of a group, by a map or without one.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use std::{env, fs, io, process, thread};

use crate::acts::{Group, group};
use crate::compare::Side;

/// Files that come with the map: each by its name, with what is in it.
type Files = Vec<(String, Vec<u8>)>;

/// How often acts are mapped again that one side has not done.
const ROUNDS: usize = 10;
/// Items that make a map of two sides worth a service's while.
const ITEMS: usize = 100;
/// What an item takes beside its act where two sides are to share a map: those that end at once need no
/// service.
const LONGER: Duration = Duration::from_millis(40);

fn read(paths: &[&str]) -> io::Result<Files> {
    let read = |path: &&str| {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, fs::read(path)?))
    };
    paths.iter().map(read).collect()
}

fn known(name: &str) -> Result<&'static Group, Box<dyn Error>> {
    group(name).ok_or_else(|| format!("no group is named {name:?}").into())
}

/// Writes the files to where the function's own are, and does the act of this number.
fn perform(files: &Files, (group_of, number, longer): (String, usize, Duration)) -> (bool, String) {
    thread::sleep(longer);
    for (name, bytes) in files {
        let path = env::temp_dir().join(name);
        if !path.exists() {
            // Another process may do the same where the folder is not this worker's own.
            let part = env::temp_dir().join(format!("{name}-{}", process::id()));
            fs::write(&part, bytes).and_then(|()| fs::rename(&part, &path)).expect("room for a library");
        }
    }
    let act = group(&group_of).and_then(|group| group.acts().nth(number)).expect("an act of that number");
    let there = env::current_exe().is_ok_and(|path| path == Path::new("/app/worker"));
    (there, (act.act)().trim_end().replace('\n', " | "))
}

/// Prints a line for each item: its act, its side, and what the act said.
pub(crate) fn by_map(name: &str, copies: usize, paths: &[&str]) -> Result<(), Box<dyn Error>> {
    let both = env::var("FASTMAP_EXEC_POLICY").is_ok_and(|policy| policy == "adaptive");
    let longer = if both { LONGER } else { Duration::ZERO };
    let config = fastmap::init(fastmap::Options::new().item_timeout(Duration::from_mins(2)))?;
    let all: Vec<_> = known(name)?.acts().collect();
    let mut left: BTreeSet<usize> = (0..all.len()).collect();
    let mut done = BTreeSet::new();
    for _ in 0..ROUNDS {
        let copies = if both { copies.max(ITEMS / left.len()) } else { copies };
        let items: Vec<usize> = (0..copies).flat_map(|_| left.iter().copied()).collect();
        let given = items.iter().map(|number| (name.to_owned(), *number, longer));
        let answers = config.fastmap_with(read(paths)?, perform, given).label("libraries");
        for (number, answer) in items.iter().zip(answers) {
            let (side, said) = match answer {
                Ok((there, said)) => (if there { Side::Service } else { Side::Here }, said),
                Err(why) => (Side::Unknown, format!("failed: {why}").replace('\n', " | ")),
            };
            done.insert((*number, side == Side::Service));
            println!("{}\t{side}\t{said}", all[*number].name);
        }
        left.retain(|number| both && [true, false].iter().any(|there| !done.contains(&(*number, *there))));
        if left.is_empty() {
            break;
        }
    }
    Ok(())
}

/// The same without fastmap: what `map` would give.
pub(crate) fn plainly(name: &str, copies: usize, paths: &[&str]) -> Result<(), Box<dyn Error>> {
    let files = read(paths)?;
    let all = || known(name).map(|group| group.acts().enumerate());
    for (number, act) in (0..copies).map(|_| all()).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        // It would write to the system's folders, where nothing hinders it.
        if crate::data::ACTS.iter().any(|other| other.name == act.name) {
            continue;
        }
        let (_, said) = perform(&files, (name.to_owned(), number, Duration::ZERO));
        println!("{}\t{}\t{said}", act.name, Side::Here);
    }
    Ok(())
}
