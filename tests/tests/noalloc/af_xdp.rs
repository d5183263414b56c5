//! Over AF_XDP: two lane cores, each on its end of a veth pair, and their applications, on one thread.

use super::{allocations, transfer};
use ctp96::backend::Backend;
use ctp96::backend::af_xdp::{self, AfXdp, AfXdpConfig, AttachMode};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use tests::lab::{Host, Lab, LabConfig, Offloads};
use tests::require::Requirement::{Netns, Xdp};
use tests::require_or_skip;
use tests::rig::{Rig, Setup};

/// Set for the process that is traced.
const TRACED: &str = "CTP96_TRACED";
/// A call that nothing else makes: what lies between two of them is the data path.
const MARK: libc::c_long = libc::SYS_getppid;
const BYTES: u64 = 32 << 20;

fn open(host: &Host) -> AfXdp {
    let cfg = AfXdpConfig {
        mode: AttachMode::Native,
        ..AfXdpConfig::default()
    };
    let at = SocketAddr::new(IpAddr::V4(host.v4()), 0);
    let backend = host.run(|| {
        let mut seats = af_xdp::open(&cfg, at, 1, 1500).expect("AF_XDP").seats;
        seats.pop().expect("one core").open().expect("its socket")
    });
    backend.expect("the namespace")
}

/// The lab, and a rig that has moved something already.
fn warm() -> (Lab, Rig<AfXdp>, Vec<u8>) {
    let lab = Lab::new(&LabConfig {
        mtu: 1500,
        offloads: Offloads::Whole,
    });
    let lab = lab.expect("the requirement was probed");
    let mut rig = Rig::new(open(&lab.left), open(&lab.right), None, &Setup::default());
    let content = vec![7; rig.a.tx.slot_capacity()];
    // The first frames go through the kernel, which has to find the neighbour.
    transfer(&mut rig, 4 << 20, &content);
    std::thread::sleep(std::time::Duration::from_millis(300));
    transfer(&mut rig, 4 << 20, &content);
    (lab, rig, content)
}

#[test]
fn moving_data_over_af_xdp_allocates_nothing() {
    require_or_skip!(Netns, Xdp);
    let (_lab, mut rig, content) = warm();
    let before = rig.a.core.backend().stats().tx_direct;
    let ((), n, at) = allocations(|| transfer(&mut rig, BYTES, &content));
    assert_eq!(n, 0, "{n} allocations over AF_XDP; the first:\n{at}");
    let direct = rig.a.core.backend().stats().tx_direct - before;
    assert!(direct >= BYTES / 1408, "{direct} frames directly");
    rig.close();
}

/// What the tracer runs; by itself it does nothing.
#[test]
fn traced() {
    if std::env::var_os(TRACED).is_none() {
        return;
    }
    let (_lab, mut rig, content) = warm();
    // SAFETY: neither takes memory; the parent waits for the stop.
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        libc::raise(libc::SIGSTOP);
    }
    // SAFETY: a call without arguments.
    unsafe { libc::syscall(MARK) };
    transfer(&mut rig, BYTES, &content);
    // SAFETY: as above.
    unsafe { libc::syscall(MARK) };
    rig.close();
}

/// System calls, by number, that the traced process makes between its two marks.
// It is waited for by its number, with its threads.
#[allow(clippy::zombie_processes)]
fn calls() -> BTreeMap<u64, u64> {
    let exe = std::env::current_exe().expect("this test's program");
    let child = Command::new(exe)
        .args([
            "--exact",
            "af_xdp::traced",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(TRACED, "1")
        .stdout(Stdio::null())
        .spawn()
        .expect("this test again");
    let (mut seen, mut marks) = (BTreeMap::new(), 0);
    let mut options = false;
    loop {
        let mut status = 0;
        // SAFETY: `status` is an integer of ours. Only threads of our child, which it has put under
        // this thread's tracing, and the child itself are waited for: other tests have children, too.
        let tid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert!(tid > 0, "{}", std::io::Error::last_os_error());
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if tid == child.id() as i32 {
                let status = std::process::ExitStatus::from_raw(status);
                assert!(status.success(), "{status}");
                assert_eq!(marks, 2, "the data path was not traced");
                return seen;
            }
            continue;
        }
        let mut signal = 0;
        match libc::WSTOPSIG(status) {
            // A system call begins or ends (PTRACE_O_TRACESYSGOOD).
            stop if stop == libc::SIGTRAP | 0x80 => {
                let mut info = std::mem::MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
                let len = size_of_val(&info);
                // SAFETY: `tid` is stopped under our tracing; the kernel writes at most `len` bytes,
                // and the zeroes are valid for what it leaves.
                let info = unsafe {
                    libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, len, info.as_mut_ptr());
                    info.assume_init()
                };
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: the entry's part is valid where `op` says so.
                    let nr = unsafe { info.u.entry.nr };
                    if nr == MARK as u64 {
                        marks += 1;
                    } else if marks == 1 {
                        *seen.entry(nr).or_insert(0) += 1;
                    }
                }
            }
            libc::SIGSTOP if !options => {
                options = true;
                // SAFETY: as above; no memory.
                unsafe {
                    libc::ptrace(libc::PTRACE_SETOPTIONS, tid, 0, libc::PTRACE_O_TRACESYSGOOD);
                }
            }
            other => signal = other,
        }
        let go = if marks < 2 {
            libc::PTRACE_SYSCALL
        } else {
            libc::PTRACE_DETACH
        };
        // SAFETY: as above; no memory.
        unsafe { libc::ptrace(go, tid, 0, signal) };
    }
}

#[test]
fn moving_data_over_af_xdp_calls_the_kernel_for_its_rings_only() {
    require_or_skip!(Netns, Xdp);
    let calls = calls();
    println!("system calls by number: {calls:?}");
    // `sendto` and `recvfrom` without a buffer are the wake-ups of the rings.
    let wake_ups = [libc::SYS_sendto, libc::SYS_recvfrom].map(|n| n as u64);
    assert!(
        calls.get(&wake_ups[0]).is_some_and(|&n| n > 100),
        "{calls:?}"
    );
    let others: Vec<_> = calls.keys().filter(|n| !wake_ups.contains(n)).collect();
    assert!(others.is_empty(), "other calls: {calls:?}");
}
