//! Two frames at once: all checks are those of one after the other, and so is what comes of them.

use super::{
    AeadError, CONTROL_PN, EPOCH_BYTE, EPOCH_MASK, HELD, LaneOpener, LaneSealer, OpenError,
    SealError, blocks, nonce,
};
use crate::base::clock::Nanos;
use crate::base::limits::{HEADER_LEN, TAG_LEN};

impl LaneSealer {
    /// Whether [`seal_pair`](Self::seal_pair) is less work than [`seal`](Self::seal) twice.
    pub fn pairs(&self) -> bool {
        self.current.key.pairs()
    }

    /// [`seal`](Self::seal) for one frame and then another.
    ///
    /// # Errors
    /// For each frame as for `seal`.
    #[inline]
    pub fn seal_pair(
        &mut self,
        now: Nanos,
        pns: [u64; 2],
        headers: [&mut [u8; HEADER_LEN]; 2],
        plains: [&[u8]; 2],
        outs: [&mut [u8]; 2],
    ) -> [Result<(), SealError>; 2] {
        let ([h, i], [a, b]) = (headers, outs);
        let fit = a.len() == plains[0].len() + TAG_LEN && b.len() == plains[1].len() + TAG_LEN;
        let data = (pns[0] | pns[1]) & CONTROL_PN == 0;
        let rising = pns[0] < pns[1] && self.last_data.is_none_or(|last| pns[0] > last);
        let cost = blocks(plains[0].len()) + blocks(plains[1].len());
        let total = self.blocks.saturating_add(cost);
        let age = now.saturating_sub(self.since.unwrap_or(now));
        let one_key = total <= self.usage.ratchet_blocks.min(self.usage.hard_stop_blocks)
            && age < self.usage.ratchet_age;
        if !(fit && data && rising && one_key) {
            return [
                self.seal(now, pns[0], h, plains[0], a),
                self.seal(now, pns[1], i, plains[1], b),
            ];
        }
        // As for one: used before the key is.
        self.last_data = Some(pns[1]);
        self.blocks = total;
        self.since.get_or_insert(now);
        let epoch = self.epoch as u8 & EPOCH_MASK;
        for header in [&mut *h, &mut *i] {
            header[EPOCH_BYTE] = (header[EPOCH_BYTE] & !EPOCH_MASK) | epoch;
        }
        let nonces = pns.map(|pn| nonce(&self.current.iv, pn));
        self.current
            .key
            .seal_pair(nonces.each_ref(), [h, i], plains, [a, b])
            .map(|sealed| sealed.map_err(SealError::Aead))
    }
}

impl LaneOpener {
    /// Whether [`open_pair`](Self::open_pair) is less work than [`open`](Self::open) twice.
    pub fn pairs(&self) -> bool {
        self.held[0].key.pairs()
    }

    /// [`open`](Self::open) for one frame and then another of the same epoch. Each is judged by its
    /// own tag: a bad one never spoils the other.
    ///
    /// # Errors
    /// For each frame as for `open`.
    #[inline]
    pub fn open_pair(
        &mut self,
        now: Nanos,
        epoch_bits: u8,
        pns: [u64; 2],
        aads: [&[u8; HEADER_LEN]; 2],
        sealed: [&mut [u8]; 2],
        outs: [&mut [u8]; 2],
    ) -> [Result<(), OpenError>; 2] {
        let ([s, t], [a, b]) = (sealed, outs);
        let place = usize::from(epoch_bits & EPOCH_MASK);
        // Any other key may change what is held after the first frame.
        let current = place == self.epoch as usize % HELD;
        let fit = s.len() == a.len() + TAG_LEN && t.len() == b.len() + TAG_LEN;
        let costs = [blocks(a.len()), blocks(b.len())];
        let total = self.held[place].blocks.saturating_add(costs[0] + costs[1]);
        // Were the first frame a forgery, the second would still be within the limit.
        let patient = self.failed.saturating_add(1) < self.usage.failed_opens;
        if !(current && fit && patient && total <= self.usage.hard_stop_blocks) {
            return [
                self.open(now, epoch_bits, pns[0], aads[0], s, a),
                self.open(now, epoch_bits, pns[1], aads[1], t, b),
            ];
        }
        self.expire(now);
        let held = &mut self.held[place];
        let nonces = pns.map(|pn| nonce(&held.iv, pn));
        let opened = held
            .key
            .open_pair(nonces.each_ref(), aads.map(|a| &a[..]), [s, t], [a, b]);
        let mut results = [Ok(()); 2];
        for ((result, opened), cost) in results.iter_mut().zip(opened).zip(costs) {
            *result = match opened {
                Ok(()) => {
                    held.blocks += cost;
                    self.opened += 1;
                    Ok(())
                }
                Err(AeadError::Auth) => {
                    self.failed += 1;
                    Err(OpenError::Auth)
                }
                Err(AeadError::Length) => Err(OpenError::Length),
                Err(AeadError::Provider) => Err(OpenError::Provider),
            };
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::super::{USAGE, Usage};
    use super::*;
    use crate::crypto::aead::Provider;
    use proptest::prelude::*;

    const SECRET: [u8; 32] = [0x5A; 32];
    const S: Nanos = 1_000_000_000;
    const PROVIDERS: [Provider; 3] = [Provider::Aegis256, Provider::Aegis256x2, Provider::Ring];

    fn ends(provider: Provider, usage: Usage) -> (LaneSealer, LaneOpener) {
        (
            LaneSealer::with_usage(provider, &SECRET, 3, usage),
            LaneOpener::with_usage(provider, &SECRET, 3, usage),
        )
    }

    /// What is to be done to one frame.
    #[derive(Clone, Debug)]
    struct Case {
        pn: u64,
        len: usize,
        /// Added to the length that the output should have.
        off: usize,
        /// Bit of header, text and tag that changes on the way.
        flip: Option<prop::sample::Index>,
    }

    fn case() -> impl Strategy<Value = Case> {
        let pn = prop_oneof![
            8 => 0u64..40,
            1 => (0u64..3).prop_map(|n| n | CONTROL_PN),
        ];
        let len = prop_oneof![4 => Just(64usize), 1 => 0usize..100];
        let off = prop_oneof![9 => Just(0usize), 1 => Just(1usize)];
        let flip = prop::option::weighted(0.2, any::<prop::sample::Index>());
        (pn, len, off, flip).prop_map(|(pn, len, off, flip)| Case { pn, len, off, flip })
    }

    fn plain(case: &Case) -> Vec<u8> {
        (0..case.len).map(|i| (i as u64 ^ case.pn) as u8).collect()
    }

    type Sealed = (Result<(), SealError>, [u8; HEADER_LEN], Vec<u8>);
    type Opened = (Result<(), OpenError>, Vec<u8>);

    fn blank(case: &Case) -> Sealed {
        (
            Ok(()),
            [0xFC; HEADER_LEN],
            vec![0xEE; case.len + TAG_LEN + case.off],
        )
    }

    proptest! {
        /// Ages, block limits, forgeries, wrong lengths and falling numbers included: the same
        /// frames, results, bytes and state as one after the other.
        #[test]
        fn a_pair_is_one_frame_and_then_another(
            steps in prop::collection::vec((0u64..200, case(), case(), 0u8..8), 1..40),
            ratchet_blocks in prop_oneof![Just(USAGE.ratchet_blocks), 8u64..40],
            hard_stop_blocks in prop_oneof![Just(USAGE.hard_stop_blocks), 8u64..40],
            failed_opens in prop_oneof![Just(USAGE.failed_opens), 1u64..5],
        ) {
            let usage = Usage { ratchet_blocks, hard_stop_blocks, failed_opens, ..USAGE };
            for provider in PROVIDERS {
                let (mut tx, mut rx) = ends(provider, usage);
                let (mut tx2, mut rx2) = ends(provider, usage);
                let mut now = 0;
                for (gap, a, b, late) in &steps {
                    now += gap * S / 4;
                    let cases = [a, b];
                    let plains = cases.map(plain);
                    let mut single = cases.map(blank);
                    for (i, (result, header, out)) in single.iter_mut().enumerate() {
                        *result = tx.seal(now, cases[i].pn, header, &plains[i], out);
                    }
                    let mut pair = cases.map(blank);
                    let [(r, h, x), (q, i, y)] = &mut pair;
                    let refs = plains.each_ref().map(|p| &p[..]);
                    [*r, *q] = tx2.seal_pair(now, cases.map(|c| c.pn), [h, i], refs, [x, y]);
                    prop_assert_eq!(&single, &pair);
                    prop_assert_eq!(
                        (tx.epoch, tx.blocks, tx.since, tx.last_data, tx.last_control),
                        (tx2.epoch, tx2.blocks, tx2.since, tx2.last_data, tx2.last_control)
                    );
                    if single[0].1[EPOCH_BYTE] != single[1].1[EPOCH_BYTE] {
                        // Two epochs are no pair.
                        continue;
                    }
                    let at = now + u64::from(*late) * 2 * S;
                    for ((_, header, out), case) in pair.iter_mut().zip(cases) {
                        if let Some(flip) = &case.flip {
                            let bit = flip.index((HEADER_LEN + out.len()) * 8);
                            let (byte, bit) = (bit / 8, 1 << (bit % 8));
                            match header.get_mut(byte) {
                                // The bits of the epoch would make it another pair.
                                Some(_) if byte == EPOCH_BYTE => {}
                                Some(h) => *h ^= bit,
                                None => out[byte - HEADER_LEN] ^= bit,
                            }
                        }
                    }
                    let bits = pair[0].1[EPOCH_BYTE];
                    let outs = || cases.map(|c| (Ok(()), vec![0xDD; c.len]));
                    let mut single: [Opened; 2] = outs();
                    for (i, (result, out)) in single.iter_mut().enumerate() {
                        let mut sealed = pair[i].2.clone();
                        *result = rx.open(at, bits, cases[i].pn, &pair[i].1, &mut sealed, out);
                    }
                    let mut both: [Opened; 2] = outs();
                    let [(_, h, s), (_, i, t)] = &mut pair;
                    let [(r, x), (q, y)] = &mut both;
                    [*r, *q] =
                        rx2.open_pair(at, bits, cases.map(|c| c.pn), [h, i], [s, t], [x, y]);
                    prop_assert_eq!(&single, &both);
                    let blocks = |rx: &LaneOpener| rx.held.each_ref().map(|h| (h.iv, h.blocks));
                    prop_assert_eq!(blocks(&rx), blocks(&rx2));
                    prop_assert_eq!(
                        (rx.epoch, rx.previous_until, rx.opened, rx.failed),
                        (rx2.epoch, rx2.previous_until, rx2.opened, rx2.failed)
                    );
                }
            }
        }
    }

    #[test]
    fn only_a_provider_that_gains_says_so() {
        for provider in PROVIDERS {
            let (tx, rx) = ends(provider, USAGE);
            assert_eq!(tx.pairs(), rx.pairs());
            assert!(!tx.pairs() || provider == Provider::Aegis256);
        }
    }
}
