//! Several frames at once: all checks are those of one after the other, and so is what comes of them.

use super::{
    AeadError, CONTROL_PN, EPOCH_BYTE, EPOCH_MASK, HELD, LaneOpener, LaneSealer, OpenError,
    SealError, blocks, nonce,
};
use crate::base::clock::Nanos;
use crate::base::limits::{HEADER_LEN, TAG_LEN};

impl LaneSealer {
    /// How many frames at once are the least work for each; 1 where
    /// [`seal_group`](Self::seal_group) gains nothing over [`seal`](Self::seal).
    pub fn group(&self) -> usize {
        self.current.key.group()
    }

    /// [`seal`](Self::seal) for one frame after the other.
    ///
    /// # Errors
    /// For each frame as for `seal`.
    #[inline]
    pub fn seal_group<const N: usize>(
        &mut self,
        now: Nanos,
        pns: [u64; N],
        mut headers: [&mut [u8; HEADER_LEN]; N],
        plains: [&[u8]; N],
        outs: [&mut [u8]; N],
    ) -> [Result<(), SealError>; N] {
        let mut fit = true;
        let (mut rising, mut last) = (true, self.last_data);
        let mut total = self.blocks;
        for i in 0..N {
            fit &= outs[i].len() == plains[i].len() + TAG_LEN;
            rising &= pns[i] & CONTROL_PN == 0 && last.is_none_or(|last| pns[i] > last);
            last = Some(pns[i]);
            total = total.saturating_add(blocks(plains[i].len()));
        }
        let age = now.saturating_sub(self.since.unwrap_or(now));
        let one_key = total <= self.usage.ratchet_blocks.min(self.usage.hard_stop_blocks)
            && age < self.usage.ratchet_age;
        if !(fit && rising && one_key) {
            let mut results = [Ok(()); N];
            for (i, (header, out)) in headers.into_iter().zip(outs).enumerate() {
                results[i] = self.seal(now, pns[i], header, plains[i], out);
            }
            return results;
        }
        // As for one: used before the key is.
        self.last_data = last;
        self.blocks = total;
        self.since.get_or_insert(now);
        let epoch = self.epoch as u8 & EPOCH_MASK;
        for header in &mut headers {
            header[EPOCH_BYTE] = (header[EPOCH_BYTE] & !EPOCH_MASK) | epoch;
        }
        let nonces = pns.map(|pn| nonce(&self.current.iv, pn));
        let aads = headers.each_ref().map(|h| &h[..]);
        self.current
            .key
            .seal_group(nonces.each_ref(), aads, plains, outs)
            .map(|sealed| sealed.map_err(SealError::Aead))
    }
}

impl LaneOpener {
    /// How many frames at once are the least work for each, as for [`LaneSealer::group`].
    pub fn group(&self) -> usize {
        self.held[0].key.group()
    }

    /// [`open`](Self::open) for one frame after the other, all of the same epoch. Each is judged by
    /// its own tag: a bad one never spoils another.
    ///
    /// # Errors
    /// For each frame as for `open`.
    #[inline]
    pub fn open_group<const N: usize>(
        &mut self,
        now: Nanos,
        epoch_bits: u8,
        pns: [u64; N],
        aads: [&[u8; HEADER_LEN]; N],
        sealed: [&mut [u8]; N],
        outs: [&mut [u8]; N],
    ) -> [Result<(), OpenError>; N] {
        let place = usize::from(epoch_bits & EPOCH_MASK);
        // Any other key may change what is held after the first frame.
        let current = place == self.epoch as usize % HELD;
        let (mut fit, mut total) = (true, self.held[place].blocks);
        let mut costs = [0; N];
        for i in 0..N {
            fit &= sealed[i].len() == outs[i].len() + TAG_LEN;
            costs[i] = blocks(outs[i].len());
            total = total.saturating_add(costs[i]);
        }
        // Were all before the last frame forgeries, the last would still be within the limit.
        let patient = self.failed.saturating_add(N as u64 - 1) < self.usage.failed_opens;
        let mut results = [Ok(()); N];
        if !(current && fit && patient && total <= self.usage.hard_stop_blocks) {
            for (i, (sealed, out)) in sealed.into_iter().zip(outs).enumerate() {
                results[i] = self.open(now, epoch_bits, pns[i], aads[i], sealed, out);
            }
            return results;
        }
        self.expire(now);
        let held = &mut self.held[place];
        let nonces = pns.map(|pn| nonce(&held.iv, pn));
        let aads = aads.map(|a| &a[..]);
        let opened = held.key.open_group(nonces.each_ref(), aads, sealed, outs);
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

    /// Both ends, once for frames one after the other and once for groups.
    struct Ends {
        single: (LaneSealer, LaneOpener),
        group: (LaneSealer, LaneOpener),
    }

    /// Seals and opens `cases` both ways, and compares everything.
    fn step<const N: usize>(
        ends: &mut Ends,
        now: Nanos,
        at: Nanos,
        cases: [&Case; N],
    ) -> Result<(), TestCaseError> {
        let ((tx, rx), (tx2, rx2)) = (&mut ends.single, &mut ends.group);
        let plains = cases.map(plain);
        let mut single = cases.map(blank);
        for (i, (result, header, out)) in single.iter_mut().enumerate() {
            *result = tx.seal(now, cases[i].pn, header, &plains[i], out);
        }
        let mut group = cases.map(blank);
        let mut headers = group.each_ref().map(|g| g.1);
        let results = tx2.seal_group(
            now,
            cases.map(|c| c.pn),
            headers.each_mut(),
            plains.each_ref().map(|p| &p[..]),
            group.each_mut().map(|g| &mut g.2[..]),
        );
        for ((frame, result), header) in group.iter_mut().zip(results).zip(headers) {
            (frame.0, frame.1) = (result, header);
        }
        prop_assert_eq!(&single, &group);
        prop_assert_eq!(
            (tx.epoch, tx.blocks, tx.since, tx.last_data, tx.last_control),
            (
                tx2.epoch,
                tx2.blocks,
                tx2.since,
                tx2.last_data,
                tx2.last_control
            )
        );
        let bits = single[0].1[EPOCH_BYTE];
        if single.iter().any(|s| s.1[EPOCH_BYTE] != bits) {
            // Two epochs are no group.
            return Ok(());
        }
        for ((_, header, out), case) in group.iter_mut().zip(cases) {
            if let Some(flip) = &case.flip {
                let bit = flip.index((HEADER_LEN + out.len()) * 8);
                let (byte, bit) = (bit / 8, 1 << (bit % 8));
                match header.get_mut(byte) {
                    // The bits of the epoch would make it another group.
                    Some(_) if byte == EPOCH_BYTE => {}
                    Some(h) => *h ^= bit,
                    None => out[byte - HEADER_LEN] ^= bit,
                }
            }
        }
        let outs = || cases.map(|c| (Ok(()), vec![0xDD; c.len]));
        let mut single: [Opened; N] = outs();
        for (i, (result, out)) in single.iter_mut().enumerate() {
            let mut sealed = group[i].2.clone();
            *result = rx.open(at, bits, cases[i].pn, &group[i].1, &mut sealed, out);
        }
        let mut all: [Opened; N] = outs();
        let headers = group.each_ref().map(|g| g.1);
        let results = rx2.open_group(
            at,
            bits,
            cases.map(|c| c.pn),
            headers.each_ref(),
            group.each_mut().map(|g| &mut g.2[..]),
            all.each_mut().map(|a| &mut a.1[..]),
        );
        for (opened, result) in all.iter_mut().zip(results) {
            opened.0 = result;
        }
        prop_assert_eq!(&single, &all);
        let blocks = |rx: &LaneOpener| rx.held.each_ref().map(|h| (h.iv, h.blocks));
        prop_assert_eq!(blocks(rx), blocks(rx2));
        prop_assert_eq!(
            (rx.epoch, rx.previous_until, rx.opened, rx.failed),
            (rx2.epoch, rx2.previous_until, rx2.opened, rx2.failed)
        );
        Ok(())
    }

    proptest! {
        /// Ages, block limits, forgeries, wrong lengths and falling numbers included: the same
        /// frames, results, bytes and state as one after the other.
        #[test]
        fn a_group_is_one_frame_after_the_other(
            steps in prop::collection::vec(
                (0u64..200, [case(), case(), case(), case()], 2usize..=4, any::<bool>(), 0u8..8),
                1..40,
            ),
            ratchet_blocks in prop_oneof![Just(USAGE.ratchet_blocks), 8u64..80],
            hard_stop_blocks in prop_oneof![Just(USAGE.hard_stop_blocks), 8u64..80],
            failed_opens in prop_oneof![Just(USAGE.failed_opens), 1u64..7],
        ) {
            let usage = Usage { ratchet_blocks, hard_stop_blocks, failed_opens, ..USAGE };
            for provider in PROVIDERS {
                let mut both = Ends { single: ends(provider, usage), group: ends(provider, usage) };
                let (mut now, mut pn) = (0, 0);
                for (gap, cases, n, run, late) in &steps {
                    now += gap * S / 4;
                    let mut cases = cases.clone();
                    if *run {
                        // As they come from a sender, which is rare by chance.
                        for case in &mut cases {
                            (case.pn, case.len, case.off) = (pn, 64, 0);
                            pn += 1;
                        }
                    }
                    let at = now + u64::from(*late) * 2 * S;
                    let [a, b, c, d] = &cases;
                    match n {
                        2 => step(&mut both, now, at, [a, b])?,
                        3 => step(&mut both, now, at, [a, b, c])?,
                        _ => step(&mut both, now, at, [a, b, c, d])?,
                    }
                }
            }
        }
    }

    #[test]
    fn only_a_provider_that_gains_says_so() {
        for provider in PROVIDERS {
            let (tx, rx) = ends(provider, USAGE);
            assert_eq!(tx.group(), rx.group());
            assert!(tx.group() == 1 || provider == Provider::Aegis256);
        }
    }
}
