//! Connections: how many there may be, which one is closed for a new one, and the end of those whose peer
//! takes nothing. `cli::serve` accepts sockets through `Connections`; `auth` and the dashboard report whose a
//! connection is once it has carried a good request. Strangers make room for each other, within half of all;
//! where accounts have the rest, the account that has most makes room.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::http::Request;
use axum_server::accept::Accept;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use futures_util::task::AtomicWaker;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tower_service::Service;

/// Connections without a good request may be one of this number of all.
const STRANGERS: usize = 2;
/// Bytes that the kernel takes for a peer before it has sent those before them. It would take 4 MB of each,
/// and a slow peer that takes some of them would be seen to do so when a third of that is gone.
const UNSENT: u32 = 128 << 10;
/// No account has this number.
const NOBODY: i64 = 0;

/// What connections may be and do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Most connections.
    pub(crate) all: usize,
    /// Most of one address that have carried no good request.
    pub(crate) of_address: usize,
    /// A write that makes no progress for this long ends its connection.
    pub(crate) stall: Duration,
}

/// All connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Table>);

#[derive(Debug)]
struct Table {
    bounds: Bounds,
    began: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    all: usize,
    strangers: usize,
    of: HashMap<Owner, HashMap<u64, Arc<Connection>>>,
}

/// Which party a connection counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Address(IpAddr),
    Account(i64),
}

/// One connection. In the extensions of each request that it carries.
#[derive(Debug)]
pub(crate) struct Connection {
    table: Arc<Table>,
    number: u64,
    address: IpAddr,
    account: AtomicI64,
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// Milliseconds since the table's begin when bytes were last sent or received.
    moved: AtomicU64,
    closed: AtomicBool,
    waker: AtomicWaker,
}

/// The network of an address: in version six a customer has 2⁶⁴ of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

impl Open {
    /// Closes the connection of this owner that is worth least: one that answers no request before one that
    /// does; of strangers the oldest, of an account the one that has been silent for longest.
    fn close_one_of(&mut self, owner: Owner) {
        let worth = |connection: &Arc<Connection>| {
            let busy = connection.busy.load(Ordering::Relaxed) > 0;
            let moved = match owner {
                Owner::Address(_) => 0,
                Owner::Account(_) => connection.moved.load(Ordering::Relaxed),
            };
            (busy, moved, connection.number)
        };
        let least = self.of.get(&owner).and_then(|theirs| theirs.values().min_by_key(|one| worth(one)));
        let Some(least) = least.cloned() else { return };
        self.remove(owner, least.number);
        least.closed.store(true, Ordering::Relaxed);
        least.waker.wake();
        metrics::counter!("fastmap_connections_closed_total").increment(1);
    }

    /// Of those that `which` means, the owner that has most connections.
    fn largest(&self, which: impl Fn(&Owner) -> bool) -> Option<Owner> {
        let theirs = self.of.iter().filter(|(owner, _)| which(owner));
        theirs.max_by_key(|(_, theirs)| theirs.len()).map(|(owner, _)| *owner)
    }

    fn insert(&mut self, owner: Owner, connection: Arc<Connection>) {
        self.all += 1;
        self.strangers += usize::from(matches!(owner, Owner::Address(_)));
        self.of.entry(owner).or_default().insert(connection.number, connection);
    }

    fn remove(&mut self, owner: Owner, number: u64) -> Option<Arc<Connection>> {
        let theirs = self.of.get_mut(&owner)?;
        let removed = theirs.remove(&number)?;
        if theirs.is_empty() {
            self.of.remove(&owner);
        }
        self.all -= 1;
        self.strangers -= usize::from(matches!(owner, Owner::Address(_)));
        Some(removed)
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock_unpoisoned()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

impl Connections {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Connections(Arc::new(Table { bounds, began: Instant::now(), open: Mutex::default() }))
    }

    /// A new connection from that address; another is closed for it if there are too many.
    fn admit(&self, address: IpAddr) -> Arc<Connection> {
        let (table, address) = (&self.0, network(address));
        let owner = Owner::Address(address);
        let Bounds { all, of_address, .. } = table.bounds;
        let mut open = table.lock();
        let is_address = |owner: &Owner| matches!(owner, Owner::Address(_));
        let closed = if open.of.get(&owner).is_some_and(|theirs| theirs.len() >= of_address) {
            Some(owner)
        } else if open.strangers >= (all / STRANGERS).max(1) {
            open.largest(is_address)
        } else if open.all >= all {
            open.largest(|owner| !is_address(owner)).or_else(|| open.largest(is_address))
        } else {
            None
        };
        if let Some(owner) = closed {
            open.close_one_of(owner);
        }
        open.next += 1;
        let connection = Arc::new(Connection {
            table: Arc::clone(table),
            number: open.next,
            address,
            account: AtomicI64::new(NOBODY),
            busy: AtomicUsize::new(0),
            moved: AtomicU64::new(table.now()),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        open.insert(owner, Arc::clone(&connection));
        connection
    }
}

impl Connection {
    /// It has carried a good request of this account, and counts for it from now on.
    pub(crate) fn is_of(&self, account: i64) {
        if self.account.load(Ordering::Relaxed) == account {
            return;
        }
        let mut open = self.table.lock();
        if let Some(connection) = open.remove(self.owner(), self.number) {
            self.account.store(account, Ordering::Relaxed);
            open.insert(Owner::Account(account), connection);
        }
    }

    /// The account that it counts for.
    pub(crate) fn account(&self) -> Option<i64> {
        Some(self.account.load(Ordering::Relaxed)).filter(|account| *account != NOBODY)
    }

    /// A request is being answered, until this is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn owner(&self) -> Owner {
        self.account().map_or(Owner::Address(self.address), Owner::Account)
    }
}

/// A request that a connection has carried and that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> Accept<TcpStream, S> for Connections {
    type Stream = Guarded;
    type Service = Known<S>;
    type Future = std::future::Ready<io::Result<(Guarded, Known<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let take = || {
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT)?;
            stream.peer_addr()
        };
        std::future::ready(take().map(|peer| {
            let connection = self.admit(peer.ip());
            let service = Known { service, connection: Arc::clone(&connection) };
            (Guarded { stream, connection, stalled: None }, service)
        }))
    }
}

/// A service whose requests know their connection.
#[derive(Clone, Debug)]
pub(crate) struct Known<S> {
    service: S,
    connection: Arc<Connection>,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Known<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(Arc::clone(&self.connection));
        self.service.call(request)
    }
}

/// A socket that ends when its place is needed, or when its peer takes nothing of what is sent.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// Since a write had to wait.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.connection.waker.register(cx.waker());
        match self.connection.closed.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed for another connection")),
            false => Ok(()),
        }
    }

    fn moved(&self) {
        self.connection.moved.store(self.connection.table.now(), Ordering::Relaxed);
    }

    /// The outcome of a write, or of one that had to wait for too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.moved();
            return written;
        }
        let stall = self.connection.table.bounds.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(stalled.as_mut().poll(cx));
        metrics::counter!("fastmap_connections_stalled_total").increment(1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let mut open = self.connection.table.lock();
        open.remove(self.connection.owner(), self.connection.number);
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        self.moved();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(all: usize, of_address: usize) -> Connections {
        Connections::new(Bounds { all, of_address, stall: Duration::from_secs(1) })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn is_open(connection: &Connection) -> bool {
        !connection.closed.load(Ordering::Relaxed)
    }

    fn open(connections: &[Arc<Connection>]) -> usize {
        connections.iter().filter(|connection| is_open(connection)).count()
    }

    #[test]
    fn an_address_has_its_oldest_closed_when_it_has_too_many() {
        let connections = table(100, 3);
        let other = connections.admit(address(2));
        let many: Vec<_> = (0..10).map(|_| connections.admit(address(1))).collect();
        assert_eq!((open(&many[..7]), open(&many[7..]), is_open(&other)), (0, 3, true));
        many[9].is_of(5);
        many[8].is_of(5);
        let more: Vec<_> = (0..3).map(|_| connections.admit(address(1))).collect();
        assert_eq!((open(&many[8..]), open(&more)), (2, 3), "what has carried a good request is not counted");
        assert!(!is_open(&many[7]));
    }

    #[test]
    fn strangers_have_half_of_all_and_close_each_other() {
        let connections = table(20, 100);
        let tenant: Vec<_> = (0..9).map(|_| connections.admit(address(9))).collect();
        for connection in &tenant {
            connection.is_of(7);
        }
        let few = connections.admit(address(2));
        let many: Vec<_> = (0..100).map(|_| connections.admit(address(1))).collect();
        assert_eq!((open(&tenant), is_open(&few), open(&many)), (9, true, 9));
        let others: Vec<_> = (10..200).map(|last| connections.admit(address(last))).collect();
        assert_eq!((open(&tenant), open(&many) + open(&others) + usize::from(is_open(&few))), (9, 10));
    }

    #[test]
    fn of_accounts_the_one_with_most_connections_makes_room() {
        let connections = table(20, 100);
        let admit = |account: i64| {
            let connection = connections.admit(address(1));
            connection.is_of(account);
            connection
        };
        let small: Vec<_> = (0..3).map(|_| admit(1)).collect();
        let first = admit(2);
        let _busy = first.busy();
        let large: Vec<_> = (0..50).map(|_| admit(2)).collect();
        assert_eq!((open(&small), open(&large), is_open(&first)), (3, 16, true));
        assert_eq!(connections.0.lock().all, 20);
    }
}
