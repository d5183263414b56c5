//! Tells the program which compilers built it: instruction counts belong to a compiler.

use std::process::Command;

fn first_line(program: &str, arg: &str) -> String {
    let out = Command::new(program).arg(arg).output();
    let text = out.map_or(String::new(), |o| {
        String::from_utf8_lossy(&o.stdout).into_owned()
    });
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    println!("cargo::rustc-env=COUNTS_RUSTC={}", first_line(&rustc, "-V"));
    println!(
        "cargo::rustc-env=COUNTS_CC={}",
        first_line(&cc, "--version")
    );
    println!("cargo::rerun-if-env-changed=CC");
    println!("cargo::rerun-if-changed=build.rs");
}
