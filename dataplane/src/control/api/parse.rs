//! Reading a request: nothing unknown is passed over, and every refusal says what is valid.

use super::{ApiError, Request, SendDest, SendRequest, SendSource};
use crate::base::limits::MAX_LANES;
use crate::codec::Policy;
use crate::control::nearest::nearest;
use serde_json::{Map, Value};

/// Longest request line, bytes without the newline: room for some thousands of file names.
pub const MAX_REQUEST_LEN: usize = 1 << 20;
/// Longest wait that a request may ask for, milliseconds.
pub const MAX_WAIT_MS: u64 = 60_000;

/// Every operation with its fields.
const OPS: &[(&str, &[&str])] = &[
    ("status", &[]),
    ("peers", &[]),
    ("lanes", &[]),
    ("hist", &["lane"]),
    ("counters", &["check"]),
    (
        "send",
        &[
            "peer", "files", "zero", "random", "dir", "discard", "lanes", "compress",
        ],
    ),
    ("job", &["id", "since", "wait_ms"]),
    ("jobs", &[]),
    ("cancel", &["id"]),
    ("stop", &[]),
];

fn refuse<T>(text: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError(text.into()))
}

/// Reads one request line, with or without its newline.
///
/// # Errors
/// A sentence: what is wrong, and what is valid or was probably meant.
pub fn parse_request(line: &[u8]) -> Result<Request, ApiError> {
    if line.len() > MAX_REQUEST_LEN + 1 {
        return refuse(format!("a request has at most {MAX_REQUEST_LEN} bytes"));
    }
    let value: Value = match serde_json::from_slice(line) {
        Ok(v) => v,
        Err(e) => return refuse(format!("a request is one JSON object on one line: {e}")),
    };
    let Value::Object(mut map) = value else {
        return refuse("a request is a JSON object, such as {\"op\":\"status\"}");
    };
    let op = match map.remove("op") {
        Some(Value::String(op)) => op,
        Some(_) => return refuse("the field `op` is the name of an operation"),
        None => return refuse(format!("no field `op`; operations are {}", list(ops()))),
    };
    let Some(&(op, fields)) = OPS.iter().find(|(name, _)| *name == op) else {
        return refuse(unknown("operation", &op, "operations are", ops()));
    };
    for field in map.keys() {
        if !fields.contains(&field.as_str()) {
            let what = format!("field of `{op}`");
            if fields.is_empty() {
                return refuse(format!("unknown {what} `{field}`; it has none"));
            }
            return refuse(unknown(
                &what,
                field,
                "its fields are",
                fields.iter().copied(),
            ));
        }
    }
    let mut f = Fields(map);
    Ok(match op {
        "status" => Request::Status,
        "peers" => Request::Peers,
        "lanes" => Request::Lanes,
        "hist" => Request::Hist {
            lane: match f.number("lane")? {
                None => None,
                Some(n) if n < MAX_LANES as u64 => Some(n as usize),
                Some(n) => {
                    return refuse(format!("`lane` is {n}; lanes are 0 to {}", MAX_LANES - 1));
                }
            },
        },
        "counters" => Request::Counters {
            check: f.flag("check")?,
        },
        "send" => Request::Send(send(f)?),
        "job" => {
            let wait_ms = f.number("wait_ms")?.unwrap_or(0);
            if wait_ms > MAX_WAIT_MS {
                return refuse(format!("`wait_ms` is at most {MAX_WAIT_MS}"));
            }
            Request::Job {
                id: f.id()?,
                since: f.number("since")?,
                wait_ms,
            }
        }
        "jobs" => Request::Jobs,
        "cancel" => Request::Cancel { id: f.id()? },
        _ => Request::Stop,
    })
}

fn send(mut f: Fields) -> Result<SendRequest, ApiError> {
    let peer = match f.text("peer")? {
        Some(p) if !p.is_empty() => p,
        _ => return refuse("`peer` is missing: the name or the public key of a configured peer"),
    };
    let source = match (f.texts("files")?, f.number("zero")?, f.number("random")?) {
        (Some(files), None, None) => {
            if files.is_empty() {
                return refuse("`files` is empty; name at least one");
            }
            if let Some(odd) = files
                .iter()
                .find(|p| !p.starts_with('/') || p.contains('\0'))
            {
                return refuse(format!("{odd:?} is no absolute path, as `files` needs"));
            }
            SendSource::Files(files)
        }
        (None, Some(n), None) => SendSource::Zero(n),
        (None, None, Some(n)) => SendSource::Random(n),
        _ => return refuse("give exactly one of `files`, `zero` and `random`"),
    };
    let dest = match (f.text("dir")?, f.flag("discard")?) {
        (None, true) => SendDest::Discard(true),
        (dir, false) => SendDest::Dir(dir.unwrap_or_default()),
        (Some(_), true) => return refuse("give `dir` or `discard`, not both"),
    };
    let lanes = match f.number("lanes")? {
        None => None,
        Some(n) if (1..=MAX_LANES as u64).contains(&n) => Some(n as usize),
        Some(n) => return refuse(format!("`lanes` is {n}; 1 to {MAX_LANES} are possible")),
    };
    let compress = match f.text("compress")? {
        None => None,
        Some(text) => Some(
            text.parse::<Policy>()
                .map_err(|e| ApiError(e.to_string()))?,
        ),
    };
    Ok(SendRequest {
        peer,
        source,
        dest,
        lanes,
        compress,
    })
}

/// The fields of a request that are not read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(b)) => Ok(b),
            Some(v) => refuse(format!("`{name}` is true or false, not {}", shown(&v))),
        }
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_u64() {
                Some(n) => Ok(Some(n)),
                None => refuse(format!(
                    "`{name}` is a whole number from 0, not {}",
                    shown(&v)
                )),
            },
        }
    }

    fn id(&mut self) -> Result<u64, ApiError> {
        match self.number("id")? {
            Some(id) => Ok(id),
            None => refuse("`id` is missing: the number of a job, as `jobs` lists them"),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => refuse(format!("`{name}` is a text, not {}", shown(&v))),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let bad = |v: &Value| refuse(format!("`{name}` is a list of texts, not {}", shown(v)));
        let items = match self.0.remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(v) => return bad(&v),
        };
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::String(s) => out.push(s),
                v => return bad(&v),
            }
        }
        Ok(Some(out))
    }
}

fn ops() -> impl Iterator<Item = &'static str> + Clone {
    OPS.iter().map(|(name, _)| *name)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn unknown<'a>(
    what: &str,
    given: &str,
    valid: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let given: String = given.chars().take(64).collect();
    match nearest(&given, names.clone()) {
        Some(best) => format!("unknown {what} `{given}`; did you mean `{best}`?"),
        None => format!("unknown {what} `{given}`; {valid} {}", list(names)),
    }
}

/// A value in a message: short, whatever it is.
fn shown(v: &Value) -> String {
    match v {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        v => v.to_string().chars().take(64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(line: &str) -> String {
        parse_request(line.as_bytes()).expect_err(line).0
    }

    #[test]
    fn every_request_reads_back_as_it_was_written() {
        let send = |source, dest| SendRequest {
            peer: "archive".into(),
            source,
            dest,
            lanes: None,
            compress: None,
        };
        let files = SendSource::Files(vec!["/a b".into(), "/c\"\n".into()]);
        let all = [
            Request::Status,
            Request::Peers,
            Request::Lanes,
            Request::Hist { lane: None },
            Request::Hist { lane: Some(127) },
            Request::Counters { check: true },
            Request::Send(send(files, SendDest::Dir("in".into()))),
            Request::Send(SendRequest {
                lanes: Some(128),
                compress: Some("zstd:-1".parse().expect("a policy")),
                ..send(SendSource::Zero(0), SendDest::Discard(true))
            }),
            Request::Send(send(
                SendSource::Random(u64::MAX),
                SendDest::Dir(String::new()),
            )),
            Request::Job {
                id: 3,
                since: Some(9),
                wait_ms: 60_000,
            },
            Request::Job {
                id: 0,
                since: None,
                wait_ms: 0,
            },
            Request::Jobs,
            Request::Cancel { id: 3 },
            Request::Stop,
        ];
        for r in &all {
            let line = r.to_line();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(parse_request(line.as_bytes()).as_ref(), Ok(r), "{line}");
        }
        // Nothing in the table is left out of the list above.
        for op in ops() {
            let written = format!("\"op\":\"{op}\"");
            assert!(all.iter().any(|r| r.to_line().contains(&written)), "{op}");
        }
    }

    #[test]
    fn refusals_say_what_is_valid() {
        for (line, want) in [
            ("", "one JSON object on one line"),
            ("[]", "is a JSON object"),
            ("{}", "no field `op`; operations are `status`, `peers`"),
            ("{\"op\":1}", "`op` is the name"),
            ("{\"op\":\"stauts\"}", "did you mean `status`?"),
            ("{\"op\":\"launch missiles\"}", "operations are `status`"),
            (
                "{\"op\":\"status\",\"x\":1}",
                "unknown field of `status` `x`; it has none",
            ),
            (
                "{\"op\":\"job\",\"id\":1,\"snice\":2}",
                "did you mean `since`?",
            ),
            (
                "{\"op\":\"job\",\"id\":1,\"quux\":2}",
                "its fields are `id`, `since`, `wait_ms`",
            ),
            ("{\"op\":\"job\"}", "`id` is missing"),
            (
                "{\"op\":\"cancel\",\"id\":-1}",
                "`id` is a whole number from 0, not -1",
            ),
            ("{\"op\":\"cancel\",\"id\":1.5}", "not 1.5"),
            (
                "{\"op\":\"job\",\"id\":1,\"wait_ms\":60001}",
                "at most 60000",
            ),
            (
                "{\"op\":\"counters\",\"check\":\"yes\"}",
                "true or false, not \"yes\"",
            ),
            ("{\"op\":\"send\"}", "`peer` is missing"),
            ("{\"op\":\"send\",\"peer\":\"a\"}", "exactly one of"),
            (
                "{\"op\":\"send\",\"peer\":\"a\",\"zero\":1,\"random\":1}",
                "exactly one of",
            ),
            (
                "{\"op\":\"send\",\"peer\":\"a\",\"files\":[]}",
                "name at least one",
            ),
            (
                "{\"op\":\"send\",\"peer\":\"a\",\"files\":[\"x\"]}",
                "\"x\" is no absolute path",
            ),
            (
                "{\"op\":\"send\",\"peer\":\"a\",\"files\":[1]}",
                "a list of texts, not 1",
            ),
            (
                "{\"op\":\"send\",\"peer\":\"a\",\"zero\":1,\"dir\":\"d\",\"discard\":true}",
                "not both",
            ),
            (
                "{\"op\":\"send\",\"peer\":\"a\",\"zero\":1,\"lanes\":129}",
                "1 to 128",
            ),
            ("{\"op\":\"hist\",\"lane\":128}", "0 to 127"),
            (
                "{\"op\":\"send\",\"peer\":\"a\",\"zero\":1,\"compress\":\"rar\"}",
                "deflate:6",
            ),
            ("{\"op\":\"status\"} x", "one JSON object"),
        ] {
            let got = refused(line);
            assert!(got.contains(want), "{line}: {got}");
        }
        let long = format!("{{\"op\":\"{}\"}}", "x".repeat(MAX_REQUEST_LEN));
        assert!(refused(&long).contains("at most"));
        let deep = "[".repeat(100_000);
        assert!(refused(&deep).contains("recursion limit"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_request(&line);
        }

        #[test]
        fn a_damaged_request_is_read_or_refused(at in 0usize..80, with in any::<u8>()) {
            let request = Request::Job { id: 3, since: Some(9), wait_ms: 100 };
            let mut line = request.to_line().into_bytes();
            let at = at % line.len();
            line[at] = with;
            if let Err(e) = parse_request(&line) {
                prop_assert!(!e.0.is_empty() && e.0.len() < 400);
            }
        }
    }
}
