//! What a function may do under confinement: each is done by a process of its own, as it is and confined, and must come
//! out the same. `cargo test -p fastmap-sandbox --test keeps_working`.

#[path = "../common/mod.rs"]
mod common;
mod uses;

use std::os::unix::process::ExitStatusExt;

use common::{case, confine_if_asked, run};
use uses::{USES, prepare};

/// Something that works.
pub(crate) struct Use {
    name: &'static str,
    /// The signal that ends it, for what is a crash.
    signal: Option<i32>,
    /// What it writes, of which some must come.
    says: &'static str,
    /// Done confined, and as it is.
    act: fn(),
}

fn main() {
    if let Some(name) = case() {
        let used = USES.iter().find(|used| used.name == name).expect("a use of that name");
        // A worker has its channels before it is confined.
        prepare();
        confine_if_asked();
        return (used.act)();
    }
    let mut wrong = Vec::new();
    for used in USES {
        let (open, confined) = (run(used.name, false, &[]), run(used.name, true, &[]));
        let ended =
            confined.status.signal() == used.signal && (used.signal.is_some() || confined.status.success());
        let said = format!("{}{}", confined.stdout, confined.stderr).contains(used.says);
        // Crashes name their process.
        let same = open.status == confined.status && open.stdout == confined.stdout;
        if ended && said && same {
            println!("{:<44} as it is: {}", used.name, confined.stdout.trim().replace('\n', " | "));
        } else {
            println!("{:<44} WRONG\n  as it is: {open:?}\n  confined: {confined:?}", used.name);
            wrong.push(used.name);
        }
    }
    assert!(wrong.is_empty(), "{} of {} went wrong: {wrong:?}", wrong.len(), USES.len());
    println!("{} uses, each the same confined and as it is", USES.len());
}
