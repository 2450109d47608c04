//! Types as serde's derive makes them, with each of its attributes, nested into each other, and random
//! values of them: each comes back as it was, or is refused, with `Json` and without. Run by `cargo test`.
//! `DERIVED_VALUES` sets the values of each type, `DERIVED_SEED` where they begin.

mod containers;
mod fields;
mod random;
mod tally;

use containers::*;
use fields::{plain, renamed_one_way, skipped_if, skipped_if_and_filled};
use tally::Tally;

/// Values of each type, without the variable.
const VALUES: u64 = 640;

#[test]
fn each_value_of_a_derived_type_comes_back_or_is_refused() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let seed = number("DERIVED_SEED", std::process::id().into());
    let mut tally = Tally { values: number("DERIVED_VALUES", VALUES), seed, ..Tally::default() };
    fields::fields::<Option<u8>>(&mut tally);
    plain::pass::<FirstSkipped>(&mut tally);
    skipped_if_and_filled::pass::<Vec<u8>>(&mut tally);
    macro_rules! each {
        ($($t:ty)*) => { $(tally.pass::<(Vec<$t>, Option<u8>)>();)* };
    }
    each! {
        Plain FirstSkipped SkippedWithAlias LastSkipped NotRead NotWritten RenamedOneWay RenamedOneWayAndSkipped
        Other OtherAlone Internal Adjacent Untagged OneUntagged Nested Tagged Strictly Transparent Flat FlatWide
        FlatFloat FlatEnum ByTuple FromTuple FromEnum f64 f32 char u128 Option<()> Option<Option<u8>>
        plain::First<renamed_one_way::Tuple<FirstSkipped>> skipped_if::Variants<plain::Tuple<Untagged>>
    }
    println!("seed {seed}: {} types, {} values the same, {} refused", tally.types, tally.same, tally.refused);
    assert!(tally.other.is_empty(), "seed {seed}: {} other values: {:#?}", tally.count, tally.other);
    assert!(tally.same + tally.refused >= 100_000 && tally.same > tally.refused, "{tally:?}");
}
