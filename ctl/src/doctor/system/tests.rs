use super::super::Status;
use super::super::tests::good;
use super::*;

fn find<'a>(all: &'a [Finding], text: &str) -> &'a Finding {
    all.iter()
        .find(|f| f.what.contains(text))
        .unwrap_or_else(|| panic!("no {text} in {all:#?}"))
}

#[test]
fn an_unprivileged_process_gets_sentences() {
    let mut host = good();
    host.rights.effective = 0;
    host.rights.uid = 1000;
    host.rights.memlock = Some(8 << 20);
    host.kernel.rmem_max = Some(212_992);
    host.trials.af_xdp = Some(libc::EPERM);
    host.trials.xdp_program = Some(libc::EPERM);
    let all = findings(&host);
    let socket = find(&all, "the socket is refused");
    assert_eq!(socket.status, Status::Bad);
    assert!(socket.effect.contains("CAP_NET_RAW") && socket.effect.contains("user 1000"));
    assert!(
        find(&all, "XDP program is refused")
            .effect
            .contains("lacks CAP_BPF")
    );
    assert_eq!(find(&all, "locked memory").status, Status::Warn);
    let queues = find(&all, "socket queues");
    assert!(
        queues
            .fix
            .as_deref()
            .is_some_and(|f| f.contains("rmem_max=33554432"))
    );
    assert!(all.iter().all(|f| !f.area.is_empty()));
}

#[test]
fn versions_and_options() {
    let status = |release: &str| {
        let mut host = good();
        host.kernel.release = release.into();
        findings(&host)[0].status
    };
    assert_eq!(status("6.11.0"), Status::Ok);
    assert_eq!(status("6.8.0"), Status::Info);
    assert_eq!(status("6.6.30"), Status::Info);
    assert_eq!(status("6.1.0-18-amd64"), Status::Warn);
    assert_eq!(status("4.19.0"), Status::Bad);
    let mut host = good();
    if let Reading::Known(options) = &mut host.kernel.options {
        options.insert("XDP_SOCKETS".into(), "n".into());
        options.insert("BPF_JIT".into(), "n".into());
    }
    let all = findings(&host);
    assert_eq!(find(&all, "CONFIG_XDP_SOCKETS=n").status, Status::Bad);
    assert_eq!(find(&all, "CONFIG_BPF_JIT=n").status, Status::Warn);
}

#[test]
fn io_uring_names_the_sysctl_that_forbids_it() {
    let mut host = good();
    host.trials.io_uring = Some(libc::EPERM);
    host.kernel.io_uring_disabled = Some(2);
    let all = findings(&host);
    let f = find(&all, "io_uring: refused");
    assert!(f.effect.contains("io_uring_disabled is 2"));
    assert!(f.fix.as_deref().is_some_and(|f| f.ends_with("=0")));
    host.kernel.io_uring_disabled = Some(0);
    host.rights.seccomp = true;
    let all = findings(&host);
    assert!(find(&all, "io_uring: refused").effect.contains("seccomp"));
}

#[test]
fn memory_and_cpu() {
    let mut host = good();
    host.memory.huge_total = 0;
    host.memory.huge_free = 0;
    host.memory.transparent = Some("never".into());
    host.cpus.flags.remove("vaes");
    host.cpus.governors = [("powersave".to_owned(), 4)].into();
    host.cpus.clock = Some(("hpet".into(), vec!["tsc".into(), "hpet".into()]));
    host.kernel.irqbalance = true;
    host.kernel.iommu_groups = 3;
    host.kernel.iommu_types = [("DMA".to_owned(), 3)].into();
    let all = findings(&host);
    for text in [
        "no 2 MiB pages",
        "VAES no",
        "powersave",
        "hpet",
        "irqbalance",
        "IOMMU: 3",
    ] {
        let f = find(&all, text);
        assert_eq!(f.status, Status::Warn, "{text}");
        assert!(f.fix.is_some(), "{text}");
    }
    host.memory.transparent = Some("madvise".into());
    let all = findings(&host);
    let f = find(&all, "transparent huge pages: madvise");
    assert!(f.status == Status::Info && f.fix.is_some());
    host.cpus.quota = 2;
    assert_eq!(find(&findings(&host), "a quota of 2").status, Status::Warn);
    host.kernel.lsm = None;
    assert_eq!(find(&findings(&host), "securityfs").status, Status::Info);
    host.cpus.flags.remove("aes");
    assert_eq!(find(&findings(&host), "AES no").status, Status::Bad);
}
