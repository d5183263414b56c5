//! Random loss on a lab's link: a tc-bpf program on the receiving end.
//!
//! The program hangs on the *ingress* hook of the host that should lose frames. On egress it would
//! see GSO super-packets before they are segmented, and a drop there is reported to the sender's
//! stack as local congestion, which no wire does. Loss in both directions: call it on both hosts.
//!
//! With [`crate::lab::Offloads::Whole`] one drop takes a whole super-packet (up to 64 KB); for
//! independent loss of frames make the lab with [`crate::lab::Offloads::PerFrame`].

use crate::lab::{Host, LINK, Lab, LabConfig, LabError, TO_LEFT, TO_RIGHT, run_tool, tool};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const SOURCE: &str = include_str!("../bpf/loss.c");

/// What the loss program has seen since it was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossCounts {
    /// Frames that arrived at the program; the segments of a super-packet count one each.
    pub frames: u64,
    /// Packets that it dropped; a super-packet counts once.
    pub dropped: u64,
}

impl Lab {
    /// As [`Lab::new`], with a bridge between the two that loses each frame with `probability`, in
    /// both directions, ARP and neighbour discovery excepted. Frames of AF_XDP pass neither `tc` nor
    /// queues on the hosts themselves, so loss needs a place of its own.
    ///
    /// # Errors
    /// As for [`Lab::new`], and if the loss program does not compile or attach.
    pub fn with_lossy_bridge(config: &LabConfig, probability: f64) -> Result<Self, LabError> {
        let object = compile(probability)?;
        let object = object.to_string_lossy().into_owned();
        let lab = Lab::with_wire(config)?;
        let Some(wire) = lab.wire() else {
            return Err(LabError::new("a lab without its wire"));
        };
        wire.ip(&["link", "add", "br0", "type", "bridge"])?;
        for port in [TO_LEFT, TO_RIGHT] {
            wire.ip(&["link", "set", port, "master", "br0"])?;
            let program = [
                "bpf",
                "direct-action",
                "object-file",
                &object,
                "section",
                "tc",
            ];
            let tc = |args: &[&str]| run_tool(wire.command("tc").args(args)).map(drop);
            tc(&["qdisc", "add", "dev", port, "clsact"])?;
            tc(&[&["filter", "add", "dev", port, "ingress"][..], &program].concat())?;
        }
        let mtu = config.mtu.to_string();
        wire.ip(&["link", "set", "br0", "mtu", &mtu, "up"])?;
        Ok(lab)
    }

    /// Frames that the bridge has seen and dropped so far; nothing without a bridge.
    ///
    /// # Errors
    /// `tc` failed or its answer lacks a counter.
    pub fn bridge_counts(&self) -> Result<Option<(u64, u64)>, LabError> {
        let Some(wire) = self.wire() else {
            return Ok(None);
        };
        let (mut seen, mut dropped) = (0, 0);
        for port in [TO_LEFT, TO_RIGHT] {
            let args = ["-s", "-j", "qdisc", "show", "dev", port, "clsact"];
            let text = run_tool(wire.command("tc").args(args))?;
            let json: serde_json::Value =
                serde_json::from_str(&text).map_err(|e| LabError::new(format!("tc -j: {e}")))?;
            let get = |name: &str| {
                let found = json.as_array().into_iter().flatten();
                let mut found = found.filter(|q| q["kind"] == "clsact");
                found.find_map(|q| q[name].as_u64())
            };
            let missing = || LabError::new(format!("tc -s -j qdisc lacks counters: {text}"));
            seen += get("packets").ok_or_else(missing)?;
            dropped += get("drops").ok_or_else(missing)?;
        }
        Ok(Some((seen, dropped)))
    }
}

impl Host {
    /// Loses each packet that this host receives with `probability` (0 to 1), ARP and neighbour
    /// discovery excepted. Replaces an earlier setting and starts its counters at zero.
    ///
    /// # Errors
    /// The program does not compile or attach, or `probability` is not in 0..=1.
    pub fn lose_received(&self, probability: f64) -> Result<(), LabError> {
        let object = compile(probability)?;
        let object = object
            .to_str()
            .ok_or_else(|| LabError::new("the target directory's name is not UTF-8"))?;
        self.stop_losing()?;
        self.tc(&["qdisc", "add", "dev", LINK, "clsact"])?;
        let filter = [
            "filter",
            "add",
            "dev",
            LINK,
            "ingress",
            "bpf",
            "direct-action",
        ];
        self.tc(&[&filter[..], &["object-file", object, "section", "tc"]].concat())
            .map(drop)
    }

    /// Removes the loss program, if there is one.
    ///
    /// # Errors
    /// `tc` failed.
    pub fn stop_losing(&self) -> Result<(), LabError> {
        if self.clsact()?.is_some() {
            self.tc(&["qdisc", "del", "dev", LINK, "clsact"])?;
        }
        Ok(())
    }

    /// What the program counted; `None` if there is none on this host.
    ///
    /// # Errors
    /// `tc` failed or its answer lacks a counter.
    pub fn loss_counts(&self) -> Result<Option<LossCounts>, LabError> {
        let Some(qdisc) = self.clsact()? else {
            return Ok(None);
        };
        let get = |name: &str| {
            qdisc[name]
                .as_u64()
                .ok_or_else(|| LabError::new(format!("tc -s -j qdisc has no counter {name}")))
        };
        Ok(Some(LossCounts {
            frames: get("packets")?,
            dropped: get("drops")?,
        }))
    }

    fn clsact(&self) -> Result<Option<serde_json::Value>, LabError> {
        let text = self.tc(&["-s", "-j", "qdisc", "show", "dev", LINK])?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&text)
            .map_err(|e| LabError::new(format!("tc -j qdisc show: {e}")))?;
        Ok(all.into_iter().find(|q| q["kind"] == "clsact"))
    }

    fn tc(&self, args: &[&str]) -> Result<String, LabError> {
        tool("tc", &[&["-n", self.name()], args].concat())
    }
}

/// Compiles the loss program for `probability` and returns the object file.
///
/// # Errors
/// clang or the headers are missing, or `probability` is not in 0..=1.
pub fn compile(probability: f64) -> Result<PathBuf, LabError> {
    if !(0.0..=1.0).contains(&probability) {
        return Err(LabError::new(format!(
            "a loss of {probability} is not a probability"
        )));
    }
    // 1.0 maps to 2^32 - 1: one frame in four billion would still pass.
    let below = (probability * 4_294_967_296.0).min(f64::from(u32::MAX)) as u32;
    let stem = format!("loss-{below:08x}");
    compile_bpf(&stem, SOURCE, &[format!("-DDROP_BELOW={below}u")])
}

/// Compiles a BPF program in C and returns the object file, which is kept in `target/bpf` and
/// reused. Different `flags` want different names (`stem`).
///
/// # Errors
/// clang or the headers are missing, or the program does not compile.
pub fn compile_bpf(stem: &str, text: &str, flags: &[String]) -> Result<PathBuf, LabError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let dir = cache_dir();
    let io = |e: std::io::Error| LabError::new(format!("{}: {e}", dir.display()));
    std::fs::create_dir_all(&dir).map_err(io)?;
    // The name carries the source's digest, so an edited program is compiled anew.
    let version = &blake3::hash(text.as_bytes()).to_hex()[..16];
    let object = dir.join(format!("{stem}-{version}.o"));
    if object.exists() {
        return Ok(object);
    }
    // Written under names of our own and renamed: tests run side by side.
    let own = format!(
        "{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let source = dir.join(format!("{own}.c"));
    let fresh = dir.join(format!("{own}.o"));
    std::fs::write(&source, text).map_err(io)?;
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf"]);
    // asm/types.h of the host architecture, which the bpf target does not look for.
    clang.arg(format!(
        "-I/usr/include/{}-linux-gnu",
        std::env::consts::ARCH
    ));
    clang
        .args(flags)
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&fresh);
    let compiled = run_tool(&mut clang);
    let _ = std::fs::remove_file(&source);
    compiled?;
    std::fs::rename(&fresh, &object).map_err(io)?;
    Ok(object)
}

/// `bpf` in cargo's target directory that holds the running program, else a directory of the user's
/// own under the system's temporary one.
fn cache_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file());
    match target.map(Path::to_path_buf) {
        Some(target) => target.join("bpf"),
        // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
        None => std::env::temp_dir().join(format!("ctp96-bpf-{}", unsafe { libc::geteuid() })),
    }
}
