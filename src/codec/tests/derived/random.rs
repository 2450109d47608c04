//! Random values of a type.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A generator of numbers, by splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }
}

/// A type of which there are random values.
pub(super) trait Shape: Serialize + DeserializeOwned + Debug + Default + PartialEq {
    fn random(random: &mut Random) -> Self;

    /// The value that a field has which is not written, or not read.
    fn absent(_: &mut Random) -> Self {
        Self::default()
    }
}

impl Shape for u8 {
    fn random(random: &mut Random) -> Self {
        // Small numbers look like lengths, marks and variants.
        if random.below(2) == 0 { random.below(4) as u8 } else { random.word() as u8 }
    }
}

impl Shape for bool {
    fn random(random: &mut Random) -> Self {
        random.below(2) == 0
    }
}

impl Shape for i64 {
    fn random(random: &mut Random) -> Self {
        let bits = random.below(64);
        (random.word() >> bits) as i64
    }
}

impl Shape for u128 {
    fn random(random: &mut Random) -> Self {
        let bits = random.below(128);
        (u128::from(random.word()) << 64 | u128::from(random.word())) >> bits
    }
}

impl Shape for f64 {
    fn random(random: &mut Random) -> Self {
        match random.below(8) {
            0 => f64::INFINITY,
            1 => -0.0,
            2 => random.below(9) as f64,
            _ => f64::from_bits(random.word()),
        }
    }
}

impl Shape for f32 {
    fn random(random: &mut Random) -> Self {
        f32::from_bits(random.word() as u32)
    }
}

impl Shape for char {
    fn random(random: &mut Random) -> Self {
        char::from_u32(random.below(0x11_0000) as u32).unwrap_or('"')
    }
}

impl Shape for String {
    fn random(random: &mut Random) -> Self {
        (0..random.below(4)).map(|_| char::random(random)).collect()
    }
}

impl Shape for () {
    fn random(_: &mut Random) -> Self {}
}

impl<T: Shape> Shape for Option<T> {
    fn random(random: &mut Random) -> Self {
        (random.below(2) == 0).then(|| T::random(random))
    }
}

impl<T: Shape> Shape for Box<T> {
    fn random(random: &mut Random) -> Self {
        Box::new(T::random(random))
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn random(random: &mut Random) -> Self {
        (0..random.below(4)).map(|_| T::random(random)).collect()
    }
}

impl<T: Shape> Shape for BTreeMap<String, T> {
    fn random(random: &mut Random) -> Self {
        // Apart from the names of fields.
        (0..random.below(3)).map(|_| (String::random(random) + "!", T::random(random))).collect()
    }
}

impl<A: Shape, B: Shape> Shape for (A, B) {
    fn random(random: &mut Random) -> Self {
        (A::random(random), B::random(random))
    }
}
