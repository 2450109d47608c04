//! The frames of a panic that are the function's: what stands in an item's error when `RUST_BACKTRACE` asks
//! for it. Taken by the panic hook (`entry`), named when the error is made.

use std::backtrace::Backtrace;
use std::fmt::Write;

/// Bytes of a trace in an error, which travels with the item's answer. The outermost frames are left out
/// first.
const MOST: usize = 3000;
/// The frame behind which a panic's own machinery ends.
const BEGIN: [&str; 2] = ["rust_begin_unwind", "__rust_end_short_backtrace"];
/// Frames between that and the function's.
const RAISING: [&str; 2] = ["core::panicking::", "std::panicking::"];
/// The frames of the library, at which the function's end, and what the compiler puts between the two.
const OURS: [&str; 2] = ["fastmap::", "fastmap_backends::"];
const CALLING: [&str; 2] = ["core::ops::function::", "core::panic::unwind_safe::"];

/// The frames of this thread, if the environment asks for those of panics.
pub(crate) fn taken() -> Option<Backtrace> {
    let asked = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    asked.then(Backtrace::force_capture)
}

/// The function's part of the frames of a panic in it, a line each and one for its place; empty where no
/// frame has a name.
pub(crate) fn of_the_function(trace: &Backtrace) -> String {
    function_part(&trace.to_string())
}

/// A frame as it is written: its name, and its place if that is known.
struct Frame<'a> {
    name: &'a str,
    place: Option<&'a str>,
}

impl Frame<'_> {
    /// Whether its name begins so; in `<A as B>::c` that of `A` or of `B` may.
    fn is_of(&self, begins: &[&str]) -> bool {
        let name = self.name.trim_start_matches(['<', '&']);
        let of = |name: &str| begins.iter().any(|begin| name.starts_with(begin));
        of(name)
            || self.name.starts_with('<') && name.split_once(" as ").is_some_and(|(_, of_trait)| of(of_trait))
    }
}

fn frames(text: &str) -> Vec<Frame<'_>> {
    let mut frames: Vec<Frame<'_>> = Vec::new();
    for line in text.lines().map(str::trim) {
        let named =
            line.split_once(": ").filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
        match (named, line.strip_prefix("at "), frames.last_mut()) {
            (Some((_, name)), _, _) => frames.push(Frame { name, place: None }),
            (None, Some(place), Some(frame)) => frame.place = Some(place),
            _ => {}
        }
    }
    frames
}

fn function_part(text: &str) -> String {
    let frames = frames(text);
    let begin = frames.iter().rposition(|frame| BEGIN.iter().any(|begin| frame.name.contains(begin)));
    let mut part = &frames[begin.map_or(0, |begin| begin + 1)..];
    while let [first, rest @ ..] = part
        && first.is_of(&RAISING)
    {
        part = rest;
    }
    // A frame that was inlined has a short name, and its place tells whose it is.
    let ours = |frame: &Frame<'_>| {
        frame.is_of(&OURS) || frame.place.is_some_and(|place| place.contains(crate::worker::entry::FILE))
    };
    let end = part.iter().position(ours).unwrap_or(part.len());
    part = &part[..end];
    while let [rest @ .., last] = part
        && last.is_of(&CALLING)
    {
        part = rest;
    }
    let mut part_text = String::new();
    if part.iter().all(|frame| frame.name == "<unknown>") {
        return part_text;
    }
    for (number, frame) in part.iter().enumerate() {
        if part_text.len() > MOST {
            let _written = write!(part_text, "\n      … ({} frames left out)", part.len() - number);
            break;
        }
        let _written = write!(part_text, "\n{number:4}: {}", frame.name);
        if let Some(place) = frame.place {
            let _written = write!(part_text, "\n             at {place}");
        }
    }
    part_text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_panic_and_of_the_library_are_left_out() {
        let text = "   0: std::backtrace::Backtrace::create\n   1: fastmap::backtrace::taken\n             \
                    at ./src/backtrace.rs:20:5\n   2: __rustc::rust_begin_unwind\n   3: core::panicking::panic_fmt\n             \
                    at /rustc/5/core/src/panicking.rs:80:14\n   4: app::inner\n             at ./src/main.rs:3:9\n   \
                    5: <app::Work as app::fastmap::Act>::act\n   6: core::ops::function::Fn::call\n   \
                    7: <&F as fastmap::entry::Call>::call\n   8: fastmap::entry::each\n   9: main\n";
        let part_text = function_part(text);
        let expected = "\n   0: app::inner\n             at ./src/main.rs:3:9\n   1: <app::Work as app::fastmap::Act>::act";
        assert_eq!(part_text, expected);
        assert_eq!(function_part("   0: <unknown>\n   1: <unknown>\n"), "");
        assert_eq!(function_part(""), "");
    }

    #[test]
    fn an_inlined_frame_of_the_library_is_known_by_its_place() {
        let text = format!(
            "   0: inner\n   1: each<u64>\n             at ./{}:9:5\n   2: main\n",
            crate::worker::entry::FILE
        );
        assert_eq!(function_part(&text), "\n   0: inner");
    }

    #[test]
    fn a_deep_stack_is_cut_and_says_so() {
        let frame = |n: usize| format!("{n:4}: app::recursion\n             at ./src/main.rs:3:9\n");
        let part_text = function_part(&(0..1000).map(frame).collect::<String>());
        assert!(part_text.len() < MOST + 200 && part_text.ends_with(" frames left out)"), "{part_text}");
    }
}
