fn main() {
    let config = fastmap::init(fastmap::Options::new()).unwrap();
    let factor = 3;
    let _ = config.fastmap_with(7, move |context: &u64, n: u64| context + n * factor, 0..3);
}
