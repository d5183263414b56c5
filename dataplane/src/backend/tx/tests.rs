use super::*;

fn addr(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn put(q: &mut TxQueue, to: u16, len: usize, byte: u8) {
    let mut f = q.claim(&addr(to), len).expect("room");
    f.fill(byte);
    q.commit(f);
}

fn runs(q: &mut TxQueue) -> Vec<(u16, u16, usize, usize)> {
    let mut v = Vec::new();
    q.runs(|r| {
        v.push((r.to.port(), r.frames, r.segment, r.len));
        true
    });
    v
}

#[test]
fn equal_frames_share_a_super_packet_and_a_shorter_one_ends_it() {
    let mut q = TxQueue::new(8).expect("map");
    for _ in 0..3 {
        put(&mut q, 1, 1448, 1);
    }
    put(&mut q, 1, 100, 2);
    put(&mut q, 1, 100, 3);
    put(&mut q, 2, 100, 4);
    put(&mut q, 2, 200, 5);
    assert_eq!(
        runs(&mut q),
        [
            (1, 4, 1448, 3 * 1448 + 100),
            (1, 1, 100, 100),
            (2, 1, 100, 100)
        ],
        "the newest one is still open"
    );
    q.close();
    assert_eq!(runs(&mut q).len(), 4);
    q.offload = false;
    assert_eq!(runs(&mut q).len(), 7);
}

#[test]
fn frames_marked_differently_part_ways() {
    let mut q = TxQueue::new(8).expect("map");
    for ecn in [2, 2, 0, 0, 2] {
        let f = q.claim_marked(&addr(1), ecn, 100).expect("room");
        q.commit(f);
    }
    q.close();
    let mut got = Vec::new();
    q.runs(|r| {
        got.push((r.ecn, r.frames));
        true
    });
    assert_eq!(got, [(2, 2), (0, 2), (2, 1)]);
}

#[test]
fn a_super_packet_holds_64_frames_and_65_000_bytes() {
    let mut q = TxQueue::new(8).expect("map");
    for _ in 0..65 {
        put(&mut q, 1, 64, 0);
    }
    for _ in 0..8 {
        put(&mut q, 1, 8936, 0);
    }
    q.close();
    assert_eq!(
        runs(&mut q),
        [
            (1, 64, 64, 4096),
            (1, 1, 64, 64),
            (1, 7, 8936, 7 * 8936),
            (1, 1, 8936, 8936)
        ]
    );
}

#[test]
fn payloads_of_full_buffers_are_aligned() {
    let mut q = TxQueue::new(2).expect("map");
    let f = q.claim(&addr(1), 1448).expect("room");
    assert_eq!((f.as_ptr() as usize + HEADER_LEN) % 64, 0);
    q.cancel(f);
}

#[test]
fn a_run_lies_where_single_frames_would() {
    let mut q = TxQueue::new(2).expect("map");
    let claim = |q: &mut TxQueue, ecn, len| q.claim_run::<4>(&addr(1), ecn, len);
    // Nothing is open yet; then a length, a mark or a peer that goes elsewhere.
    assert!(claim(&mut q, 0, 1448).is_none());
    put(&mut q, 1, 1448, 0);
    assert!(claim(&mut q, 0, 1000).is_none() && claim(&mut q, 2, 1448).is_none());
    assert!(q.claim_run::<4>(&addr(2), 0, 1448).is_none());
    for n in 1..=10 {
        let frames = claim(&mut q, 0, 1448).expect("44 fit into 65,000 bytes");
        for pair in frames.windows(2) {
            assert_eq!(pair[1].as_ptr() as usize - pair[0].as_ptr() as usize, 1448);
        }
        assert_eq!(q.claimed(), 4);
        frames.into_iter().for_each(|f| q.commit(f));
        assert_eq!((q.claimed(), q.pending()), (0, 1 + 4 * n));
    }
    // Room for three.
    assert!(claim(&mut q, 0, 1448).is_none());
    put(&mut q, 1, 1448, 0);
    q.close();
    assert_eq!(runs(&mut q), [(1, 42, 1448, 42 * 1448)]);
}

#[test]
fn cancelled_frames_leave_no_gap() {
    let mut q = TxQueue::new(2).expect("map");
    let mut v: Vec<_> = (0..4)
        .map(|i| {
            let mut f = q
                .claim(&addr(1), if i == 3 { 5 } else { 10 })
                .expect("room");
            f.fill(i);
            Some(f)
        })
        .collect();
    for (i, f) in v.iter_mut().enumerate() {
        let f = f.take().expect("each once");
        if i % 2 == 0 { q.cancel(f) } else { q.commit(f) }
    }
    let mut run = None;
    q.runs(|r| {
        run = Some(r);
        true
    });
    let run = run.expect("one run");
    assert_eq!((run.frames, run.segment), (2, 10));
    // SAFETY: no handle is out and the run lies inside the mapping.
    let got = unsafe { std::slice::from_raw_parts(q.ptr(&run).as_ptr(), run.len) };
    assert_eq!(got, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3]);
    let all = [q.claim(&addr(2), 9), q.claim(&addr(3), 9)];
    assert!(all[1].is_none(), "one buffer is left");
    all.into_iter().flatten().for_each(|f| q.cancel(f));
    q.close();
    assert_eq!(runs(&mut q).len(), 1);
    assert_eq!((q.claimed(), q.pending(), q.free.len()), (0, 2, 1));
}

#[test]
fn a_claimed_frame_holds_back_what_follows() {
    let mut q = TxQueue::new(4).expect("map");
    let f = q.claim(&addr(1), 10).expect("room");
    put(&mut q, 2, 10, 0);
    q.close();
    assert!(runs(&mut q).is_empty());
    q.commit(f);
    assert_eq!(runs(&mut q).len(), 2);
}
