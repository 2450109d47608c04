//! Workers that break the protocol on purpose: the host lives, says at which item, and goes on.

use std::process::Command;
use std::time::{Duration, Instant};

use fastmap::ErrorKind;
use fastmap_test_jails::packets::{self, Packet};
use fastmap_test_jails::{LIMIT, acts, config, jailed, limits, pool};

fastmap::test_support!();

#[test]
fn lies_on_the_channel_cost_their_item_alone() {
    fn func(packet: Option<Packet>) -> u32 {
        packet.map_or(7, packets::send)
    }
    let config = config(pool(&jailed(limits()), 1));
    for packet in Packet::ALL {
        let items = (0..30).map(|n| (n == acts::BAD).then_some(packet));
        let results: Vec<_> = config.fastmap(func, items).collect();
        let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(|result| matches!(result, Ok(7)));
        assert_eq!((good.len(), bad.len()), (29, 1), "{packet:?}: {bad:?}");
        let error = bad[0].as_ref().expect_err("it never answers");
        assert_eq!(
            (error.kind(), error.index()),
            (ErrorKind::Crash, Some(acts::BAD as usize)),
            "{packet:?}: {error}"
        );
        let error = error.to_string();
        assert!(error.contains("broke the protocol") && error.contains(packet.told()), "{packet:?}: {error}");
    }
}

/// The control: a host that looks at nothing dies of it.
#[test]
fn a_host_without_the_door_dies_of_a_lie() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_unguarded"))
        .arg("Huge")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("it is a child") {
            Some(status) => break status,
            None if started.elapsed() > LIMIT => panic!("it does not end: {:?}", child.kill()),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let printed = std::io::read_to_string(child.stdout.take().expect("a pipe")).expect("text");
    assert!(!status.success() && !printed.contains("survived"), "{status} {printed}");
}

#[test]
fn a_flood_of_log_records_is_ended() {
    fn chatter(n: u32) -> u32 {
        if n == acts::BAD {
            loop {
                log::error!("{}", "x".repeat(500));
            }
        }
        n
    }
    // Nobody logs here; workers are told to send their records all the same.
    log::set_max_level(log::LevelFilter::Info);
    let config = config(pool(&jailed(limits()), 2));
    let errors: Vec<_> = config.fastmap(chatter, 0..30).filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("it printed more than 256 KiB"), "{}", errors[0]);
}

#[test]
fn a_worker_that_closes_everything_costs_its_item_alone() {
    fn close(n: u32) -> u32 {
        if n == acts::BAD {
            // SAFETY: closes what others use: that is the point.
            unsafe { libc::close_range(0, u32::MAX, 0) };
        }
        n
    }
    let config = config(pool(&jailed(limits()), 2));
    let results: Vec<_> = config.fastmap(close, 0..30).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 29, "{results:?}");
    assert_eq!(
        results[acts::BAD as usize].as_ref().expect_err("it is mute").index(),
        Some(acts::BAD as usize)
    );
}

#[test]
fn a_worker_that_stops_listening_holds_nobody_up() {
    /// Leaves every other thread of its process in a handler for ever: nothing is taken from the channel any more.
    #[allow(clippy::needless_pass_by_value, reason = "an item is the function's")]
    fn deafen(item: (u32, Vec<u8>)) -> u32 {
        extern "C" fn wait(_: i32) {
            acts::spin();
        }
        if item.0 == acts::BAD {
            // SAFETY: sets a handler, and signals the threads of this process that there may be.
            unsafe {
                libc::signal(libc::SIGUSR1, wait as *const () as libc::sighandler_t);
                let own = libc::gettid();
                for thread in (1..100).filter(|thread| *thread != own) {
                    libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1);
                }
            }
            acts::spin();
        }
        item.0
    }
    let started = Instant::now();
    let config = config(pool(&jailed(limits()), 2));
    let items = (0..60u32).map(|n| (n, vec![0; 100_000]));
    let results: Vec<_> = config.fastmap(deafen, items).item_timeout(Duration::from_secs(2)).collect();
    let bad: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!((bad[0].kind(), bad[0].index()), (ErrorKind::Timeout, Some(acts::BAD as usize)), "{}", bad[0]);
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}
