//! Keys and receipts: files on this host, no daemon.

use crate::cli::{KeysCommand, ReceiptCommand};
use crate::out::{self, Failure};
use ctp96::control::config::ByteSize;
use ctp96::crypto::identity::{Identity, PublicKey};
use ctp96::crypto::receipt::{MAX_RECEIPT_JSON, Receipt};
use ctp96::obs::text;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;

fn failed(e: impl ToString) -> Failure {
    Failure::Failed(e.to_string())
}

/// `ctp96 keys ..`
pub fn run(command: &KeysCommand, as_json: bool) -> Result<(), Failure> {
    let (file, identity) = match command {
        KeysCommand::Gen { file, force } => {
            let identity = Identity::generate().map_err(failed)?;
            identity.save(file, *force).map_err(|e| {
                let more = match e {
                    ctp96::crypto::identity::IdentityError::Exists(_) => {
                        "; --force replaces it, and then no peer knows this node any more"
                    }
                    _ => "",
                };
                Failure::Failed(format!("{e}{more}"))
            })?;
            (file, identity)
        }
        KeysCommand::Pub { file } | KeysCommand::Show { file } => {
            (file, Identity::load(file).map_err(failed)?)
        }
    };
    // Ed25519 and X25519 keys have the same length and text form.
    let receipt_key = PublicKey(identity.receipt_key());
    let public = identity.public();
    if as_json {
        out::json(&json!({
            "file": file.display().to_string(),
            "public_key": public,
            "receipt_key": receipt_key,
        }));
    } else if matches!(command, KeysCommand::Show { .. }) {
        out::text(&format!(
            "public key   {public}\nreceipt key  {receipt_key}\n"
        ));
    } else {
        out::text(&format!("{public}\n"));
    }
    Ok(())
}

/// `ctp96 receipt ..`
pub fn receipt(command: &ReceiptCommand, as_json: bool) -> Result<(), Failure> {
    let ReceiptCommand::Verify { receipt, file, key } = command;
    let shown = receipt.display();
    let mut json_text = String::new();
    File::open(receipt)
        .and_then(|f| {
            f.take(MAX_RECEIPT_JSON as u64 + 1)
                .read_to_string(&mut json_text)
        })
        .map_err(|e| Failure::Failed(format!("{shown}: {e}")))?;
    let r = Receipt::from_json(&json_text).map_err(|e| Failure::Failed(format!("{shown}: {e}")))?;
    match key {
        Some(text) => {
            let key: PublicKey = text
                .parse()
                .map_err(|e| Failure::Usage(format!("--key {text}: {e}")))?;
            r.verify_from(&key.0)
        }
        None => r.verify(),
    }
    .map_err(|e| Failure::Failed(format!("{shown}: {e}")))?;
    if let Some(file) = file {
        compare(&r, file)?;
    }
    if as_json {
        out::json(&json!({ "valid": true, "receipt": r }));
        return Ok(());
    }
    let size = match ByteSize(r.size).to_string() {
        s if s == format!("{}B", r.size) => s,
        s => format!("{} bytes ({s})", r.size),
    };
    out::text(&format!(
        "valid: {:?}, {size}\n  BLAKE3       {}\n  receiver     {}\n  receipt key  {}\n  sender       \
         {}\n  complete     {} s after 1970-01-01 UTC\n",
        r.object,
        hex(&r.blake3),
        r.receiver,
        PublicKey(r.receipt_key),
        r.sender,
        text::count(r.completed_unix_s),
    ));
    if file.is_some() {
        out::text("  the file has this size and this BLAKE3\n");
    }
    Ok(())
}

fn compare(r: &Receipt, file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    let bad =
        |what: String| Failure::Failed(format!("{shown} is not what the receipt is for: {what}"));
    let io = |e: std::io::Error| Failure::Failed(format!("{shown}: {e}"));
    let mut f = File::open(file).map_err(io)?;
    let size = f.metadata().map_err(io)?.len();
    if size != r.size {
        return Err(bad(format!(
            "it has {size} bytes, the receipt says {}",
            r.size
        )));
    }
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        match f.read(&mut buf).map_err(io)? {
            0 => break,
            n => hasher.update(&buf[..n]),
        };
    }
    let digest = hasher.finalize();
    if *digest.as_bytes() != r.blake3 {
        return Err(bad(format!(
            "its BLAKE3 is {digest}, the receipt says {}",
            hex(&r.blake3)
        )));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
