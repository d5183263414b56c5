//! What the CPU's extensions bring, one by one, and what further cores add.
//!
//! The erasure code has a kernel for each extension. AES-256-GCM is shown by AWS-LC in a process of
//! its own that is told by `OPENSSL_ia32cap` which extensions not to see, and by ring where that one
//! has a path which AWS-LC has not. An extension that this CPU lacks has a row that says so.

use super::cpu::{
    COLD, HOT, digest_rate, fec, memcpy, memory_bandwidth, on_each, open_rate, seal_rate,
};
use super::runner::{Figures, Outcome, Refusal, Spec};
use crate::Result;
use ctp96::crypto::Provider;
use ctp96::fec::Kernel;
use ctp96::verify::Level;
use std::process::Command;

/// Bytes of a frame's payload at MTU 1500.
const FRAME: usize = 1408;

/// Leaf 1 of CPUID as AWS-LC holds it (edx below, ecx above): PCLMULQDQ, SSSE3, AES-NI and AVX.
/// Without them it computes AES by bits, without tables.
const SCALAR: u64 = 1 << 33 | 1 << 41 | 1 << 57 | 1 << 60;
/// Leaf 7 (ebx below, ecx above): AVX2 and AVX-512 in all its parts, VAES and VPCLMULQDQ.
const WIDE: u64 = 1 << 5 | 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31 | 1 << 41 | 1 << 42;

/// Hides from AWS-LC what is set in the two masks.
fn hiding(leaf1: u64, leaf7: u64) -> String {
    format!("~{leaf1:#x}:~{leaf7:#x}")
}

/// Whether `/proc/cpuinfo` lists all of these.
fn has(features: &[&str]) -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags"));
    let flags: Vec<&str> = flags.unwrap_or("").split_whitespace().collect();
    features.iter().all(|f| flags.contains(f))
}

/// A path through a cipher.
struct Path {
    what: &'static str,
    with: &'static str,
    /// What the CPU must have.
    needs: &'static [&'static str],
    provider: Provider,
    /// `OPENSSL_ia32cap` of the process that runs it, where it needs one.
    hide: Option<(u64, u64)>,
}

const AES: &str = "seal, open aes-256-gcm";
const AEGIS: &str = "seal, open aegis-256x2";

#[cfg(target_arch = "x86_64")]
const PATHS: [Path; 6] = [
    Path {
        what: AES,
        with: "scalar (aws-lc)",
        needs: &[],
        provider: Provider::AwsLc,
        hide: Some((SCALAR, WIDE)),
    },
    Path {
        what: AES,
        with: "aes-ni (aws-lc)",
        needs: &["aes", "avx"],
        provider: Provider::AwsLc,
        hide: Some((0, WIDE)),
    },
    Path {
        what: AES,
        with: "vaes, avx2 (ring)",
        needs: &["vaes", "vpclmulqdq", "avx2"],
        provider: Provider::Ring,
        hide: None,
    },
    Path {
        what: AES,
        with: "vaes, avx-512 (aws-lc)",
        needs: &["vaes", "vpclmulqdq", "avx512f", "avx512bw"],
        provider: Provider::AwsLc,
        hide: Some((0, 0)),
    },
    Path {
        what: AEGIS,
        with: "aes-ni (ours)",
        needs: &["aes", "avx"],
        provider: Provider::Aegis256x2,
        hide: None,
    },
    Path {
        what: AEGIS,
        with: "vaes (libaegis)",
        needs: &["vaes"],
        provider: Provider::Aegis256x2,
        hide: None,
    },
];
#[cfg(not(target_arch = "x86_64"))]
const PATHS: [Path; 0] = [];

impl Path {
    /// Why it cannot be shown here.
    fn lacking(&self) -> Option<String> {
        if let Some(feature) = self.needs.iter().find(|f| !has(&[f])) {
            return Some(format!("not on this CPU: no {feature}"));
        }
        // With VAES our own kernel steps back for libaegis.
        let ours = self.with == "aes-ni (ours)";
        (ours && has(&["vaes"])).then(|| "not on this CPU: it has vaes, which is faster".to_owned())
    }

    fn run(&self, core: usize, seconds: f64) -> Outcome {
        if let Some(why) = self.lacking() {
            return Err(Refusal::Skipped(why));
        }
        let [seal, open] = match self.hide {
            None => cipher(self.provider, core, seconds)?,
            Some((leaf1, leaf7)) => elsewhere(&hiding(leaf1, leaf7), core, seconds)?,
        };
        Ok(Figures::of("seal_gb_per_s", seal)
            .and("open_gb_per_s", open)
            .and("gb_per_s", seal.min(open)))
    }
}

/// GB/s of sealing and of opening.
fn cipher(provider: Provider, core: usize, seconds: f64) -> Result<[f64; 2]> {
    let seal = seal_rate(provider, FRAME, core, seconds / 2.0)?;
    Ok([seal, open_rate(provider, FRAME, core, seconds / 2.0)?])
}

/// As [`cipher`] with AWS-LC, in a process that sees the extensions which `capabilities` leave.
fn elsewhere(capabilities: &str, core: usize, seconds: f64) -> Result<[f64; 2]> {
    let out = Command::new(std::env::current_exe()?)
        .arg("piece")
        .args([core.to_string(), seconds.to_string()])
        .env("OPENSSL_ia32cap", capabilities)
        .output()?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr)
            .trim()
            .to_owned()
            .into());
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// What [`elsewhere`] starts: measures and prints two numbers.
///
/// # Errors
/// The CPU cannot be pinned to, or the cipher fails.
pub fn piece(core: usize, seconds: f64) -> Result<()> {
    crate::peer::say(&cipher(Provider::AwsLc, core, seconds)?)
}

/// Kernels of the erasure code for this architecture.
fn kernels() -> impl Iterator<Item = Kernel> {
    let own = |k: &Kernel| match k {
        Kernel::Neon => cfg!(target_arch = "aarch64"),
        Kernel::Avx2 | Kernel::Gfni | Kernel::Gfni512 => cfg!(target_arch = "x86_64"),
        Kernel::Scalar => true,
    };
    Kernel::ALL.into_iter().filter(own)
}

/// The erasure code by kernel, ciphers by path, digests, copying; and on 1..N cores at once.
pub fn acceleration<'a>(core: usize, cpus: usize, seconds: f64) -> Vec<Spec<'a>> {
    let mut specs = Vec::new();
    for kernel in kernels() {
        for m in [1_usize, 2, 8] {
            let what = format!("erasure code 64+{m}");
            let with = match kernel {
                Kernel::Gfni => "gfni, avx2",
                Kernel::Gfni512 => "gfni, avx-512",
                other => other.name(),
            };
            let params = [("what", what.as_str()), ("with", with)];
            let run = move |_: bool| fec(kernel, 64, m, FRAME, core, seconds);
            let spec = Spec::new(&params, run).group(what.as_str());
            specs.push(match kernel {
                Kernel::Scalar => spec.baseline("scalar"),
                _ => spec,
            });
        }
    }
    for path in PATHS {
        let params = [("what", path.what), ("with", path.with)];
        let (group, scalar) = (path.what, path.with.starts_with("scalar"));
        let spec = Spec::new(&params, move |_| path.run(core, seconds)).group(group);
        specs.push(if scalar {
            spec.baseline("scalar")
        } else {
            spec
        });
    }
    // BLAKE3 chooses among SSE2 to AVX-512 by itself; XXH3 is compiled for what every x86-64 has.
    for (level, with) in [
        (Level::Fast, "xxh3, baseline"),
        (Level::Full, blake3_path()),
    ] {
        let params = [("what", "digest"), ("with", with)];
        let spec = Spec::new(&params, move |_| {
            Ok(Figures::of("gb_per_s", digest_rate(level, core, seconds)?))
        });
        specs.push(match level {
            Level::Fast => spec.group("digest").baseline("xxh3"),
            Level::Full => spec.group("digest"),
        });
    }
    for (name, set) in [("hot", HOT), ("from memory", COLD)] {
        let params = [("what", "memcpy 1408"), ("with", name)];
        let spec = Spec::new(&params, move |_| memcpy(FRAME, set, core, seconds)).group("memcpy");
        specs.push(if set == HOT {
            spec.baseline("hot")
        } else {
            spec
        });
    }
    cores(&mut specs, cpus, seconds);
    specs
}

fn blake3_path() -> &'static str {
    match () {
        () if has(&["avx512f", "avx512vl"]) => "blake3, avx-512",
        () if has(&["avx2"]) => "blake3, avx2",
        () => "blake3, baseline",
    }
}

/// The same work on 1, 2, 4 ... N cores at once.
fn cores(specs: &mut Vec<Spec<'_>>, cpus: usize, seconds: f64) {
    let mut n = 1;
    loop {
        let cores: Vec<usize> = (0..n).collect();
        let label = match n {
            1 => "1 core".to_owned(),
            n => format!("{n} cores"),
        };
        let mut add = |what: &str, run: Box<dyn FnMut(bool) -> Outcome>| {
            let params = [("what", what), ("with", label.as_str())];
            let spec = Spec::new(&params, run).group(what);
            specs.push(if n == 1 {
                spec.baseline("1 core")
            } else {
                spec
            });
        };
        for p in [Provider::Ring, Provider::Aegis256x2, Provider::Aegis256] {
            let cores = cores.clone();
            add(
                &format!("seal {}", p.name()),
                Box::new(move |_| {
                    let one = |c: usize| seal_rate(p, FRAME, c, seconds);
                    Ok(Figures::of("gb_per_s", on_each(&cores, one)?))
                }),
            );
        }
        add(
            "memcpy from memory",
            Box::new(move |_| {
                let bandwidth = memory_bandwidth(&cores, seconds)?;
                Ok(Figures::of("gb_per_s", bandwidth))
            }),
        );
        if n >= cpus {
            return;
        }
        n = (2 * n).min(cpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extension_has_a_row() {
        let (cpus, seconds) = (2, 0.001);
        let specs = acceleration(0, cpus, seconds);
        #[cfg(target_arch = "x86_64")]
        for wanted in ["scalar", "avx2", "vaes", "gfni", "avx-512", "aes-ni"] {
            let rows = PATHS
                .iter()
                .map(|p| p.with)
                .chain(["gfni512", "gfni", "avx2"]);
            assert!(rows.into_iter().any(|r| r.contains(wanted)), "{wanted}");
        }
        assert!(specs.len() > PATHS.len() + 3 * kernels().count());
    }

    #[test]
    fn what_the_cpu_lacks_is_said() {
        let path = Path {
            what: AES,
            with: "nothing has this",
            needs: &["warp-drive"],
            provider: Provider::Ring,
            hide: None,
        };
        let refused = path.run(0, 0.001);
        assert!(
            matches!(refused, Err(Refusal::Skipped(why)) if why == "not on this CPU: no warp-drive")
        );
        assert_eq!(hiding(1 << 57, 0), "~0x200000000000000:~0x0");
    }
}
