//! What drivers do for AF_XDP, from documentation, for kernels that do not report it.
//!
//! The versions are those of the upstream kernel in which zero-copy arrived, from the driver table
//! of <https://docs.ebpf.io/linux/program-type/BPF_PROG_TYPE_XDP/>. HARDWARE.md says more.

/// A driver, by the name that ethtool shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    /// Name.
    pub name: &'static str,
    /// Kernel from which on it has AF_XDP zero-copy; `None`: native XDP and copy mode only.
    pub zero_copy: Option<(u32, u32)>,
}

const fn zero_copy(name: &'static str, major: u32, minor: u32) -> Driver {
    Driver {
        name,
        zero_copy: Some((major, minor)),
    }
}

const fn copy(name: &'static str) -> Driver {
    Driver {
        name,
        zero_copy: None,
    }
}

const TABLE: [Driver; 17] = [
    zero_copy("mlx5_core", 5, 3),
    zero_copy("ice", 5, 5),
    zero_copy("i40e", 4, 20),
    zero_copy("ixgbe", 4, 20),
    zero_copy("igc", 5, 14),
    zero_copy("igb", 6, 14),
    zero_copy("st_gmac", 5, 13),
    zero_copy("nfp", 5, 18),
    zero_copy("fsl_dpaa2_eth", 6, 2),
    zero_copy("gve", 6, 4),
    zero_copy("virtio_net", 6, 11),
    copy("bnxt_en"),
    copy("ena"),
    copy("hv_netvsc"),
    copy("mana"),
    copy("mlx4_en"),
    copy("veth"),
];

/// The entry for a driver.
pub fn lookup(name: &str) -> Option<Driver> {
    TABLE.into_iter().find(|d| d.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_found_by_ethtools_names() {
        assert_eq!(lookup("ice").and_then(|d| d.zero_copy), Some((5, 5)));
        assert_eq!(lookup("veth").map(|d| d.zero_copy), Some(None));
        assert_eq!(lookup("unheard_of"), None);
    }
}
