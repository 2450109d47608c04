//! Kinds of function, and of items and results: whatever `map` takes that captures nothing.
//! Each is compared with `Iterator::map` of the same function.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::num::ParseIntError;
use std::ops::Add;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::common::{config, values};

/// Maps by both and compares.
fn same<F, T, R>(func: F, items: impl IntoIterator<Item = T> + Clone)
where
    F: Fn(T) -> R + Copy + Send + Sync + 'static,
    T: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let expected: Vec<R> = items.clone().into_iter().map(func).collect();
    assert_eq!(values(config(1).fastmap(func, items)), expected);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Metres(f64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Nothing;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Empty,
    Circle(f64),
    Rectangle { width: f64, height: f64 },
    Many(Vec<Shape>),
}

impl Point {
    fn mirrored(self) -> Self {
        Point { x: self.y, y: self.x }
    }

    fn on_diagonal(x: i32) -> Self {
        Point { x, y: x }
    }
}

trait Area {
    fn area(self) -> f64;
}

impl Area for Shape {
    fn area(self) -> f64 {
        match self {
            Shape::Empty => 0.0,
            Shape::Circle(radius) => 3.0 * radius * radius,
            Shape::Rectangle { width, height } => width * height,
            Shape::Many(shapes) => shapes.into_iter().map(Area::area).sum(),
        }
    }
}

fn double<T: Add<Output = T> + Copy>(number: T) -> T {
    number + number
}

fn words() -> Vec<String> {
    ["", "one", "two words", "drei Wörter hier", "四"].map(String::from).to_vec()
}

#[test]
fn fn_items_closures_and_generic_instances() {
    fn inner(n: i64) -> i64 {
        n - 1
    }
    same(inner, -3..3);
    same(|n: i64| n * 2, -3..3);
    same(double::<u32>, 0..5);
    same(double::<f64>, [0.5, -1.25, f64::MAX]);
    let named = |n: u8| n.wrapping_add(200);
    same(named, 0..=255);
    same(move |n: u8| !n, 0..=255);
}

#[test]
fn two_instances_of_one_generic_function_are_two_functions() {
    let config = config(1);
    let small = config.fastmap(double::<u8>, 0..100u8);
    let large = config.fastmap(double::<u64>, 0..100u64);
    for ((index, small), large) in (0..).zip(small).zip(large) {
        assert_eq!((u64::from(small.unwrap()), large.unwrap()), (2 * index, 2 * index));
    }
}

#[test]
fn methods_associated_functions_and_constructors() {
    same(u64::count_ones, 0..100);
    same(i32::abs, [-5, 0, 5]);
    same(String::into_bytes, words());
    same(Point::mirrored, [Point { x: 1, y: 2 }]);
    same(Point::on_diagonal, 0..5);
    same(<Shape as Area>::area, [Shape::Empty, Shape::Circle(2.0)]);
    same(Some::<u16>, 0..5);
    same(Metres, [0.5, 1.5]);
    same(<u64 as From<u32>>::from, 0..5);
    assert_eq!(
        values(config(1).fastmap_ref(String::len, &words())),
        words().iter().map(String::len).collect::<Vec<_>>()
    );
}

#[test]
fn tuples_structs_and_enums() {
    same(|(a, (b, c)): (u8, (char, bool))| (c, (b, a)), [(1, ('x', true)), (255, ('ß', false))]);
    same(|point: Point| point, [Point { x: i32::MIN, y: i32::MAX }]);
    same(|metres: Metres| Metres(metres.0 * 2.0), [Metres(0.1), Metres(-0.0)]);
    same(|_: Nothing| Nothing, [Nothing, Nothing]);
    let rectangle = Shape::Rectangle { width: 2.0, height: 3.0 };
    let shapes =
        [Shape::Empty, Shape::Circle(1.0), rectangle.clone(), Shape::Many(vec![rectangle, Shape::Empty])];
    same(|shape: Shape| Shape::Many(vec![shape.clone(), shape]), shapes.clone());
    same(Shape::area, shapes);
}

#[test]
fn options_vectors_maps_and_units() {
    same(|n: Option<u64>| n.and_then(|n| n.checked_sub(1)), [None, Some(0), Some(1)]);
    same(|n: Option<Option<()>>| n.flatten().is_some(), [None, Some(None), Some(Some(()))]);
    same(|n: u64| (0..n).collect::<Vec<_>>(), 0..20);
    same(|lists: Vec<Vec<String>>| lists.concat(), [vec![], vec![vec![]], vec![words(), words()]]);
    let count = |text: String| {
        text.chars().fold(HashMap::new(), |mut counts: HashMap<char, u32>, letter| {
            *counts.entry(letter).or_default() += 1;
            counts
        })
    };
    same(count, words());
    same(
        |counts: HashMap<char, u32>| counts.into_iter().collect::<BTreeMap<_, _>>(),
        words().into_iter().map(count).collect::<Vec<_>>(),
    );
    same(|()| (), vec![(); 100]);
    same(|(): ()| 7u8, vec![(); 100]);
    same(|_: u64| (), 0..100);
    same(|bytes: [u8; 4]| u32::from_be_bytes(bytes), [[0, 0, 1, 0], [255; 4]]);
    same(|time: Duration| time * 2, [Duration::ZERO, Duration::from_nanos(1)]);
    same(|boxed: Box<str>| boxed.len(), words().into_iter().map(String::into_boxed_str).collect::<Vec<_>>());
}

#[test]
fn vectors_of_plain_numbers() {
    fn reversed<T>(mut list: Vec<T>) -> Vec<T> {
        list.reverse();
        list
    }
    same(reversed::<u8>, [vec![], vec![1], (0..=255).collect()]);
    same(reversed::<i16>, [vec![], vec![i16::MIN, -1, i16::MAX]]);
    same(reversed::<u64>, [vec![], vec![0, u64::MAX], (0..1000).collect()]);
    same(reversed::<f64>, [vec![], vec![0.1, -0.0, f64::MAX, f64::NEG_INFINITY]]);
    same(reversed::<bool>, [vec![], vec![true, false, false]]);
    same(reversed::<char>, [vec![], vec!['a', '\u{10FFFF}']]);
    same(reversed::<()>, [vec![], vec![(); 1000]]);
    same(reversed::<Vec<u32>>, [vec![], vec![vec![]], vec![vec![1], vec![], vec![2, 3]]]);
    same(|(text, list): (String, Vec<u16>)| (list, text), [("a".to_owned(), vec![1, 2])]);
}

#[test]
fn every_plain_number_comes_back_bit_for_bit() {
    same(|n: u128| n, [0, u128::MAX]);
    same(|n: i128| n, [i128::MIN, -1]);
    same(|n: i8| n, i8::MIN..=i8::MAX);
    same(|n: usize| n, [0, usize::MAX]);
    same(|letter: char| letter, ['a', '\u{10FFFF}', '\0']);
    same(|truth: bool| !truth, [true, false]);
    let odd = [f64::NAN, -0.0, f64::INFINITY, f64::MIN_POSITIVE / 2.0, 0.1 + 0.2];
    let back = values(config(1).fastmap(|n: f64| n, odd));
    assert_eq!(back.into_iter().map(f64::to_bits).collect::<Vec<_>>(), odd.map(f64::to_bits));
}

#[test]
fn a_result_of_the_function_is_a_value_as_any_other() {
    #[allow(clippy::needless_pass_by_value)]
    fn parse(text: String) -> Result<i32, String> {
        text.parse().map_err(|error: ParseIntError| error.to_string())
    }
    let texts = ["1", "x", "-7", ""].map(String::from);
    same(parse, texts.clone());
    // Two layers: the outer is fastmap's, the inner the function's.
    let parsed: Result<Vec<Result<i32, String>>, fastmap::Error> = config(1).fastmap(parse, texts).collect();
    assert_eq!(parsed.unwrap().into_iter().filter_map(Result::ok).collect::<Vec<_>>(), [1, -7]);
}

#[test]
fn short_and_long_items_side_by_side() {
    fn work(rounds: u64) -> u64 {
        (0..rounds).fold(0, |sum, round| std::hint::black_box(sum + round))
    }
    let rounds: Vec<u64> = (0..400).map(|n| if n % 50 == 3 { 300_000 } else { n % 3 }).collect();
    let expected: Vec<u64> = rounds.iter().copied().map(work).collect();
    assert_eq!(values(config(2).fastmap(work, rounds)), expected);
}
