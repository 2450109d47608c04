//! Starts what operators run in front of the service and behind it (nginx, Caddy, `HAProxy`; `PostgreSQL`
//! with a standby, `PgBouncer`; NATS servers of several versions with a leaf node) by the configurations of
//! deploy/, sends through each what programs and browsers send, breaks each, and prints a table of what
//! worked, how soon a trouble was noticed, and how soon after its end work went on. Ends by 1 if something
//! did not work, or took longer than is right.
//!
//! `operators --service PATH [--short] [NAME …]`: the command `fastmap`; nginx alone, without what takes
//! long; only pieces whose names contain one of these. `FASTMAP_TEST_WRITE=1` writes the table into
//! docs/in-front-and-behind.md. `scripts/try-operators` installs the pieces and builds this.

#[allow(dead_code, reason = "shared with the service's tests of the dashboard")]
#[path = "../../../../../service/tests/dashboard/browser.rs"]
mod browser;
mod database;
mod front;
mod page;
mod place;
mod queue;
mod table;
mod traffic;
mod watched;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use fastmap_test_programs::Arguments;
use front::Front;
use place::Place;
use table::{Row, Table};

/// Versions of the NATS servers, and their folders as scripts/setup has them; the last is that of the other
/// tests.
const NATS: [(&str, &str); 5] = [
    ("NATS 2.10", "nats-2.10.26/bin"),
    ("NATS 2.11", "nats-2.11.11/bin"),
    ("NATS 2.12", "nats-2.12.8/bin"),
    ("NATS 2.14", "nats-2.14.6/bin"),
    ("NATS 2.15", "bin"),
];

type Cell = Box<dyn Fn(&Place, &mut Vec<Row>)>;

/// All pieces, each with what is done to it.
fn cells() -> Vec<(&'static str, Cell)> {
    let front = |front: Front| -> Cell { Box::new(move |place, rows| front.cell(place, rows)) };
    let mut cells: Vec<(&str, Cell)> = vec![
        ("nginx", front(Front::Nginx)),
        ("Caddy", front(Front::Caddy)),
        ("HAProxy", front(Front::Haproxy)),
        ("PostgreSQL", Box::new(database::failover)),
        ("PgBouncer", Box::new(database::pooler)),
    ];
    for (name, folder) in NATS {
        cells.push((name, Box::new(move |place, rows| queue::cell(place, folder, rows))));
    }
    cells
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let service = arguments.service.take().expect("--service PATH");
    if arguments.short {
        arguments.names = vec!["nginx".to_owned()];
    }
    let mut table = Table::default();
    for (name, cell) in cells() {
        if !arguments.wants(name) {
            continue;
        }
        let mut rows = Vec::new();
        let place = Place::new(name, &service, arguments.short);
        let outcome = catch_unwind(AssertUnwindSafe(|| cell(&place, &mut rows)));
        table.add(name, &rows, outcome.is_ok());
    }
    if std::env::var_os("FASTMAP_TEST_WRITE").is_some() {
        table.write();
    }
    table.verdict()
}
