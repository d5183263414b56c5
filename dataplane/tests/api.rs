//! Two nodes over loopback through the library interface.

use ctp96::api::{Node, NodeBuilder, RecvError};
use ctp96::codec::Policy;
use ctp96::crypto::identity::Identity;
use ctp96::engine::{BackendChoice, ConnectError, SuiteChoice};
use ctp96::obs::Counter;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

fn pair(
    f: impl Fn(NodeBuilder) -> NodeBuilder,
) -> (Node, Node, ctp96::api::Session, ctp96::api::Session) {
    let (a, b) = (
        Identity::generate().expect("random"),
        Identity::generate().expect("random"),
    );
    let any = "127.0.0.1:0".parse().expect("literal");
    let server = f(Node::builder(b.clone())
        .listen(any)
        .peer("a", a.public(), None))
    .start()
    .expect("server starts");
    let client = f(Node::builder(a)
        .listen(any)
        .peer("b", b.public(), Some(server.local_addr())))
    .start()
    .expect("client starts");
    let out = client.connect(&b.public(), WAIT).expect("connects");
    let inc = server.accept(WAIT).expect("accepts");
    (client, server, out, inc)
}

fn noise(n: usize, mut x: u64) -> Vec<u8> {
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

fn messages_both_ways(backend: BackendChoice) {
    let (client, server, out, inc) = pair(|b| b.backend(backend));
    let (mut tx, mut back) = out.lane(0).expect("lane 0");
    let (mut reply, mut rx) = inc.lane(0).expect("lane 0");
    let sizes = [
        0,
        1,
        5,
        100,
        1408,
        16 << 10,
        (16 << 10) + 1,
        90_000,
        300_000,
        16 << 20,
    ];
    let t = std::thread::spawn(move || {
        let mut m = Vec::new();
        for _ in 0..2 {
            for (i, n) in sizes.into_iter().enumerate() {
                rx.recv_timeout(&mut m, WAIT).expect("a message");
                assert!(
                    m == noise(n, i as u64 + 1),
                    "message {i} of {n} bytes differs"
                );
            }
        }
        reply.send(b"done").expect("sends");
        assert_eq!(rx.recv_timeout(&mut m, WAIT), Err(RecvError::Finished));
    });
    for _ in 0..2 {
        for (i, n) in sizes.into_iter().enumerate() {
            tx.send(&noise(n, i as u64 + 1)).expect("sends");
        }
    }
    let mut m = Vec::new();
    back.recv_timeout(&mut m, WAIT).expect("the reply");
    assert_eq!(m, b"done");
    tx.finish(WAIT).expect("the peer witnesses everything");
    t.join().expect("receiver");
    drop((out, inc, client, server));
}

/// Data follows the handshake's last message at once, while the control thread of the other side is
/// still opening lanes.
#[test]
fn the_first_flight_of_a_session_is_not_lost() {
    let lossless = |_: &u32| {
        let (client, server, out, inc) = pair(|b| b);
        let (mut tx, _) = out.lane(0).expect("lane 0");
        let (_, mut rx) = inc.lane(0).expect("lane 0");
        tx.send(&noise(60_000, 1)).expect("sends");
        let mut m = Vec::new();
        rx.recv_timeout(&mut m, WAIT).expect("a message");
        assert!(m == noise(60_000, 1));
        let foreign = server.registry().counters()[Counter::RxForeign as usize];
        drop((out, inc, client));
        foreign == 0
    };
    // A starved control thread may take longer than frames are kept.
    let whole = (0..12).filter(lossless).count();
    assert!(whole >= 10, "{whole} of 12 sessions lost nothing");
}

#[test]
fn messages_arrive_whole_and_in_order_over_mmsg() {
    messages_both_ways(BackendChoice::Udp);
}

#[test]
fn messages_arrive_whole_and_in_order_over_io_uring() {
    messages_both_ways(BackendChoice::IoUring);
}

/// The suite that a session between these two uses, as both ends report it, after a message each
/// way.
fn suite_of(server: SuiteChoice, client: SuiteChoice) -> Result<String, ConnectError> {
    let (a, b) = (
        Identity::generate().expect("random"),
        Identity::generate().expect("random"),
    );
    let any = "127.0.0.1:0".parse().expect("literal");
    let builder = Node::builder(b.clone()).listen(any).suite(server);
    let server = builder.peer("a", a.public(), None).start().expect("starts");
    let builder = Node::builder(a).listen(any).suite(client);
    let to = Some(server.local_addr());
    let client = builder.peer("b", b.public(), to).start().expect("starts");
    let out = client.connect(&b.public(), WAIT)?;
    let inc = server.accept(WAIT)?;
    let (mut tx, mut back) = out.lane(0).expect("lane 0");
    let (mut reply, mut rx) = inc.lane(0).expect("lane 0");
    let (there, here) = (noise(200_000, 1), noise(3_000, 2));
    let mut m = Vec::new();
    tx.send(&there).expect("sends");
    rx.recv_timeout(&mut m, WAIT).expect("a message");
    assert!(m == there);
    reply.send(&here).expect("sends");
    back.recv_timeout(&mut m, WAIT).expect("a reply");
    assert!(m == here);
    let seen = [&client, &server].map(|node| {
        let end = Instant::now() + WAIT;
        loop {
            if let Some(s) = node.snapshot().sessions.first() {
                return s.suite.clone();
            }
            assert!(Instant::now() < end, "the session never shows");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(seen[0], seen[1]);
    Ok(seen[0].clone())
}

#[test]
fn both_ends_use_the_suite_that_both_offer() {
    use SuiteChoice::{Aegis256, Aegis256x2, Aes256Gcm, Auto};
    let aegis = suite_of(Aegis256, Aegis256).expect("a session");
    assert_eq!(aegis, "AEGIS-256");
    // The lesser of both; a node that asks for AEGIS-256X2 is content with a peer that offers more.
    let aegis = suite_of(Aegis256x2, Aegis256x2).expect("a session");
    assert_eq!(aegis, "AEGIS-256X2");
    for (server, client) in [(Aes256Gcm, Aes256Gcm), (Aes256Gcm, Auto), (Auto, Aes256Gcm)] {
        let suite = suite_of(server, client).expect("a session");
        assert_eq!(suite, "AES-256-GCM", "{server:?} {client:?}");
    }
}

#[test]
fn a_peer_below_the_suite_asked_for_is_refused() {
    for (server, client) in [
        (SuiteChoice::Aegis256x2, SuiteChoice::Aes256Gcm),
        (SuiteChoice::Aes256Gcm, SuiteChoice::Aegis256x2),
        (SuiteChoice::Aegis256, SuiteChoice::Aegis256x2),
        (SuiteChoice::Aegis256x2, SuiteChoice::Aegis256),
    ] {
        let e = suite_of(server, client).expect_err("refused").to_string();
        assert!(e.contains("cipher suite"), "{e}");
    }
}

#[test]
fn a_suite_is_no_aes_gcm_provider() {
    let node = Node::builder(Identity::generate().expect("random"))
        .provider(ctp96::crypto::Provider::Aegis256x2)
        .start();
    let e = node.err().expect("refused").to_string();
    assert!(e.contains("aegis-256x2"), "{e}");
}

#[test]
fn slots_are_written_in_place_and_read_in_place() {
    for policy in ["none", "auto", "deflate:1", "zstd:1"] {
        let policy: Policy = policy.parse().expect("a policy");
        let (_c, _s, out, inc) = pair(|b| b.compression(policy));
        let (mut tx, _) = out.lane(1).expect("lane 1");
        let (_, mut rx) = inc.lane(1).expect("lane 1");
        let t = std::thread::spawn(move || {
            for i in 0..500u32 {
                let view = rx.slot(WAIT).expect("a slot");
                assert_eq!(view.len(), 70_000 + i as usize);
                assert!(
                    view.chunks(4)
                        .enumerate()
                        .all(|(j, c)| c == &((j as u32 / 7) ^ i).to_le_bytes()[..c.len()])
                );
            }
        });
        for i in 0..500u32 {
            let mut slot = tx.claim(WAIT).expect("room");
            for (j, c) in slot[..70_000 + i as usize].chunks_mut(4).enumerate() {
                c.copy_from_slice(&((j as u32 / 7) ^ i).to_le_bytes()[..c.len()]);
            }
            slot.commit(70_000 + i as usize);
        }
        tx.wait_witnessed(WAIT).expect("witnessed");
        assert_eq!(tx.slots_witnessed(), 500);
        t.join().expect("receiver");
    }
}
