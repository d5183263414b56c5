use super::vectors::VECTORS;
use super::*;
use proptest::prelude::*;

/// The providers of every suite.
const EVERY: [Provider; 5] = [
    Provider::Ring,
    Provider::AwsLc,
    Provider::AesGcm,
    Provider::Aegis256x2,
    Provider::Aegis256,
];

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| {
            (i as u8)
                .wrapping_mul(167)
                .wrapping_add(seed ^ (i >> 8) as u8)
        })
        .collect()
}

fn seal(p: Provider, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0xEE; plain.len() + TAG_LEN];
    SealKey::new(p, key)
        .seal(nonce, aad, plain, &mut out)
        .unwrap();
    out
}

/// Opens into a buffer that starts as garbage, and checks that a failure leaves only zeros there.
fn open(key: &OpenKey, nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, AeadError> {
    let mut sealed = sealed.to_vec();
    let mut out = vec![0xEE; sealed.len() - TAG_LEN];
    match key.open(nonce, aad, &mut sealed, &mut out) {
        Ok(()) => Ok(out),
        Err(error) => {
            assert!(
                out.iter().all(|&b| b == 0),
                "{error}: something was released"
            );
            Err(error)
        }
    }
}

#[test]
fn known_answers_hold_for_every_provider() {
    assert_eq!(VECTORS.len(), 25);
    for provider in Provider::ALL {
        for v in VECTORS {
            let key = hex(v.key).try_into().unwrap();
            let nonce = hex(v.nonce).try_into().unwrap();
            let (aad, plain) = (hex(v.aad), hex(v.plain));
            let expected = [hex(v.cipher), hex(v.tag)].concat();
            let sealed = seal(provider, &key, &nonce, &aad, &plain);
            assert_eq!(sealed, expected, "{provider} {}", v.tag);
            let opener = OpenKey::new(provider, &key);
            assert_eq!(open(&opener, &nonce, &aad, &expected), Ok(plain));

            for bad in [0, expected.len() - 1] {
                let mut forged = expected.clone();
                forged[bad] ^= 0x80;
                assert_eq!(open(&opener, &nonce, &aad, &forged), Err(AeadError::Auth));
            }
            let mut other_aad = aad.clone();
            other_aad.push(0);
            assert_eq!(
                open(&opener, &nonce, &other_aad, &expected),
                Err(AeadError::Auth)
            );
            let mut other_nonce = nonce;
            other_nonce[11] ^= 1;
            assert_eq!(
                open(&opener, &other_nonce, &aad, &expected),
                Err(AeadError::Auth)
            );
        }
    }
}

#[test]
fn every_bit_of_a_frame_is_authenticated() {
    let (key, nonce, aad, plain) = ([9; 32], [4; 12], bytes(24, 1), bytes(192, 2));
    for provider in EVERY {
        let sealed = seal(provider, &key, &nonce, &aad, &plain);
        let opener = OpenKey::new(provider, &key);
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                open(&opener, &nonce, &aad, &forged),
                Err(AeadError::Auth),
                "{bit}"
            );
        }
        for bit in 0..aad.len() * 8 {
            let mut forged = aad.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                open(&opener, &nonce, &forged, &sealed),
                Err(AeadError::Auth),
                "{bit}"
            );
        }
        for len in TAG_LEN..sealed.len() {
            assert!(open(&opener, &nonce, &aad, &sealed[..len]).is_err());
        }
        assert_eq!(
            open(&opener, &nonce, &aad, &sealed),
            Ok(plain.clone()),
            "and it still works"
        );
    }
}

#[test]
fn wrong_lengths_are_refused_and_touch_nothing() {
    for provider in EVERY {
        let sealer = SealKey::new(provider, &[1; 32]);
        let opener = OpenKey::new(provider, &[1; 32]);
        for len in [0, 15, 16, 79, 81] {
            let mut out = vec![0xEE; len];
            let got = sealer.seal(&[0; 12], &[], &[0; 64], &mut out);
            assert_eq!(got, Err(AeadError::Length));
            assert!(out.iter().all(|&b| b == 0xEE));
        }
        for (sealed, out) in [(0, 0), (15, 0), (16, 1), (80, 63), (80, 65), (80, 80)] {
            let mut out = vec![0xEE; out];
            let got = opener.open(&[0; 12], &[], &mut vec![0; sealed], &mut out);
            assert_eq!(got, Err(AeadError::Length));
            assert!(out.iter().all(|&b| b == 0xEE));
        }
    }
}

#[test]
fn a_wrong_length_in_a_pair_leaves_the_other_message_alone() {
    for provider in EVERY {
        let (sealer, opener) = (
            SealKey::new(provider, &[1; 32]),
            OpenKey::new(provider, &[1; 32]),
        );
        let (nonces, plains) = ([&[0; 12], &[1; 12]], [&[7; 64][..], &[8; 64][..]]);
        for wrong in 0..2 {
            let mut outs = [vec![0xEE; 80], vec![0xEE; 80]];
            outs[wrong].push(0xEE);
            let [a, b] = &mut outs;
            let got = sealer.seal_pair(nonces, [&[]; 2], plains, [a, b]);
            assert_eq!(got[wrong], Err(AeadError::Length));
            assert_eq!(got[1 - wrong], Ok(()));
            assert!(outs[wrong].iter().all(|&b| b == 0xEE));
            let mut opened = [vec![0xEE; 64], vec![0xEE; 64]];
            let ([a, b], [x, y]) = (&mut outs, &mut opened);
            let got = opener.open_pair(nonces, [&[]; 2], [a, b], [x, y]);
            assert_eq!(got[wrong], Err(AeadError::Length));
            assert_eq!(got[1 - wrong], Ok(()));
            assert!(opened[wrong].iter().all(|&b| b == 0xEE));
            assert_eq!(opened[1 - wrong], plains[1 - wrong]);
        }
        let kernel = cfg!(target_arch = "x86_64") && provider == Provider::Aegis256;
        assert!(sealer.pairs() <= kernel && sealer.pairs() == opener.pairs());
    }
}

#[test]
fn rekeying_leaves_only_the_new_key() {
    let (old, new, nonce) = ([1; 32], [2; 32], [3; 12]);
    for provider in EVERY {
        let reference = Provider::for_suite(provider.suite(), Provider::AesGcm).unwrap();
        let mut sealer = SealKey::new(provider, &old);
        let mut opener = OpenKey::new(provider, &old);
        for _ in 0..3 {
            sealer.rekey(&new);
            opener.rekey(&new);
        }
        let mut sealed = vec![0; 100 + TAG_LEN];
        sealer
            .seal(&nonce, b"aad", &bytes(100, 5), &mut sealed)
            .unwrap();
        assert_eq!(
            sealed,
            seal(reference, &new, &nonce, b"aad", &bytes(100, 5))
        );
        assert_eq!(open(&opener, &nonce, b"aad", &sealed), Ok(bytes(100, 5)));
        let under_old = seal(provider, &old, &nonce, b"aad", &bytes(100, 5));
        assert_eq!(
            open(&opener, &nonce, b"aad", &under_old),
            Err(AeadError::Auth)
        );
        assert_eq!((sealer.provider(), opener.provider()), (provider, provider));
    }
}

#[test]
fn keys_move_between_threads_and_do_not_show_in_debug_output() {
    for provider in EVERY {
        let opener = OpenKey::new(provider, &[0xAB; 32]);
        assert_eq!(
            format!("{opener:?}"),
            format!("OpenKey({})", provider.name())
        );
        let sealed = seal(provider, &[0xAB; 32], &[0; 12], &[], &[7; 64]);
        let thread = std::thread::spawn(move || open(&opener, &[0; 12], &[], &sealed));
        assert_eq!(thread.join().unwrap(), Ok(vec![7; 64]));
    }
}

#[test]
fn names_parse_back() {
    for provider in Provider::ALL {
        assert_eq!(provider.name().parse(), Ok(provider));
    }
    assert!("openssl".parse::<Provider>().is_err());
    // Other suites, so no choice among the providers of AES-256-GCM.
    assert!("aegis-256x2".parse::<Provider>().is_err());
    assert!("aegis-256".parse::<Provider>().is_err());
}

#[test]
fn suites_have_their_providers() {
    for provider in EVERY {
        assert_eq!(
            Provider::for_suite(provider.suite(), provider),
            Some(provider)
        );
        assert_eq!(Provider::for_suite(2, provider), Some(Provider::Aegis256x2));
        assert_eq!(Provider::for_suite(3, provider), Some(Provider::Aegis256));
    }
    assert_eq!(EVERY.map(Provider::suite), [1, 1, 1, 2, 3]);
    for unknown in [0, 4, 255] {
        assert_eq!(Provider::for_suite(unknown, Provider::Ring), None);
    }
    let (key, nonce) = ([1; 32], [2; 12]);
    let suites = [Provider::Ring, Provider::Aegis256x2, Provider::Aegis256];
    for (a, b) in suites.iter().flat_map(|a| suites.map(|b| (*a, b))) {
        let sealed = seal(a, &key, &nonce, &[], &[3; 64]);
        let got = open(&OpenKey::new(b, &key), &nonce, &[], &sealed);
        assert_eq!(got.is_ok(), a == b, "{a} {b}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Two at once are two one after the other, for every provider and whatever the lengths; a forged
    /// one of them comes out as zeros and leaves the other alone.
    #[test]
    fn a_pair_is_two_messages(
        lens in prop_oneof![
            3 => (0usize..300).prop_map(|n| [n, n]),
            1 => (0usize..300, 0usize..300).prop_map(|(a, b)| [a, b]),
            1 => Just([1408, 1408]),
        ],
        aad_lens in prop_oneof![Just([24, 24]), (0usize..64, 0usize..64).prop_map(|(a, b)| [a, b])],
        key in any::<[u8; 32]>(),
        nonces in any::<[[u8; 12]; 2]>(),
        forged in 0usize..3,
        flip in any::<prop::sample::Index>(),
    ) {
        let plains = [bytes(lens[0], key[0]), bytes(lens[1], key[1])];
        let aads = [bytes(aad_lens[0], nonces[0][0]), bytes(aad_lens[1], nonces[1][0])];
        let aad_refs = aads.each_ref().map(|a| &a[..]);
        for provider in EVERY {
            let mut expected = [0, 1].map(|i| {
                seal(provider, &key, &nonces[i], &aads[i], &plains[i])
            });
            let mut outs = expected.clone().map(|e| vec![0xEE; e.len()]);
            let [a, b] = &mut outs;
            let sealed = SealKey::new(provider, &key).seal_pair(
                nonces.each_ref(),
                aad_refs,
                plains.each_ref().map(|p| &p[..]),
                [&mut a[..], &mut b[..]],
            );
            prop_assert_eq!(sealed, [Ok(()), Ok(())]);
            prop_assert_eq!(&outs, &expected);

            if let Some(frame) = expected.get_mut(forged) {
                let bit = flip.index(frame.len() * 8);
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            let mut opened = plains.clone().map(|p| vec![0xEE; p.len()]);
            let ([a, b], [x, y]) = (&mut expected, &mut opened);
            let got = OpenKey::new(provider, &key).open_pair(
                nonces.each_ref(),
                aad_refs,
                [&mut a[..], &mut b[..]],
                [&mut x[..], &mut y[..]],
            );
            for i in 0..2 {
                if i == forged {
                    prop_assert_eq!(got[i], Err(AeadError::Auth));
                    prop_assert!(opened[i].iter().all(|&b| b == 0));
                } else {
                    prop_assert_eq!(got[i], Ok(()));
                    prop_assert_eq!(&opened[i], &plains[i]);
                }
            }
        }
    }

    #[test]
    fn providers_agree_and_open_each_other(
        len in prop_oneof![0usize..300, Just(1408), Just(8896), 0usize..9216],
        aad_len in 0usize..64,
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 12]>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let (plain, aad) = (bytes(len, key[0]), bytes(aad_len, nonce[0]));
        let reference = seal(Provider::AesGcm, &key, &nonce, &aad, &plain);
        let mut forged = reference.clone();
        let bit = flip.index(forged.len() * 8);
        forged[bit / 8] ^= 1 << (bit % 8);
        for provider in Provider::ALL {
            prop_assert_eq!(&seal(provider, &key, &nonce, &aad, &plain), &reference);
            let opener = OpenKey::new(provider, &key);
            prop_assert_eq!(open(&opener, &nonce, &aad, &reference), Ok(plain.clone()));
            prop_assert_eq!(open(&opener, &nonce, &aad, &forged), Err(AeadError::Auth));
        }
    }
}
