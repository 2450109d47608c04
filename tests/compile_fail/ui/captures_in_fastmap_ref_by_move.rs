fn main() {
    let config = fastmap::init(fastmap::Options::new()).unwrap();
    let factor = 3;
    let _ = config.fastmap_ref(move |n: &u64| n * factor, &[1, 2]);
}
