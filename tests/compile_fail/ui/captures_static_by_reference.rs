fn main() {
    let config = fastmap::init(fastmap::Options::new()).unwrap();
    let factor: &'static u64 = &3;
    let _ = config.fastmap(move |n: u64| n * *factor, 0..3);
}
