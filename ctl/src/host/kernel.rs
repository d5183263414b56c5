//! Version and options of the kernel, its sysctls, security modules, lockdown and IOMMU.

use super::{Reading, line, memory::chosen, number};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A kernel's configuration is about 200 KiB; more is not believed.
const MAX_CONFIG_LEN: usize = 4 << 20;

/// The options that packet paths need; the others are not kept.
pub const OPTIONS: [&str; 9] = [
    "XDP_SOCKETS",
    "BPF_SYSCALL",
    "BPF_JIT",
    "IO_URING",
    "NET_RX_BUSY_POLL",
    "HUGETLBFS",
    "NUMA",
    "DEBUG_INFO_BTF",
    "VETH",
];

/// What the kernel says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Release, such as `6.18.1-amd64`.
    pub release: String,
    /// Architecture.
    pub arch: &'static str,
    /// Those of [`OPTIONS`] with their values, `n` if not set.
    pub options: Reading<BTreeMap<String, String>>,
    /// Security modules, in order; `None` where securityfs is not mounted.
    pub lsm: Option<Vec<String>>,
    /// `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// `kernel.io_uring_disabled`.
    pub io_uring_disabled: Option<u64>,
    /// `net.core.bpf_jit_enable`.
    pub bpf_jit: Option<u64>,
    /// `net.core.rmem_max`.
    pub rmem_max: Option<u64>,
    /// `net.core.wmem_max`.
    pub wmem_max: Option<u64>,
    /// Groups of devices behind an IOMMU; 0 is none in use.
    pub iommu_groups: usize,
    /// Kind of translation of each group, such as `DMA-FQ` or `identity`, with their number.
    pub iommu_types: BTreeMap<String, usize>,
    /// The daemon that moves interrupts from CPU to CPU runs.
    pub irqbalance: bool,
}

impl Kernel {
    /// Looks at `/proc` and `/sys`.
    pub fn read() -> Kernel {
        let release = line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
        let net = Path::new("/proc/sys/net/core");
        let security = Path::new("/sys/kernel/security");
        let mut iommu_types = BTreeMap::new();
        let mut iommu_groups = 0;
        for group in dir("/sys/kernel/iommu_groups") {
            iommu_groups += 1;
            if let Some(kind) = line(group.join("type")) {
                *iommu_types.entry(kind).or_default() += 1;
            }
        }
        Kernel {
            options: options(&release),
            arch: std::env::consts::ARCH,
            lsm: line(security.join("lsm"))
                .map(|l| l.split(',').map(|m| m.trim().to_owned()).collect()),
            lockdown: line(security.join("lockdown")).and_then(|l| chosen(&l).map(str::to_owned)),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            bpf_jit: number(net.join("bpf_jit_enable")),
            rmem_max: number(net.join("rmem_max")),
            wmem_max: number(net.join("wmem_max")),
            iommu_groups,
            iommu_types,
            irqbalance: dir("/proc")
                .into_iter()
                .any(|p| line(p.join("comm")).is_some_and(|c| c == "irqbalance")),
            release,
        }
    }

    /// Major and minor version.
    pub fn version(&self) -> Option<(u32, u32)> {
        parse_version(&self.release)
    }
}

fn dir(path: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| e.path()).collect()
}

fn options(release: &str) -> Reading<BTreeMap<String, String>> {
    if let Ok(packed) = std::fs::read("/proc/config.gz") {
        return match unpack(&packed) {
            Some(text) => Reading::Known(parse_config(&text)),
            None => Reading::unreadable("/proc/config.gz is damaged"),
        };
    }
    let places = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
        format!("/lib/modules/{release}/build/.config"),
    ];
    for place in &places {
        if let Ok(text) = std::fs::read_to_string(place) {
            return Reading::Known(parse_config(&text));
        }
    }
    Reading::unreadable(format!(
        "there is no /proc/config.gz and no {}",
        places.join(", ")
    ))
}

fn unpack(packed: &[u8]) -> Option<String> {
    // The last four bytes of a gzip file are the length of what it holds.
    let tail = packed.get(packed.len().checked_sub(4)?..)?;
    let len = u32::from_le_bytes(tail.try_into().ok()?) as usize;
    if len > MAX_CONFIG_LEN {
        return None;
    }
    let mut text = vec![0; len];
    let got = libdeflater::Decompressor::new()
        .gzip_decompress(packed, &mut text)
        .ok()?;
    text.truncate(got);
    String::from_utf8(text).ok()
}

/// The values of [`OPTIONS`] in a kernel configuration.
fn parse_config(text: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<_, _> = OPTIONS
        .iter()
        .map(|o| ((*o).to_owned(), "n".to_owned()))
        .collect();
    for l in text.lines() {
        let Some((name, value)) = l.strip_prefix("CONFIG_").and_then(|l| l.split_once('=')) else {
            continue;
        };
        if let Some(slot) = found.get_mut(name) {
            value.trim().clone_into(slot);
        }
    }
    found
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.18.1-amd64"), Some((6, 18)));
        assert_eq!(parse_version("5.4-rc1"), Some((5, 4)));
        assert_eq!(parse_version("6.1+deb12"), Some((6, 1)));
        assert_eq!(parse_version("six"), None);
    }

    #[test]
    fn options_are_taken_from_plain_and_packed_configurations() {
        let text = "CONFIG_XDP_SOCKETS=y\n# CONFIG_IO_URING is not set\nCONFIG_VETH=m\n\
            CONFIG_XDP_SOCKETS_DIAG=n\nCONFIG_HZ=250\n";
        let o = parse_config(text);
        assert_eq!(o["XDP_SOCKETS"], "y");
        assert_eq!(o["VETH"], "m");
        assert_eq!(o["IO_URING"], "n");
        assert_eq!(o.len(), OPTIONS.len());
        let mut packer = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        let mut packed = vec![0; packer.gzip_compress_bound(text.len())];
        let len = packer
            .gzip_compress(text.as_bytes(), &mut packed)
            .expect("room");
        packed.truncate(len);
        assert_eq!(unpack(&packed).as_deref(), Some(text));
        assert_eq!(unpack(&packed[..len - 1]), None);
        assert_eq!(unpack(&[]), None);
        assert_eq!(unpack(&[0xff; 64]), None, "a length that nobody believes");
    }
}
