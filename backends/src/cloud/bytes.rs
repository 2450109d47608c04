//! Reader of a body's bytes, and the error for a malformed body.

/// Description of a malformed batch or answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub(crate) String);

pub(crate) fn bad<T>(what: impl Into<String>) -> Result<T, BodyError> {
    Err(BodyError(what.into()))
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], BodyError> {
        let Some((taken, rest)) = self.0.split_at_checked(length) else {
            return bad(format!("cut short: {length} bytes are due where {} are", self.0.len()));
        };
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BodyError> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BodyError> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }
}
