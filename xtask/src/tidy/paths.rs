//! Paths that code names: `a::b::c`, and those that a `use` tree spells.

/// A path and the line it starts on, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) path: Vec<String>,
}

/// Every path in code that has no comments or literals. A `use a::{b, c::d}`
/// gives `a::b` and `a::c::d`.
pub(super) fn named(code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].word() {
            // `use ::a`: the path begins after the keyword.
            Some("use") | None => at += 1,
            Some(_) => at = tree(&tokens, at, &[], &mut found),
        }
    }
    found
}

#[derive(Debug)]
struct Token<'a> {
    line: usize,
    text: &'a str,
}

impl<'a> Token<'a> {
    fn word(&self) -> Option<&'a str> {
        self.text.starts_with(is_word).then_some(self.text)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words, `::`, and single characters of everything else but white space.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        let (text, after) = rest.split_at(length);
        if c == '\n' {
            line += 1;
        } else if !c.is_whitespace() {
            tokens.push(Token { line, text });
        }
        rest = after;
    }
    tokens
}

/// Reads one path, branching where it has braces; the index after it.
fn tree(tokens: &[Token<'_>], start: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut path = prefix.to_vec();
    let mut at = start;
    while let Some(word) = tokens.get(at).and_then(Token::word) {
        path.push(word.to_owned());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
        if text(at) == "{" {
            return branches(tokens, at + 1, &path, found);
        }
    }
    if path.len() > 1 {
        found.push(Named {
            line: tokens[start].line,
            path,
        });
    }
    at.max(start + 1)
}

/// What stands between braces, after the opening one.
fn branches(
    tokens: &[Token<'_>],
    start: usize,
    prefix: &[String],
    found: &mut Vec<Named>,
) -> usize {
    let mut at = start;
    while at < tokens.len() && tokens[at].text != "}" {
        match tokens[at].word() {
            // `c as d`: `d` is no path.
            Some("as") => at += 2,
            Some("self") => {
                found.push(Named {
                    line: tokens[at].line,
                    path: prefix.to_vec(),
                });
                at += 1;
            }
            Some(_) => at = tree(tokens, at, prefix, found),
            None => at += 1,
        }
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(code: &str) -> Vec<String> {
        named(code).into_iter().map(|n| n.path.join("::")).collect()
    }

    #[test]
    fn plain_paths_and_trees() {
        assert_eq!(
            paths("let x = std::time::Instant::now();"),
            ["std::time::Instant::now"]
        );
        assert_eq!(
            paths("use crate::{model::{self, Plan}, warm as heat, plan::*};\nfn f() {}"),
            [
                "crate::model",
                "crate::model::Plan",
                "crate::warm",
                "crate::plan"
            ]
        );
        assert_eq!(
            paths("use ::aya::Ebpf;\nlet n: Vec<u8> = a::<u8>(b);"),
            ["aya::Ebpf"]
        );
    }

    #[test]
    fn lines_are_counted_from_one() {
        let found = named("\nuse std::{\n    fs,\n    io::Read,\n};\n");
        let lines: Vec<usize> = found.iter().map(|n| n.line).collect();
        assert_eq!(lines, [3, 4]);
    }
}
