//! Bad days of the network: cut, silent, slow. Nothing is lost, and nothing is charged twice.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastmap_backends::cloud::CloudOptions;

use crate::common::{Ear, Tenancy, config};
use crate::proxy::Proxy;
use crate::server::until;

fn slowly(n: u64) -> u64 {
    thread::sleep(Duration::from_millis(10));
    n * 3
}

/// Maps so many slow items through the proxy while `trouble` happens; results must be right, each charged once.
fn map_through(tenancy: &Tenancy, proxy: &Proxy, items: u64, ear: &Ear, trouble: impl FnOnce() + Send) {
    let options =
        CloudOptions { url: proxy.url.clone(), notices: Arc::new(ear.clone()), ..tenancy.options() };
    let config = config(options);
    thread::scope(|scope| {
        let map = scope.spawn(|| config.fastmap(slowly, 0..items).collect::<Result<Vec<_>, _>>());
        until("the first answers", || {
            (tenancy.runs().first()?["items_answered"].as_u64()? > 0).then_some(())
        });
        trouble();
        let values = map.join().expect("no panic").expect("the trouble is over");
        assert_eq!(values, (0..items).map(|n| n * 3).collect::<Vec<_>>());
    });
    tenancy.spent();
}

/// Items in answers that were charged, over all runs.
fn charged_items(tenancy: &Tenancy) -> u64 {
    tenancy.runs().iter().map(|run| run["items_answered"].as_u64().expect("a number")).sum()
}

/// Longer on demand.
fn cut_for() -> Duration {
    let seconds = std::env::var("FASTMAP_TEST_CUT_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

#[test]
fn a_cut_is_survived_and_nothing_is_charged_twice() {
    let tenancy = Tenancy::start(&["--lease", "60"]);
    let (proxy, ear) = (Proxy::start(&tenancy.server.url), Ear::default());
    map_through(&tenancy, &proxy, 600, &ear, || {
        proxy.cut();
        thread::sleep(cut_for());
        proxy.mend();
    });
    assert_eq!(charged_items(&tenancy), 600);
    assert_eq!(tenancy.runs().len(), 1);
    assert!(ear.has_heard("no good answer") && ear.has_heard("answers again"), "{:?}", ear.heard());
}

#[test]
fn a_cut_longer_than_the_lease_goes_on_in_another_run() {
    let tenancy = Tenancy::start(&["--lease", "2", "--long-poll", "1"]);
    let (proxy, ear) = (Proxy::start(&tenancy.server.url), Ear::default());
    map_through(&tenancy, &proxy, 600, &ear, || {
        proxy.cut();
        until("the end of the lease", || (tenancy.runs()[0]["state"] == "expired").then_some(()));
        proxy.mend();
    });
    assert_eq!(charged_items(&tenancy), 600, "what was answered before is asked for, not run again");
    assert_eq!(tenancy.runs().len(), 2);
    assert!(ear.has_heard("continues in a new run"), "{:?}", ear.heard());
}

#[test]
fn connections_that_died_without_a_word_are_replaced() {
    let tenancy = Tenancy::start(&["--long-poll", "1"]);
    let (proxy, ear) = (Proxy::start(&tenancy.server.url), Ear::default());
    map_through(&tenancy, &proxy, 600, &ear, || proxy.silence());
    assert_eq!(charged_items(&tenancy), 600);
}

#[test]
fn a_break_in_the_upload_costs_no_more_than_a_part() {
    let tenancy = Tenancy::start(&[]);
    let (proxy, ear) = (Proxy::start(&tenancy.server.url), Ear::default());
    let options =
        CloudOptions { url: proxy.url.clone(), notices: Arc::new(ear.clone()), ..tenancy.options() };
    let config = config(options);
    proxy.set_rate(1 << 20);
    let total = thread::scope(|scope| {
        let map = scope.spawn(|| config.fastmap(|n: u64| n, 0..10).flatten().count());
        let total = until("the upload's size", || {
            let heard = ear.heard();
            let told = heard.iter().find(|line| line.starts_with("uploading the executable"))?;
            told.split(' ').nth(5)?.parse::<u64>().ok()
        });
        // A part takes up to 2 s: a fifth of the whole. What is not gone on with loses three quarters.
        proxy.set_rate(total / 10);
        for sent in [total * 3 / 8, total * 6 / 8] {
            until("a part of the upload", || (proxy.sent() > sent).then_some(()));
            proxy.cut();
            proxy.mend();
        }
        proxy.set_rate(0);
        until("the end of the upload", || {
            ear.has_heard(&format!("uploading the executable: {total} of {total} bytes")).then_some(())
        });
        assert_eq!(map.join().expect("no panic"), 10);
        total
    });
    let twice = proxy.sent().saturating_sub(total);
    assert!(twice < total / 2, "{twice} bytes of {total} were sent again");
}

#[test]
fn two_that_upload_the_same_are_both_served() {
    let tenancy = Tenancy::start(&[]);
    let mut x = 1u64;
    let mut letter = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (x >> 58) as u8)
    };
    // More parts than an upload may be told in a row that it does not get on.
    let context: String = (0..100_000_000).map(|_| letter()).collect();
    let count = || {
        let config = config(tenancy.options());
        let answers =
            config.fastmap_with(context.clone(), |context: &String, n: usize| context.len() + n, 0..2);
        answers.collect::<Result<Vec<_>, _>>().expect("it gets on, whoever sends it")
    };
    thread::scope(|scope| {
        for uploader in [scope.spawn(count), scope.spawn(count), scope.spawn(count)] {
            assert_eq!(uploader.join().expect("no panic"), [100_000_000, 100_000_001]);
        }
    });
}

#[test]
fn a_slow_link_is_slow_and_no_more() {
    let tenancy = Tenancy::shared();
    let proxy = Proxy::start(&tenancy.server.url);
    let config = config(CloudOptions { url: proxy.url.clone(), ..tenancy.options() });
    let blocks = |count: u64| (0..count).map(|n| vec![n as u8; 50_000]);
    let length = |block: Vec<u8>| block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    assert_eq!(config.fastmap(length, blocks(2)).flatten().count(), 2);
    proxy.set_rate(200_000);
    let begun = Instant::now();
    let sums: Vec<u64> =
        config.fastmap(length, blocks(40)).collect::<Result<_, _>>().expect("slow, and well");
    assert_eq!(sums, (0..40).map(|n| n * 50_000).collect::<Vec<_>>());
    assert!(begun.elapsed() > Duration::from_millis(500), "2 MB at 200 KB/s in {:?}", begun.elapsed());
}
