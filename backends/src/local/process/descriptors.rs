//! This process's descriptors: how many it may have, which numbers are not for fastmap, and those that come
//! over a socket. Used by `spawn`, `channel`, `rendezvous`, `peer_credentials`, `shared_page` and `pool`.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::{Errno, fcntl_getfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The numbers of standard input, output and error.
const STANDARD: std::ops::Range<i32> = 0..3;

/// Opens `/dev/null` at the standard descriptors that the program has closed, as Rust's runtime does when a program
/// starts. Otherwise the next socket would get such a number, and what anything prints would go into it.
pub(crate) fn fill_standard() {
    for number in STANDARD {
        // SAFETY: only asked for; that it may be closed is the question.
        let standard = unsafe { BorrowedFd::borrow_raw(number) };
        if fcntl_getfd(standard) != Err(Errno::BADF) {
            continue;
        }
        // It gets the lowest number that is free.
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null")
            // A higher number means that another thread has filled the gap meanwhile: then the file is closed
            // again.
            && STANDARD.contains(&null.as_raw_fd())
        {
            let _kept = null.into_raw_fd();
        }
    }
}

/// Moves a descriptor that was just made above the standard ones, where the program has closed one of them
/// since [`fill_standard`].
///
/// # Errors
/// If no descriptor is left.
pub(crate) fn above_standard<T: From<OwnedFd> + Into<OwnedFd>>(made: T) -> io::Result<T> {
    let made: OwnedFd = made.into();
    if STANDARD.contains(&made.as_raw_fd()) {
        // std makes copies at 3 and above; the one with the low number is closed by this return.
        return made.try_clone().map(T::from);
    }
    Ok(made.into())
}

/// The limit of open files as it was before fastmap raised it, and what it was raised to.
static RAISED: Mutex<Option<(Rlimit, Rlimit)>> = Mutex::new(None);

/// Sees whether so many more descriptors can be had, by copies of `any`, which are closed again.
///
/// # Errors
/// If they can't be had.
pub(crate) fn expect(any: impl AsFd, count: usize) -> io::Result<()> {
    (0..count).map(|_| any.as_fd().try_clone_to_owned()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// Raises the limit of this process as far as that is allowed to it.
pub(crate) fn raise() {
    // Held from the look to the note: of two threads that find too few at a time, the second must not note
    // the raised limit as the one from before.
    let mut raised = RAISED.lock().unwrap_or_else(PoisonError::into_inner);
    let now = getrlimit(Resource::Nofile);
    let most = Rlimit { current: now.maximum, maximum: now.maximum };
    // `None` is no limit.
    if now.current.is_some() && now.current != now.maximum && setrlimit(Resource::Nofile, most).is_ok() {
        let most = getrlimit(Resource::Nofile);
        *raised = Some((now, most));
    }
}

/// Gives a process that was just started the limit that this one had, if fastmap has raised it: programs may go by
/// it, and some close as many descriptors as it allows.
pub(crate) fn lower_again(process: u32) {
    let raised = *RAISED.lock().unwrap_or_else(PoisonError::into_inner);
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    if let (Some((before, most)), Some(process)) = (raised, process)
        // If the program has set a limit of its own since, the worker keeps that.
        && getrlimit(Resource::Nofile) == most
    {
        // It may have ended.
        let _same = prlimit(Some(process), Resource::Nofile, before);
    }
}

/// What to do where too few are left.
pub(crate) fn shortage() -> String {
    format!("this process may have {} open files; allow it more (ulimit -n)", limit())
}

/// How many files this process may have open, for people.
pub(crate) fn limit() -> String {
    getrlimit(Resource::Nofile).current.map_or_else(|| "any number of".to_owned(), |most| most.to_string())
}

/// Most descriptors that the kernel lets one message bring (`SCM_MAX_FD`).
const MOST: usize = 253;

/// A packet and what it brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes of it that are in the buffer.
    pub(crate) length: usize,
    /// All descriptors that have arrived.
    pub(crate) files: Vec<OwnedFd>,
    /// The packet was longer than the buffer, or not all of its descriptors have arrived (this process may
    /// have none left).
    pub(crate) cut: bool,
}

/// Receives the next packet with the descriptors that it brings. Whatever the kernel has given to this process
/// is owned before anything else is looked at: what is not wanted, or came beside data that was cut, is closed
/// and not leaked.
///
/// # Errors
/// If the call fails; then nothing was received.
pub(crate) fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Received> {
    let mut room = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let message = loop {
        let mut buffer = [IoSliceMut::new(bytes)];
        match recvmsg(&socket, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    // The buffer owns them: what is not taken out here is closed with it.
    let mut files = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            files.extend(some);
        }
    }
    let cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { length: message.bytes.min(bytes.len()), files, cut })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_may_not_have_is_not_expected() {
        let null = File::open("/dev/null").expect("the null device");
        assert!(expect(&null, 10).is_ok());
        let most = getrlimit(Resource::Nofile).maximum.expect("a limit, as any system has");
        // Copies up to a million are not made here.
        if most <= 1 << 16 {
            assert!(expect(&null, most as usize).is_err());
        }
    }
}
