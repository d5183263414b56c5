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

/// Each message of a group of `N` in turn has an output of the wrong length.
fn wrong_length_in_a_group<const N: usize>(sealer: &SealKey, opener: &OpenKey) {
    let nonces: [[u8; 12]; N] = std::array::from_fn(|i| [i as u8; 12]);
    let plains: [Vec<u8>; N] = std::array::from_fn(|i| vec![i as u8 + 7; 64]);
    for wrong in 0..N {
        let mut outs: [Vec<u8>; N] = std::array::from_fn(|_| vec![0xEE; 80]);
        outs[wrong].push(0xEE);
        let got = sealer.seal_group(
            nonces.each_ref(),
            [&[]; N],
            plains.each_ref().map(|p| &p[..]),
            outs.each_mut().map(|o| &mut o[..]),
        );
        let mut expected = [Ok(()); N];
        expected[wrong] = Err(AeadError::Length);
        assert_eq!(got, expected);
        assert!(outs[wrong].iter().all(|&b| b == 0xEE));
        let mut opened: [Vec<u8>; N] = std::array::from_fn(|_| vec![0xEE; 64]);
        let got = opener.open_group(
            nonces.each_ref(),
            [&[]; N],
            outs.each_mut().map(|o| &mut o[..]),
            opened.each_mut().map(|o| &mut o[..]),
        );
        assert_eq!(got, expected);
        for (i, (opened, plain)) in opened.iter().zip(&plains).enumerate() {
            let untouched = opened.iter().all(|&b| b == 0xEE);
            assert!(if i == wrong {
                untouched
            } else {
                opened == plain
            });
        }
    }
}

#[test]
fn a_wrong_length_in_a_group_leaves_the_other_messages_alone() {
    for provider in EVERY {
        let (sealer, opener) = (
            SealKey::new(provider, &[1; 32]),
            OpenKey::new(provider, &[1; 32]),
        );
        wrong_length_in_a_group::<2>(&sealer, &opener);
        wrong_length_in_a_group::<3>(&sealer, &opener);
        wrong_length_in_a_group::<4>(&sealer, &opener);
        let kernel = cfg!(target_arch = "x86_64") && provider == Provider::Aegis256;
        assert!(sealer.group() == 1 || kernel && sealer.group() <= MAX_GROUP);
        assert_eq!(sealer.group(), opener.group());
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

/// Seals and opens the first `N` of four messages at once, the `forged` one of them changed at `flip`
/// in between.
fn a_group_is_one_after_the_other<const N: usize>(
    key: &[u8; 32],
    nonces: &[[u8; 12]; 4],
    aads: &[Vec<u8>; 4],
    plains: &[Vec<u8>; 4],
    forged: usize,
    flip: prop::sample::Index,
) -> Result<(), TestCaseError> {
    let nonce_refs: [&[u8; 12]; N] = std::array::from_fn(|i| &nonces[i]);
    let aad_refs: [&[u8]; N] = std::array::from_fn(|i| &aads[i][..]);
    for provider in EVERY {
        let mut expected: [Vec<u8>; N] =
            std::array::from_fn(|i| seal(provider, key, &nonces[i], &aads[i], &plains[i]));
        let mut outs = expected.clone().map(|e| vec![0xEE; e.len()]);
        let sealed = SealKey::new(provider, key).seal_group(
            nonce_refs,
            aad_refs,
            std::array::from_fn(|i| &plains[i][..]),
            outs.each_mut().map(|o| &mut o[..]),
        );
        prop_assert_eq!(sealed, [Ok(()); N]);
        prop_assert_eq!(&outs, &expected);

        if let Some(frame) = expected.get_mut(forged) {
            let bit = flip.index(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let mut opened: [Vec<u8>; N] = std::array::from_fn(|i| vec![0xEE; plains[i].len()]);
        let got = OpenKey::new(provider, key).open_group(
            nonce_refs,
            aad_refs,
            expected.each_mut().map(|e| &mut e[..]),
            opened.each_mut().map(|o| &mut o[..]),
        );
        for i in 0..N {
            if i == forged {
                prop_assert_eq!(got[i], Err(AeadError::Auth));
                prop_assert!(opened[i].iter().all(|&b| b == 0));
            } else {
                prop_assert_eq!(got[i], Ok(()));
                prop_assert_eq!(&opened[i], &plains[i]);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Several at once are one after the other, for every provider and whatever the lengths; a forged
    /// one of them comes out as zeros and leaves the others alone.
    #[test]
    fn a_group_is_its_messages(
        lens in prop_oneof![
            3 => (0usize..300).prop_map(|n| [n; 4]),
            1 => any::<[u8; 4]>().prop_map(|all| all.map(usize::from)),
            1 => Just([1408; 4]),
        ],
        aad_lens in prop_oneof![
            2 => Just([24; 4]),
            1 => (0usize..64).prop_map(|n| [n; 4]),
            1 => any::<[u8; 4]>().prop_map(|all| all.map(|n| usize::from(n) / 4)),
        ],
        key in any::<[u8; 32]>(),
        nonces in any::<[[u8; 12]; 4]>(),
        forged in 0usize..5,
        flip in any::<prop::sample::Index>(),
    ) {
        let plains = std::array::from_fn(|i| bytes(lens[i], key[i]));
        let aads = std::array::from_fn(|i| bytes(aad_lens[i], nonces[i][0]));
        a_group_is_one_after_the_other::<2>(&key, &nonces, &aads, &plains, forged, flip)?;
        a_group_is_one_after_the_other::<3>(&key, &nonces, &aads, &plains, forged, flip)?;
        a_group_is_one_after_the_other::<4>(&key, &nonces, &aads, &plains, forged, flip)?;
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
