//! A short run of the chaos program: whatever strikes, every item is answered once and nothing is left.
//! `scripts/chaos --seconds 600` is the long one.

use std::process::Command;

#[test]
fn twenty_seconds_of_chaos_lose_and_double_and_leave_nothing() {
    // Of another seed each time; the output names it.
    let run = Command::new(env!("CARGO_BIN_EXE_chaos")).args(["--seconds", "20"]).output();
    let run = run.expect("the program is there");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    let number = |before: &str| -> u64 {
        let (_, rest) = said.split_once(before).unwrap_or_else(|| panic!("no {before:?}: {said}"));
        rest.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    };
    assert!(number("struck: ") > 0, "nobody was killed: {said}");
}
