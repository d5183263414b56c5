//! Which names may cross the wire, and what they become below a receive root.

/// Longest object name, bytes: `PATH_MAX` of Linux, and the limit of a receipt.
pub const MAX_NAME: usize = 4096;
/// Longest component of a name, bytes: `NAME_MAX` of Linux file systems.
pub const MAX_COMPONENT: usize = 255;
/// Directory below a receive root that holds what is not complete yet. Objects may not be put
/// into it.
pub const STAGING: &str = ".ctp96-partial";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name {name:?} is refused: {why}")]
pub struct NameError {
    /// The name, cut to a readable length.
    pub name: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// Checks an object name: relative, UTF-8 (by its type), components separated by single `/`, no
/// `.` or `..`, no NUL, at most [`MAX_NAME`] bytes, and not inside [`STAGING`].
pub fn check_name(name: &str) -> Result<(), NameError> {
    let bad = |why| {
        Err(NameError {
            name: name.chars().take(200).collect(),
            why,
        })
    };
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > MAX_NAME {
        return bad("it is longer than 4096 bytes");
    }
    if name.starts_with('/') {
        return bad("it is absolute; names are relative to the receive directory");
    }
    if name.contains('\0') {
        return bad("it contains a NUL byte");
    }
    for c in name.split('/') {
        match c {
            "" => return bad("it has an empty component"),
            "." | ".." => return bad("it has a `.` or `..` component"),
            _ if c.len() > MAX_COMPONENT => return bad("a component is longer than 255 bytes"),
            _ => {}
        }
    }
    if name.split('/').next() == Some(STAGING) {
        return bad("it lies in the directory for partial objects");
    }
    Ok(())
}

/// Splits a checked name into its directory (empty for none) and its last component.
pub fn split_name(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_pass() {
        for n in [
            "a",
            "a/b",
            "a b/\u{e9}.txt",
            "...",
            "..a",
            "a..",
            ".hidden",
            "-rf",
            "\\",
            "a\nb",
        ] {
            assert_eq!(check_name(n), Ok(()), "{n:?}");
        }
        assert_eq!(check_name(&format!("{}/a", "x".repeat(255))), Ok(()));
        assert_eq!(split_name("a/b/c"), ("a/b", "c"));
        assert_eq!(split_name("c"), ("", "c"));
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a/".repeat(2048) + "a";
        let component = "x".repeat(256);
        for n in [
            "",
            "/",
            "/etc/passwd",
            "..",
            ".",
            "../a",
            "a/../b",
            "a/..",
            "a//b",
            "a/",
            "a/./b",
            "./a",
            "a\0b",
            "//a",
            ".ctp96-partial/journal",
            ".ctp96-partial",
            &long,
            &component,
        ] {
            assert!(check_name(n).is_err(), "{n:?}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_stays_below_the_root(n in "[./a\\x00]{0,12}") {
            if check_name(&n).is_ok() {
                let p = std::path::Path::new(&n);
                prop_assert!(p.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
