//! Types whose `Serialize` and `Deserialize` don't fit each other where nothing is named: refused, in words.
//! Calls the helpers of `tests`.

use super::*;

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
enum Level {
    #[serde(skip)]
    Hidden,
    Mid,
    High,
}

#[test]
fn a_variant_behind_a_skipped_one_is_refused_in_words() {
    for level in [Level::Mid, Level::High] {
        let name = format!("{level:?}");
        for message in [refused_write(&level), refused_write(&(7, vec![Some(level.clone())]))] {
            assert!(message.contains(&format!("the variant `{name}` of its enum `Level`")), "{message}");
            assert!(message.contains("#[serde(skip)]") && message.ends_with(REMEDY), "{message}");
        }
        assert!(encode(&level).is_err());
        comes_back(Json(level));
    }
    let _ = Level::Hidden;
}

#[test]
fn a_variant_that_appears_later_is_refused_too() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    enum Late {
        First,
        #[serde(skip)]
        Hidden,
        Second(u8),
        Third(u8),
    }
    let _ = Late::Hidden;
    comes_back(vec![Late::First; 3]);
    comes_back(vec![Late::First]);
    assert!(refused_write(&vec![Late::First, Late::Second(1)]).contains("`Second`"));
    assert!(refused_write(&vec![Late::First, Late::Third(1)]).contains("`Third`"));
    comes_back(vec![Late::First]);
}

#[test]
fn a_field_that_one_direction_skips_is_refused() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Default)]
    struct Unwritten {
        #[serde(skip_serializing, default)]
        a: u8,
        b: u8,
    }
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Default)]
    struct Unread {
        #[serde(skip_deserializing)]
        a: u8,
        b: u8,
    }
    let pair = (Unwritten { a: 0, b: 1 }, Unread { a: 0, b: 3 });
    assert!(refused_write(&pair).contains("fields of `Unwritten` is 1"));
    assert!(refused_write(&pair.1).contains("fields of `Unread` is 2"));
    comes_back(Json(pair.0));
}

#[test]
fn a_tuple_struct_that_leaves_a_field_out_is_refused() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct Sparse(
        #[serde(skip_serializing_if = "Option::is_none", default)] Option<u8>,
        #[serde(default)] u8,
    );
    comes_back((Sparse(Some(1), 2), vec![0u8, 0]));
    // Its bytes are those of `(Sparse(Some(2), 0), [])`.
    assert!(refused_write(&(Sparse(None, 1), vec![0u8, 0])).ends_with(REMEDY));
    let message = refused_read(&Json(Sparse(None, 1)));
    assert!(message.contains("a tuple has fewer elements than are read"), "{message}");
    comes_back((Sparse(Some(1), 2), vec![0u8, 0]));
}

#[test]
fn another_kind_of_value_than_was_written_is_refused() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct Hex {
        #[serde(serialize_with = "as_hex")]
        number: u64,
    }
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn as_hex<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:x}"))
    }
    let message = refused_write(&Hex { number: 17 });
    assert!(
        message.contains("a string is written where its Deserialize reads an unsigned integer"),
        "{message}"
    );
}

#[test]
fn what_has_the_same_bytes_may_be_read_by_another_type() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    #[serde(try_from = "(u8, u64)")]
    struct Sorted {
        low: u8,
        high: u16,
    }
    impl TryFrom<(u8, u64)> for Sorted {
        type Error = &'static str;
        fn try_from((low, high): (u8, u64)) -> Result<Self, Self::Error> {
            Ok(Sorted { low, high: u16::try_from(high).map_err(|_| "too high")? })
        }
    }
    comes_back(Sorted { low: 1, high: 300 });
}

#[test]
fn a_type_that_changes_its_values_when_read_is_not_refused() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    #[serde(from = "Version", into = "Version")]
    enum Version2 {
        Old,
        New,
    }
    #[derive(Serialize, Deserialize)]
    enum Version {
        Old,
        New,
    }
    impl From<Version> for Version2 {
        fn from(_: Version) -> Self {
            Version2::New
        }
    }
    impl From<Version2> for Version {
        fn from(version: Version2) -> Self {
            if version == Version2::Old { Version::Old } else { Version::New }
        }
    }
    assert_eq!(round_trip(&Version2::Old), Version2::New);
}

#[test]
fn a_sequence_that_must_be_whole_comes_back() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    #[serde(try_from = "(usize, Vec<u16>)", into = "(usize, Vec<u16>)")]
    struct Counted(Vec<u16>);
    impl From<Counted> for (usize, Vec<u16>) {
        fn from(Counted(numbers): Counted) -> Self {
            (numbers.len(), numbers)
        }
    }
    impl TryFrom<(usize, Vec<u16>)> for Counted {
        type Error = &'static str;
        fn try_from((len, numbers): (usize, Vec<u16>)) -> Result<Self, Self::Error> {
            if len == numbers.len() { Ok(Counted(numbers)) } else { Err("not all of them") }
        }
    }
    comes_back(Counted(vec![1, 2, 3, 4]));
}

#[test]
fn a_type_that_refuses_the_compact_format_by_itself_is_pointed_to_json() {
    /// As `toml::value::Datetime`: a struct that is read as a map alone.
    #[derive(PartialEq, Debug, Serialize)]
    struct Datetime {
        text: String,
    }
    impl<'de> Deserialize<'de> for Datetime {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Fields;
            impl<'de> serde::de::Visitor<'de> for Fields {
                type Value = Datetime;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a date")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Datetime, A::Error> {
                    let (_, text) = map.next_entry::<String, String>()?.expect("an entry");
                    Ok(Datetime { text })
                }
            }
            deserializer.deserialize_struct("Datetime", &["text"], Fields)
        }
    }
    let message = refused_read(&Datetime { text: "1979-05-27".into() });
    assert!(
        message.contains("it expects a date, and gets sequence") && message.ends_with(REMEDY),
        "{message}"
    );
    comes_back(Json(Datetime { text: "1979-05-27".into() }));
}
