//! Communication between a host and a worker. `rendezvous` is the socket where a worker first connects, `handshake` its first
//! message. Then frames travel over a `channel`, sent by `frame_sender` and put together by an `assembler`; large payloads
//! are stored in the `arena` of a `shared_page`. `messages` are the others: the opening of a job, a log record.
//! `peer_credentials` checks what strangers' workers send.

pub(crate) mod arena;
pub(crate) mod assembler;
pub(crate) mod channel;
pub(crate) mod frame_sender;
pub(crate) mod handshake;
pub(crate) mod messages;
pub(crate) mod peer_credentials;
pub(crate) mod rendezvous;
pub(crate) mod shared_page;
