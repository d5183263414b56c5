//! The name that somebody probably meant.

/// The one of `names` nearest to `given`, if it is near enough to be a slip of the keyboard.
pub(super) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (far, best) = names
        .map(|n| (distance(given, n), n))
        .min_by_key(|(d, _)| *d)?;
    (far <= best.len().max(given.len()).div_ceil(3).max(1)).then_some(best)
}

/// Edits between two names: insert, delete, replace, exchange of neighbours (optimal string
/// alignment), case ignored. Long names are compared by their first 64 bytes.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let bytes =
        |s: &str| -> Vec<u8> { s.bytes().take(64).map(|c| c.to_ascii_lowercase()).collect() };
    let (a, b) = (bytes(a), bytes(b));
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in [
            ("listen", "lissten", 1),
            ("listen", "lsiten", 1),
            ("Listen", "listen", 0),
            ("", "abc", 3),
            ("mtu", "port", 4),
        ] {
            assert_eq!(distance(a, b), d, "{a} {b}");
            assert_eq!(distance(b, a), d);
        }
    }

    #[test]
    fn only_a_near_name_is_offered() {
        let names = || ["status", "peers", "cancel"].into_iter();
        assert_eq!(nearest("stauts", names()), Some("status"));
        assert_eq!(nearest("Peer", names()), Some("peers"));
        assert_eq!(nearest("frobnicate", names()), None);
        assert_eq!(nearest("x", std::iter::empty()), None);
    }
}
