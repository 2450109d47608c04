//! tmp
fastmap::test_support!();
#[test]
fn squares() {
    let c = fastmap::init(fastmap::Options::new().local_processes(2)).unwrap();
    let v: Vec<u64> = c.fastmap(|n: u64| n * n, 0..10000).collect::<Result<_, _>>().unwrap();
    assert_eq!(v, (0..10000u64).map(|n| n * n).collect::<Vec<_>>());
}
