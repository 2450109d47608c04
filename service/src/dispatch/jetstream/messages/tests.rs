//! Tests of `messages`.

use fastmap_backends::cloud::{Part, PartOutcome};
use fastmap_backends::{RefusedCall, Results};

use super::*;

fn requests() -> Vec<Request> {
    let bytes = Bytes::from_static(b"bytes");
    vec![
        Request::Claim(3),
        Request::Get(1 << 40),
        Request::Part(7, 9, bytes.clone()),
        Request::Outcome("$JS.ACK.x".to_owned(), bytes),
        Request::Nack,
        Request::Unstarted,
        Request::Used(1 << 60, 250_000_000),
    ]
}

#[test]
fn requests_survive_the_way_and_what_is_cut_is_refused_or_shorter() {
    for request in requests() {
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes).expect("a request"), request);
        for cut in 0..bytes.len() {
            if let Ok(other) = Request::decode(&bytes.slice(..cut)) {
                assert_ne!(other, request);
            }
        }
    }
    assert!(Request::decode(&Bytes::from_static(b"x")).is_err());
}

#[test]
fn a_verdict_brings_what_was_refused() {
    let call =
        |call: &str, missing| RefusedCall { index: Some(9), call: call.to_owned(), own_error: true, missing };
    let refused = vec![call("socket", false), call("/usr/share/x", true)];
    let results =
        Results { refused: refused.clone(), place: fastmap_backends::Origin::Cloud, ..Results::default() };
    let parts = vec![Part { offset: 0, items: 1, outcome: PartOutcome::Done(results) }];
    let sent = encode_outcome(WorkOutcome::Answered(Answered { parts, cpu: Duration::ZERO, cut: false }));
    let WorkOutcome::Answered(read) = decode_outcome(&sent, 1).expect("an outcome") else {
        panic!("an answer")
    };
    let PartOutcome::Done(results) = &read.parts[0].outcome else { panic!("it was done") };
    assert_eq!(results.refused, refused);
}

#[test]
fn items_that_do_not_fit_stay_with_the_gateway() {
    let spec = RunSpec {
        run: "r".to_owned(),
        account: 7,
        executable: Upload { hash: "ab".to_owned(), ..Upload::default() },
        identity: "build-id:00".to_owned(),
        function: FunctionId { offset: -8, name: "f".to_owned() },
        context: None,
        label: Some("a \"label\"".to_owned()),
        items: Some(9),
        item_timeout: Some(Duration::from_millis(1500)),
        locale: Locale {
            variables: [("LANG".to_owned(), "C.UTF-8".to_owned())].into(),
            zone: Some("Asia/Tokyo".to_owned()),
        },
    };
    let payload = Bytes::from(vec![7; 5000]);
    let limit = Limit { cpu: Duration::from_secs(3), bytes: 99 };
    let batch = BatchTask {
        seq: 1,
        first: 2,
        items: 5,
        stride: Some(1000),
        payload: payload.clone(),
        enough: 9,
        level: Some(LevelFilter::Warn),
        limit,
        request: "0a".to_owned(),
    };
    let sent = Work { spec: Arc::new(spec), task: Task::Batch(batch) };
    let origin = Origin { gateway: "g".to_owned(), token: "t".to_owned(), lease_ms: 15_000 };
    let files =
        Files { executable: FileRef { hash: "ab".to_owned(), name: "secret".to_owned() }, context: None };
    let whole = decode_work(&work(&sent, &origin, &files, 10_000)).expect("work");
    assert_eq!(whole.remote, None);
    assert_eq!(format!("{:?}", whole.work), format!("{sent:?}"));
    let message = work(&sent, &origin, &files, 4000);
    assert!(message.len() < 1000);
    let remote = decode_work(&message).expect("work");
    assert_eq!((remote.remote, remote.origin.token.as_str()), (Some(5000), "t"));
    for cut in 0..message.len() {
        assert!(decode_work(&message.slice(..cut)).is_err(), "{cut}");
    }
}
