//! Encoding of the log level that is sent with each batch, in a local frame and in a batch for the service.

use log::LevelFilter;

/// Encodes a level as its number plus one; 0: not specified.
pub(crate) fn to_byte(level: Option<LevelFilter>) -> u8 {
    level.map_or(0, |level| level as u8 + 1)
}

/// Decodes a byte of [`to_byte`]; returns an error for other values.
pub(crate) fn of_byte(byte: u8) -> Result<Option<LevelFilter>, String> {
    match byte {
        0 => Ok(None),
        byte => match LevelFilter::iter().nth(usize::from(byte) - 1) {
            Some(level) => Ok(Some(level)),
            None => Err(format!("{byte} is not a level of a logger")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_round_trip_and_other_bytes_are_rejected() {
        for level in LevelFilter::iter().map(Some).chain([None]) {
            assert_eq!(of_byte(to_byte(level)), Ok(level));
        }
        assert!((7..=u8::MAX).all(|byte| of_byte(byte).is_err()));
    }
}
