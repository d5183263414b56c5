use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;

/// A directory of its own for each test, removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!(
            "ctp96-identity-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&dir).unwrap();
        TempDir(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn rfc_7748_key_pair() {
    // RFC 7748 §6.1, Alice.
    let secret = [
        0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66,
        0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9,
        0x2c, 0x2a,
    ];
    let id = Identity::from_secret(&secret);
    assert_eq!(
        id.public().to_string(),
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    );
    assert_eq!(format!("{id:?}"), format!("Identity({})", id.public()));
}

#[test]
fn a_saved_identity_loads_again_and_is_private() {
    let dir = TempDir::new();
    let path = dir.0.join("identity.key");
    let id = Identity::generate().unwrap();
    id.save(&path, false).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let again = Identity::load(&path).unwrap();
    assert_eq!(again.public(), id.public());
    assert_eq!(again.receipt_key(), id.receipt_key());
    assert_eq!(
        fs::read_dir(&dir.0).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn nothing_is_overwritten_unless_asked_for() {
    let dir = TempDir::new();
    let path = dir.0.join("identity.key");
    let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    a.save(&path, false).unwrap();
    assert!(matches!(
        b.save(&path, false),
        Err(IdentityError::Exists(_))
    ));
    assert_eq!(Identity::load(&path).unwrap().public(), a.public());
    b.save(&path, true).unwrap();
    assert_eq!(Identity::load(&path).unwrap().public(), b.public());
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
}

#[test]
fn a_file_open_to_others_is_refused_with_the_fix() {
    let dir = TempDir::new();
    let path = dir.0.join("identity.key");
    Identity::generate().unwrap().save(&path, false).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o610, 0o660, 0o644, 0o666, 0o777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let e = Identity::load(&path).unwrap_err();
        assert!(
            matches!(e, IdentityError::Permissions { mode: m, .. } if m == mode),
            "{e}"
        );
        let text = e.to_string();
        assert!(
            text.contains(&format!("chmod 600 {}", path.display())),
            "{text}"
        );
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    Identity::load(&path).unwrap();
}

#[test]
fn wrong_content_is_refused() {
    let dir = TempDir::new();
    let write = |name: &str, content: &[u8]| {
        let path = dir.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Identity::load(&path)
    };
    let key = base64::encode(&[7; 32]);
    assert!(write("ok", format!(" {key}\n\n").as_bytes()).is_ok());
    for (name, content) in [
        ("empty", Vec::new()),
        ("short", key.as_bytes()[..43].to_vec()),
        ("two", format!("{key}\n{key}\n").into_bytes()),
        ("binary", vec![0xff; 44]),
        ("huge", vec![b'A'; 100_000]),
    ] {
        let e = write(name, &content).unwrap_err();
        assert!(matches!(e, IdentityError::Content { .. }), "{name}: {e}");
    }
    assert!(matches!(
        Identity::load(&dir.0),
        Err(IdentityError::NotAFile(_))
    ));
    assert!(matches!(
        Identity::load(&dir.0.join("absent")),
        Err(IdentityError::Io { .. })
    ));
}

#[test]
fn the_receipt_key_is_not_the_identity_secret() {
    let id = Identity::from_secret(&[1; 32]);
    assert_ne!(id.receipt_signing_key().to_bytes(), [1; 32]);
    assert_ne!(
        id.receipt_key(),
        Identity::from_secret(&[2; 32]).receipt_key()
    );
    assert_eq!(
        id.receipt_key(),
        Identity::from_secret(&[1; 32]).receipt_key()
    );
}

#[test]
fn small_order_points_are_no_peers() {
    let id = Identity::from_secret(&[1; 32]);
    assert!(id.is_usable_peer(&Identity::from_secret(&[2; 32]).public()));
    assert!(!id.is_usable_peer(&PublicKey([0; 32])));
    let mut one = [0; 32];
    one[0] = 1;
    assert!(!id.is_usable_peer(&PublicKey(one)));
}

#[test]
fn key_text_errors_say_what_is_wrong() {
    assert_eq!("abc".parse::<PublicKey>(), Err(KeyTextError::Length(3)));
    let bad = "!".repeat(44);
    assert_eq!(bad.parse::<PublicKey>(), Err(KeyTextError::NotBase64));
    let e = "é".repeat(22).parse::<PublicKey>();
    assert_eq!(e, Err(KeyTextError::NotBase64));
}

proptest! {
    #[test]
    fn key_text_round_trip(key in any::<[u8; 32]>()) {
        let text = PublicKey(key).to_string();
        prop_assert_eq!(text.len(), KEY_TEXT_LEN);
        prop_assert_eq!(text.parse::<PublicKey>(), Ok(PublicKey(key)));
        let json = serde_json::to_string(&PublicKey(key)).unwrap();
        prop_assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), PublicKey(key));
    }

    #[test]
    fn key_text_garbage_never_panics(s in ".{0,60}") {
        let _ = s.parse::<PublicKey>();
    }
}
