//! A batch as it travels: compressed where that pays, else as it is.

use crate::cloud::body::BatchBody;
use crate::model::batch::Batch;

/// Fewer bytes are not worth a look.
const LEAST: usize = 4 * 1024;
/// Bytes that are tried.
const SAMPLE: usize = 16 * 1024;
/// What is left of them must be so little: to compress costs about as much as to send at 4 Gbit/s.
const PAYS: f64 = 0.8;
const LEVEL: i32 = 1;

/// The body of a batch. The same for the same batch, whenever it is asked for.
pub(crate) fn pack(batch: &Batch, compress: Option<bool>, loopback: bool) -> Vec<u8> {
    let payload = batch.payload();
    let wanted = compress.unwrap_or_else(|| !loopback && payload.len() >= LEAST && shrinks(payload));
    let packed = if wanted { zstd::bulk::compress(payload, LEVEL).ok() } else { None };
    let body = BatchBody {
        first: batch.first(),
        items: batch.items(),
        stride: batch.stride(),
        result_credit: batch.result_credit(),
        length: payload.len() as u64,
        compressed: packed.is_some(),
        level: Some(batch.level()),
        payload: packed.as_deref().unwrap_or(payload),
    };
    body.encode()
}

/// Whether the middle of it shrinks enough.
fn shrinks(payload: &[u8]) -> bool {
    let start = (payload.len() - payload.len().min(SAMPLE)) / 2;
    let sample = &payload[start..payload.len().min(start + SAMPLE)];
    zstd::bulk::compress(sample, LEVEL).is_ok_and(|packed| (packed.len() as f64) < PAYS * sample.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchBuilder;
    use crate::model::ids::BatchId;
    use crate::model::ids::JobId;

    fn batch(bytes: &[u8]) -> Batch {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend_from_slice(bytes);
        builder.added(bytes.len() as u32);
        builder.finish(JobId(1), BatchId(1), 0, 1)
    }

    fn noise(bytes: u64) -> Vec<u8> {
        let mut state = 1u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(step).collect()
    }

    #[test]
    fn only_what_shrinks_and_travels_far_is_compressed() {
        let zeros = batch(&vec![7; 100_000]);
        let noise = batch(&noise(100_000));
        let few = batch(&[7; 1000]);
        for (batch, compress, loopback, expected) in [
            (&zeros, None, false, true),
            (&zeros, None, true, false),
            (&noise, None, false, false),
            (&few, None, false, false),
            (&zeros, Some(true), true, true),
            (&zeros, Some(false), false, false),
        ] {
            let bytes = pack(batch, compress, loopback);
            let body = BatchBody::decode(&bytes).expect("a batch");
            assert_eq!(body.compressed, expected, "{compress:?} {loopback}");
            let payload = match body.compressed {
                true => zstd::bulk::decompress(body.payload, body.length as usize).expect("a frame"),
                false => body.payload.to_vec(),
            };
            assert_eq!(payload, batch.payload());
            assert_eq!(pack(batch, compress, loopback), bytes);
        }
    }
}
