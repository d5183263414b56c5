use super::super::super::aegis256::vectors::{KEY, NONCE, VECTORS, hex};
use super::*;
use ::aegis::aegis256::Aegis256;
use proptest::prelude::*;

type Sealed = (Vec<u8>, [u8; TAG_LEN]);

/// Texts and tags, with nonces of 32 bytes, which no lane has: by the cipher itself.
fn long_nonces<const N: usize, const OPEN: bool>(
    key: &[u8; 32],
    nonces: &[[u8; 32]],
    aads: &[Vec<u8>],
    ins: &[Vec<u8>],
) -> Vec<Sealed> {
    let blocks = std::array::from_fn::<_, N, _>(|i| padded::<2>(&nonces[i]));
    let mut outs: [Vec<u8>; N] = std::array::from_fn(|i| vec![0xEE; ins[i].len()]);
    let places = outs.each_mut().map(|o| &mut o[..]);
    let (aads, ins) = (
        std::array::from_fn(|i| &aads[i][..]),
        std::array::from_fn(|i| &ins[i][..]),
    );
    // SAFETY: the tests that call this have seen `detect` find all features.
    let tags = unsafe { from_blocks::<N, OPEN>(key, blocks, aads, ins, places) };
    assert!(tags[N..].iter().all(|t| *t == [0; TAG_LEN]));
    outs.into_iter().zip(tags).collect()
}

#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn from_blocks<const N: usize, const OPEN: bool>(
    key: &[u8; 32],
    nonces: [[[u8; 16]; 2]; N],
    aads: [&[u8]; N],
    ins: [&[u8]; N],
    outs: [&mut [u8]; N],
) -> [[u8; TAG_LEN]; LANES] {
    let zero = _mm_setzero_si128();
    let mut long = [(zero, zero); N];
    for (long, [a, b]) in long.iter_mut().zip(&nonces) {
        *long = (load(a), load(b));
    }
    with_nonces::<N, OPEN>(key, long, aads, ins, outs)
}

#[test]
fn known_answers_of_the_draft_hold_in_every_lane() {
    if Wide512::detect().is_none() {
        return;
    }
    let [key, nonce] = [KEY, NONCE].map(|t| hex::<Vec<u8>>(t).try_into().unwrap());
    for [ad, message, text, tag] in VECTORS {
        let [ad, message, text] = [ad, message, text].map(hex::<Vec<u8>>);
        let tag: [u8; TAG_LEN] = hex::<Vec<u8>>(tag).try_into().unwrap();
        let of = |one: &Vec<u8>| std::array::from_fn::<_, 4, _>(|_| one.clone());
        let sealed = long_nonces::<4, false>(&key, &[nonce; 4], &of(&ad), &of(&message));
        assert_eq!(sealed, vec![(text.clone(), tag); 4]);
        let opened = long_nonces::<4, true>(&key, &[nonce; 4], &of(&ad), &of(&text));
        assert_eq!(opened, vec![(message, tag); 4]);
    }
}

proptest! {
    #[test]
    fn two_to_four_at_once_equal_libaegis(
        key: [u8; 32],
        nonces: [[u8; 32]; 4],
        (aads, plains) in (
            prop_oneof![Just(24), 0usize..100],
            prop_oneof![Just(1408), 0usize..300],
        ).prop_flat_map(|(a, p)| {
            let bytes = |n| proptest::collection::vec(any::<u8>(), n);
            (
                proptest::collection::vec(bytes(a), 4),
                proptest::collection::vec(bytes(p), 4),
            )
        }),
    ) {
        let Some(wide) = Wide512::detect().map(Wide::Avx512) else { return Ok(()) };
        let reference = |nonces: &[[u8; 32]; 4]| -> Vec<Sealed> {
            let of = |i: usize| Aegis256::<TAG_LEN>::new(&key, &nonces[i]);
            (0..4).map(|i| of(i).encrypt(&plains[i], &aads[i])).collect()
        };
        let expected = reference(&nonces);
        let texts: Vec<_> = expected.iter().map(|e| e.0.clone()).collect();
        let back: Vec<Sealed> =
            plains.iter().cloned().zip(expected.iter().map(|e| e.1)).collect();
        let seal = [
            long_nonces::<2, false>(&key, &nonces, &aads, &plains),
            long_nonces::<3, false>(&key, &nonces, &aads, &plains),
            long_nonces::<4, false>(&key, &nonces, &aads, &plains),
        ];
        let open = [
            long_nonces::<2, true>(&key, &nonces, &aads, &texts),
            long_nonces::<3, true>(&key, &nonces, &aads, &texts),
            long_nonces::<4, true>(&key, &nonces, &aads, &texts),
        ];
        for (sealed, opened) in seal.iter().zip(&open) {
            prop_assert_eq!(sealed, &expected[..sealed.len()]);
            prop_assert_eq!(opened, &back[..opened.len()]);
        }

        // The nonces of lanes are these, lengthened.
        let short = nonces.map(|n| *n.first_chunk::<12>().unwrap());
        let expected = reference(&short.map(|n| {
            let mut long = [0; 32];
            long[..12].copy_from_slice(&n);
            long
        }));
        for n in 2..=4 {
            let nonces: Vec<_> = short[..n].iter().collect();
            let aads: Vec<_> = aads[..n].iter().map(|a| &a[..]).collect();
            let ins: Vec<_> = plains[..n].iter().map(|p| &p[..]).collect();
            let mut texts: Vec<_> = plains[..n].iter().map(|p| vec![0xEE; p.len()]).collect();
            let mut outs: Vec<_> = texts.iter_mut().map(|t| &mut t[..]).collect();
            let tags = wide.seal(&key, &nonces, &aads, &ins, &mut outs);
            let sealed: Vec<Sealed> = texts.into_iter().zip(tags).collect();
            prop_assert_eq!(&sealed[..], &expected[..n]);
            let ins: Vec<_> = sealed.iter().map(|s| &s.0[..]).collect();
            let mut opened: Vec<_> = plains[..n].iter().map(|p| vec![0xEE; p.len()]).collect();
            let mut outs: Vec<_> = opened.iter_mut().map(|t| &mut t[..]).collect();
            prop_assert_eq!(wide.open(&key, &nonces, &aads, &ins, &mut outs), tags);
            prop_assert_eq!(&opened[..], &plains[..n]);
        }
    }
}
