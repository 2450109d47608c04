fn main() {
    let config = fastmap::init(fastmap::Options::new()).unwrap();
    let start = 3;
    let _ = config.fastmap_init(move || start, |sum: &mut u64, n: u64| *sum + n, 0..3);
}
