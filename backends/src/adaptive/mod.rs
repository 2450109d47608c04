//! ADAPTIVE: each batch where the whole map ends soonest.
//!
//! `policy` decides, from what was seen alone: no clock, no I/O, no thread. The same code is played in virtual time over
//! thousands of random worlds by `simulator/`.

pub mod policy;
