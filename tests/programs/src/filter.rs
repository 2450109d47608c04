//! A kernel that lacks something: a filter by which it answers a call with an error, for this process and all it starts.

use std::io;

/// From now on the call of that number fails so.
///
/// # Errors
/// If the kernel takes no filter.
pub fn refuse(call: i64, error: i32) -> io::Result<()> {
    let step =
        |code: u32, yes: u8, no: u8, k: u32| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let mut steps = [
        // The number of the call, which is the first of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: sets a flag of this process; the unused arguments are zero, as they have to be.
    let bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the kernel copies the filter, which is there and as long as it says.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    match (bound, set) {
        (0, 0) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
