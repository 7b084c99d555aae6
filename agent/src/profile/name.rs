//! What a profile may be called.

use crate::model::escape;

/// Longest name in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// Why text is not a profile's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The empty name.
    #[error("a profile's name can't be empty")]
    Empty,
    /// Longer than [`MAX_NAME_BYTES`].
    #[error("profile name of {0} bytes: at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    /// A character that would not be seen, or would change what is seen.
    #[error(
        "profile name `{escaped}` holds the invisible character U+{code:04X}: use printable ones"
    )]
    Invisible {
        /// The name, escaped.
        escaped: String,
        /// The character.
        code: u32,
    },
    /// Blank at an end.
    #[error("profile name `{0}` starts or ends with a blank: remove it")]
    Blank(String),
    /// Would be taken for an option or a path.
    #[error(
        "profile name `{name}` starts with `{first}`, which is taken for {taken_for}: start it with a letter or digit"
    )]
    Start {
        /// The name, escaped.
        name: String,
        /// Its first character.
        first: char,
        /// What it is mistaken for.
        taken_for: &'static str,
    },
}

/// Checks a profile's name: 1 to [`MAX_NAME_BYTES`] bytes of printable UTF-8,
/// so no control, zero-width or direction-changing characters; no blank at
/// either end; not starting with `-` (an option), `/` or `.` (a path).
/// `/` and `:` elsewhere are fine: `deployment/web:app` is a good name.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let Some(first) = name.chars().next() else {
        return Err(NameError::Empty);
    };
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    // Whatever `escape` would change, but for the backslash, can't be trusted on a terminal.
    let mut buffer = [0; 4];
    let unsafe_char = |c: &char| {
        let encoded = c.encode_utf8(&mut buffer);
        *c != '\\' && escape(encoded.as_bytes()) != *encoded
    };
    if let Some(c) = name.chars().find(unsafe_char) {
        return Err(NameError::Invisible {
            escaped: escape(name.as_bytes()),
            code: c as u32,
        });
    }
    if name.trim() != name {
        return Err(NameError::Blank(escape(name.as_bytes())));
    }
    let taken_for = match first {
        '-' => "an option",
        '/' | '.' => "a path",
        _ => return Ok(()),
    };
    Err(NameError::Start {
        name: escape(name.as_bytes()),
        first,
        taken_for,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass_and_bad_ones_say_why() {
        for good in [
            "web",
            "deployment/web:app",
            "größe 2",
            "a\\b",
            &"x".repeat(200),
        ] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name(&"x".repeat(201)), Err(NameError::TooLong(201)));
        for bad in [
            "a\x1b[31m",
            "a\nb",
            "a\u{202e}b",
            "a\u{200b}",
            " a",
            "a ",
            "-x",
            "/x",
            "../x",
        ] {
            let error = check_name(bad).expect_err("refused").to_string();
            assert!(
                error.chars().all(|c| !c.is_control() && c != '\u{202e}'),
                "{error}"
            );
        }
    }
}
