//! What travels: sizes from nothing to much, and values that can't.

use std::collections::BTreeMap;

use fastmap::{Error, ErrorKind, Json};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::common::{config, values};

#[test]
fn ten_mebibytes_in_and_out() {
    let text = "0123456789abcdef".repeat(10 << 16);
    let back = values(config(2).fastmap(|text: String| text.to_uppercase(), [text.clone(), text.clone()]));
    assert_eq!(back.len(), 2);
    assert!(back.iter().all(|upper| *upper == text.to_uppercase()));
}

#[test]
fn a_large_item_between_small_ones() {
    let sizes = (0..100).map(|n| if n % 40 == 20 { 3 << 20 } else { n });
    let texts = sizes.clone().map(|size| "y".repeat(size));
    let map = config(2).fastmap(|text: String| text + "z", texts);
    assert!(values(map).iter().map(String::len).eq(sizes.map(|size| size + 1)));
}

#[test]
fn many_items_of_no_bytes() {
    let units = values(config(2).fastmap(|()| (), vec![(); 100_000]));
    assert_eq!(units.len(), 100_000);
    let batches = values(config(2).fastmap(|()| (), vec![(); 10_000]).batches());
    assert_eq!(batches.concat().len(), 10_000);
}

#[test]
fn two_hundred_items_of_a_mebibyte() {
    let texts = (0..200u32).map(|n| char::from(b'a' + (n % 26) as u8).to_string().repeat(1 << 20));
    let map = config(2).fastmap(|text: String| (text.len(), text.chars().next()), texts);
    for (index, result) in map.enumerate() {
        assert_eq!(result.unwrap(), (1 << 20, Some(char::from(b'a' + (index % 26) as u8))));
    }
}

#[test]
fn two_hundred_results_of_a_mebibyte() {
    let map = config(2).fastmap(|n: u8| char::from(b'a' + n % 26).to_string().repeat(1 << 20), 0..200);
    for (index, result) in map.enumerate() {
        let text = result.unwrap();
        assert_eq!((text.len(), text.as_bytes()[0]), (1 << 20, b'a' + (index % 26) as u8));
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Cell {
    Number(i64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u32,
    #[serde(flatten)]
    more: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Skipping {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    id: u32,
}

fn cells() -> Vec<Cell> {
    vec![Cell::Number(-3), Cell::Text("three".to_owned())]
}

/// The error is about an item, names its type, and tells the way out.
#[track_caller]
fn assert_refused<R: std::fmt::Debug>(answer: &Result<R, Error>, index: usize, type_name: &str) {
    let error = answer.as_ref().unwrap_err();
    assert_eq!((error.kind(), error.index()), (ErrorKind::Serialize, Some(index)), "{error}");
    let text = error.to_string();
    assert!(text.contains(type_name) && text.contains("fastmap::Json"), "{text}");
}

#[test]
fn items_that_only_json_can_carry_are_refused_by_name() {
    let config = config(1);
    let flat = Flat { id: 1, more: BTreeMap::from([("a".to_owned(), 2)]) };
    let values = [serde_json::json!({"a": [1, null]}), serde_json::json!(7)];
    for (index, answer) in config.fastmap(|cell: Cell| cell == Cell::Number(1), cells()).enumerate() {
        assert_refused(&answer, index, "Cell");
    }
    for (index, answer) in config.fastmap(|flat: Flat| flat.id, [flat.clone(), flat]).enumerate() {
        assert_refused(&answer, index, "Flat");
    }
    for (index, answer) in config.fastmap(|value: serde_json::Value| value.is_null(), values).enumerate() {
        assert_refused(&answer, index, "Value");
    }
    assert_eq!(config.fastmap(|n: u64| n, 0..3).filter_map(Result::ok).count(), 3);
}

#[test]
fn a_value_that_skips_a_field_is_refused_and_one_that_does_not_is_carried() {
    let noted = Skipping { note: Some("n".to_owned()), id: 1 };
    let plain = Skipping { note: None, id: 2 };
    let answers: Vec<_> =
        config(1).fastmap(|item: Skipping| item.id, [noted.clone(), plain, noted]).collect();
    assert_eq!(*answers[0].as_ref().unwrap(), 1);
    assert_refused(&answers[1], 1, "Skipping");
    assert_eq!(*answers[2].as_ref().unwrap(), 1);
}

#[test]
fn results_that_only_json_can_carry_are_refused_by_name() {
    let config = config(1);
    let answers: Vec<_> = config
        .fastmap(|n: i64| if n == 0 { Cell::Number(n) } else { Cell::Text(n.to_string()) }, 0..3)
        .collect();
    for (index, answer) in answers.iter().enumerate() {
        assert_refused(answer, index, "Cell");
    }
    let answers: Vec<_> = config.fastmap(|id: u32| Flat { id, more: BTreeMap::new() }, 0..3).collect();
    for (index, answer) in answers.iter().enumerate() {
        assert_refused(answer, index, "Flat");
    }
}

#[test]
fn json_carries_what_the_compact_format_cannot() {
    let config = config(1);
    assert_eq!(
        values(config.fastmap(|cell: Json<Cell>| cell, cells().into_iter().map(Json))),
        cells().into_iter().map(Json).collect::<Vec<_>>()
    );
    let flat = Flat { id: 1, more: BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 3)]) };
    assert_eq!(values(config.fastmap(|flat: Json<Flat>| flat, [Json(flat.clone())])), [Json(flat)]);
    let skipping = Skipping { note: None, id: 2 };
    assert_eq!(
        values(config.fastmap(|item: Json<Skipping>| item, [Json(skipping.clone())])),
        [Json(skipping)]
    );
    let value = serde_json::json!({"a": [1, null, {"b": 0.1}], "c": "d"});
    assert_eq!(
        values(config.fastmap(|value: Json<serde_json::Value>| value, [Json(value.clone())])),
        [Json(value)]
    );
}

/// Refuses to be written when it is odd.
#[derive(Debug, PartialEq, Deserialize)]
struct EvenOnly(u64);

impl Serialize for EvenOnly {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 2 == 1 {
            return Err(serde::ser::Error::custom(format!("{} is odd", self.0)));
        }
        serializer.serialize_newtype_struct("EvenOnly", &self.0)
    }
}

#[test]
fn an_item_that_cannot_be_written_is_answered_in_its_place() {
    let answers: Vec<_> = config(2).fastmap(|item: EvenOnly| item.0 * 10, (0..1000).map(EvenOnly)).collect();
    assert_eq!(answers.len(), 1000);
    for (index, answer) in answers.iter().enumerate() {
        if index % 2 == 0 {
            assert_eq!(*answer.as_ref().unwrap(), 10 * index as u64);
        } else {
            let error = answer.as_ref().unwrap_err();
            assert_eq!((error.kind(), error.index()), (ErrorKind::Serialize, Some(index)), "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("{index} is odd")) && text.contains("EvenOnly"), "{text}");
        }
    }
}

#[test]
fn a_result_that_cannot_be_written_is_answered_in_its_place() {
    let answers: Vec<_> = config(2).fastmap(EvenOnly, 0..100).collect();
    for (index, answer) in answers.iter().enumerate() {
        match answer {
            Ok(EvenOnly(n)) => assert_eq!((index % 2, *n), (0, index as u64)),
            Err(error) => {
                assert_eq!((error.kind(), error.index()), (ErrorKind::Serialize, Some(index)));
                assert!(error.to_string().contains(&format!("{index} is odd")), "{error}");
            }
        }
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 50);
}

/// Panics while it is written or read, half way.
#[derive(Debug, PartialEq)]
struct Brittle(u64);

const BREAKS_WHEN_WRITTEN: u64 = 7;
const BREAKS_WHEN_READ: u64 = 3;

impl Serialize for Brittle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_tuple(2)?;
        fields.serialize_element(&self.0)?;
        assert!(self.0 % 10 != BREAKS_WHEN_WRITTEN, "written {}", self.0);
        fields.serialize_element("some more text")?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Brittle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (number, _text) = <(u64, String)>::deserialize(deserializer)?;
        assert!(number % 10 != BREAKS_WHEN_READ, "read {number}");
        Ok(Brittle(number))
    }
}

#[test]
fn a_panic_while_an_item_is_read_or_a_result_is_written_costs_that_item() {
    let config = config(2);
    let items = (0..1000).map(|n| Brittle(if n % 10 == BREAKS_WHEN_WRITTEN { 0 } else { n }));
    for (index, answer) in config.fastmap(|item: Brittle| item.0, items).enumerate() {
        let n = index as u64;
        match answer {
            Ok(result) => assert_eq!(result, if n % 10 == BREAKS_WHEN_WRITTEN { 0 } else { n }),
            Err(error) => {
                assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, Some(index)));
                assert!(error.to_string().contains(&format!("read {n}")), "{error}");
            }
        }
    }
    let results = config.fastmap(|n: u64| Brittle(if n % 10 == BREAKS_WHEN_READ { 0 } else { n }), 0..1000);
    for (index, answer) in results.enumerate() {
        let n = index as u64;
        match answer {
            Ok(Brittle(result)) => assert_eq!(result, if n % 10 == BREAKS_WHEN_READ { 0 } else { n }),
            Err(error) => {
                assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, Some(index)));
                assert!(error.to_string().contains(&format!("written {n}")), "{error}");
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Level {
    #[serde(skip)]
    Hidden,
    Mid,
    High(u8),
}

#[test]
fn a_variant_behind_a_skipped_one_is_refused_as_item_and_as_result_and_carried_by_json() {
    let config = config(1);
    let levels = [Level::Mid, Level::High(1), Level::Mid];
    let _ = Level::Hidden;
    for (index, answer) in config.fastmap(|level: Level| level == Level::Mid, levels.clone()).enumerate() {
        assert_refused(&answer, index, "Level");
    }
    let answers = config.fastmap(|n: u8| if n == 0 { Level::Mid } else { Level::High(n) }, 0..3);
    for (index, answer) in answers.enumerate() {
        assert_refused(&answer, index, "Level");
    }
    let mut answers = config.fastmap_with(Level::High(7), |_: &Level, n: u8| n, 0..3);
    let error = answers.next().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.index()), (ErrorKind::Serialize, None), "{error}");
    assert!(error.to_string().contains("the variant `High` of its enum `Level`"), "{error}");
    let levels = levels.map(Json);
    assert_eq!(values(config.fastmap(|level: Json<Level>| level, levels.clone())), levels);
}

#[test]
fn what_json_writes_as_null_is_refused_at_its_item() {
    let items = [Some(Some(1)), Some(None), None].map(Json);
    let answers: Vec<_> = config(1).fastmap(|item: Json<Option<Option<u8>>>| item, items).collect();
    assert_eq!(answers[0].as_ref().unwrap().0, Some(Some(1)));
    assert_refused(&answers[1], 1, "Json");
    assert_eq!(answers[2].as_ref().unwrap().0, None);
    let answers: Vec<_> = config(1).fastmap(|n: f64| Json(Some(1.0 / n)), [1.0, 0.0, 2.0]).collect();
    assert_eq!(answers[2].as_ref().unwrap().0, Some(0.5));
    assert_refused(&answers[1], 1, "Json");
}
