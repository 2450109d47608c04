//! Bounds for text that strangers have written: messages of programs, names, printed lines. Applied where a
//! text enters the gateway or the store; what names something is refused instead where it is too long,
//! because a cut name names something else.

/// Bytes of a problem's detail that a program or an agent wrote.
pub(crate) const DETAIL: usize = 4096;
/// Bytes of a worker's name, and of other words that an agent chooses.
pub(crate) const NAME: usize = 100;
/// Bytes of the name of a mapped function.
pub(crate) const FUNCTION: usize = 4096;
/// Bytes of a run's label.
pub(crate) const LABEL: usize = 200;

/// Cuts a text to at most `most` bytes, the mark at its end included, which says how many bytes were left
/// out.
pub(crate) fn cut(text: &mut String, most: usize) {
    if text.len() <= most {
        return;
    }
    let whole = text.len();
    // The mark's own length depends on the number in it: of the whole text it is longest.
    let mark = |left_out: usize| format!(" … ({left_out} bytes left out)");
    let keep = text.floor_char_boundary(most.saturating_sub(mark(whole).len()));
    text.truncate(keep);
    let mark = mark(whole - keep);
    if keep + mark.len() <= most {
        text.push_str(&mark);
    }
    text.shrink_to_fit();
}

/// The text, cut to at most `most` bytes.
pub(crate) fn bounded(mut text: String, most: usize) -> String {
    cut(&mut text, most);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_by_how_much() {
        assert_eq!(bounded("short".to_owned(), 5), "short");
        let text = "é".repeat(1000);
        let cut = bounded(text.clone(), 101);
        assert!(cut.len() <= 101, "{cut}");
        let (kept, mark) = cut.split_once(" … ").expect("a mark");
        assert_eq!(mark, format!("({} bytes left out)", text.len() - kept.len()));
        assert!(kept.chars().all(|c| c == 'é') && kept.len() > 60);
        for most in 0..60 {
            assert!(bounded(text.clone(), most).len() <= most);
        }
    }
}
