//! Two nodes over loopback through the library interface.

use ctp96::api::{Node, NodeBuilder, RecvError};
use ctp96::codec::Policy;
use ctp96::crypto::identity::Identity;
use ctp96::engine::BackendChoice;
use std::time::Duration;

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

#[test]
fn messages_arrive_whole_and_in_order_over_mmsg() {
    messages_both_ways(BackendChoice::Udp);
}

#[test]
fn messages_arrive_whole_and_in_order_over_io_uring() {
    messages_both_ways(BackendChoice::IoUring);
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
