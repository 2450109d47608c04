//! What lies between a host and a worker. `rendezvous` is the socket where a worker first reports, `handshake` its first
//! message. Then frames travel over a `channel`, sent by `frame_sender`; large payloads lie in the `arena` of a
//! `shared_page`. `messages` are those that are no frames of a batch. `untrusted_peer` checks what strangers' workers send.

pub(crate) mod arena;
pub(crate) mod channel;
pub(crate) mod frame_sender;
pub(crate) mod handshake;
pub(crate) mod messages;
pub(crate) mod rendezvous;
pub(crate) mod shared_page;
pub(crate) mod untrusted_peer;
