//! What a reply says survives the wire.

use super::*;
use crate::obs::Histogram;

#[test]
fn a_histogram_survives_the_wire() {
    let h = Histogram::new();
    for ns in [100, 5_000, 5_000, 7_000_000] {
        h.record(ns);
    }
    let row = HistRow::of(Hist::Rtt, &h.snapshot());
    let text = serde_json::to_string(&row).expect("a row has a JSON form");
    let back: HistRow = serde_json::from_str(&text).expect("and is read back");
    let values = back.values().expect("the histogram is in it");
    assert_eq!(Summary::of(&values), row.summary);
    assert_eq!((back.name.as_str(), values.len()), ("rtt", 4));
    for bad in ["", "=", "====", "AAAA", "!"] {
        assert!(
            HistRow {
                hdr: bad.into(),
                ..row.clone()
            }
            .values()
            .is_none(),
            "{bad}"
        );
    }
}

#[test]
fn replies_carry_their_outcome() {
    let ok = reply_line(&Ok(Reply::Send(SendReply { id: 7 })));
    assert_eq!(ok, "{\"ok\":true,\"id\":7}\n");
    assert_eq!(parse_reply(ok.as_bytes()), Ok(SendReply { id: 7 }));
    assert_eq!(
        reply_line(&Ok(Reply::Done(DoneReply {}))),
        "{\"ok\":true}\n"
    );
    let no = reply_line(&Err(ApiError("no \"peer\"".into())));
    assert_eq!(
        parse_reply::<SendReply>(no.as_bytes()),
        Err(ApiError("no \"peer\"".into()))
    );
    for odd in ["", "[]", "{}", "{\"ok\":true}", "{\"ok\":1}"] {
        let e = parse_reply::<SendReply>(odd.as_bytes()).expect_err(odd);
        assert!(e.0.contains("cannot be read"), "{odd}: {e}");
    }
}
