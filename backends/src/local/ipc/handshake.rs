//! How a host and a new worker find each other: the environment variable that marks a worker, which `spawn` writes and
//! `worker` reads, and the worker's first message, by ipc-channel, which `peer_credentials` reads. The host takes its peer's
//! word for nothing, as ipc-channel does: it reads the message by itself.

use std::ffi::OsString;
use std::{fmt, io};

use fastmap_sandbox::ConfinementLevel;
use log::LevelFilter;
use serde::{Deserialize, Serialize};

use crate::model::death::ExitReason;
use crate::model::frame::VERSION;
use crate::model::protocol_error::ProtocolError;

/// Set for workers alone, and removed by each before anything else, so that what it starts does not become
/// one.
pub(crate) const MARKER: &str = "FASTMAP_WORKER";

/// Bytes of stack that a worker's function has, if it is set.
pub(crate) const STACK: &str = "FASTMAP_WORKER_STACK";

/// The environment variable that marks a worker and whatever it starts: maps there run in the calling process,
/// and start no workers of their own. Its value, the worker's name, does not matter.
///
/// A backend that starts processes of its own sets it for them.
pub const INSIDE: &str = "FASTMAP_INSIDE_WORKER";

/// Who confines a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// The worker itself, as much as that.
    Own(ConfinementLevel),
    /// A jail does: the worker need not do so itself, and sees another process as its parent.
    Jailed,
}

const CONFINEMENTS: [(Confinement, &str); 4] = [
    (Confinement::Own(ConfinementLevel::Off), "open"),
    (Confinement::Own(ConfinementLevel::BestEffort), "confine"),
    (Confinement::Own(ConfinementLevel::Full), "confine-or-end"),
    (Confinement::Jailed, "jailed"),
];

impl Confinement {
    fn word(self) -> &'static str {
        // All are in the table; otherwise the strictest word is the safe one.
        CONFINEMENTS.iter().find(|(known, _)| *known == self).map_or("confine-or-end", |(_, word)| word)
    }

    fn parse(word: &str) -> Option<Confinement> {
        CONFINEMENTS.iter().find(|(_, known)| *known == word).map(|(confinement, _)| *confinement)
    }

    /// What is left for the worker itself to do.
    pub(crate) fn demand(self) -> ConfinementLevel {
        match self {
            Confinement::Own(demand) => demand,
            Confinement::Jailed => ConfinementLevel::Off,
        }
    }
}

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerBootstrap {
    /// The process that must be the parent; anything else has inherited the variable by mistake.
    pub(crate) host: u32,
    /// The worker's name.
    pub(crate) name: String,
    /// What the host's logger listens to.
    pub(crate) level: LevelFilter,
    /// Who confines it, and how.
    pub(crate) confinement: Confinement,
    /// Where the host listens.
    pub(crate) server: String,
}

impl fmt::Display for WorkerBootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let confinement = self.confinement.word();
        write!(f, "{VERSION} {} {} {} {confinement} {}", self.host, self.name, self.level, self.server)
    }
}

impl WorkerBootstrap {
    /// Reads the variable's value.
    ///
    /// # Errors
    /// If a host of this version has not written it.
    pub(crate) fn parse(value: &OsString) -> Result<WorkerBootstrap, ForeignMarker> {
        let wrong = || ForeignMarker { value: value.clone() };
        let text = value.to_str().ok_or_else(wrong)?;
        // The path is the last word and may hold spaces.
        let mut words = text.splitn(6, ' ');
        let mut word = || words.next().ok_or_else(wrong);
        // First, because another version may have other words behind it.
        if word()? != VERSION.to_string() {
            return Err(wrong());
        }
        Ok(WorkerBootstrap {
            host: word()?.parse().map_err(|_| wrong())?,
            name: word()?.to_owned(),
            level: word()?.parse().map_err(|_| wrong())?,
            confinement: Confinement::parse(word()?).ok_or_else(wrong)?,
            server: word()?.to_owned(),
        })
    }
}

/// A marker that a host of this version has not written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MARKER}={} was not set by a fastmap host of this version", value.display())]
pub(crate) struct ForeignMarker {
    value: OsString,
}

/// A worker's first message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// A worker reports for duty.
    Hello(Handshake),
}

/// What a worker says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handshake {
    /// [`VERSION`] of the frames that it speaks.
    pub(crate) version: u32,
    /// Its [`identity`](crate::identity).
    pub(crate) executable: String,
}

/// Why a first message is no handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The socket gave an error.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// The wait for it was ended, because the worker is dead.
    #[error("the wait for it was ended")]
    Ended,
    #[error("it brings {0} descriptors")]
    Descriptors(usize),
    #[error("it is longer than any greeting, or brings descriptors")]
    Cut,
    #[error(transparent)]
    Packet(#[from] ProtocolError),
    #[error("no greeting: {0}")]
    Unreadable(#[from] postcard::Error),
    #[error("{0} bytes behind it")]
    Longer(usize),
}

impl From<HandshakeError> for ExitReason {
    fn from(error: HandshakeError) -> ExitReason {
        ExitReason::Protocol(format!("its greeting could not be read: {error}"))
    }
}

/// Reads a handshake.
///
/// # Errors
/// If the bytes are not one, or more follows it.
pub(crate) fn read(content: &[u8]) -> Result<Handshake, HandshakeError> {
    // postcard reads what it needs and leaves the rest, so that the rest has to be looked at here.
    let (Greeting::Hello(hello), rest) = postcard::take_from_bytes(content)?;
    if rest.is_empty() { Ok(hello) } else { Err(HandshakeError::Longer(rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_greeting_is_one() {
        let hello = || Handshake { version: VERSION, executable: "build-id:12".to_owned() };
        let good = postcard::to_stdvec(&Greeting::Hello(hello())).expect("bytes");
        assert_eq!(read(&good).expect("a whole one"), hello());
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "{cut}");
        }
        assert!(read(&[&good[..], &[0]].concat()).is_err());
        assert!(read(&[&[1], &good[1..]].concat()).is_err());
    }

    #[test]
    fn the_marker_survives_the_environment() {
        for (confinement, _) in CONFINEMENTS {
            let marker = WorkerBootstrap {
                host: 12,
                name: "worker-3".to_owned(),
                level: LevelFilter::Debug,
                confinement,
                server: "/tmp/a folder/socket".to_owned(),
            };
            assert_eq!(WorkerBootstrap::parse(&marker.to_string().into()), Ok(marker));
        }
        for wrong in ["", "1", "0 12 w debug open /x", "1 x w debug open /x", "1 12 w debug /x"] {
            assert!(WorkerBootstrap::parse(&wrong.into()).is_err(), "{wrong}");
        }
    }
}
