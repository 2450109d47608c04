//! Types as serde's derive makes them, with each of its attributes, nested into each other, and random
//! values of them: each comes back as it was, or is refused, with `Json` and without. Run by `cargo test`.
//! `DERIVED_VALUES` sets the values of each type, `DERIVED_SEED` where they begin.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Json, get, put};

/// Values of each type, without the variable.
const VALUES: u64 = 640;

/// A generator of numbers, by splitmix64.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }
}

/// A type of which there are random values.
trait Shape: Serialize + DeserializeOwned + Debug + Default + PartialEq {
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

fn is_absent<T: Shape>(value: &T) -> bool {
    *value == T::default()
}

/// Writes as a string what is not read from one.
fn as_text<T: Debug, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

/// Reads a pair of which the second is the value.
fn from_pair<'de, T: Shape, D: serde::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    <(u8, T)>::deserialize(deserializer).map(|(_, value)| value)
}

/// Behind a byte, in both directions.
mod behind_a_byte {
    use serde::{Deserializer, Serialize, Serializer};

    use super::{Shape, from_pair};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (7u8, value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Shape, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        from_pair(deserializer)
    }
}

/// One field attribute at each place where a field can be. `$value` is `random`, or `absent` for a field
/// that serde is asked to fill in.
macro_rules! field {
    ($($module:ident [$($attribute:tt)*] $value:ident;)*) => {$(
        mod $module {
            use super::*;

            #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(bound = "T: Shape")]
            pub(super) struct First<T> {
                #[serde($($attribute)*)]
                x: T,
                y: Option<u8>,
                z: u8,
            }

            impl<T: Shape> Shape for First<T> {
                fn random(random: &mut Random) -> Self {
                    First { x: T::$value(random), y: Shape::random(random), z: Shape::random(random) }
                }
            }

            #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(bound = "T: Shape")]
            pub(super) struct Tuple<T>(
                u8,
                #[serde($($attribute)*)] T,
                #[serde(default)] Option<u8>,
                #[serde(default)] Vec<u8>,
            );

            impl<T: Shape> Shape for Tuple<T> {
                fn random(random: &mut Random) -> Self {
                    let x = T::$value(random);
                    Tuple(Shape::random(random), x, Shape::random(random), Shape::random(random))
                }
            }

            #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(bound = "T: Shape")]
            pub(super) enum Variants<T> {
                #[default]
                Unit,
                Newtype(#[serde($($attribute)*)] T),
                Tuple(#[serde($($attribute)*)] T, #[serde(default)] Option<u8>),
                Struct {
                    y: u8,
                    #[serde($($attribute)*)]
                    x: T,
                },
                Last(u8),
            }

            impl<T: Shape> Shape for Variants<T> {
                fn random(random: &mut Random) -> Self {
                    match random.below(5) {
                        0 => Variants::Unit,
                        1 => Variants::Newtype(T::$value(random)),
                        2 => Variants::Tuple(T::$value(random), Shape::random(random)),
                        3 => Variants::Struct { y: Shape::random(random), x: T::$value(random) },
                        _ => Variants::Last(Shape::random(random)),
                    }
                }
            }

            pub(super) fn pass<T: Shape>(tally: &mut Tally) {
                tally.pass::<First<T>>();
                // Behind the first, a byte more or less is read as another value.
                tally.pass::<(Tuple<T>, Vec<Tuple<T>>)>();
                tally.pass::<Vec<Variants<T>>>();
            }
        }
    )*

    fn fields<T: Shape>(tally: &mut Tally) {
        $($module::pass::<T>(tally);)*
    }};
}

field! {
    plain [] random;
    defaults [default] random;
    aliased [alias = "a", alias = "zz"] random;
    renamed [rename = "other"] random;
    renamed_one_way [rename(serialize = "there", deserialize = "back")] random;
    skipped [skip] absent;
    not_written [skip_serializing] absent;
    not_written_but_filled [skip_serializing, default] absent;
    not_read [skip_deserializing] absent;
    skipped_if [skip_serializing_if = "is_absent"] random;
    skipped_if_and_filled [skip_serializing_if = "is_absent", default] random;
    two_ways [with = "behind_a_byte"] random;
    written_as_text [serialize_with = "as_text"] random;
    read_as_pair [deserialize_with = "from_pair"] random;
}

/// A type whose variants or container have attributes.
macro_rules! types {
    ($($(#[$meta:meta])* enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident
            $(($($element:ty),*))? $({$($field:ident: $kind:ty),*})? = $weight:literal,)*
    })*) => {$(
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        $(#[$meta])*
        enum $name {
            $($(#[$variant_meta])* $variant $(($($element),*))? $({$($field: $kind),*})?,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self::random(&mut Random(1))
            }
        }

        impl Shape for $name {
            fn random(random: &mut Random) -> Self {
                loop {
                    // A variant of weight 0 is never made.
                    $(if (random.below(4) as i64) < $weight {
                        return types!(value random $name::$variant $(($($element),*))? $({$($field),*})?);
                    })*
                }
            }
        }
    )*};
    (value $random:ident $name:ident::$variant:ident) => { $name::$variant };
    (value $random:ident $name:ident::$variant:ident ($($element:ty),*)) => {
        $name::$variant($(<$element>::random($random)),*)
    };
    (value $random:ident $name:ident::$variant:ident {$($field:ident),*}) => {
        $name::$variant { $($field: Shape::random($random)),* }
    };
}

types! {
    enum Plain { A = 1, B(u8) = 1, C(u8, Option<u8>) = 1, D { x: String } = 1, E = 1, }

    enum FirstSkipped {
        #[serde(skip)]
        Hidden = 0,
        Low = 1,
        Mid = 1,
        High = 1,
    }

    enum SkippedWithAlias {
        #[serde(skip)]
        Hidden(u8) = 0,
        #[serde(alias = "X")]
        B(u8) = 1,
        #[serde(alias = "a", alias = "b")]
        C(u8) = 1,
        D(u8) = 1,
        E(u8) = 1,
    }

    enum LastSkipped {
        Low = 1,
        High(u8) = 1,
        #[serde(skip)]
        Hidden = 0,
    }

    enum NotRead {
        A(u8) = 1,
        #[serde(skip_deserializing)]
        B(u8) = 1,
        C(u8) = 1,
        D(u8) = 1,
    }

    enum NotWritten {
        #[serde(skip_serializing)]
        A(u8) = 1,
        B(u8) = 1,
        C(u8) = 1,
    }

    #[serde(rename_all(serialize = "lowercase", deserialize = "UPPERCASE"))]
    enum RenamedOneWay { A = 1, B(u8) = 1, C { x: bool } = 1, }

    #[serde(rename_all(serialize = "lowercase", deserialize = "UPPERCASE"))]
    enum RenamedOneWayAndSkipped {
        #[serde(skip)]
        Hidden = 0,
        A = 1,
        B(u8) = 1,
        C(u8) = 1,
    }

    enum Other {
        #[serde(skip)]
        Hidden = 0,
        A = 1,
        B = 1,
        #[serde(other)]
        Rest = 1,
    }

    enum OtherAlone {
        A = 1,
        B = 1,
        #[serde(other)]
        Rest = 1,
    }

    #[serde(tag = "kind")]
    enum Internal { A = 1, B { x: u8, y: Option<u8> } = 1, C { x: String } = 1, Wide { n: u128 } = 1, }

    #[serde(tag = "kind", content = "of")]
    enum Adjacent {
        #[serde(skip)]
        Hidden = 0,
        A = 1,
        B(u8) = 1,
        C(u8, String) = 1,
        D { x: Option<bool> } = 1,
    }

    #[serde(untagged)]
    enum Untagged { Flag(bool) = 1, Number(i64) = 1, Float(f64) = 1, Text(String) = 1, Pair(u8, u8) = 1, Named { x: u8 } = 1, }

    enum OneUntagged {
        A(u8) = 1,
        B = 1,
        #[serde(untagged)]
        Rest(i64) = 1,
    }

    enum Nested { A(FirstSkipped) = 1, B { x: Vec<NotRead> } = 1, C(Option<Untagged>) = 1, D(Plain) = 1, }
}

/// A struct whose container has attributes.
macro_rules! structs {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* })*) => {$(
        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        $(#[$meta])*
        struct $name { $($(#[$field_meta])* $field: $kind,)* }

        impl Shape for $name {
            fn random(random: &mut Random) -> Self {
                $name { $($field: Shape::random(random),)* }
            }
        }
    )*};
}

structs! {
    #[serde(tag = "type")]
    struct Tagged { a: u8, b: Option<u8>, }

    #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
    struct Strictly { a_b: u8, c_d: Vec<Tagged>, }

    #[serde(transparent)]
    struct Transparent { inner: Option<FirstSkipped>, }

    struct Rest { small: u8, text: String, }

    struct Flat {
        id: u8,
        #[serde(flatten)]
        rest: Rest,
        #[serde(flatten)]
        more: BTreeMap<String, i64>,
    }

    struct Wide { wide: u128, }

    struct FlatWide {
        id: u8,
        #[serde(flatten)]
        rest: Wide,
    }

    struct FlatFloat {
        #[serde(flatten)]
        rest: BTreeMap<String, f64>,
    }

    struct FlatEnum {
        id: u8,
        #[serde(flatten)]
        kind: Internal,
    }

    #[serde(from = "(u8, Option<u8>)", into = "(u8, Option<u8>)")]
    struct ByTuple { a: u8, b: Option<u8>, }

    /// A struct is written as a tuple is: this one is right.
    #[serde(try_from = "(u8, Option<u8>)")]
    struct FromTuple { a: u8, b: Option<u8>, }

    #[serde(try_from = "FirstSkipped")]
    struct FromEnum { a: u8, }
}

impl Clone for ByTuple {
    fn clone(&self) -> Self {
        ByTuple { a: self.a, b: self.b }
    }
}

impl From<(u8, Option<u8>)> for ByTuple {
    fn from((a, b): (u8, Option<u8>)) -> Self {
        ByTuple { a, b }
    }
}

impl From<ByTuple> for (u8, Option<u8>) {
    fn from(ByTuple { a, b }: ByTuple) -> Self {
        (a, b)
    }
}

impl TryFrom<(u8, Option<u8>)> for FromTuple {
    type Error = &'static str;

    fn try_from((a, b): (u8, Option<u8>)) -> Result<Self, Self::Error> {
        Ok(FromTuple { a, b })
    }
}

impl TryFrom<FirstSkipped> for FromEnum {
    type Error = &'static str;

    fn try_from(_: FirstSkipped) -> Result<Self, Self::Error> {
        Ok(FromEnum { a: 0 })
    }
}

/// What became of the values.
#[derive(Debug, Default)]
struct Tally {
    types: u64,
    same: u64,
    refused: u64,
    other: Vec<String>,
    count: u64,
    values: u64,
    seed: u64,
}

impl Tally {
    fn pass<T: Shape>(&mut self) {
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

fn there_and_back<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, super::CodecError> {
    let mut frame = Vec::new();
    put(value, &mut frame)?;
    let start = if super::stride::<T>().is_some() { 0 } else { crate::codec::compact::LENGTH };
    get(&frame[start..])
}

#[test]
fn each_value_of_a_derived_type_comes_back_or_is_refused() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let seed = number("DERIVED_SEED", std::process::id().into());
    let mut tally = Tally { values: number("DERIVED_VALUES", VALUES), seed, ..Tally::default() };
    fields::<Option<u8>>(&mut tally);
    plain::pass::<FirstSkipped>(&mut tally);
    skipped_if_and_filled::pass::<Vec<u8>>(&mut tally);
    macro_rules! each {
        ($($t:ty)*) => { $(tally.pass::<(Vec<$t>, Option<u8>)>();)* };
    }
    each! {
        Plain FirstSkipped SkippedWithAlias LastSkipped NotRead NotWritten RenamedOneWay RenamedOneWayAndSkipped
        Other OtherAlone Internal Adjacent Untagged OneUntagged Nested Tagged Strictly Transparent Flat FlatWide
        FlatFloat FlatEnum ByTuple FromTuple FromEnum f64 f32 char u128 Option<()> Option<Option<u8>>
        plain::First<renamed_one_way::Tuple<FirstSkipped>> skipped_if::Variants<plain::Tuple<Untagged>>
    }
    println!("seed {seed}: {} types, {} values the same, {} refused", tally.types, tally.same, tally.refused);
    assert!(tally.other.is_empty(), "seed {seed}: {} other values: {:#?}", tally.count, tally.other);
    assert!(tally.same + tally.refused >= 100_000 && tally.same > tally.refused, "{tally:?}");
}
