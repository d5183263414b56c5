use super::*;

#[test]
fn interrupts_are_found_by_name_bus_or_device() {
    let table = "           CPU0       CPU1\n\
        \x20 38:          0      12039 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0\n\
        \x20 39:       9594          0 PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0\n\
        \x20 37:          0          0 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config\n\
        \x20 50:          1          0 IR-PCI-MSI 1-edge      ice-eth1-TxRx-3\n\
        \x20 51:          1          0 IR-PCI-MSI 1-edge      ice-eth10-TxRx-3\n\
        \x20 60:          1          0 IR-PCI-MSI 1-edge      mlx5_comp7@pci:0000:01:00.0\n\
        \x20 70:          1          0 GICv3 1 Level      eth2\n\
        NMI:          0          0   Non-maskable interrupts\n";
    let find = |name: &str| {
        parse_interrupts(table, &[name.to_owned()])
            .into_iter()
            .map(|i| (i.irq, i.rx, i.tx))
            .collect::<Vec<_>>()
    };
    let virtio = [(38, vec![0], vec![]), (39, vec![], vec![0])];
    assert_eq!(find("virtio2"), virtio);
    assert_eq!(find("eth1"), [(50, vec![3], vec![3])], "not those of eth10");
    assert_eq!(find("pci:0000:01:00.0"), [(60, vec![7], vec![7])]);
    assert_eq!(find("eth2"), [(70, vec![0], vec![0])], "its only interrupt");
    assert_eq!(find("eth3"), []);
}

#[test]
fn queues_and_napis_join_to_interrupts() {
    let queue = |id, rx, napi| Queue { id, rx, napi };
    let queues = [
        queue(0, true, Some(8)),
        queue(1, true, Some(9)),
        queue(0, false, Some(8)),
        queue(1, false, None),
    ];
    let napis = BTreeMap::from([(8, 30), (9, 31)]);
    let found = join_irqs(&queues, &napis);
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].irq, &found[0].rx, &found[0].tx),
        (30, &vec![0], &vec![0])
    );
    assert_eq!((found[1].irq, found[1].tx.len()), (31, 0));
}

#[test]
fn default_routes_of_both_families() {
    let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n";
    let none = "0".repeat(32);
    let v6 = format!(
        "{none} 00 {none} 00 fd000000000000000000000000000001 00000400 1 0 00000003     eth2\n\
         {none} 00 {none} 00 {none} ffffffff 1 0 00200200       lo\n\
         fd{} 40 {none} 00 {none} 00000100 1 0 00000001     eth3\n",
        "0".repeat(30)
    );
    let found: Vec<_> = parse_routes(v4, &v6).into_iter().collect();
    assert_eq!(found, ["eth0", "eth2"]);
    assert!(parse_routes("", "short line\n").is_empty());
}

#[test]
fn pcie_rates() {
    let link = |gts, width| Pcie {
        gts,
        width,
        max_gts: gts,
        max_width: width,
    };
    assert_eq!(parse_gts("16.0 GT/s PCIe\n"), Some(16.0));
    assert_eq!(parse_gts("Unknown"), None);
    assert_eq!((link(16.0, 16).bytes_per_s() / 1e8).round(), 315.0);
    assert_eq!((link(5.0, 4).bytes_per_s() / 1e8).round(), 20.0);
}
