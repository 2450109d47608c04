//! Encoding of a batch for sending, compressed if that pays.

use crate::cloud::body::BatchBody;
use crate::model::batch::Batch;

/// Smaller payloads are not worth a test.
const MIN_BYTES: usize = 4 * 1024;
/// Bytes of the payload that are test-compressed.
const SAMPLE: usize = 16 * 1024;
/// Maximum ratio of compressed size: compressing costs about as much as sending at 4 Gbit/s.
const MAX_RATIO: f64 = 0.8;
const LEVEL: i32 = 1;

/// The body of a batch. Deterministic: the same batch gives the same bytes.
pub(crate) fn encode(batch: &Batch, compress: Option<bool>, loopback: bool) -> Vec<u8> {
    let payload = batch.payload();
    let wanted = compress.unwrap_or_else(|| !loopback && payload.len() >= MIN_BYTES && shrinks(payload));
    let compressed = if wanted { zstd::bulk::compress(payload, LEVEL).ok() } else { None };
    let body = BatchBody {
        first: batch.first(),
        items: batch.items(),
        stride: batch.stride(),
        result_credit: batch.result_credit(),
        length: payload.len() as u64,
        compressed: compressed.is_some(),
        level: Some(batch.level()),
        payload: compressed.as_deref().unwrap_or(payload),
    };
    body.encode()
}

/// Returns whether a sample from the middle shrinks enough.
fn shrinks(payload: &[u8]) -> bool {
    let start = (payload.len() - payload.len().min(SAMPLE)) / 2;
    let sample = &payload[start..payload.len().min(start + SAMPLE)];
    zstd::bulk::compress(sample, LEVEL)
        .is_ok_and(|compressed| (compressed.len() as f64) < MAX_RATIO * sample.len() as f64)
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
    fn only_large_compressible_remote_batches_are_compressed() {
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
            let bytes = encode(batch, compress, loopback);
            let body = BatchBody::decode(&bytes).expect("a batch");
            assert_eq!(body.compressed, expected, "{compress:?} {loopback}");
            let payload = match body.compressed {
                true => zstd::bulk::decompress(body.payload, body.length as usize).expect("a frame"),
                false => body.payload.to_vec(),
            };
            assert_eq!(payload, batch.payload());
            assert_eq!(encode(batch, compress, loopback), bytes);
        }
    }
}
