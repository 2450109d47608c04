//! Another allocator than the system's, in a process that is confined before it has allocated much.

mod common;

use std::hint::black_box;
use std::thread;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// From all sizes and many threads, so that arenas are made and memory goes back.
fn allocate() -> usize {
    let threads: Vec<_> = (0..8usize)
        .map(|thread| {
            thread::spawn(move || {
                (0..1000).map(|n| black_box(vec![thread as u8; (n * 7919) % 300_000]).len()).sum::<usize>()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        + black_box(vec![1u8; 256 << 20]).len()
}

fn main() {
    if common::case().is_some() {
        common::confine_if_asked();
        println!("{}", allocate());
        return;
    }
    let (open, confined) = (common::run("allocate", false, &[]), common::run("allocate", true, &[]));
    assert!(open.status.success(), "{open:?}");
    assert_eq!(open, confined);
    println!("jemalloc: {} bytes, confined and as it is", open.stdout.trim());
}
