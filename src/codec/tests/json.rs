//! What `Json` carries, and what it refuses.
//! Calls the helpers of `tests`.

use super::*;

#[test]
fn what_json_writes_as_null_is_refused_there() {
    for message in [
        refused_write(&Json(Some(None::<u8>))),
        refused_write(&Json(vec![Some(())])),
        refused_write(&Json((1, Some(Value::Null)))),
        refused_write(&Json(BTreeMap::from([("a".to_string(), Some(Empty))]))),
    ] {
        assert!(message.contains("in a fastmap::Json<T>: JSON writes Some(None)"), "{message}");
    }
    for message in [
        refused_write(&Json(f64::NAN)),
        refused_write(&Json(Some(f64::INFINITY))),
        refused_write(&Json(vec![f32::NEG_INFINITY])),
    ] {
        assert!(message.contains("in a fastmap::Json<T>: JSON has no NaN"), "{message}");
    }
    comes_back(Json((None::<Option<u8>>, (), Empty, Some(Some(1)))));
    comes_back(Json(Value::Null));
}

#[test]
fn a_field_of_two_names_is_refused_in_json_and_carried_without() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct Renamed {
        #[serde(rename(serialize = "there", deserialize = "back"))]
        note: Option<u8>,
    }
    comes_back(Renamed { note: Some(1) });
    comes_back(Json(Renamed { note: None }));
    // Nor is it once other values are known.
    comes_back(Json((Some(2), Renamed { note: None })));
    let message = refused_write(&Json((Some(2), Renamed { note: Some(1) })));
    assert!(message.contains("makes another value of the JSON"), "{message}");
    let message = refused_write(&Json(Renamed { note: Some(1) }));
    assert!(message.contains("makes another value of the JSON"), "{message}");
}

#[test]
fn numbers_of_128_bits_are_refused_with_the_reason_where_serde_buffers_them() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct Wide {
        wide: u128,
    }
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct FlatWide {
        id: u8,
        #[serde(flatten)]
        rest: Wide,
    }
    comes_back(Json(Wide { wide: u128::MAX }));
    comes_back(Json((i128::MIN, u128::MAX)));
    let message = refused_read(&Json(FlatWide { id: 1, rest: Wide { wide: 5 } }));
    assert!(message.contains("in a fastmap::Json<") && message.contains("128"), "{message}");
    assert!(!message.contains("wrap it in"), "{message}");
}

#[test]
fn buffered_numbers_come_back_with_arbitrary_precision_and_without() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    #[serde(untagged)]
    enum Cell {
        // A number of serde_json's with arbitrary precision is such a map.
        Names(BTreeMap<String, String>),
        Whole(i64),
        Number(f64),
    }
    for cell in [Cell::Number(2.5), Cell::Number(1e300), Cell::Whole(-7), Cell::Number(0.1 + 0.2)] {
        comes_back(Json(cell));
    }
    comes_back(Json(Cell::Names(BTreeMap::from([("a".into(), "b".into())]))));
    comes_back(Json(serde_json::json!({"a": [1, 2.5, {"b": -1e-7}], "c": u64::MAX})));
    comes_back(Json(vec![0.1f32, f32::MIN_POSITIVE]));
    comes_back(Json(HashMap::from([(1u64, 2.5)])));
}
