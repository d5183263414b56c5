use super::schema::SCHEMA;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const KEY: &str = "C0hBRFXUTSLUwAKNkRX4gFDQFZhAmUdgkRYNa9zFWHY=";

/// The example with its optional keys switched on: prose comments start with `# `, keys with `#`.
fn full_example() -> String {
    let enabled = EXAMPLE.lines().map(|l| match l.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => rest,
        _ => l,
    });
    enabled.collect::<Vec<_>>().join("\n")
}

fn problems(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(Config::parse(EXAMPLE).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn the_full_example_round_trips() {
    let config = Config::parse(&full_example()).unwrap();
    assert_eq!(config.peers.len(), 2);
    assert!(config.peers[0].recv[0].max_bytes.is_some());
    assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
    assert_eq!(
        Config::parse(&Config::default().to_toml()).unwrap(),
        Config::default()
    );
}

/// Keys of a table and of those below it, as `section.key`.
fn keys(table: &toml::Table, path: &str, out: &mut BTreeSet<String>) {
    for (k, v) in table {
        let here = if path.is_empty() {
            k.clone()
        } else {
            format!("{path}.{k}")
        };
        let below: Vec<&toml::Table> = match v {
            toml::Value::Table(t) => vec![t],
            toml::Value::Array(a) => a.iter().filter_map(|v| v.as_table()).collect(),
            _ => vec![],
        };
        below.iter().for_each(|t| keys(t, &here, out));
        out.insert(here);
    }
}

#[test]
fn schema_example_and_structs_have_the_same_keys() {
    let mut schema = BTreeSet::new();
    for section in SCHEMA {
        for (key, hint) in section.keys {
            assert!(!hint.is_empty());
            let dot = if section.path.is_empty() { "" } else { "." };
            schema.insert(format!("{}{dot}{key}", section.path));
        }
    }
    let mut example = BTreeSet::new();
    keys(&full_example().parse().unwrap(), "", &mut example);
    assert_eq!(example, schema);
    let mut structs = BTreeSet::new();
    let config = Config::parse(&full_example()).unwrap();
    keys(&config.to_toml().parse().unwrap(), "", &mut structs);
    assert_eq!(structs, schema);
}

#[test]
fn every_key_of_the_example_is_explained() {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let key = line.trim_start_matches('#');
        if key.starts_with(|c: char| c.is_ascii_lowercase()) && key.contains(" = ") {
            let before = lines[..i].iter().rev().find(|l| !l.is_empty()).unwrap();
            assert!(before.starts_with("# "), "no comment above `{line}`");
        }
    }
}

#[test]
fn unknown_keys_name_the_nearest_one_and_their_line() {
    let cases = [
        (
            "[node]\nlissten = 1",
            "line 2: unknown key `lissten` in [node]; did you mean `listen`?",
        ),
        (
            "[nod]\nport = 1",
            "line 1: unknown key `nod` in the top level; did you mean `node`?",
        ),
        (
            "[memory]\n\n\nbuget = 1",
            "line 4: unknown key `buget` in [memory]; did you mean `budget`?",
        ),
        (
            "[memory]\nport = 1",
            "unknown key `port` in [memory]; it belongs in [node]",
        ),
        (
            "[cc]\nqwertyuiop = 1",
            "unknown key `qwertyuiop` in [cc]; valid keys are `mode`",
        ),
        (
            "port = 1",
            "unknown key `port` in the top level; it belongs in [node]",
        ),
        (
            "[[peer]]\n[[peer.recv]]\npth = 1",
            "line 3: unknown key `pth` in [[peer.recv]]; did you mean `path`?",
        ),
    ];
    for (text, want) in cases {
        assert!(problems(text).contains(want), "{text}: {}", problems(text));
    }
    let several = problems("[node]\nprt = 1\n[session]\nlane = 2");
    assert_eq!(several.lines().count(), 2);
    assert!(several.contains("line 2") && several.contains("line 4"));
}

#[test]
fn bad_values_give_line_key_value_and_range() {
    let cases = [
        (
            "[session]\nlanes = 129",
            "line 2: session.lanes is 129; allowed: \"auto\", or 1 to 128",
        ),
        ("[session]\nlanes = 0", "session.lanes is 0"),
        (
            "[session]\nlanes = \"x\"",
            "line 2: session.lanes: `x` is neither \"auto\" nor a number",
        ),
        (
            "[session]\nwindow_slots = 97",
            "window_slots is 97; allowed: 8 to 96",
        ),
        (
            "[session]\nkeepalive_s = 20",
            "keepalive_s is 20 where idle_close_s is 30",
        ),
        ("[node]\nport = 70000", "line 2: node.port: invalid value"),
        (
            "[node]\nport = 65535\ncores = 2",
            "node.port is 65535, with 2 core(s)",
        ),
        (
            "[node]\ncores = []",
            "node.cores is 0; allowed: \"auto\", 1 to 64",
        ),
        ("[node]\ncores = [1, 1]", "names a CPU twice"),
        ("[node]\ncores = \"all\"", "a number of cores, or a list"),
        ("[node]\ncores = -1", "node.cores: invalid value"),
        (
            "[node]\nmtu = 576",
            "node.mtu is 576; allowed: 1280 to 9216",
        ),
        (
            "[node]\nbackend = \"uring\"",
            "node.backend: unknown variant `uring`",
        ),
        ("[node]\nlisten = \"localhost\"", "allowed: an IP address"),
        (
            "[node]\nstate_dir = \"/var/../etc\"",
            "node.state_dir is \"/var/../etc\"",
        ),
        (
            "[node]\ncontrol_socket = \"s\"",
            "node.control_socket is \"s\"",
        ),
        (
            "[memory]\nbudget = \"1MiB\"",
            "memory.budget is 1048576; allowed: \"16MiB\" to",
        ),
        ("[memory]\nbudget = \"64mb\"", "`64mb` is no size"),
        ("[memory]\nbudget = -1", "-1 is negative"),
        ("[memory]\nbudget = \"64MiB\"", "takes 73MiB"),
        (
            "[session]\nlanes = 128",
            "raise memory.budget, or lower session.lanes",
        ),
        (
            "[path]\nrate = \"10\"",
            "`10` is no rate; write a number and a unit such as 10Gbit/s",
        ),
        ("[path]\nrate = 10", "a bare 10 is ambiguous"),
        (
            "[path]\nrtt_ms = 0\nrate = \"1Gbit/s\"",
            "path.rtt_ms is 0; allowed: 1 to 10000",
        ),
        (
            "[path]\nrtt_ms = 5",
            "path.rtt_ms is set and path.rate is not",
        ),
        (
            "[session]\nlanes = \"auto\"\n[path]\nrate = \"200Gbit/s\"\nrtt_ms = 100",
            "200Gbit/s over 100 ms at MTU 1500 is more than 128 lanes",
        ),
        (
            "[memory]\nbudget = \"64MiB\"\n[session]\nlanes = \"auto\"\n[path]\nrate = \"100Gbit/s\"\nrtt_ms = 20",
            "one session of 4 lanes with 96 slots at MTU 1500 takes",
        ),
        (
            "[compression]\npolicy = \"deflate:99\"",
            "deflate has no level `99`; use 1 to 12",
        ),
        (
            "[verify]\nlevel = \"strong\"",
            "allowed: \"fast\" or \"full\"",
        ),
        ("[cc]\nmode = \"reno\"", "`reno` is no mode"),
        (
            "[session]\nlane_weights = [1, 0]",
            "session.lane_weights is [1, 0]; allowed: a list",
        ),
        ("[cc]\nmode = 10", "a bare 10 is ambiguous"),
        (
            "[fec]\nrepair = 33",
            "fec.repair is 33; allowed: \"auto\", or 0 to 32",
        ),
        ("[fec]\nrepair = 256", "256 is too many"),
        (
            "[crypto]\nprovider = \"openssl\"",
            "allowed: \"auto\", \"ring\"",
        ),
        (
            "[crypto]\nsuite = \"aes-128-gcm\"",
            "allowed: \"auto\", \"aes-256-gcm\", \"aegis-256x2\" or \"aegis-256\"",
        ),
        ("[[peer]]\nname = \"a\"", "missing field `key`"),
        ("node = 3", "line 1: node: invalid type"),
        ("[node]\nport = 1\nport = 2", "line 3: not valid TOML"),
        ("[node", "line 1: not valid TOML"),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .map(|(text, want)| (problems(text), want))
        .filter(|(got, want)| !got.contains(*want))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn suites_parse() {
    for (text, want) in [
        ("auto", CryptoSuite::Auto),
        ("aes-256-gcm", CryptoSuite::Aes256Gcm),
        ("aegis-256x2", CryptoSuite::Aegis256x2),
        ("aegis-256", CryptoSuite::Aegis256),
    ] {
        let config = Config::parse(&format!("[crypto]\nsuite = \"{text}\"")).unwrap();
        assert_eq!(config.crypto.suite, want);
        assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
    }
}

#[test]
fn peers_are_checked() {
    let peer = |name: &str, key: &str, more: &str| {
        format!("[[peer]]\nname = \"{name}\"\nkey = \"{key}\"\n{more}\n")
    };
    let good = peer("a", KEY, "endpoint = \"host.example:9696\"");
    assert!(Config::parse(&good).is_ok());
    let other = KEY.replace('C', "D");
    let cases = [
        (peer("../x", KEY, ""), "line 2: peer[0].name is \"../x\""),
        (peer("a", "short=", ""), "line 3: peer[0].key is \"short=\""),
        (peer("a", &KEY.replace("Y=", "Z="), ""), "peer[0].key is"),
        (
            peer("a", KEY, "endpoint = \"192.0.2.1\""),
            "line 4: peer[0].endpoint",
        ),
        (
            peer("a", KEY, "endpoint = \"192.0.2.1:0\""),
            "peer[0].endpoint",
        ),
        (
            peer("a", KEY, "endpoint = \"192.0.2.300:1\""),
            "peer[0].endpoint",
        ),
        (
            peer("a", KEY, "[[peer.recv]]\npath = \"in\""),
            "line 5: peer[0].recv[0].path is \"in\"",
        ),
        (
            good.clone() + &peer("a", &other, ""),
            "line 6: peer[1].name is \"a\", as another",
        ),
        (
            good.clone() + &peer("b", KEY, ""),
            "peer[1].key is another peer's key",
        ),
    ];
    for (text, want) in cases {
        assert!(
            problems(&text).contains(want),
            "{text}: {}",
            problems(&text)
        );
    }
}

#[test]
fn load_names_the_file() {
    let missing = Config::load(Path::new("/nonexistent/ctp96d.toml"))
        .unwrap_err()
        .to_string();
    assert!(missing.starts_with("/nonexistent/ctp96d.toml: cannot read"));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(s in ".{0,120}") {
        let _ = Config::parse(&s).map_err(|e| e.to_string());
    }

    #[test]
    fn damaged_examples_are_parsed_or_refused(at in any::<prop::sample::Index>(), with in ".{0,3}") {
        let mut text = full_example();
        let at = (0..=at.index(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.insert_str(at, &with);
        let _ = Config::parse(&text).map_err(|e| e.to_string());
        let _ = Config::parse(&text[..at]).map_err(|e| e.to_string());
    }
}

#[test]
fn lanes_follow_the_stated_path() {
    let parse = |text: &str| Config::parse(text).expect(text);
    assert_eq!(parse("[session]\nlanes = \"auto\"").lanes(), 4);
    let text = "[session]\nlanes = \"auto\"\n[memory]\nbudget = \"64GiB\"\n[path]\n";
    let long = parse(&format!("{text}rate = \"10Gbit/s\"\nrtt_ms = 20"));
    assert_eq!(long.lanes(), 9);
    assert_eq!(long.window_bytes(), 9 * 96 * 64 * 1408);
    // Three products need 138 lanes; 128 hold two of them and more.
    let longest = "[node]\nmtu = 9000\n";
    let longest = parse(&format!(
        "{longest}{text}rate = \"200Gbit/s\"\nrtt_ms = 100"
    ));
    assert_eq!(
        (longest.lanes(), longest.lanes_for_path()),
        (128, Some(138))
    );
}
