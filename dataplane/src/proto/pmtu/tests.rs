//! The search over paths in virtual time: what it finds, how soon, and what it costs.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const MS: Nanos = 1_000_000;
const S: Nanos = 1_000 * MS;

/// A path and the answering peer at its end.
struct Path {
    now: Nanos,
    rtt: Nanos,
    /// Largest symbol that passes.
    carries: u16,
    /// Nothing passes at all.
    dark: bool,
    /// So many frames of a hundred are lost, whatever their size.
    lose: u64,
    frames: u64,
    pongs: BinaryHeap<Reverse<(Nanos, u64)>>,
    m: Pmtu,
}

impl Path {
    fn new(max: u16, carries: u16, rtt: Nanos) -> Path {
        Path::hinted(max, carries, rtt, None)
    }

    fn hinted(max: u16, carries: u16, rtt: Nanos, hint: Option<u16>) -> Path {
        let search = true;
        Path {
            now: 0,
            rtt,
            carries,
            dark: false,
            lose: 0,
            frames: 0,
            pongs: BinaryHeap::new(),
            m: Pmtu::new(&PmtuConfig { max, search, hint }, 0),
        }
    }

    fn send(&mut self, symbol: u16, id: u64) {
        self.frames += 1;
        let mut x = self.frames.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let unlucky = (x >> 33) % 100 < self.lose;
        if !self.dark && !unlucky && symbol <= self.carries {
            self.pongs.push(Reverse((self.now + self.rtt, id)));
        }
    }

    /// Runs until `until`, or until `stop` says so; false where it did not.
    fn run(&mut self, until: Nanos, stop: impl Fn(&Pmtu) -> bool) -> bool {
        loop {
            if stop(&self.m) {
                return true;
            }
            while let Some(p) = self.m.poll(self.now, self.rtt + MS) {
                assert_eq!(p.symbol % 64, 0);
                assert!(p.symbol <= self.m.max);
                self.send(64, p.small_id);
                self.send(p.symbol, p.id);
            }
            if stop(&self.m) {
                return true;
            }
            let pong = self.pongs.peek().map(|Reverse((at, _))| *at);
            let Some(next) = self.m.next_timeout().into_iter().chain(pong).min() else {
                return false;
            };
            if next > until {
                self.now = until;
                return false;
            }
            self.now = self.now.max(next);
            while let Some(&Reverse((at, id))) = self.pongs.peek()
                && at <= self.now
            {
                self.pongs.pop();
                // As a lane does it: first what the frame says, then that there was one.
                self.m.on_pong(self.now, id);
                self.m.on_heard(self.now);
            }
        }
    }

    fn settle(&mut self) {
        let done = self.run(self.now + 100 * S, |m| m.state() == PmtuState::Complete);
        assert!(done, "{:?}", self.m);
    }
}

#[test]
fn a_path_that_carries_the_largest_size_is_known_after_one_round_trip() {
    for max in [1408, 8896, 9088] {
        for rtt in [50_000, 20 * MS, 200 * MS] {
            let mut p = Path::new(max, max, rtt);
            assert_eq!((p.m.current(), p.m.offer()), (1152, max));
            p.settle();
            assert_eq!((p.m.current(), p.now), (max, rtt));
            assert_eq!((p.m.origin(), p.m.counts()), (PmtuOrigin::Probe, (1, 0, 0)));
            assert_eq!(p.m.next_timeout(), None, "there is nothing left to do");
        }
    }
}

#[test]
fn every_path_mtu_is_found_exactly() {
    for max in [1408, 8896] {
        for carries in (1152..=max).step_by(64) {
            let mut p = Path::new(max, carries, MS);
            p.settle();
            assert_eq!(p.m.current(), carries, "of {max}");
            assert_eq!(p.m.offer(), carries);
            let (probes, lost, holes) = p.m.counts();
            assert!(probes <= 32 && lost <= 24 && holes == 0, "{probes} {lost}");
            assert!(p.now < S, "{} ms", p.now / MS);
        }
    }
}

#[test]
fn jumbo_frames_over_the_internet_fall_to_the_usual_size_first() {
    let mut p = Path::new(8896, 1408, 10 * MS);
    assert!(p.run(S, |m| m.current() == 1408));
    let (probes, ..) = p.m.counts();
    assert_eq!(probes, u64::from(MAX_PROBES) + 1);
}

#[test]
fn the_kernels_word_saves_the_search_but_is_not_believed() {
    // True: the first probe is of that size, and the only one.
    let mut p = Path::hinted(8896, 1344, MS, Some(1344));
    assert_eq!(p.m.offer(), 1344);
    p.settle();
    assert_eq!((p.m.current(), p.m.origin()), (1344, PmtuOrigin::Hint));
    assert_eq!(p.m.counts(), (1, 0, 0));
    // Too large: probes find less.
    let mut p = Path::hinted(8896, 1280, MS, Some(1408));
    p.settle();
    assert_eq!((p.m.current(), p.m.origin()), (1280, PmtuOrigin::Probe));
    // Far too small, as a forged message may be: nothing below the base size is ever used.
    let mut p = Path::hinted(1408, 1408, MS, Some(64));
    p.settle();
    assert!(p.m.current() >= 1152);
    // A forged one on a path that is known: one probe, and everything stays.
    let mut p = Path::new(1408, 1408, MS);
    p.settle();
    p.m.on_hint(p.now, 1152);
    assert_eq!(p.m.state(), PmtuState::Checking);
    p.settle();
    assert_eq!((p.m.current(), p.m.counts()), (1408, (2, 0, 0)));
}

#[test]
fn silence_is_no_verdict() {
    let mut p = Path::new(8896, 8896, MS);
    p.dark = true;
    p.run(30 * S, |_| false);
    let (probes, lost, _) = p.m.counts();
    assert_eq!(lost, 0);
    assert!((5..40).contains(&probes), "{probes} probes in 30 s");
    assert_eq!(p.m.offer(), 8896);
    p.dark = false;
    p.settle();
    assert_eq!(p.m.current(), 8896);
}

#[test]
fn a_peer_that_comes_up_late_is_probed_when_it_is_heard() {
    let mut p = Path::new(1408, 1408, MS);
    p.dark = true;
    p.run(3 * MS, |_| false);
    p.dark = false;
    p.m.on_heard(p.now);
    let heard = p.now;
    p.settle();
    assert_eq!(p.now, heard + MS);
}

#[test]
fn a_black_hole_is_found_and_the_new_size_too() {
    for hint in [None, Some(1280)] {
        let mut p = Path::new(8896, 8896, 10 * MS);
        p.settle();
        p.carries = 1280;
        p.m.suspect(p.now);
        if let Some(h) = hint {
            p.m.on_hint(p.now, h);
        }
        let since = p.now;
        assert!(p.run(p.now + 10 * S, |m| m.current() == 1152));
        assert_eq!(p.m.origin(), PmtuOrigin::BlackHole);
        let tries = if hint.is_some() { 1 } else { 3 };
        // Seen at the answer to the probe of the base size.
        assert!(p.now - since <= tries * 2 * (p.rtt + MS) + p.rtt);
        p.settle();
        assert_eq!((p.m.current(), p.m.counts().2), (1280, 1));
    }
}

#[test]
fn an_outage_is_not_taken_for_a_black_hole() {
    let mut p = Path::new(1408, 1408, 10 * MS);
    p.settle();
    p.dark = true;
    p.m.suspect(p.now);
    p.run(p.now + 20 * S, |_| false);
    p.dark = false;
    p.settle();
    assert_eq!((p.m.current(), p.m.counts().2), (1408, 0));
}

#[test]
fn random_loss_moves_nothing() {
    let mut p = Path::new(1408, 1408, 10 * MS);
    p.settle();
    for percent in [1, 2, 5, 10, 20] {
        p.lose = percent;
        p.m.suspect(p.now);
        p.settle();
        assert_eq!(p.m.current(), 1408, "{percent} % lost");
    }
}

#[test]
fn a_path_below_the_base_size_is_reported_and_asked_again() {
    let mut p = Path::new(1408, 1408, MS);
    p.settle();
    p.carries = 576;
    p.m.suspect(p.now);
    assert!(p.run(p.now + 10 * S, |m| m.state() == PmtuState::Error));
    let before = p.m.counts().0;
    p.run(p.now + 60 * S, |_| false);
    let probes = p.m.counts().0 - before;
    assert!((12..60).contains(&probes), "{probes} probes in a minute");
    p.carries = 1344;
    p.settle();
    assert_eq!(p.m.current(), 1344);
}

#[test]
fn a_larger_size_is_tried_again_after_ten_minutes() {
    let mut p = Path::new(8896, 1408, MS);
    p.settle();
    let (known, before) = (p.now, p.m.counts().0);
    p.carries = 8896;
    assert!(!p.run(known + RAISE_NS - MS, |m| m.current() > 1408));
    assert_eq!(p.m.counts().0, before);
    assert!(p.run(known + RAISE_NS + S, |m| m.current() == 8896));
}

#[test]
fn a_grown_interface_is_noticed() {
    let mut p = Path::hinted(8896, 1408, MS, Some(1408));
    p.settle();
    p.carries = 8896;
    p.m.on_hint(p.now, 8896);
    p.settle();
    assert_eq!(p.m.current(), 8896);
}

#[test]
fn without_a_search_the_configured_size_is_used_and_nothing_is_sent() {
    for (max, search) in [(8896, false), (1152, true), (512, true)] {
        let hint = Some(64);
        let mut m = Pmtu::new(&PmtuConfig { max, search, hint }, 0);
        assert_eq!((m.current(), m.offer()), (max, max));
        m.suspect(0);
        m.on_hint(0, 64);
        m.on_heard(0);
        assert_eq!(m.poll(S, MS), None);
        assert_eq!((m.state(), m.next_timeout()), (PmtuState::Fixed, None));
    }
}

#[test]
fn invented_answers_do_no_harm() {
    let mut p = Path::new(1408, 1280, MS);
    for id in [
        0,
        1,
        u64::MAX,
        PROBE_ID,
        PROBE_ID | 1408 << 32 | 77,
        1 << 63 | SMALL_ID,
    ] {
        assert!(!p.m.on_pong(0, id));
    }
    assert_eq!(p.m.current(), 1152);
    p.settle();
    assert_eq!(p.m.current(), 1280);
}

#[test]
fn answers_from_before_a_black_hole_count_no_more() {
    let mut p = Path::new(1408, 1408, 10 * MS);
    let first = p.m.poll(0, 11 * MS).expect("a probe");
    p.m.on_pong(0, first.id);
    p.carries = 1152;
    p.m.suspect(p.now);
    assert!(p.run(10 * S, |m| m.current() == 1152));
    assert!(!p.m.on_pong(p.now, first.id));
    assert_eq!(p.m.current(), 1152);
}
