//! Items that the calling thread takes (option `inline`).
//!
//! `source` makes results for the adapter and switches to workers and back; `state` is what it keeps,
//! `policy` decides for each portion, `function` calls the user's function, and `warm_up` starts workers in
//! advance.

pub(crate) mod function;
pub(crate) mod policy;
pub(crate) mod source;
pub(crate) mod state;
pub(crate) mod warm_up;
