//! Entry points of the fuzzers in `fuzz/`: arbitrary bytes, read as results. Compiled for them alone.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a panic is what is looked for")]

use std::collections::BTreeMap;
use std::fmt::Debug;

use fastmap_backends::{FailureKind, ItemFailure, Payload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Json;
use crate::codec;
use crate::map::ResultChunk;

#[derive(Debug, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Named { name: String, numbers: Vec<f32> },
    Branch(Box<Tree>, Option<Box<Tree>>),
    Many(Vec<Tree>),
}

/// Bytes of a checkpoint, see the module.
pub fn checkpoint(bytes: &[u8]) {
    crate::checkpoint::fuzzing::checkpoint(bytes);
}

/// The first byte chooses a type, the next eight say what a worker claims; the rest is the payload of its answer.
pub fn results(bytes: &[u8]) {
    let Some((&[kind, stride, items, first_failure, second_failure, ..], payload)) =
        bytes.split_first_chunk::<8>()
    else {
        return;
    };
    let claims =
        Claims { stride: (stride > 0).then_some(u32::from(stride)), items, first_failure, second_failure };
    // Not among them: types whose values take no bytes (`Vec<()>`), of which a few bytes claim billions. See `codec::read`.
    match kind % 11 {
        0 => read::<u64>(&claims, payload),
        1 => read::<bool>(&claims, payload),
        2 => read::<char>(&claims, payload),
        3 => read::<Vec<u8>>(&claims, payload),
        4 => read::<Vec<f64>>(&claims, payload),
        5 => read::<String>(&claims, payload),
        6 => read::<(u64, f64, Option<i8>)>(&claims, payload),
        7 => read::<BTreeMap<String, Vec<u16>>>(&claims, payload),
        8 => read::<Vec<Option<String>>>(&claims, payload),
        9 => read::<Tree>(&claims, payload),
        _ => read::<Json<Tree>>(&claims, payload),
    }
}

struct Claims {
    stride: Option<u32>,
    items: u8,
    first_failure: u8,
    second_failure: u8,
}

fn read<T: Serialize + DeserializeOwned + Debug>(claims: &Claims, payload: &[u8]) {
    if let Ok(value) = codec::get::<T>(payload) {
        // What was read can be written and is read as the same again.
        let mut out = Vec::new();
        codec::put(&value, &mut out).expect("it is a value");
        let at = if codec::stride::<T>().is_some() { 0 } else { size_of::<u32>() };
        let again = codec::get::<T>(&out[at..]).expect("it was just written");
        assert_eq!(format!("{value:?}"), format!("{again:?}"));
    }
    // The pool lets through failures that ascend and are of items that were asked.
    let offsets = [claims.first_failure, claims.second_failure];
    let mut failures: Vec<ItemFailure> = offsets
        .into_iter()
        .filter(|offset| *offset < claims.items)
        .map(|offset| ItemFailure { offset: offset.into(), kind: FailureKind::Panic, message: String::new() })
        .collect();
    failures.dedup_by_key(|failure| failure.offset);
    failures.sort_by_key(|failure| failure.offset);
    let payload = Payload::from(payload.to_vec());
    let mut segment = ResultChunk::done(0, claims.items.into(), claims.stride, payload, failures);
    let mut answers = 0;
    while segment.left() > 0 {
        segment.allow(3);
        while let Some(bytes) = segment.quick(claims.stride) {
            let _value = codec::get::<T>(bytes);
            answers += 1;
        }
        answers += u32::from(segment.next().is_some());
    }
    assert_eq!(answers, u32::from(claims.items));
}
