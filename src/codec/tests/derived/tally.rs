//! What becomes of random values that are encoded and decoded, with `Json` and without.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::random::{Random, Shape};
use crate::codec::compact::LENGTH;
use crate::codec::{CodecError, Json, get, put, stride};

/// What became of the values.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) types: u64,
    pub(super) same: u64,
    pub(super) refused: u64,
    pub(super) other: Vec<String>,
    pub(super) count: u64,
    pub(super) values: u64,
    pub(super) seed: u64,
}

impl Tally {
    pub(super) fn pass<T: Shape>(&mut self) {
        self.types += 1;
        let mut random = Random(self.seed ^ self.types << 32);
        for _ in 0..self.values {
            let value = T::random(&mut random);
            self.judge(&value);
            self.judge(&Json(value));
        }
    }

    fn judge<T: Serialize + DeserializeOwned + Debug>(&mut self, value: &T) {
        // Floats print what reads back as the same bits; that is all that NaN is wanted to.
        match (there_and_back(value), format!("{value:?}")) {
            (Ok(back), sent) if format!("{back:?}") == sent => self.same += 1,
            (Ok(back), sent) => {
                let name = std::any::type_name::<T>();
                self.count += 1;
                // One of each type tells enough.
                if !self.other.iter().any(|other| other.starts_with(name)) {
                    self.other.push(format!("{name}: {sent} came back as {back:?}"));
                }
            }
            (Err(_), _) => self.refused += 1,
        }
    }
}

fn there_and_back<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, CodecError> {
    let mut frame = Vec::new();
    put(value, &mut frame)?;
    let start = if stride::<T>().is_some() { 0 } else { LENGTH };
    get(&frame[start..])
}
