//! Types whose container or variants have attributes, nested into each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::random::{Random, Shape};

/// A type whose variants or container have attributes.
macro_rules! types {
    ($($(#[$meta:meta])* enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident
            $(($($element:ty),*))? $({$($field:ident: $kind:ty),*})? = $weight:literal,)*
    })*) => {$(
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        $(#[$meta])*
        pub(super) enum $name {
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
        pub(super) struct $name { $($(#[$field_meta])* $field: $kind,)* }

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
