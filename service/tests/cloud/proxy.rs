//! A way to the service that can be cut, stopped without a word, and slowed down.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::Linger};

pub(crate) struct Proxy {
    pub(crate) url: String,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way {
    closed: AtomicBool,
    over: AtomicBool,
    /// Bytes in a second, each way of each connection; 0: as many as can be.
    rate: AtomicU64,
    /// Bytes that have gone to the service.
    sent: AtomicU64,
    open: Mutex<Vec<Connection>>,
}

struct Connection {
    ends: [TcpStream; 2],
    silent: Arc<AtomicBool>,
}

impl Proxy {
    /// Before the service of that address.
    pub(crate) fn start(url: &str) -> Proxy {
        let target = url.strip_prefix("http://").expect("plain HTTP").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = Arc::new(Way::default());
        let shared = Arc::clone(&way);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                if !shared.closed.load(Ordering::Relaxed)
                    && let Ok(service) = TcpStream::connect(&target)
                {
                    shared.join(client, service);
                }
            }
        });
        Proxy { url: format!("http://{address}"), way }
    }

    /// Resets all connections and takes no more.
    pub(crate) fn cut(&self) {
        self.way.closed.store(true, Ordering::Relaxed);
        for connection in self.way.open.lock().expect("no panic").drain(..) {
            for end in connection.ends {
                // Whoever only closes while a buffer is full leaves a window of zero behind, which the kernel of the
                // other end probes for a minute.
                setsockopt(&end, Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("a socket");
                let _gone = end.shutdown(Shutdown::Both);
            }
        }
    }

    pub(crate) fn mend(&self) {
        self.way.closed.store(false, Ordering::Relaxed);
    }

    /// From now on nothing comes through the connections that are open, and nobody is told. New ones are well.
    pub(crate) fn silence(&self) {
        for connection in self.way.open.lock().expect("no panic").iter() {
            connection.silent.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_rate(&self, bytes: u64) {
        self.way.rate.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that have gone to the service.
    pub(crate) fn sent(&self) -> u64 {
        self.way.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.way.over.store(true, Ordering::Relaxed);
        self.cut();
        // So that the listener looks up.
        let _gone = TcpStream::connect(self.url.strip_prefix("http://").expect("plain HTTP"));
    }
}

impl Way {
    fn join(self: &Arc<Self>, client: TcpStream, service: TcpStream) {
        let silent = Arc::new(AtomicBool::new(false));
        for end in [&client, &service] {
            end.set_nodelay(true).expect("a socket");
        }
        let clone = |end: &TcpStream| end.try_clone().expect("a descriptor");
        for (from, to, up) in
            [(clone(&client), clone(&service), true), (clone(&service), clone(&client), false)]
        {
            let (way, silent) = (Arc::clone(self), Arc::clone(&silent));
            thread::spawn(move || way.copy(from, to, up, &silent));
        }
        let mut open = self.open.lock().expect("no panic");
        open.push(Connection { ends: [client, service], silent });
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, up: bool, silent: &AtomicBool) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let rate = self.rate.load(Ordering::Relaxed);
            // In pieces of a twentieth of a second.
            let most = if rate == 0 { buffer.len() } else { (rate as usize / 20).clamp(1, buffer.len()) };
            let Ok(read @ 1..) = from.read(&mut buffer[..most]) else { break };
            if silent.load(Ordering::Relaxed) {
                continue;
            }
            if up {
                self.sent.fetch_add(read as u64, Ordering::Relaxed);
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            if rate > 0 {
                thread::sleep(Duration::from_secs_f64(read as f64 / rate as f64));
            }
        }
        let _gone = to.shutdown(Shutdown::Both);
    }
}
