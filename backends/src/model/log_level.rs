//! The level up to which a function logs, as it travels with each batch: in a local frame and in a batch for
//! the service.

use log::LevelFilter;

/// One more than the level's number; 0: it is not said.
pub(crate) fn to_byte(level: Option<LevelFilter>) -> u8 {
    level.map_or(0, |level| level as u8 + 1)
}

/// What [`to_byte`] has made; an error for what it never makes.
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
    fn each_level_comes_back_and_nothing_else_is_one() {
        for level in LevelFilter::iter().map(Some).chain([None]) {
            assert_eq!(of_byte(to_byte(level)), Ok(level));
        }
        assert!((7..=u8::MAX).all(|byte| of_byte(byte).is_err()));
    }
}
