//! A shared library that another program loads, with a map in it: no worker can be made of that program.

/// The sum of ten squares; -1 where they can't be had.
#[unsafe(no_mangle)]
pub extern "C" fn squares() -> i64 {
    fastmap::enter();
    let mut map = fastmap::fastmap(|n: i64| n * n, 0..10);
    match map.by_ref().sum::<Result<i64, _>>() {
        Ok(sum) => sum,
        Err(error) => {
            eprintln!("{error}");
            -1
        }
    }
}
