//! Floating point modes: rounding and flushing to zero hold in workers as in the thread that maps.

use std::arch::asm;
use std::hint::black_box;

use fastmap::FastmapConfig;

use crate::common::{config, options, values};

const DEFAULT: u32 = 0x1F80;
const TOWARD_ZERO: u32 = 0x7F80;
const FLUSH: u32 = 0x9FC0;

fn set(mode: u32) {
    // SAFETY: the register is loaded with the default mode, of which rounding and flushing are changed.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const mode, options(nostack)) };
}

/// Many divisions, whose last bits tell how they were rounded; of tiny numbers, whether they were flushed.
fn divide(x: f64) -> u64 {
    let mut y = x;
    for _ in 0..200 {
        y = black_box(y) / 3.0 * 3.0;
    }
    (y / black_box(3.0)).to_bits()
}

fn inputs() -> Vec<f64> {
    [1.0, f64::MIN_POSITIVE, 0.1].repeat(300)
}

/// As `map` has it in this thread.
fn expected() -> Vec<u64> {
    inputs().into_iter().map(divide).collect()
}

/// In a thread of its own: the test's mode is nobody else's.
fn in_a_thread(test: fn()) {
    std::thread::spawn(test).join().expect("the test holds");
}

#[test]
fn the_mode_of_the_calling_thread_holds_in_workers() {
    in_a_thread(|| {
        let config = config(2);
        let usual = expected();
        for mode in [TOWARD_ZERO, FLUSH] {
            set(mode);
            let unusual = expected();
            assert_ne!(unusual, usual);
            assert_eq!(values(config.fastmap(divide, inputs())), unusual);
            assert_eq!(values(config.fastmap_ref(|x: &f64| divide(*x), &inputs())), unusual);
            assert_eq!(
                values(config.fastmap_with(1.0, |one: &f64, x: f64| divide(*one * x), inputs())),
                unusual
            );
            assert_eq!(
                values(config.fastmap_with(vec![1.0], |c: &Vec<f64>, x: f64| divide(c[0] * x), inputs())),
                unusual
            );
            assert_eq!(
                values(config.fastmap_init(|| 1.0, |one: &mut f64, x: f64| divide(*one * x), inputs())),
                unusual
            );
            set(DEFAULT);
            // The same workers, in the mode of another map.
            assert_eq!(values(config.fastmap(divide, inputs())), usual);
        }
    });
}

#[test]
fn a_mode_that_init_sets_holds_for_its_items() {
    fn flushed(config: &FastmapConfig) -> Vec<u64> {
        values(config.fastmap_init(|| set(FLUSH), |(): &mut (), x: f64| divide(x), inputs()))
    }
    in_a_thread(|| {
        set(FLUSH);
        let expected = expected();
        assert_eq!(flushed(&config(1)), expected);
        set(TOWARD_ZERO);
        assert_eq!(flushed(&config(1)), expected);
        set(DEFAULT);
        assert_eq!(flushed(&config(1)), expected);
    });
}

#[test]
fn items_of_the_calling_thread_and_of_workers_are_alike() {
    in_a_thread(|| {
        let config =
            fastmap::init(options().local_processes(2).inline(true)).expect("local options can be used");
        set(TOWARD_ZERO);
        let mut seen = values(config.fastmap(divide, (0..20_000).map(|_| 1.0)));
        seen.dedup();
        assert_eq!(seen, [divide(1.0)]);
        set(DEFAULT);
    });
}
