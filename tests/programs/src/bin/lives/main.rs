//! Plays the ways in which a program lives and ends, each by plain `map`, under LOCAL and under CLOUD, and
//! prints a table of what came of it. Ends by 1 if a run differs from what is stated as right in `ways.rs`.
//!
//! `lives [--short] [--service PATH] [NAME …]`: the cheapest ways, under LOCAL alone; the command `fastmap`,
//! for CLOUD; only ways whose names contain one of these. `FASTMAP_TEST_WRITE=1` writes the table into
//! docs/reliability.md. `scripts/try-lives` installs what the ways need and builds this.

mod acts;
mod build;
mod play;
mod table;
mod way;
mod ways;

use std::process::ExitCode;

use clap::Parser;
use fastmap_test_programs::Arguments;
use play::{Mode, World};
use table::Table;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let world = World::new(arguments.service.as_deref());
    let modes = match (arguments.short, &arguments.service) {
        (true, _) => &Mode::ALL[1..2],
        (false, None) => &Mode::ALL[..2],
        (false, Some(_)) => &Mode::ALL[..],
    };
    let mut table = Table::new(modes);
    for way in ways::ways() {
        if arguments.wants(way.name) && (way.short || !arguments.short) {
            table.add(&way, |mode| world.play(&way, mode));
        }
    }
    if std::env::var_os("FASTMAP_TEST_WRITE").is_some() {
        table.write();
    }
    table.verdict()
}
