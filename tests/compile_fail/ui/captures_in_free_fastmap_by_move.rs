fn main() {
    let factor = 3;
    let _ = fastmap::fastmap(move |n: u64| n * factor, 0..3);
}
