//! Source text without what is no code.

/// Blanks comments and the insides of string literals; lines stay where they are.
pub(super) fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let length = skip(&chars, at);
        if length == 0 {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        for &c in &chars[at..at + length] {
            out.push(if c == '\n' { '\n' } else { ' ' });
        }
        at += length;
    }
    out
}

/// Length of the comment or literal that starts here; 0 if none does.
fn skip(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    match rest {
        ['/', '/', ..] => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => string(rest),
        ['r', ..] if !after_identifier(chars, at) => raw_string(rest),
        ['\'', ..] => character(rest),
        _ => 0,
    }
}

fn after_identifier(chars: &[char], at: usize) -> bool {
    // `br"…"` and `cr"…"` are raw strings too.
    let before = at.checked_sub(1).map(|i| chars[i]);
    before.is_some_and(|c| (c.is_alphanumeric() || c == '_') && c != 'b' && c != 'c')
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let body = 2 + hashes;
    rest[body..]
        .windows(end.len())
        .position(|window| window == end)
        .map_or(rest.len(), |at| body + at + end.len())
}

/// `'a'` and `'\n'`, but not the lifetime `'a`.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => tail.iter().position(|&c| c == '\'').map_or(0, |at| 4 + at),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// The part before the unit tests: all of it if there are none.
pub(super) fn before_tests(source: &str) -> &str {
    let mut from = 0;
    while let Some(found) = source[from..].find("#[cfg(test)]") {
        let at = from + found;
        let after = source[at + "#[cfg(test)]".len()..].trim_start();
        if after.split_whitespace().take(3).any(|word| word == "mod") && !is_file_module(after) {
            return &source[..at];
        }
        from = at + 1;
    }
    source
}

/// `mod tests;` stands among other declarations and ends nothing.
fn is_file_module(item: &str) -> bool {
    item.find([';', '{'])
        .is_some_and(|at| item[at..].starts_with(';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let source =
            "a // b\n/* c /* d */\n e */ f \"g\\\"h\" i r#\"j\"k\"# 'l' '\\n' &'m n br\"o\"";
        let code = code_only(source);
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "f", "i", "&'m", "n", "b"]);
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn unit_tests_begin_at_their_module() {
        assert_eq!(before_tests("a\n#[cfg(test)]\nmod tests {}\n"), "a\n");
        assert_eq!(
            before_tests("a\n#[cfg(test)]\npub(super) mod tests {}\n"),
            "a\n"
        );
        let with_helper = "#[cfg(test)]\nfn helper() {}\nb\n";
        assert_eq!(before_tests(with_helper), with_helper);
        let with_file = "#[cfg(test)]\nmod tests;\nb\n";
        assert_eq!(before_tests(with_file), with_file);
    }
}
