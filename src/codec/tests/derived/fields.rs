//! Each attribute of a field, at each place where a field can be.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::random::{Random, Shape};
use super::tally::Tally;

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
        pub(super) mod $module {
            use super::*;

            #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(bound = "T: Shape")]
            pub(crate) struct First<T> {
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
            pub(crate) struct Tuple<T>(
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
            pub(crate) enum Variants<T> {
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

            pub(crate) fn pass<T: Shape>(tally: &mut Tally) {
                tally.pass::<First<T>>();
                // Behind the first, a byte more or less is read as another value.
                tally.pass::<(Tuple<T>, Vec<Tuple<T>>)>();
                tally.pass::<Vec<Variants<T>>>();
            }
        }
    )*

    pub(super) fn fields<T: Shape>(tally: &mut Tally) {
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
