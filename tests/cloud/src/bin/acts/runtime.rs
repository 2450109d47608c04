//! A function that makes an async runtime, as `#[tokio::main]` does: with timers, signals and sockets.

use std::io;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Sleeps so many milliseconds, and computes `n + 7` by tasks, a timer, a blocking thread, a signal and a
/// pair of sockets.
///
/// # Panics
/// If the runtime can't be made, or a part of it does not work.
pub(crate) fn compute((n, milliseconds): (u64, u64)) -> u64 {
    std::thread::sleep(Duration::from_millis(milliseconds));
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let task = tokio::spawn(async { 1 });
        let blocking = tokio::task::spawn_blocking(|| 1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut signals = signal(SignalKind::user_defined1()).expect("a handler");
        // SAFETY: a signal to this thread, which has a handler.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
        signals.recv().await.expect("it came");
        let sent = through_a_pair(5).await.expect("a pair of sockets");
        n + task.await.expect("no panic") + blocking.await.expect("no panic") + u64::from(sent)
    })
}

async fn through_a_pair(byte: u8) -> io::Result<u8> {
    let (one, other) = UnixStream::pair()?;
    one.writable().await?;
    one.try_write(&[byte])?;
    let mut taken = [0];
    loop {
        other.readable().await?;
        match other.try_read(&mut taken) {
            Ok(_) => return Ok(taken[0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
