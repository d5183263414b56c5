//! The import rule of the library: a room may use only rooms that come before it.
//!
//! Works on tokens, not on resolved names: `crate::room`, `crate::{room, ..}` at any depth of
//! nesting, and `super::` chains that leave the room. Comments and literals do not count.

/// The rooms of `dataplane/src`, lowest first.
pub const ORDER: [&str; 17] = [
    "base", "obs", "wire", "crypto", "fec", "codec", "verify", "window", "mem", "ring", "proto",
    "backend", "stage", "engine", "api", "service", "control",
];

/// An import that points the wrong way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Line in the source, from 1.
    pub line: usize,
    /// The room that is used.
    pub uses: String,
}

/// The imports in `source`, a file of `room`, that `room` may not make: of a later room, or of a
/// module that is no room at all. `depth` is how many modules deep the file is below the crate's
/// root (`room/mod.rs` is 1, `room/file.rs` is 2).
pub fn violations(room: &str, depth: usize, source: &str) -> Vec<Violation> {
    let own = ORDER.iter().position(|r| *r == room);
    uses(source, depth)
        .into_iter()
        .filter(|(_, used)| {
            let other = ORDER.iter().position(|r| r == used);
            !matches!((own, other), (Some(own), Some(other)) if other <= own)
        })
        .map(|(line, uses)| Violation { line, uses })
        .collect()
}

/// Every module at the crate's root that `source` names, with its line.
fn uses(source: &str, depth: usize) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let text = |i: usize| tokens.get(i).map_or("", |t: &(usize, String)| t.1.as_str());
    let mut found = Vec::new();
    // Inline modules (`mod tests { .. }`) add to the depth of `super`.
    let (mut braces, mut inline) = (0_usize, Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        match text(i) {
            "{" => {
                if i >= 2 && text(i - 2) == "mod" {
                    inline.push(braces);
                }
                braces += 1;
            }
            "}" => {
                braces = braces.saturating_sub(1);
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            "crate" if text(i + 1) == "::" && (i == 0 || text(i - 1) != "$") => {
                roots(&tokens, i + 2, &mut found);
            }
            "super" if i == 0 || text(i - 1) != "::" => {
                let mut ups = 0;
                while text(i) == "super" && text(i + 1) == "::" {
                    ups += 1;
                    i += 2;
                }
                if ups == depth + inline.len() {
                    roots(&tokens, i, &mut found);
                }
                if ups > 0 {
                    // The token before the path's first name; a bare `super` is one token.
                    i -= 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first segment of the path at `at`, or of every path in the group that starts there. Names
/// that are not modules (types, macros) do not count.
fn roots(tokens: &[(usize, String)], at: usize, found: &mut Vec<(usize, String)>) {
    let text = |i: usize| tokens.get(i).map_or("", |t| t.1.as_str());
    let mut note = |i: usize| {
        let Some((line, name)) = tokens.get(i) else {
            return;
        };
        let is_module = name.starts_with(|c: char| c.is_ascii_lowercase()) && text(i + 1) != "!";
        if is_module && !matches!(name.as_str(), "self" | "super" | "crate") {
            found.push((*line, name.clone()));
        }
    };
    if text(at) != "{" {
        return note(at);
    }
    let (mut depth, mut i, mut at_start) = (1, at + 1, true);
    while depth > 0 && i < tokens.len() {
        match text(i) {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => at_start = true,
            _ if depth == 1 && at_start => {
                note(i);
                at_start = false;
            }
            _ => {}
        }
        i += 1;
    }
}

/// Identifiers, `::` and single characters, each with its line; no comments, no literals.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let bytes = source.as_bytes();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < bytes.len() {
        let rest = &bytes[i..];
        let start = i;
        if rest.starts_with(b"//") {
            i += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            i += block_comment(rest);
        } else if let Some(len) = raw_string(rest) {
            i += len;
        } else if rest[0] == b'"' {
            i += quoted(rest, b'"');
        } else if rest[0] == b'\'' && is_char_literal(rest) {
            i += quoted(rest, b'\'');
        } else if is_name(rest[0]) {
            i += rest.iter().position(|b| !is_name(*b)).unwrap_or(rest.len());
            out.push((line, source[start..i].to_owned()));
        } else if rest.starts_with(b"::") {
            i += 2;
            out.push((line, "::".to_owned()));
        } else {
            i += 1;
            if rest[0].is_ascii_graphic() {
                out.push((line, char::from(rest[0]).to_string()));
            }
        }
        line += bytes[start..i].iter().filter(|b| **b == b'\n').count();
    }
    out
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        if rest[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if rest[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    rest.len()
}

/// Length of the raw string literal at the start of `rest`, if there is one.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let after = rest
        .strip_prefix(b"br")
        .or_else(|| rest.strip_prefix(b"r"))?;
    let hashes = after.iter().take_while(|b| **b == b'#').count();
    if after.get(hashes) != Some(&b'"') {
        return None;
    }
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let body = rest.len() - after.len() + hashes + 1;
    let len = rest[body..].windows(end.len()).position(|w| w == end)?;
    Some(body + len + end.len())
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_char_literal(rest: &[u8]) -> bool {
    rest.get(1) == Some(&b'\\') || rest.iter().take(6).skip(2).any(|b| *b == b'\'')
}
