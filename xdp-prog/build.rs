//! Compiles the XDP program into `OUT_DIR`, with the shared constants as a C header.

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

#[allow(dead_code)]
#[path = "src/rules.rs"]
mod rules;

const SOURCE: &str = "bpf/ctp96.bpf.c";
const PACKAGES: &str = "clang (11 or newer, with the BPF target), libbpf's headers and the kernel's \
    headers for user space; on Debian: apt-get install clang libbpf-dev linux-libc-dev";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=src/rules.rs");
    println!("cargo:rerun-if-env-changed=CLANG");
    if let Err(reason) = build() {
        eprintln!("the XDP program of CTP-96 cannot be compiled: {reason}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let header = out.join("ctp96_rules.h");
    std::fs::write(&header, header_text()?).map_err(|e| format!("{}: {e}", header.display()))?;
    compile(&out)
}

fn header_text() -> Result<String, String> {
    let mut text = String::from("/* Written by build.rs from src/rules.rs. */\n#pragma once\n");
    let mut line = |name: &str, value: u64| {
        writeln!(text, "#define {name} {value}").map_err(|e| e.to_string())
    };
    for (name, value) in rules::RULES {
        line(&format!("CTP96_{name}"), *value)?;
    }
    let names = rules::Verdicts::NAMES;
    for (value, name) in (0..).zip(names) {
        line(&format!("VERDICT_{}", name.to_uppercase()), value)?;
    }
    line("VERDICTS", names.len() as u64)?;
    Ok(text)
}

fn compile(out: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|e| e.to_string())?;
    let big = env::var("CARGO_CFG_TARGET_ENDIAN").is_ok_and(|e| e == "big");
    let output = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-mcpu=v3", "-target"])
        .arg(if big { "bpfeb" } else { "bpfel" })
        // asm/types.h of the host architecture, which the bpf target does not look for.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-I")
        .arg(out)
        .args(["-c", SOURCE, "-o"])
        .arg(out.join("ctp96.bpf.o"))
        .output()
        .map_err(|e| format!("cannot run {clang}: {e}. It needs {PACKAGES}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{clang} failed. It needs {PACKAGES}\n{said}"));
    }
    for line in said.lines() {
        println!("cargo:warning={line}");
    }
    Ok(())
}
