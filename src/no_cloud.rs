//! In the place of `cloud` where the crate is built without its feature `cloud`: there is no way to a service.

use std::sync::Arc;

use fastmap_backends::{Backend, Local};

use crate::error::{Error, ErrorKind};
use crate::options::Verbosity;
use crate::report::warn;
use crate::settings::{Account, Settings};

/// # Errors
/// Always, in words.
pub(crate) fn backend(
    _account: &Account,
    _verbosity: Verbosity,
    _here: impl FnOnce() -> Result<Arc<dyn Backend>, Error>,
) -> Result<Local, Error> {
    Err(Error::new(
        ErrorKind::Options,
        "a secret is set and the policy is cloud, but this program was built without fastmap's feature `cloud`: \
         build it with that, or set the policy local",
    ))
}

/// Everything runs here: the program was built without the way to a service.
///
/// # Errors
/// What `here` says.
pub(crate) fn adaptive(
    _account: &Account,
    _settings: &Settings,
    here: impl FnOnce() -> Result<Arc<dyn Backend>, Error>,
) -> Result<Arc<dyn Backend>, Error> {
    warn("a secret is set, but this program was built without fastmap's feature `cloud`: running locally");
    here()
}
