use super::*;
use crate::host::ethtool::{Channels, Coalesce, Feature, Rules};
use std::collections::BTreeMap;

fn channels(combined: u32, max_combined: u32) -> Reading<Channels> {
    Reading::Known(Channels {
        combined,
        max_combined,
        ..Channels::default()
    })
}

/// A NIC with everything, four of eight queues in use, untouched.
fn nic() -> Settings {
    let feature = |on| Feature {
        on,
        changeable: true,
    };
    Settings {
        channels: channels(4, 8),
        rss: Reading::Known((0..128).map(|i| i % 4).collect()),
        hash_udp4: Reading::Known("sd".into()),
        hash_udp6: Reading::Known("sdfn".into()),
        rules: Reading::Known(Rules {
            locations: vec![1023],
            size: 1024,
        }),
        features: Reading::Known(BTreeMap::from([
            ("rx-lro".to_owned(), feature(true)),
            ("rx-gro".to_owned(), feature(true)),
            ("rx-ntuple-filter".to_owned(), feature(false)),
        ])),
        coalesce: Reading::Known(Coalesce {
            rx_usecs: 50,
            adaptive_rx: true,
            ..Coalesce::default()
        }),
        irqs: vec![],
    }
}

fn wish(cpus: usize) -> Wish {
    Wish {
        cpus: (0..cpus).collect(),
        ..Wish::default()
    }
}

fn lines(steps: &[Step]) -> Vec<(String, String)> {
    steps
        .iter()
        .map(|s| (s.run.to_string(), s.undo.to_string()))
        .collect()
}

fn pair(run: &str, undo: &str) -> (String, String) {
    (run.to_owned(), undo.to_owned())
}

#[test]
fn growing_leaves_the_default_table_to_the_driver() {
    let p = plan("eth1", &nic(), &wish(8)).expect("possible");
    assert_eq!(p.queues, 8);
    assert_eq!(
        lines(&p.steps),
        [
            pair("ethtool -K eth1 rx-lro off", "ethtool -K eth1 rx-lro on"),
            pair("ethtool -L eth1 combined 8", "ethtool -L eth1 combined 4"),
            pair(
                "ethtool -N eth1 rx-flow-hash udp4 sdfn",
                "ethtool -N eth1 rx-flow-hash udp4 sd"
            ),
        ]
    );
    assert_eq!(p.notes, [""; 0]);
}

#[test]
fn shrinking_empties_the_queues_first() {
    let p = plan("eth1", &nic(), &wish(2)).expect("possible");
    let steps = lines(&p.steps);
    assert_eq!(
        steps[1..3],
        [
            pair("ethtool -X eth1 equal 2", "ethtool -X eth1 default"),
            pair("ethtool -L eth1 combined 2", "ethtool -L eth1 combined 4"),
        ]
    );
}

#[test]
fn a_table_that_somebody_wrote_is_written_back_or_left_alone() {
    let mut now = nic();
    now.rss = Reading::Known([vec![0; 100], vec![1; 28]].concat());
    let p = plan("eth1", &now, &wish(4)).expect("possible");
    let spread = pair("ethtool -X eth1 equal 4", "ethtool -X eth1 weight 100 28");
    assert!(lines(&p.steps).contains(&spread));
    now.rss = Reading::Known((0..128).map(|i| i % 2).collect());
    let p = plan("eth1", &now, &wish(4)).expect("possible");
    let spread = pair("ethtool -X eth1 equal 4", "ethtool -X eth1 equal 2");
    assert!(lines(&p.steps).contains(&spread));
    now.rss = Reading::Known((0..128).map(|i| (i + 1) % 2).collect());
    let p = plan("eth1", &now, &wish(4)).expect("possible");
    assert!(lines(&p.steps).iter().all(|(run, _)| !run.contains("-X")));
    assert!(p.notes[0].contains("cannot write back"));
}

#[test]
fn a_table_that_the_driver_did_not_spread_is_spread_afterwards() {
    let mut now = nic();
    assert_eq!(respread("eth1", &now, 4), None);
    let step = respread("eth1", &now, 8).expect("four of eight queues are used");
    assert_eq!(
        lines(&[step]),
        [pair("ethtool -X eth1 equal 8", "ethtool -X eth1 equal 4")]
    );
    now.rss = Reading::Known(vec![1, 0, 1, 0]);
    assert_eq!(respread("eth1", &now, 2), None, "not to be written back");
    now.rss = Reading::unreadable("-");
    assert_eq!(respread("eth1", &now, 2), None);
}

#[test]
fn steering_takes_free_places_from_the_end() {
    let w = Wish {
        port: Some(9696),
        queues: Some(2),
        ..wish(8)
    };
    let p = plan("eth1", &nic(), &w).expect("possible");
    let steps = lines(&p.steps);
    let ntuple = pair("ethtool -K eth1 ntuple on", "ethtool -K eth1 ntuple off");
    let at = steps
        .iter()
        .position(|s| *s == ntuple)
        .expect("switched on");
    assert_eq!(
        steps[at + 1],
        pair(
            "ethtool -N eth1 flow-type udp4 dst-port 9696 action 0 loc 1022",
            "ethtool -N eth1 delete 1022"
        ),
        "1023 is taken"
    );
    assert_eq!(
        steps[at + 4].0,
        "ethtool -N eth1 flow-type udp6 dst-port 9697 action 1 loc 1019"
    );
    let high = Wish {
        port: Some(65535),
        ..w.clone()
    };
    assert!(plan("eth1", &nic(), &high).is_err_and(|e| e.contains("65536")));
    let mut full = nic();
    full.rules = Reading::Known(Rules {
        locations: vec![0, 1],
        size: 4,
    });
    assert!(plan("eth1", &full, &w).is_err_and(|e| e.contains("full")));
}

#[test]
fn moderation_and_offloads_by_wish() {
    let w = Wish {
        rx_usecs: Some(8),
        features: vec![("rx-gro".into(), false), ("rx-lro".into(), true)],
        ..wish(4)
    };
    let p = plan("eth1", &nic(), &w).expect("possible");
    let steps = lines(&p.steps);
    assert_eq!(
        steps[0],
        pair("ethtool -K eth1 rx-gro off", "ethtool -K eth1 rx-gro on")
    );
    assert_eq!(
        steps.last(),
        Some(&pair(
            "ethtool -C eth1 adaptive-rx off rx-usecs 8",
            "ethtool -C eth1 adaptive-rx on rx-usecs 50"
        ))
    );
    assert!(
        steps.iter().all(|(run, _)| !run.contains("rx-lro")),
        "it was asked to stay on"
    );
    let odd = Wish {
        features: vec![("rx-magic".into(), true)],
        ..wish(4)
    };
    assert!(plan("eth1", &nic(), &odd).is_err_and(|e| e.contains("rx-magic")));
}

#[test]
fn what_an_interface_lacks_is_noted_or_refused() {
    let none = || Reading::unreadable("the driver has no such setting");
    let veth = Settings {
        channels: Reading::Known(Channels {
            rx: 1,
            tx: 1,
            max_rx: 2,
            max_tx: 2,
            ..Channels::default()
        }),
        rss: none(),
        hash_udp4: Reading::unreadable("the driver has no such setting"),
        hash_udp6: Reading::unreadable("the driver has no such setting"),
        rules: Reading::unreadable("the driver has no such setting"),
        features: Reading::Known(BTreeMap::new()),
        coalesce: Reading::unreadable("the driver has no such setting"),
        irqs: vec![],
    };
    let w = Wish {
        port: Some(9696),
        ..wish(2)
    };
    let p = plan("v0", &veth, &w).expect("possible");
    assert_eq!(
        lines(&p.steps),
        [pair("ethtool -L v0 rx 2 tx 2", "ethtool -L v0 rx 1 tx 1")]
    );
    for text in ["RSS table", "steering port 9696", "hash of udp4"] {
        assert!(
            p.notes
                .iter()
                .any(|n| n.starts_with(text) || n.contains(text)),
            "{text}"
        );
    }
    let three = Wish {
        queues: Some(3),
        ..wish(2)
    };
    assert!(plan("v0", &veth, &three).is_err_and(|e| e.contains("1 to 2")));
    let slow = Wish {
        rx_usecs: Some(1),
        ..wish(2)
    };
    assert!(plan("v0", &veth, &slow).is_err_and(|e| e.contains("moderation")));
    // Nothing to do is no step.
    let mut done = nic();
    done.hash_udp4 = Reading::Known("sdfn".into());
    let lro = Wish {
        features: vec![("rx-lro".into(), true)],
        ..wish(4)
    };
    assert_eq!(plan("eth1", &done, &lro).expect("possible").steps, []);
}

#[test]
fn interrupts_go_to_the_core_of_their_queue() {
    let irq = |irq, rx: &[u32], tx: &[u32], cpus: &str| Irq {
        irq,
        rx: rx.to_vec(),
        tx: tx.to_vec(),
        cpus: cpus.into(),
    };
    let irqs = [
        irq(30, &[0], &[0], "0-7"),
        irq(31, &[1], &[], "5"),
        irq(32, &[], &[1], "0-7"),
        irq(33, &[2], &[2], "0-7"),
    ];
    let w = Wish {
        cpus: vec![4, 5],
        ..Wish::default()
    };
    let mut notes = Vec::new();
    let steps = place_interrupts(&irqs, 2, &w, &mut notes);
    assert_eq!(
        lines(&steps),
        [
            pair(
                "echo 4 > /proc/irq/30/smp_affinity_list",
                "echo 0-7 > /proc/irq/30/smp_affinity_list"
            ),
            pair(
                "echo 5 > /proc/irq/32/smp_affinity_list",
                "echo 0-7 > /proc/irq/32/smp_affinity_list"
            ),
        ],
        "31 is there already, 33 has no lane core"
    );
    assert_eq!(notes, [""; 0]);
    let keep = Wish {
        keep_interrupts: true,
        ..w.clone()
    };
    assert_eq!(place_interrupts(&irqs, 2, &keep, &mut notes), []);
    place_interrupts(&[], 2, &w, &mut notes);
    assert!(notes[0].contains("interrupts"));
}
