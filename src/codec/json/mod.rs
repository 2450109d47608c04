//! `Json<T>`: the way for types that only a self-describing format can carry. `wrapper` is the type, `judge` says which
//! values JSON would change, `read` reads a text.

mod judge;
mod read;
pub(crate) mod wrapper;

pub use wrapper::Json;
