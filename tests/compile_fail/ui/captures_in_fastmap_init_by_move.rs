fn main() {
    let config = fastmap::init(fastmap::Options::new()).unwrap();
    let factor = 3;
    let _ = config.fastmap_init(|| 0, move |sum: &mut u64, n: u64| *sum + n * factor, 0..3);
}
