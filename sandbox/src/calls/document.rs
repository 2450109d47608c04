//! Test of the list in docs/local-and-cloud.md. `FASTMAP_TEST_WRITE=1` writes the list to that file.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::list::LIST;
use super::syscall::{Answer, Group};

const BEGIN: &str = "<!-- the list of calls: written by a test of the sandbox -->\n";
const END: &str = "<!-- the end of the list -->\n";

fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Allowed => "yes",
        Answer::Only(_) | Answer::UserNotif(Some(_)) => "so far",
        Answer::Refused | Answer::UserNotif(None) => "EPERM",
        Answer::Absent => "ENOSYS",
        Answer::Skipped => "0, nothing done",
    }
}

fn row(group: &Group) -> String {
    let (local, jail) = (word(group.local), word(group.jail));
    let answer = if local == jail { local.to_owned() } else { format!("LOCAL {local}, CLOUD {jail}") };
    let names: Vec<String> = group.calls().map(|call| format!("`{}`", call.name)).collect();
    format!("| {} | {answer} | {} |\n", group.what, names.join(" "))
}

#[test]
fn the_document_has_the_list() {
    let mut table = "\n| what for | answer | calls |\n|---|---|---|\n".to_owned();
    for group in LIST {
        table.write_str(&row(group)).expect("room");
    }
    table.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/local-and-cloud.md");
    let document = fs::read_to_string(&path).expect("it is there");
    let (before, rest) = document.split_once(BEGIN).expect("the list has a place");
    let (there, after) = rest.split_once(END).expect("the list ends");
    if std::env::var_os("FASTMAP_TEST_WRITE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("it can be written");
    } else {
        assert_eq!(there, table, "FASTMAP_TEST_WRITE=1 cargo test -p fastmap-sandbox --lib writes it");
    }
}
