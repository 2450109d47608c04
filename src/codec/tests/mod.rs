//! The codec's promises: what comes back, what is refused and in which words, what bad bytes do.
//! Run by `cargo test`; each name tells the promise.
//! Calls `codec` as the batches do, without processes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compact::{LENGTH, put_within};
use super::*;

mod derived;
mod json;
mod shapes;

/// Through a batch of one, as its reader would see it.
fn round_trip<T: Serialize + DeserializeOwned>(item: &T) -> T {
    let mut frame = vec![0xAA];
    put(item, &mut frame).expect("written");
    let bytes = if let Some(stride) = stride::<T>() {
        assert_eq!(frame.len(), 1 + stride as usize);
        &frame[1..]
    } else {
        let (length, bytes) = frame[1..].split_first_chunk().expect("a length");
        assert_eq!(u32::from_le_bytes(*length) as usize, bytes.len());
        bytes
    };
    get(bytes).expect("read")
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without ampersands")]
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(item: T) {
    assert_eq!(round_trip(&item), item);
    let context = encode(&item).expect("written");
    assert_eq!(decode::<T>(&context).expect("read"), item);
}

/// The message of a refused write, which must have left the frame alone.
#[track_caller]
fn refused_write<T: Serialize + DeserializeOwned>(item: &T) -> String {
    let mut frame = vec![1, 2, 3];
    let error = put(item, &mut frame).expect_err("refused");
    assert_eq!(frame, [1, 2, 3]);
    assert!(error.to_string().starts_with("cannot write an item of type "));
    error.to_string()
}

/// The message of a refused read of what was written without complaint.
#[track_caller]
fn refused_read<T: Serialize + DeserializeOwned + Debug>(item: &T) -> String {
    let bytes = encode(item).expect("written");
    let message = get::<T>(&bytes).expect_err("refused").to_string();
    assert!(message.starts_with("cannot read an item of type "), "{message}");
    message
}

/// What each refused type can do.
const REMEDY: &str = "wrap it in fastmap::Json<T>, which travels as JSON";

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Default)]
struct Empty;

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Meters(f64);

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
enum Tree {
    Leaf,
    One(Box<Tree>),
    Pair(Box<Tree>, Box<Tree>),
    Named { name: String, below: Vec<Tree> },
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
#[serde(tag = "kind", content = "of")]
enum Adjacent {
    A(u32),
    B { text: String },
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Default)]
struct Skips {
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u8>,
    second: Option<u8>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
enum SkipsInVariant {
    V {
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<u8>,
    },
}

#[derive(Serialize, Deserialize)]
struct New<T>(T);

#[derive(Serialize, Deserialize)]
struct Pair<T>(T, T);

#[derive(Serialize, Deserialize)]
enum Any<T> {
    New(T),
    Tuple(T, T),
    Struct { field: T },
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Flat {
    id: u32,
    #[serde(flatten)]
    rest: BTreeMap<String, u32>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Text(String),
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
#[serde(tag = "kind")]
enum Internal {
    A { x: u32 },
}

/// Writes anything but 13, and reads only even numbers.
#[derive(PartialEq, Debug, Clone)]
struct Picky(u32);

impl Serialize for Picky {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 13 {
            return Err(serde::ser::Error::custom("13 brings bad luck"));
        }
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            even if even % 2 == 0 => Ok(Self(even)),
            _ => Err(serde::de::Error::custom("odd")),
        }
    }
}

#[test]
fn numbers_come_back_at_their_extremes() {
    macro_rules! extremes {
        ($($t:ty)*) => {$(
            comes_back(<$t>::MIN);
            comes_back(<$t>::MAX);
            assert_eq!(stride::<$t>(), Some(size_of::<$t>() as u32));
        )*};
    }
    extremes!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 char);
    comes_back((usize::MIN, usize::MAX, isize::MIN, isize::MAX));
    comes_back(usize::MAX);
    comes_back(isize::MIN);
    assert_eq!(stride::<usize>(), Some(8));
    assert_eq!(stride::<isize>(), Some(8));
    comes_back([true, false]);
    comes_back(true);
    comes_back('\u{10FFFF}');
}

#[test]
fn a_number_lies_in_the_frame_as_its_little_endian_bytes() {
    let mut frame = Vec::new();
    put(&0x0102_0304_u32, &mut frame).expect("written");
    put(&-2_i16, &mut frame).expect("written");
    assert_eq!(frame, [4, 3, 2, 1, 0xFE, 0xFF]);
}

#[test]
fn nan_keeps_its_bits() {
    for bits in [0x7FF8_0000_0000_0001, 0xFFF0_0000_0000_0042_u64] {
        assert_eq!(round_trip(&f64::from_bits(bits)).to_bits(), bits);
        assert_eq!(round_trip(&Meters(f64::from_bits(bits))).0.to_bits(), bits);
    }
}

#[test]
fn compound_values_come_back() {
    comes_back(String::from("naïve ☃"));
    comes_back(String::new());
    comes_back((1_u8, "a".to_string(), [1.5_f32; 3], Some(None::<i32>)));
    comes_back(Some(Meters(2.5)));
    comes_back(HashMap::from([(String::from("a"), vec![1_u64]), (String::new(), vec![])]));
    comes_back(Tree::Named {
        name: "root".into(),
        below: vec![
            Tree::Leaf,
            Tree::One(Box::new(Tree::Leaf)),
            Tree::Pair(Box::new(Tree::Leaf), Box::new(Tree::Leaf)),
        ],
    });
    comes_back(Ok::<_, String>(std::time::Duration::from_nanos(1)));
    comes_back("127.0.0.1:80".parse::<std::net::SocketAddr>().expect("an address"));
    comes_back(Skips { first: Some(1), second: None });
}

#[test]
fn items_of_no_bytes_come_back() {
    comes_back(());
    comes_back(Empty);
    comes_back([(); 3]);
    let mut frame = Vec::new();
    put(&Empty, &mut frame).expect("written");
    assert_eq!((frame, stride::<Empty>()), (vec![0; LENGTH], None));
}

#[test]
fn a_reference_has_no_stride() {
    assert_eq!((stride::<&u64>(), stride::<Box<u64>>()), (None, None));
}

#[test]
fn skipped_fields_are_refused_when_written_however_deep() {
    let row = Skips { first: None, second: Some(1) };
    assert_eq!(
        refused_write(&row),
        format!(
            "cannot write an item of type {}: it skips the field `first` (skip_serializing_if), \
             which the compact format cannot carry; wrap it in fastmap::Json<T>, which travels as \
             JSON",
            std::any::type_name::<Skips>()
        )
    );
    for message in [
        refused_write(&vec![row.clone()]),
        refused_write(&Some(row.clone())),
        refused_write(&(1, row.clone())),
        refused_write(&HashMap::from([(1, row.clone())])),
        refused_write(&BTreeMap::from([((), New(row.clone()))])),
        refused_write(&Pair(row.clone(), row.clone())),
        refused_write(&Any::New(row.clone())),
        refused_write(&Any::Tuple(row.clone(), row.clone())),
        refused_write(&Any::Struct { field: row.clone() }),
        refused_write(&Ok::<_, ()>(Box::new(row.clone()))),
        refused_write(&SkipsInVariant::V { note: None }),
    ] {
        assert!(message.contains("skips the field `"), "{message}");
        assert!(message.ends_with(REMEDY));
    }
    assert_eq!(encode(&row).expect_err("refused").to_string().get(..20), Some("cannot write a value"));
    comes_back(Json(row));
}

#[test]
fn unknown_lengths_are_refused_when_written() {
    #[derive(Deserialize)]
    struct Counted;
    impl Serialize for Counted {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..9).filter(|n| n % 2 == 0))
        }
    }
    let flat = Flat { id: 1, rest: BTreeMap::from([("a".into(), 2)]) };
    for message in [refused_write(&flat), refused_write(&Counted)] {
        assert!(message.contains("unknown length (as #[serde(flatten)] writes)"), "{message}");
        assert!(message.ends_with(REMEDY));
    }
    comes_back(Json(flat));
}

#[test]
fn types_that_the_bytes_must_describe_are_refused_when_written() {
    let value: Value = serde_json::json!({"a": [1, null]});
    for message in [
        refused_write(&Untagged::Text("t".into())),
        refused_write(&Internal::A { x: 1 }),
        refused_write(&Adjacent::B { text: "t".into() }),
        refused_write(&value),
        refused_write(&vec![Untagged::Number(1)]),
    ] {
        assert!(message.contains("it must learn the type of a value from the bytes"), "{message}");
        assert!(message.ends_with(REMEDY));
    }
    comes_back(Json(Untagged::Text("t".into())));
    comes_back(vec![Json(Untagged::Number(1)), Json(Untagged::Text("1".into()))]);
    comes_back(Json(Internal::A { x: 1 }));
    comes_back(Json(Adjacent::A(7)));
    comes_back(Json(value));
}

#[test]
fn the_words_of_a_failed_serialize_are_kept() {
    let message = refused_write(&vec![Picky(2), Picky(13)]);
    assert!(message.ends_with("tests::Picky>: 13 brings bad luck"), "{message}");
    let message = refused_write(&Json(HashMap::from([((1, 2), 3)])));
    assert!(message.ends_with(": key must be a string"), "{message}");
}

#[test]
fn the_words_of_a_failed_deserialize_are_kept() {
    let message = refused_read(&Picky(3));
    assert!(message.contains("its Deserialize refused the value: odd"), "{message}");
    assert!(message.contains(REMEDY), "{message}");
}

#[test]
fn an_item_above_the_limit_is_refused_in_words() {
    let mut frame = vec![9];
    let text = "x".repeat(200);
    let error = put_within(201, &text, &mut frame).expect_err("202 bytes");
    assert!(error.to_string().contains("it takes 202 bytes, and one item may take 201"), "{error}");
    assert_eq!(frame, [9]);
    put_within(202, &text, &mut frame).expect("202 bytes");
}

#[test]
fn truncated_and_trailing_bytes_are_errors() {
    fn at_any_length<T: Serialize + DeserializeOwned + Debug>(item: &T, bytes: &[u8]) {
        for shorter in 0..bytes.len() {
            let message = get::<T>(&bytes[..shorter]).expect_err("short").to_string();
            assert!(message.contains("Hit the end of buffer"), "{message}");
        }
        let longer = [bytes, &[0, 0]].concat();
        let message = get::<T>(&longer).expect_err("long").to_string();
        assert!(message.contains("2 bytes are left over"), "{message}");
        assert!(decode::<T>(&[&encode(item).expect("written")[..], &[0]].concat()).is_err());
    }
    at_any_length(&7_u64, &7_u64.to_le_bytes());
    at_any_length(&7_u8, &[7]);
    let item = (300_u32, String::from("abc"), vec![1.5_f64]);
    at_any_length(&item, &encode(&item).expect("written"));
}

#[test]
fn bytes_that_are_no_value_are_errors() {
    assert!(get::<bool>(&[2]).is_err());
    assert!(get::<char>(&0xD800_u32.to_le_bytes()).is_err());
    assert!(get::<String>(&[1, 0xFF]).is_err());
    assert!(get::<Tree>(&[9]).is_err());
    assert!(get::<Option<u8>>(&[2, 0]).is_err());
}

#[test]
fn a_claimed_length_allocates_nothing_by_itself() {
    let mut bytes = vec![0x80; 8];
    bytes.push(0x10); // 2^60 as a varint
    assert_eq!(decode::<u64>(&bytes).expect("a number"), 1 << 60);
    bytes.extend([1; 64]);
    assert!(get::<Vec<u64>>(&bytes).is_err());
    assert!(get::<Vec<[u64; 32]>>(&bytes).is_err());
    assert!(get::<Vec<String>>(&bytes).is_err());
    assert!(get::<HashMap<u64, u64>>(&bytes).is_err());
    assert!(get::<BTreeMap<u64, u64>>(&bytes).is_err());
    assert!(get::<String>(&bytes).is_err());
    assert!(get::<Json<Value>>(&bytes).is_err());
}

#[test]
fn json_reads_and_changes_like_the_value_inside() {
    let mut json = Json::from(vec![1]);
    json.push(2);
    assert_eq!((json.len(), &json), (2, &Json(vec![1, 2])));
}

fn trees() -> impl Strategy<Value = Tree> {
    Just(Tree::Leaf).prop_recursive(4, 32, 4, |tree| {
        prop_oneof![
            tree.clone().prop_map(|below| Tree::One(below.into())),
            (tree.clone(), tree.clone()).prop_map(|(a, b)| Tree::Pair(a.into(), b.into())),
            (".*", prop::collection::vec(tree, 0..4)).prop_map(|(name, below)| Tree::Named { name, below }),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_put_comes_back(
        tree in trees(),
        number in any::<i128>(),
        pair in any::<(u64, Option<char>)>(),
        map in prop::collection::btree_map(".*", any::<Vec<i16>>(), 0..5),
    ) {
        comes_back(tree);
        comes_back(number);
        comes_back(pair);
        comes_back(map);
    }

    #[test]
    fn finite_floats_come_back_through_json(number in prop::num::f64::NORMAL) {
        prop_assert_eq!(round_trip(&Json(number)).to_bits(), number.to_bits());
    }

    #[test]
    fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = get::<Tree>(&bytes);
        let _ = get::<HashMap<String, Vec<Option<char>>>>(&bytes);
        let _ = get::<Json<Value>>(&bytes);
        if let Ok(items) = get::<Vec<(u16, String)>>(&bytes) {
            comes_back(items);
        }
    }
}

#[test]
fn vectors_of_plain_numbers_are_their_bytes() {
    let mut out = Vec::new();
    put(&vec![1u16, 0x0203], &mut out).expect("a vector");
    assert_eq!(out, [4, 0, 0, 0, 1, 0, 3, 2]);
    assert_eq!(get::<Vec<u16>>(&out[4..]).expect("a vector"), [1, 0x0203]);
    assert_eq!(get::<Vec<f64>>(&[]).expect("an empty vector"), [0.0; 0]);
    assert!(get::<Vec<u16>>(&out[4..7]).is_err());
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(decode::<Vec<u8>>(&encode(&bytes).expect("bytes")).expect("bytes"), bytes);
}
