//! What travels over the connection: frames of a length and bytes, and how this backend writes numbers into them.
//! Used by both ends.

use std::io::{self, Read, Write};

use fastmap::backends::{FailureKind, ItemFailure};

/// Writes one frame.
pub(crate) fn send(mut to: impl Write, frame: &[u8]) -> io::Result<()> {
    to.write_all(&(frame.len() as u64).to_le_bytes())?;
    to.write_all(frame)
}

/// Reads one frame. The end of the connection is an error.
pub(crate) fn receive(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    // Grows with what comes, not with what is claimed.
    let mut frame = Vec::new();
    if from.take(length).read_to_end(&mut frame)? as u64 == length {
        Ok(frame)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Appends the parts of a frame.
pub(crate) trait Put {
    fn number(&mut self, number: u64);
    fn bytes(&mut self, bytes: &[u8]);
    fn failure(&mut self, failure: &ItemFailure);
}

impl Put for Vec<u8> {
    fn number(&mut self, number: u64) {
        self.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn failure(&mut self, failure: &ItemFailure) {
        self.number(failure.offset.into());
        self.number(u64::from(failure.kind == FailureKind::Panic));
        self.bytes(failure.message.as_bytes());
    }
}

/// Takes a frame apart, in the order in which it was put together. `None` where the bytes end too early.
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

impl<'a> Parts<'a> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    pub(crate) fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?.try_into().ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub(crate) fn failure(&mut self) -> Option<ItemFailure> {
        let offset = self.small()?;
        let kind = if self.number()? == 1 { FailureKind::Panic } else { FailureKind::Serialize };
        Some(ItemFailure { offset, kind, message: self.text()? })
    }
}
