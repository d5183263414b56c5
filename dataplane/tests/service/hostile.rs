//! A peer that breaks the rules of object transfer.

use super::*;

/// A sender that follows no rules.
struct Hostile {
    tx: LaneSender,
    rx: LaneReceiver,
    me: PublicKey,
    tag: u64,
}

impl Hostile {
    fn say(&mut self, kind: Kind, index: u32, offset: u64, body: &[u8]) {
        let mut c = self.tx.claim(LONG).unwrap();
        let len = body.len() as u32;
        let h = Head {
            kind,
            more: false,
            tag: self.tag,
            index,
            len,
            offset,
        };
        h.encode(c.first_chunk_mut().unwrap());
        c[HEAD..HEAD + body.len()].copy_from_slice(body);
        c.commit(HEAD + body.len());
    }

    fn offer(&mut self, names: &[&str]) {
        let mode = 0o100_644;
        let entry = |n: &&str| Entry {
            name: (*n).into(),
            size: 5,
            mtime_ns: 0,
            mode,
        };
        let entries: Vec<_> = names.iter().map(entry).collect();
        self.tag += 1;
        let offer = Offer {
            id: transfer_id(&self.me, false, "", &entries),
            discard: false,
            again: false,
            full: false,
            dest: String::new(),
            count: entries.len() as u32,
            total: 5 * entries.len() as u64,
        };
        self.say(Kind::Offer, 0, 0, &offer.encode());
        for m in encode_entries(&entries, 1 << 16) {
            self.say(Kind::Entries, 0, 0, &m);
        }
        self.say(Kind::OfferEnd, 0, 0, &[]);
    }

    fn hear(&mut self) -> (Kind, Vec<u8>) {
        let slot = self.rx.slot(LONG).unwrap();
        let (h, body, _) = next_record(&slot).unwrap();
        (h.kind, body.to_vec())
    }
}

#[test]
fn hostile_names_are_refused_and_a_rule_breaker_loses_the_session() {
    let dir = Dir::new();
    let ids = [Identity::generate().unwrap(), Identity::generate().unwrap()];
    let b = host(
        &dir.sub("b"),
        &ids[1],
        ids[0].public(),
        None,
        &Setup::default(),
    );
    let a = node(
        &ids[0],
        ids[1].public(),
        Some(b.node.local_addr()),
        &Setup::default(),
    );
    let session = a.connect(&ids[1].public(), LONG).unwrap();
    let (tx, rx) = session.lane(0).unwrap();
    let mut h = Hostile {
        tx,
        rx,
        me: ids[0].public(),
        tag: 0,
    };
    for bad in [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "a//b",
        "",
        "nul\0",
        ".ctp96-partial/x",
    ] {
        h.offer(&[bad]);
        let (kind, body) = h.hear();
        assert_eq!(kind, Kind::Refuse, "{bad:?}");
        assert!(
            decode_reason(&body).unwrap().1.contains("refused"),
            "{bad:?}"
        );
    }
    h.offer(&["twice", "twice"]);
    let (kind, body) = h.hear();
    assert_eq!(kind, Kind::Refuse);
    assert!(decode_reason(&body).unwrap().1.contains("twice"));

    // A link in the receive root that points outside is not followed.
    fs::create_dir_all(dir.sub("outside")).unwrap();
    fs::create_dir_all(dir.sub("b/in")).unwrap();
    symlink(dir.sub("outside"), dir.sub("b/in/link")).unwrap();
    h.offer(&["link/evil"]);
    assert_eq!(h.hear().0, Kind::Accept);
    h.say(Kind::Data, 0, 0, b"evil!");
    h.say(Kind::Ends, 0, 0, &[0, 0, 0, 0, 0]);
    let failed = loop {
        match h.hear() {
            (Kind::Progress, _) => {}
            (Kind::Failed, body) => break decode_reason(&body).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert!(failed.1.contains("put in place"), "{failed:?}");
    while h.hear().0 != Kind::Finished {}
    assert_eq!(fs::read_dir(dir.sub("outside")).unwrap().count(), 0);

    // Data past the end of its object.
    h.offer(&["good"]);
    loop {
        if h.hear().0 == Kind::Accept {
            break;
        }
    }
    h.say(Kind::Data, 0, 3, b"12345");
    loop {
        match h.rx.slot(LONG) {
            Ok(_) => {}
            Err(e) => {
                assert!(e.to_string().contains("closed"), "{e}");
                break;
            }
        }
    }
    assert!(!dir.sub("b/in/good").exists());
}
