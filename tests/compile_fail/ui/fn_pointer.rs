fn double(n: u64) -> u64 {
    2 * n
}

fn main() {
    let config = fastmap::init(fastmap::Options::new()).unwrap();
    let pointer: fn(u64) -> u64 = double;
    let _ = config.fastmap(pointer, 0..3);
}
