//! wip
use crate::error::{Error, ErrorKind};
use crate::options::{Account, Verbosity};
use fastmap_backends::Backend;
use std::sync::Arc;
pub(crate) fn backend(account: &Account, _verbosity: Verbosity) -> Result<Arc<dyn Backend>, Error> {
    let _ = (
        &account.secret,
        account.secret_by,
        &account.url,
        account.url_by,
        account.max_credits,
        account.confirm_charges,
    );
    let _ = crate::report::ask;
    Err(Error::new(ErrorKind::Cloud, "wip"))
}
