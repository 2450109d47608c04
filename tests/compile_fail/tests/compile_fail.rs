//! What the compiler refuses, and in which words: functions that could not run in another process.
//! The programs are in `ui/`, each with what the compiler says of it.

#[test]
fn functions_with_something_inside_are_refused() {
    let cases = trybuild::TestCases::new();
    // With a case that passes the programs are built, not only checked: what a constant asserts fails no earlier.
    cases.pass("ui/captures_nothing.rs");
    cases.compile_fail("ui/captures_*_by_*.rs");
    cases.compile_fail("ui/fn_pointer.rs");
    cases.compile_fail("ui/not_copy.rs");
}
