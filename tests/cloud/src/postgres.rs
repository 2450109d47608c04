//! A `PostgreSQL` server of a test's own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A server that `scripts/postgres` has started. Dropping it ends the server.
#[derive(Debug)]
pub struct Postgres {
    script: Child,
    /// Where it is.
    pub url: String,
}

impl Postgres {
    /// Starts one; the script says what the arguments mean.
    pub fn start(arguments: &[&str]) -> Postgres {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.spawn().expect("scripts/postgres can be started");
        let mut url = String::new();
        let read = BufReader::new(script.stdout.take().expect("it is piped")).read_line(&mut url);
        read.expect("scripts/postgres says where the server listens");
        assert!(url.starts_with("postgres://"), "no server was started; scripts/setup postgres installs one");
        Postgres { script, url: url.trim().to_owned() }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The script ends with this pipe.
        self.script.stdin = None;
        let _gone = self.script.wait();
    }
}
