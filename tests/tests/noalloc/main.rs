//! The data path allocates nothing after start: a counting allocator watches the one thread that
//! runs both lane cores and both applications over the memory backend, with loss so that repair,
//! erasure decoding and retransmission run too. The same over AF_XDP, between two namespaces, where a
//! tracer sees to it that the kernel is called for nothing but the rings.

mod af_xdp;

use ctp96::backend::{Backend, mem};
use ctp96::base::Nanos;
use ctp96::codec::Policy;
use ctp96::crypto::Provider;
use ctp96::obs::Counter;
use ctp96::verify::Level;
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use tests::rig::{A, B, Damage, Rig, Setup};

struct Counting;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static SEEN: Cell<u64> = const { Cell::new(0) };
    static FIRST: Cell<Option<String>> = const { Cell::new(None) };
}

fn note() {
    // A thread that is going away has no cells any more, and is not the one that is watched.
    if ARMED.try_with(Cell::get).unwrap_or(false) {
        ARMED.set(false);
        if SEEN.get() == 0 {
            FIRST.set(Some(Backtrace::force_capture().to_string()));
        }
        SEEN.set(SEEN.get() + 1);
        ARMED.set(true);
    }
}

// SAFETY: every call goes to the system allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise, handed on.
        unsafe { System.realloc(p, layout, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f` and says how many allocations it made on this thread, and where the first was.
fn allocations<T>(f: impl FnOnce() -> T) -> (T, u64, String) {
    SEEN.set(0);
    ARMED.set(true);
    let out = f();
    ARMED.set(false);
    let at = FIRST.take().unwrap_or_default();
    (out, SEEN.get(), at)
}

/// Moves `bytes` each way; `loss` of all frames vanish.
fn transfer<T: Backend>(rig: &mut Rig<T>, bytes: u64, content: &[u8]) {
    let limit = rig.now() + 100_000_000_000 as Nanos;
    let mut sent = [0u64; 2];
    let mut got = [0u64; 2];
    while got.iter().any(|&n| n < bytes) {
        let mut busy = false;
        for (i, side) in [&mut rig.a, &mut rig.b].into_iter().enumerate() {
            while sent[i] < bytes
                && let Ok(mut slot) = side.tx.try_claim()
            {
                let n = slot.len();
                slot[..n].copy_from_slice(&content[..n]);
                slot.commit(n);
                sent[i] += n as u64;
                busy = true;
            }
            while let Ok(slot) = side.rx.try_slot() {
                // The digest has compared the content already.
                got[1 - i] += slot.len() as u64;
                busy = true;
            }
        }
        rig.round(busy);
        assert!(rig.now() < limit, "no progress: {got:?} of {bytes} bytes");
    }
    rig.idle(300_000_000);
}

fn nothing_is_allocated(policy: &str, level: Level, symbol_len: usize, bytes: u64) {
    nothing_is_allocated_by(Provider::Ring, policy, level, symbol_len, bytes);
}

fn nothing_is_allocated_by(
    provider: Provider,
    policy: &str,
    level: Level,
    symbol_len: usize,
    bytes: u64,
) {
    let compression: Policy = policy.parse().expect("a policy");
    let setup = Setup {
        symbol_len,
        level,
        compression,
        provider,
        ..Setup::default()
    };
    let (a, b) = mem::pair(A, B, 64).expect("memory");
    let mut rig = Rig::new(a, b, None, &setup);
    for side in [&mut rig.a, &mut rig.b] {
        side.tap().set_damage(Damage {
            drop: 0.01,
            cut: 0.0,
        });
    }
    // Half text, half noise: the codec has something to do, and something to leave alone.
    let mut content = b"ninety-six slots to a lane ".repeat(rig.a.tx.slot_capacity() / 27 + 1);
    let mut x = 0x9e37_79b9_u32;
    for c in content.iter_mut().skip(rig.a.tx.slot_capacity() / 2) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        *c = x as u8;
    }
    // The first buffers, tables and pools fill here.
    transfer(&mut rig, 4 << 20, &content);
    let (rounds, n, at) = allocations(|| {
        transfer(&mut rig, bytes, &content);
        rig.now()
    });
    assert_eq!(
        n, 0,
        "{n} allocations on the data path in {rounds} ns; the first:\n{at}"
    );
    for side in [&rig.a, &rig.b] {
        side.assert_balanced("after the transfer");
        assert!(side.counter(Counter::PayloadBytesOut) >= bytes);
        for c in [
            Counter::TxSymbolsRepair,
            Counter::RxSlotsDecoded,
            Counter::AcksSent,
        ] {
            assert!(
                side.counter(c) > 0,
                "{} is zero: this tests nothing",
                c.name()
            );
        }
        let packed =
            side.counter(Counter::BytesAfterCodec) < side.counter(Counter::BytesBeforeCodec);
        assert_eq!(packed, compression != Policy::None);
    }
    assert!(rig.a.tap().lost() > 0);
    assert_eq!(rig.close(), [0, 0]);
}

#[test]
fn moving_data_without_compression() {
    nothing_is_allocated("none", Level::Fast, 1408, 64 << 20);
}

#[test]
fn moving_data_sealed_by_every_provider() {
    for provider in [
        Provider::AwsLc,
        Provider::AesGcm,
        Provider::Aegis256x2,
        Provider::Aegis256,
    ] {
        nothing_is_allocated_by(provider, "none", Level::Fast, 1408, 8 << 20);
    }
}

#[test]
fn moving_data_compressed() {
    for policy in ["lz4", "auto", "zstd:1", "deflate:1"] {
        nothing_is_allocated(
            policy,
            Level::Fast,
            1408,
            if policy == "lz4" { 64 << 20 } else { 8 << 20 },
        );
    }
}

#[test]
fn moving_data_with_the_full_witness_in_jumbo_frames() {
    nothing_is_allocated("none", Level::Full, 8896, 64 << 20);
}

#[test]
fn an_allocation_is_seen() {
    let (_, n, at) = allocations(|| std::hint::black_box(vec![1u8; 100]));
    assert_eq!(n, 1);
    assert!(at.contains("an_allocation_is_seen"), "{at}");
    let (_, n, _) = allocations(|| {
        let mut v = Vec::with_capacity(1);
        v.extend_from_slice(std::hint::black_box(&[1u8; 64]));
        v
    });
    assert_eq!(n, 2, "growing counts too");
    let (_, n, _) = allocations(|| std::hint::black_box(1 + 1));
    assert_eq!(n, 0);
}

#[test]
fn an_allocation_on_the_data_path_is_seen() {
    // The same rig with a tap that copies frames, which a data path must not do.
    let (a, b) = mem::pair(A, B, 64).expect("memory");
    let mut rig = Rig::new(a, b, None, &Setup::default());
    let content = vec![7; rig.a.tx.slot_capacity()];
    transfer(&mut rig, 1 << 20, &content);
    rig.a.tap().capture = tests::rig::Capture::Copy;
    let ((), n, at) = allocations(|| transfer(&mut rig, 1 << 20, &content));
    assert!(n > 100, "only {n} allocations seen");
    assert!(at.contains("commit"), "{at}");
    rig.close();
}
