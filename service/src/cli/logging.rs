//! The service's own log, as it goes to stderr: an event is one line, whatever the texts in it are. Names,
//! paths and errors come from clients; a line end in one of them would begin a line that says what its author
//! likes. Used by `serve`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Stderr, where control characters are written as `\u001b`. In JSON they are that already, or stand in a
/// text, where it means the same. `colours`: the escape character is the format's own, which writes those of
/// a text otherwise.
pub(super) fn stderr(colours: bool) -> impl Fn() -> Escaped<io::Stderr> {
    move || Escaped { to: io::stderr(), colours }
}

/// Takes whole events.
#[derive(Debug)]
pub(super) struct Escaped<W> {
    to: W,
    colours: bool,
}

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.to.write_all(escape(&String::from_utf8_lossy(event), self.colours).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Whether a character moves the cursor, ends a line or turns the direction of what follows.
fn is_odd(char: char, colours: bool) -> bool {
    match char {
        '\u{1b}' => !colours,
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

fn escape(event: &str, colours: bool) -> Cow<'_, str> {
    let line = event.strip_suffix('\n').unwrap_or(event);
    if !line.contains(|char| is_odd(char, colours)) {
        return Cow::Borrowed(event);
    }
    let mut escaped = String::with_capacity(event.len() + 16);
    for char in line.chars() {
        if is_odd(char, colours) {
            // All of them have four digits at most.
            let _ = write!(escaped, "\\u{:04x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    escaped.push_str(&event[line.len()..]);
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_in_every_format_whatever_its_texts_are() {
        let forged = "bad\nINFO credits were added\r\u{1b}[2K\u{85}\u{2028}\u{202e}\u{7f}";
        for json in [true, false] {
            let kept = Kept::default();
            let to = kept.clone();
            let writer = move || Escaped { to: to.clone(), colours: false };
            let layer = tracing_subscriber::fmt::layer().with_writer(writer);
            let registry = tracing_subscriber::registry();
            let say = || tracing::info!(path = forged, plain = %forged, "{forged}");
            match json {
                true => tracing::subscriber::with_default(registry.with(layer.json()), say),
                false => tracing::subscriber::with_default(registry.with(layer.with_ansi(false)), say),
            }
            let logged = String::from_utf8(kept.0.lock().expect("no panic").clone()).expect("text");
            let line = logged.strip_suffix('\n').expect("a line");
            assert!(!line.chars().any(|char| is_odd(char, false)), "{logged:?}");
            if json {
                let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(event["fields"]["plain"], forged);
            }
        }
    }

    #[test]
    fn colours_are_left_where_there_are_some() {
        assert_eq!(escape("\u{1b}[32mINFO\u{1b}[0m a\tb\n", true), "\u{1b}[32mINFO\u{1b}[0m a\\u0009b\n");
        assert_eq!(escape("\u{1b}[32m\n", false), "\\u001b[32m\n");
    }
}
