//! Hexadecimal digits of hashes, keys and random names.

/// Lower-case hexadecimal digits, two for each byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_two_lower_case_digits() {
        assert_eq!(hexadecimal(&[0x00, 0x0a, 0xa0, 0xff]), "000aa0ff");
        assert_eq!(hexadecimal(&[]), "");
    }
}
