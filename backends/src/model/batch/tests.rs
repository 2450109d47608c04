use super::*;

fn batch(items: &[&[u8]], stride: Option<u32>) -> Batch {
    let mut builder = BatchBuilder::new(stride);
    for item in items {
        if stride.is_none() {
            builder.buffer().extend_from_slice(&(item.len() as u32).to_le_bytes());
        }
        builder.buffer().extend_from_slice(item);
        builder.added(1);
    }
    builder.finish(JobId(1), BatchId(7), 100, 10)
}

#[test]
fn pieces_have_their_items_and_positions() {
    for stride in [None, Some(2)] {
        let whole = batch(&[b"aa", b"bb", b"cc", b"dd"], stride);
        let piece = whole.piece(BatchId(8), 1, 3, 2);
        assert_eq!((piece.first(), piece.items(), piece.attempt()), (101, 2, 2));
        let items: Vec<_> = Items::new(piece.payload(), stride).collect();
        assert_eq!(items, [b"bb", b"cc"]);
    }
}

#[test]
fn single_items_are_cut_in_one_pass() {
    for stride in [None, Some(2)] {
        let whole = batch(&[b"aa", b"bb", b"cc", b"dd"], stride);
        let mut ids = 20;
        let singles = whole.singles(&[(0, 1), (1, 2), (3, 1)], || {
            ids += 1;
            BatchId(ids)
        });
        let found: Vec<_> = singles.iter().map(|one| (one.id().0, one.first(), one.attempt())).collect();
        assert_eq!(found, [(21, 100, 1), (22, 101, 2), (23, 103, 1)]);
        let items = singles.iter().map(|one| Items::new(one.payload(), stride).collect::<Vec<_>>());
        assert_eq!(items.collect::<Vec<_>>(), [[b"aa"], [b"bb"], [b"dd"]]);
    }
    let count: u32 = if cfg!(miri) { 100 } else { 100_000 };
    let many: Vec<Vec<u8>> = (0..count).map(|n| n.to_le_bytes().to_vec()).collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    let whole = batch(&many, None);
    let positions: Vec<_> = (0..count).map(|position| (position, 1)).collect();
    let started = std::time::Instant::now();
    assert_eq!(whole.singles(&positions, || BatchId(1)).len(), count as usize);
    // Reading from the start for each item would take minutes.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn truncated_bytes_end_the_items() {
    let whole = batch(&[b"abc", b"defg"], None);
    let bytes = whole.payload();
    for cut in 0..bytes.len() {
        assert!(Items::new(&bytes[..cut], None).count() < 2);
    }
    assert_eq!(Items::new(bytes, None).count(), 2);
}

#[test]
fn empty_items_are_counted() {
    assert_eq!(Items::new(batch(&[b"", b"", b""], None).payload(), None).count(), 3);
}
