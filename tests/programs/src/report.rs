//! What became of a map, in lines: written by the programs, read by the tests.

use std::fmt::Debug;

use fastmap::Error;

/// Consumes a map and prints what came: a line for each error, one for what is not as expected, one for the counts.
pub fn report<R: PartialEq + Debug>(
    map: impl IntoIterator<Item = Result<R, Error>>,
    expected: impl Fn(u64) -> R,
) {
    let mut map = map.into_iter();
    let (mut answers, mut good) = (0, 0);
    for answer in map.by_ref() {
        match answer {
            Ok(value) if value == expected(answers) => good += 1,
            Ok(value) => println!("wrong {answers}: {value:?}"),
            Err(error) => {
                let index = error.index().map_or("-".to_owned(), |index| index.to_string());
                println!("error {:?} {index} {}", error.kind(), error.to_string().replace('\n', " "));
                if error.index().is_some_and(|index| index as u64 != answers) {
                    println!("wrong place: {answers}");
                }
            }
        }
        answers += 1;
        if answers == 1 {
            println!("first answer");
        }
    }
    if map.next().is_some() {
        println!("wrong: an answer behind the end");
    }
    println!("answers {answers} ok {good}");
}

/// The lines of [`report`], read.
#[derive(Debug, Default)]
pub struct Report {
    /// How many answers came, good and bad.
    pub answers: usize,
    /// How many were `Ok` and what they should be.
    pub good: usize,
    /// The others.
    pub errors: Vec<Failure>,
}

/// One error.
#[derive(Debug)]
pub struct Failure {
    /// Its kind, as `Debug` writes it.
    pub kind: String,
    /// The item, if it is about one.
    pub index: Option<usize>,
    /// Its text.
    pub text: String,
}

impl Report {
    /// Reads lines; panics where an answer was wrong or the map did not end.
    pub fn read(lines: &[String]) -> Report {
        let mut report = Report::default();
        let mut ended = false;
        for line in lines {
            assert!(!line.starts_with("wrong"), "{line}");
            if let Some(error) = line.strip_prefix("error ") {
                let mut words = error.splitn(3, ' ');
                let mut word = || words.next().expect("an error line has three parts").to_owned();
                report.errors.push(Failure { kind: word(), index: word().parse().ok(), text: word() });
            } else if let Some(counts) = line.strip_prefix("answers ") {
                let (answers, good) = counts.split_once(" ok ").expect("two counts");
                report.answers = answers.parse().expect("a count");
                report.good = good.parse().expect("a count");
                ended = true;
            }
        }
        assert!(ended, "the map did not end: {lines:#?}");
        report
    }
}
