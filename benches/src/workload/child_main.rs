//! The other side of a child process: does what its arguments name.

use super::{crash, instructions, memory, start};
use crate::functions::turns;
use crate::measure::Entry;
use std::time::Duration;

/// What a child process does: `words` are what follows `CHILD`.
pub(crate) fn child(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse().expect("the harness writes numbers");
    match *words.as_slice() {
        ["start", contestant] => run_one(start::children(), contestant),
        ["crash", contestant, case] => run_one(crash::children(case), contestant),
        ["memory", contestant, count] => run_one(memory::children(number(count)), contestant),
        ["instructions", contestant, count] => run_one(instructions::children(number(count)), contestant),
        ["small", contestant, maps, items, turns] => {
            run_one(instructions::small(number(maps), number(items), number(turns)), contestant);
        }
        [crate::estimate::WORD, case, warm, turns] => {
            crate::estimate::child(number(case) as usize, warm == "true", number(turns));
        }
        ["spin"] => crate::estimate::spin(),
        ["turns", micros] => println!("{}", turns(Duration::from_micros(number(micros)))),
        _ => panic!("a child process is told by the harness what to do, not {words:?}"),
    }
}

pub(crate) fn run_one(entries: Vec<Entry<()>>, contestant: &str) {
    let entry = entries.into_iter().find(|entry| entry.name == contestant);
    (entry.expect("the harness names a contestant that it entered").run)();
}
