//! The temporary folder, in which the sockets are that new workers connect to. Used by the supervisor, which starts
//! the workers; the first socket is made by who starts the supervisor, while that thread comes up.

use std::io;
use std::panic::catch_unwind;
use std::path::PathBuf;

use ipc_channel::ipc::IpcOneShotServer;

use super::greeting::Greeting;

/// `sun_path` holds 108 bytes with its end; ipc-channel cuts a longer path off in silence.
const SOCKET_PATH: usize = 107;
/// What ipc-channel adds.
const ADDED: usize = "/.tmpXXXXXX/socket".len();

/// A socket and its path.
pub(crate) type Socket = (IpcOneShotServer<Greeting>, String);

/// What is known of the folder.
#[derive(Default)]
pub(crate) struct Folder {
    /// A folder could be made in it before.
    tried: bool,
    /// What was made for that.
    probe: Option<PathBuf>,
    /// Made before it was asked for.
    ready: Option<Socket>,
}

impl Folder {
    /// Makes a socket for who asks next. That takes 0.1 ms, on a busy disk some. An error is told to who asks.
    pub(crate) fn prepare(&mut self) {
        self.ready = self.listen().ok();
    }

    /// A socket for one worker.
    ///
    /// # Errors
    /// Names the folder, and says what to do.
    pub(crate) fn listen(&mut self) -> io::Result<Socket> {
        if let Some(ready) = self.ready.take() {
            return Ok(ready);
        }
        let folder = std::env::temp_dir();
        let shown = folder.display();
        // ipc-channel panics without a temporary folder and cuts long paths: look first.
        if !folder.is_dir() {
            return Err(io::Error::other(format!(
                "the temporary folder {shown} does not exist; set TMPDIR to one that does"
            )));
        }
        if folder.as_os_str().len() + ADDED > SOCKET_PATH {
            return Err(io::Error::other(format!(
                "the temporary folder's name is too long for a socket: {shown}; set TMPDIR to a shorter one"
            )));
        }
        let refused = |error: io::Error| {
            io::Error::new(error.kind(), format!("in the temporary folder {shown} (TMPDIR): {error}"))
        };
        // Where it can't make its own folder, ipc-channel panics: try first. Once; what changes later comes as that
        // panic.
        if !self.tried {
            let probe = folder.join(format!(".fastmap-{}", std::process::id()));
            match std::fs::create_dir(&probe) {
                // Another pool of this process tries as well.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made.map_err(refused)?;
                    self.probe = Some(probe);
                }
            }
            self.tried = true;
        }
        catch_unwind(IpcOneShotServer::new)
            .unwrap_or_else(|_| Err(io::Error::other("no folder can be made there any more")))
            .map_err(refused)
    }

    /// Takes away what was made to try the folder; to be called when no worker waits for it: it took up to 6 ms on a
    /// busy disk.
    pub(crate) fn tidy_up(&mut self) {
        if let Some(probe) = self.probe.take() {
            // It may have been cleaned away.
            let _gone = std::fs::remove_dir(probe);
        }
    }
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder")
            .field("tried", &self.tried)
            .field("probe", &self.probe)
            .finish_non_exhaustive()
    }
}

impl Drop for Folder {
    /// No worker was wanted.
    fn drop(&mut self) {
        self.tidy_up();
    }
}
