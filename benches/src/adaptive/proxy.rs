//! A way to the service that takes time: bytes arrive half a round trip later, as many as come, as on a long line. (The
//! kernel's `netem` is not everywhere.)

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Starts one in front of an address, with threads that end with this process; gives its own address. Its threads run
/// where the calling one does.
pub(super) fn start(target: SocketAddr, round_trip: Duration) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Err(error) = join(client, target, round_trip) {
                eprintln!("the way to the service: {error}");
            }
        }
    });
    Ok(address)
}

fn join(client: TcpStream, target: SocketAddr, round_trip: Duration) -> std::io::Result<()> {
    let service = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    service.set_nodelay(true)?;
    // A connection is made by a round trip of its own, before which nothing is sent.
    let open = Instant::now() + round_trip;
    let (up, down) = ((client.try_clone()?, service.try_clone()?), (service, client));
    for (from, to) in [up, down] {
        let (send, due) = mpsc::channel();
        thread::spawn(move || take(from, &send, open, round_trip / 2));
        thread::spawn(move || give(to, &due));
    }
    Ok(())
}

fn take(mut from: TcpStream, send: &Sender<(Instant, Vec<u8>)>, open: Instant, delay: Duration) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let due = Instant::now().max(open) + delay;
        if send.send((due, buffer[..read].to_vec())).is_err() {
            return;
        }
    }
}

fn give(mut to: TcpStream, due: &Receiver<(Instant, Vec<u8>)>) {
    for (at, bytes) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _gone = to.shutdown(Shutdown::Both);
}
