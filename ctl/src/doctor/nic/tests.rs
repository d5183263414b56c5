use super::super::tests::good;
use super::*;
use crate::host::ethtool::{Channels, Feature, Rings};
use crate::host::netlink::{Attached, Xdp};
use crate::host::nic::{Pcie, Settings};

/// A NIC on which nothing is wrong.
fn fast() -> Nic {
    let feature = |name: &str, on| {
        let f = Feature {
            on,
            changeable: true,
        };
        (name.to_owned(), f)
    };
    Nic {
        name: "eth1".into(),
        index: 7,
        kind: None,
        up: true,
        running: true,
        mtu: 9000,
        driver: Reading::Known("ice".into()),
        bus: "0000:01:00.0".into(),
        speed_mbps: Some(400_000),
        settings: Settings {
            channels: Reading::Known(Channels {
                combined: 4,
                max_combined: 64,
                ..Channels::default()
            }),
            rss: Reading::Known(vec![0, 1, 2, 3]),
            hash_udp4: Reading::Known("sdfn".into()),
            hash_udp6: Reading::Known("sdfn".into()),
            rules: Reading::unreadable("-"),
            features: Reading::Known(
                [
                    feature("rx-lro", false),
                    feature("rx-gro", true),
                    feature("tx-udp-segmentation", true),
                ]
                .into(),
            ),
            coalesce: Reading::unreadable("-"),
            irqs: vec![],
        },
        rings: Reading::Known(Rings {
            rx: 2048,
            tx: 2048,
            max_rx: 8192,
            max_tx: 8192,
        }),
        xdp: Reading::Known(Xdp {
            native: true,
            redirect: true,
            zero_copy: true,
            multi_buffer: true,
            zero_copy_segments: 17,
            tx_checksum: true,
            ..Xdp::default()
        }),
        attached: None,
        numa_node: Some(0),
        pcie: Some(Pcie {
            gts: 32.0,
            width: 16,
            max_gts: 32.0,
            max_width: 16,
        }),
        default_route: false,
        in_sysfs: true,
    }
}

fn of<'a>(all: &'a [Finding], text: &str) -> &'a Finding {
    all.iter()
        .find(|f| f.what.contains(text))
        .unwrap_or_else(|| panic!("no {text} in {all:#?}"))
}

#[test]
fn a_fast_nic_passes() {
    let all = findings(&fast(), &good());
    assert!(all.iter().all(|f| f.status <= Status::Info), "{all:#?}");
    assert!(all.iter().all(|f| f.area == "eth1"));
    assert_eq!(of(&all, "zero-copy, says the driver").status, Status::Ok);
    assert!(of(&all, "400 Gb/s").effect.contains("fast enough"));
}

#[test]
fn zero_copy_needs_buffers_for_the_mtu() {
    let mut nic = fast();
    if let Reading::Known(x) = &mut nic.xdp {
        x.zero_copy_segments = 1;
    }
    let all = findings(&nic, &good());
    let f = of(&all, "MTU 9000 needs 3");
    assert_eq!(f.status, Status::Warn);
    assert!(
        f.fix.as_deref().is_some_and(|f| f.contains("mtu 3822")),
        "{f:?}"
    );
    nic.mtu = 3822;
    assert!(
        findings(&nic, &good())
            .iter()
            .all(|f| f.status < Status::Warn)
    );
}

#[test]
fn copy_mode_is_said_and_no_mistake() {
    let mut nic = fast();
    nic.xdp = Reading::Known(Xdp {
        native: true,
        redirect: true,
        multi_buffer: true,
        ..Xdp::default()
    });
    let all = findings(&nic, &good());
    assert_eq!(of(&all, "copy mode only, native").status, Status::Info);
    nic.xdp = Reading::Known(Xdp::default());
    assert!(
        of(&findings(&nic, &good()), "generic")
            .effect
            .contains("auto")
    );
}

#[test]
fn old_kernels_are_answered_from_the_table() {
    let mut nic = fast();
    nic.xdp = Reading::unreadable("no family");
    let mut host = good();
    host.kernel.release = "6.1.0".into();
    let all = findings(&nic, &host);
    let f = of(&all, "ice has zero-copy since Linux 5.5");
    assert!(f.effect.contains("table of drivers"));
    nic.driver = Reading::Known("igb".into());
    let all = findings(&nic, &host);
    assert_eq!(
        of(&all, "igb has zero-copy from Linux 6.14").status,
        Status::Warn
    );
    nic.driver = Reading::Known("ena".into());
    assert!(
        of(&findings(&nic, &host), "copy mode only")
            .effect
            .contains("table")
    );
    nic.driver = Reading::Known("odd".into());
    assert!(
        of(&findings(&nic, &host), "not known")
            .effect
            .contains("not in the table")
    );
}

#[test]
fn what_slows_a_nic_down_is_found() {
    let mut nic = fast();
    nic.speed_mbps = Some(400_000);
    nic.pcie = Some(Pcie {
        gts: 16.0,
        width: 8,
        max_gts: 32.0,
        max_width: 16,
    });
    nic.settings.channels = Reading::Known(Channels {
        combined: 2,
        max_combined: 64,
        ..Channels::default()
    });
    nic.settings.hash_udp4 = Reading::Known("sd".into());
    if let Reading::Known(f) = &mut nic.settings.features {
        for (name, on) in [("rx-lro", true), ("rx-gro", false)] {
            f.get_mut(name).expect("it is there").on = on;
        }
    }
    nic.rings = Reading::Known(Rings {
        rx: 256,
        tx: 256,
        max_rx: 8192,
        max_tx: 8192,
    });
    nic.numa_node = Some(1);
    nic.attached = Some(Attached {
        mode: 1,
        program: Some(5),
    });
    let mut host = good();
    host.cpus.nodes.insert(1, vec![4, 5]);
    let all = findings(&nic, &host);
    for text in [
        "PCI Express: 8 lanes",
        "receive queues: 2 of 64",
        "header fields: sd",
        "LRO is on",
        "GRO off",
        "rings of 256",
        "NUMA node 1, with 0",
    ] {
        assert_eq!(of(&all, text).status, Status::Warn, "{text}");
        assert!(of(&all, text).fix.is_some(), "{text}");
    }
    assert!(
        of(&all, "XDP program is attached")
            .what
            .contains("native, number 5")
    );
    nic.up = false;
    assert_eq!(of(&findings(&nic, &host), "it is down").status, Status::Bad);
    nic.up = true;
    nic.running = false;
    assert_eq!(of(&findings(&nic, &host), "no carrier").status, Status::Bad);
    nic.mtu = 1000;
    assert_eq!(of(&findings(&nic, &host), "MTU 1000").status, Status::Bad);
}

#[test]
fn a_virtio_nic_whose_host_merges_frames_is_found_out() {
    let mut nic = fast();
    nic.driver = Reading::Known("virtio_net".into());
    if let Reading::Known(f) = &mut nic.settings.features {
        let fixed = Feature {
            on: true,
            changeable: false,
        };
        f.insert("rx-gro-hw".into(), fixed);
    }
    let all = findings(&nic, &good());
    assert_eq!(of(&all, "generic copy mode only").status, Status::Warn);
    nic.driver = Reading::Known("mlx5_core".into());
    assert_eq!(
        of(&findings(&nic, &good()), "zero-copy, says").status,
        Status::Ok
    );
}
