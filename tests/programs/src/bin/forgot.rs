//! A program that maps and never enters.

use fastmap_test_programs::{children, count_this_process};

fn main() {
    count_this_process();
    let answer = fastmap::fastmap(|n: u64| n, 0..10).next();
    if let Some(Err(error)) = answer {
        println!("error {:?} {error}", error.kind());
    }
    println!("children {}", children(std::process::id().cast_signed()).len());
}
