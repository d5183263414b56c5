//! Node identity: a static X25519 key pair in the style of WireGuard, kept in a private file.
//!
//! The file holds the 32-byte secret as one line of base64. From the same secret HKDF-SHA256
//! derives the Ed25519 key that signs receipts (salt none, info `ctp96 receipt ed25519 v1`), so a
//! node has one secret to guard and to back up.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::base64;

/// Label of the HKDF step from identity secret to receipt key.
pub const RECEIPT_KEY_INFO: &[u8] = b"ctp96 receipt ed25519 v1";

/// Characters of a key in text form.
pub const KEY_TEXT_LEN: usize = base64::encoded_len(32);

/// An identity file never has more bytes than this: the key and some white space.
const MAX_FILE_LEN: u64 = 256;

/// A node's public key (X25519); its text form is 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyTextError {
    /// Not 44 characters long.
    #[error("a key is 44 characters of base64, this text has {0}")]
    Length(usize),
    /// 44 characters, but not canonical base64 of 32 bytes.
    #[error("a key is 44 characters of base64 ending in '=', this text is not canonical base64")]
    NotBase64,
}

fn key_from_text(text: &str, out: &mut [u8; 32]) -> Result<(), KeyTextError> {
    let text = text.trim();
    if text.len() != KEY_TEXT_LEN {
        return Err(KeyTextError::Length(text.chars().count()));
    }
    base64::decode(text.as_bytes(), out).map_err(|_| KeyTextError::NotBase64)
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base64::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyTextError;

    fn from_str(s: &str) -> Result<PublicKey, KeyTextError> {
        let mut key = [0; 32];
        key_from_text(s, &mut key)?;
        Ok(PublicKey(key))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<PublicKey, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why an identity file could not be used or written.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The system refused to read or write.
    #[error("identity file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others than the owner have access.
    #[error(
        "identity file {} is open to group or others (mode {mode:04o}); run: chmod 600 {}",
        path.display(), path.display()
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, device or pipe.
    #[error("identity file {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The content is not one key.
    #[error("identity file {}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyTextError,
    },
    /// There is a file already, and overwriting was not asked for.
    #[error("identity file {} exists already; it is not overwritten unless asked for", .0.display())]
    Exists(PathBuf),
    /// No randomness.
    #[error("the system gave no randomness for a new identity: {0}")]
    Random(getrandom::Error),
}

/// A node's static secret with the public key that belongs to it. Erased when dropped.
#[derive(Clone)]
pub struct Identity {
    secret: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public)
    }
}

impl Identity {
    /// A new identity from the operating system's randomness.
    pub fn generate() -> Result<Identity, IdentityError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut()).map_err(IdentityError::Random)?;
        Ok(Identity::from_secret(&secret))
    }

    /// The identity of a given secret; every 32-byte value is one (X25519 clamps it, RFC 7748 §5).
    pub fn from_secret(secret: &[u8; 32]) -> Identity {
        let pair = x25519_dalek::StaticSecret::from(*secret);
        Identity {
            secret: Zeroizing::new(*secret),
            public: PublicKey(x25519_dalek::PublicKey::from(&pair).to_bytes()),
        }
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The raw secret, for the Noise handshake.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Whether a Diffie-Hellman exchange with `peer` yields a secret at all. Points of small order
    /// give zero with everybody (RFC 7748 §6.1), so such a "peer" could be impersonated by anyone.
    pub fn is_usable_peer(&self, peer: &PublicKey) -> bool {
        x25519_dalek::StaticSecret::from(*self.secret)
            .diffie_hellman(&x25519_dalek::PublicKey::from(peer.0))
            .was_contributory()
    }

    /// The Ed25519 key that signs this node's receipts.
    pub fn receipt_signing_key(&self) -> SigningKey {
        let mut seed = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.secret.as_ref())
            .expand(RECEIPT_KEY_INFO, seed.as_mut())
            // 32 bytes is below HKDF-SHA256's limit of 255 * 32, its only error.
            .expect("32 bytes is a valid HKDF output length");
        SigningKey::from_bytes(&seed)
    }

    /// The public half of [`Identity::receipt_signing_key`], as it stands in handshakes and receipts.
    pub fn receipt_key(&self) -> [u8; 32] {
        self.receipt_signing_key().verifying_key().to_bytes()
    }

    /// Reads an identity file.
    ///
    /// # Errors
    /// Refuses a file that group or others may access in any way, that is not a regular file, or that
    /// holds anything but one key.
    pub fn load(path: &Path) -> Result<Identity, IdentityError> {
        let io = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        // O_NONBLOCK: opening a pipe by mistake must not hang the daemon's start.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(IdentityError::NotAFile(path.to_owned()));
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Permissions {
                path: path.to_owned(),
                mode,
            });
        }
        let content = |source| IdentityError::Content {
            path: path.to_owned(),
            source,
        };
        // Full capacity first: a growing buffer would leave copies of the secret behind.
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN as usize + 1));
        file.take(MAX_FILE_LEN).read_to_end(&mut text).map_err(io)?;
        let text = std::str::from_utf8(&text).map_err(|_| content(KeyTextError::NotBase64))?;
        let mut secret = Zeroizing::new([0; 32]);
        key_from_text(text, &mut secret).map_err(content)?;
        Ok(Identity::from_secret(&secret))
    }

    /// Writes the identity to `path` with mode 0600: whole or not at all, and durable on return.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] where there is a file already and `overwrite` is false.
    pub fn save(&self, path: &Path, overwrite: bool) -> Result<(), IdentityError> {
        let io = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        let dir = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let name = path.file_name().ok_or_else(|| {
            io(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path names no file",
            ))
        })?;
        let mut tag = [0u8; 8];
        getrandom::fill(&mut tag).map_err(IdentityError::Random)?;
        let mut temp_name = std::ffi::OsString::from(".");
        temp_name.push(name);
        temp_name.push(format!(".{:016x}", u64::from_le_bytes(tag)));
        let temp = dir.join(temp_name);

        let written = self.write_new(&temp).and_then(|()| {
            if overwrite {
                fs::rename(&temp, path)
            } else {
                // Unlike rename, link never replaces: two concurrent creators cannot both win.
                fs::hard_link(&temp, path)
            }
        });
        // After a rename there is nothing left to remove, and a left-over is no reason to fail.
        let _ = fs::remove_file(&temp);
        match written {
            Ok(()) => File::open(dir).and_then(|d| d.sync_all()).map_err(io),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(IdentityError::Exists(path.to_owned()))
            }
            Err(e) => Err(io(e)),
        }
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut text = Zeroizing::new(base64::encode(self.secret.as_ref()));
        let done = file
            .write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"));
        text.zeroize();
        done.and_then(|()| file.sync_all())
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
