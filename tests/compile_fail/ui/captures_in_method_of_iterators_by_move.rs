use fastmap::prelude::*;

fn main() {
    let factor = 3;
    let _ = (0..3u64).fastmap(move |n| n * factor);
}
