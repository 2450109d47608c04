//! How a host and a new worker find each other: the environment variable that marks a worker,
//! and the first message, which brings the two channels. Written by `start`, read by `worker`.

use std::ffi::OsString;
use std::fmt;

use fastmap_sandbox::Demand;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender};
use log::LevelFilter;
use serde::{Deserialize, Serialize};

use crate::wire::VERSION;

/// Set for workers alone, and taken away by each before anything else, so that what it starts is none.
pub(crate) const MARKER: &str = "FASTMAP_WORKER";

/// The environment variable that marks a worker and whatever it starts: maps there run in the calling process,
/// and start no workers of their own. Its value, the worker's name, does not matter.
///
/// A backend that starts processes of its own sets it for them.
pub const INSIDE: &str = "FASTMAP_INSIDE_WORKER";

/// Who confines a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// The worker itself, as much as that.
    Own(Demand),
    /// Somebody else has: it need not do so itself, and sees another process as its parent.
    Jailed,
}

const CONFINEMENTS: [(Confinement, &str); 4] = [
    (Confinement::Own(Demand::Off), "open"),
    (Confinement::Own(Demand::BestEffort), "confine"),
    (Confinement::Own(Demand::Full), "confine-or-end"),
    (Confinement::Jailed, "jailed"),
];

impl Confinement {
    fn word(self) -> &'static str {
        CONFINEMENTS.iter().find(|(known, _)| *known == self).map_or("confine-or-end", |(_, word)| word)
    }

    fn parse(word: &str) -> Option<Confinement> {
        CONFINEMENTS.iter().find(|(_, known)| *known == word).map(|(confinement, _)| *confinement)
    }

    /// What is left for the worker itself to do.
    pub(crate) fn demand(self) -> Demand {
        match self {
            Confinement::Own(demand) => demand,
            Confinement::Jailed => Demand::Off,
        }
    }
}

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
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

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let confinement = self.confinement.word();
        write!(f, "{VERSION} {} {} {} {confinement} {}", self.host, self.name, self.level, self.server)
    }
}

impl Marker {
    /// Reads the variable's value.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn parse(value: &OsString) -> Result<Marker, String> {
        let wrong = || format!("{MARKER}={} was not set by a fastmap host of this version", value.display());
        let text = value.to_str().ok_or_else(wrong)?;
        let mut words = text.splitn(6, ' ');
        let mut word = || words.next().ok_or_else(wrong);
        if word()? != VERSION.to_string() {
            return Err(wrong());
        }
        Ok(Marker {
            host: word()?.parse().map_err(|_| wrong())?,
            name: word()?.to_owned(),
            level: word()?.parse().map_err(|_| wrong())?,
            confinement: Confinement::parse(word()?).ok_or_else(wrong)?,
            server: word()?.to_owned(),
        })
    }
}

/// The first message on the one-shot channel.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// A worker reports for duty.
    Hello(Hello),
}

/// What a worker brings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`VERSION`] of the frames it speaks.
    pub(crate) version: u32,
    /// Its [`identity`](crate::executable::identity).
    pub(crate) executable: String,
    /// The host's frames go in here.
    pub(crate) to_worker: IpcBytesSender,
    /// The worker's frames come out here.
    pub(crate) from_worker: IpcBytesReceiver,
    /// A second sender for `from_worker`: with it the host wakes its own reader when the worker is dead, behind
    /// all that the worker had sent. The channel's end would not do: a child of the worker can hold it open.
    pub(crate) wake: IpcBytesSender,
}

/// A [`Greeting`] by its bytes: the variant, the version, the executable, and each channel as a number, that
/// of its end among those that come along.
type Written<'a> = (u32, u32, &'a str, u64, u64, u64);

/// Looks at a greeting before ipc-channel reads it, which panics where a channel's number is beyond those
/// that have come.
///
/// # Errors
/// In words, if it is none.
pub(crate) fn check(content: &[u8]) -> Result<(), String> {
    let (written, rest): (Written<'_>, _) =
        postcard::take_from_bytes(content).map_err(|error| format!("no greeting: {error}"))?;
    let (variant, _, _, to_worker, from_worker, wake) = written;
    if variant != 0 {
        return Err(format!("a greeting of kind {variant}"));
    }
    if [to_worker, from_worker, wake] != [0, 1, 2] {
        return Err(format!(
            "it names channels that it does not bring: {to_worker}, {from_worker} and {wake}, not 0, 1 and 2"
        ));
    }
    if rest.is_empty() { Ok(()) } else { Err(format!("{} bytes behind it", rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_greeting_with_its_own_channels_is_one() {
        let written = |channels: [u64; 3]| {
            let [to_worker, from_worker, wake] = channels;
            postcard::to_stdvec(&(0u32, VERSION, "build-id:12", to_worker, from_worker, wake)).expect("bytes")
        };
        let good = written([0, 1, 2]);
        assert_eq!(check(&good), Ok(()));
        for channels in [[0, 1, 3], [0, 0, 2], [2, 1, 0], [0, u64::MAX, 2]] {
            let refused = check(&written(channels)).expect_err("not its own");
            assert!(refused.contains("does not bring"), "{refused}");
        }
        for cut in 0..good.len() {
            assert!(check(&good[..cut]).is_err(), "{cut}");
        }
        assert!(check(&[good, vec![0]].concat()).is_err());
    }

    #[test]
    fn the_marker_survives_the_environment() {
        for (confinement, _) in CONFINEMENTS {
            let marker = Marker {
                host: 12,
                name: "worker-3".to_owned(),
                level: LevelFilter::Debug,
                confinement,
                server: "/tmp/a folder/socket".to_owned(),
            };
            assert_eq!(Marker::parse(&marker.to_string().into()), Ok(marker));
        }
        for wrong in ["", "1", "0 12 w debug open /x", "1 x w debug open /x", "1 12 w debug /x"] {
            assert!(Marker::parse(&wrong.into()).is_err(), "{wrong}");
        }
    }
}
