//! Every key of the configuration with what it may hold, and where each stands in a file.

use crate::control::nearest::nearest;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table of the file: its path, and its keys with what they may hold.
pub(super) struct Section {
    pub path: &'static str,
    pub keys: &'static [(&'static str, &'static str)],
}

/// All keys. A test holds this against the structs and against the annotated example.
pub(super) const SCHEMA: &[Section] = &[
    Section {
        path: "",
        keys: &[
            ("node", "a table, [node]"),
            ("af_xdp", "a table, [af_xdp]"),
            ("memory", "a table, [memory]"),
            ("session", "a table, [session]"),
            ("path", "a table, [path]"),
            ("crypto", "a table, [crypto]"),
            ("compression", "a table, [compression]"),
            ("verify", "a table, [verify]"),
            ("cc", "a table, [cc]"),
            ("fec", "a table, [fec]"),
            ("peer", "one [[peer]] table for each peer"),
        ],
    },
    Section {
        path: "node",
        keys: &[
            ("identity", "path of a key file made by `ctp96 keys gen`"),
            ("listen", "an IP address, such as \"0.0.0.0\" or \"::\""),
            ("port", "1 to 65535 less the number of cores"),
            (
                "cores",
                "\"auto\", 1 to 64, or a list of up to 64 CPU numbers such as [2, 3]",
            ),
            (
                "mtu",
                "1280 to 9216 bytes, the largest MTU used on any path",
            ),
            ("mtu_discovery", "true or false"),
            ("ecn", "true or false"),
            (
                "backend",
                "\"auto\", \"udp\", \"io_uring\", \"io_uring_zc\" or \"af_xdp\"",
            ),
            ("state_dir", "an absolute directory path"),
            ("control_socket", "an absolute path of at most 107 bytes"),
            ("allow_discard", "true or false"),
        ],
    },
    Section {
        path: "af_xdp",
        keys: &[
            ("interface", "name of a network interface, 1 to 15 bytes"),
            ("mode", "\"auto\", \"native\" or \"generic\""),
            ("zero_copy", "\"auto\", \"on\" or \"off\""),
            (
                "queues",
                "a list of different queue numbers from 0 to 127, one for each core, such as [0, 1], or \
                 up to 4 in a list of their own, such as [[0, 2], [1, 3]]",
            ),
            ("replace_foreign", "true or false"),
            ("checksum", "\"auto\" or \"software\""),
        ],
    },
    Section {
        path: "memory",
        keys: &[("budget", "\"16MiB\" to \"4TiB\"")],
    },
    Section {
        path: "session",
        keys: &[
            ("lanes", "\"auto\", or 1 to 128"),
            ("window_slots", "8 to 96"),
            (
                "lane_weights",
                "a list of numbers from 1 to 1000, one for each of the first lanes, such as [8, 1]",
            ),
            ("linger_us", "0 to 100000 microseconds"),
            (
                "keepalive_s",
                "1 to 600 seconds, at most half of idle_close_s",
            ),
            ("idle_close_s", "2 to 3600 seconds"),
        ],
    },
    Section {
        path: "path",
        keys: &[
            ("rate", "a rate such as \"10Gbit/s\" or \"1.2GB/s\""),
            ("rtt_ms", "1 to 10000 milliseconds"),
        ],
    },
    Section {
        path: "crypto",
        keys: &[
            (
                "suite",
                "\"auto\", \"aes-256-gcm\", \"aegis-256x2\" or \"aegis-256\"",
            ),
            ("provider", "\"auto\", \"ring\", \"aws-lc\" or \"aes-gcm\""),
        ],
    },
    Section {
        path: "compression",
        keys: &[(
            "policy",
            "\"none\", \"auto\", \"lz4\", \"deflate:1\" to \"deflate:12\", \"zstd:-5\" to \"zstd:3\" without 0",
        )],
    },
    Section {
        path: "verify",
        keys: &[("level", "\"fast\" or \"full\"")],
    },
    Section {
        path: "cc",
        keys: &[(
            "mode",
            "\"auto\", \"cubic\", or \"fixed:\" and a rate such as \"fixed:10Gbit/s\"",
        )],
    },
    Section {
        path: "fec",
        keys: &[(
            "repair",
            "\"auto\", or 0 to 32 repair symbols for each slot",
        )],
    },
    Section {
        path: "peer",
        keys: &[
            (
                "name",
                "1 to 64 letters, digits, `-`, `_` or `.`, unique, not starting with `.` or `-`",
            ),
            (
                "key",
                "the peer's public key, 44 characters of base64 as `ctp96 keys pub` prints it",
            ),
            (
                "endpoint",
                "\"address:port\", such as \"192.0.2.10:9696\" or \"[2001:db8::1]:9696\"",
            ),
            (
                "psk_file",
                "path of a file with a pre-shared key, the same at both ends",
            ),
            (
                "recv",
                "one [[peer.recv]] table for each directory that the peer may write to",
            ),
        ],
    },
    Section {
        path: "peer.recv",
        keys: &[
            ("path", "an absolute directory path without `..`"),
            (
                "max_bytes",
                "a size such as \"1TiB\"; leave it out for no limit",
            ),
        ],
    },
];

/// What the key at `path` (such as `peer.recv.path`) may hold; empty for an unknown path.
pub(super) fn hint(path: &str) -> &'static str {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    SCHEMA
        .iter()
        .find(|s| s.path == section)
        .and_then(|s| s.keys.iter().find(|(name, _)| *name == key))
        .map_or("", |(_, hint)| hint)
}

/// A key found in a file.
struct Entry {
    /// Path with positions in arrays, such as `peer[0].recv[1].path`.
    path: String,
    key: Range<usize>,
    value: Range<usize>,
}

/// Where the keys of a file stand, and which of them do not exist.
#[derive(Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
    /// Place in the text and complaint.
    pub unknown: Vec<(usize, String)>,
}

impl Index {
    pub fn of(table: &DeTable<'_>) -> Index {
        let mut index = Index::default();
        index.walk(table, "", "");
        index
    }

    fn walk(&mut self, table: &DeTable<'_>, schema_path: &str, shown: &str) {
        let keys = SCHEMA
            .iter()
            .find(|s| s.path == schema_path)
            .map_or(&[][..], |s| s.keys);
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            if !keys.iter().any(|(k, _)| *k == name) {
                let complaint = unknown_key(name, schema_path, keys);
                self.unknown.push((key.span().start, complaint));
                continue;
            }
            let path = join(shown, name);
            let deeper = join(schema_path, name);
            let is_section = SCHEMA.iter().any(|s| s.path == deeper);
            if is_section {
                match value.get_ref() {
                    DeValue::Table(t) => self.walk(t, &deeper, &path),
                    DeValue::Array(items) => self.walk_array(items.iter(), &deeper, &path),
                    _ => {}
                }
            }
            self.entries.push(Entry {
                path,
                key: key.span(),
                value: value.span(),
            });
        }
    }

    fn walk_array<'a, 'i: 'a>(
        &mut self,
        items: impl Iterator<Item = &'a Spanned<DeValue<'i>>>,
        schema_path: &str,
        shown: &str,
    ) {
        for (i, item) in items.enumerate() {
            if let DeValue::Table(t) = item.get_ref() {
                let path = format!("{shown}[{i}]");
                self.walk(t, schema_path, &path);
                self.entries.push(Entry {
                    path,
                    key: item.span(),
                    value: item.span(),
                });
            }
        }
    }

    /// Where the key of that path stands; failing that, the table it would be in.
    pub fn position(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(e) = self.entries.iter().find(|e| e.path == path) {
                return Some(e.key.start);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// The innermost key whose value contains a place.
    pub fn key_at(&self, place: usize) -> Option<&str> {
        self.entries
            .iter()
            .filter(|e| e.value.contains(&place) || e.value.start == place)
            .min_by_key(|e| e.value.len())
            .map(|e| e.path.as_str())
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// `peer[0].recv[1].path` as `peer.recv.path`.
pub(super) fn without_positions(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ if inside => {}
            _ => out.push(c),
        }
    }
    out
}

/// How a section is written in the file.
fn header(section: &str) -> String {
    match section {
        "" => "the top level".to_owned(),
        "peer" | "peer.recv" => format!("[[{section}]]"),
        _ => format!("[{section}]"),
    }
}

fn unknown_key(name: &str, section: &str, keys: &[(&str, &str)]) -> String {
    let what = format!("unknown key `{name}` in {}", header(section));
    if let Some(best) = nearest(name, keys.iter().map(|(k, _)| *k)) {
        return format!("{what}; did you mean `{best}`?");
    }
    let elsewhere = SCHEMA
        .iter()
        .find(|s| s.path != section && s.keys.iter().any(|(k, _)| *k == name));
    if let Some(s) = elsewhere {
        return format!("{what}; it belongs in {}", header(s.path));
    }
    let valid: Vec<_> = keys.iter().map(|(k, _)| format!("`{k}`")).collect();
    format!("{what}; valid keys are {}", valid.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(without_positions("peer[0].recv[12].path"), "peer.recv.path");
        assert!(hint("peer.recv.path").contains("absolute"));
        assert_eq!(hint("peer.recv.nothing"), "");
        assert!(hint("node").contains("[node]"));
    }
}
