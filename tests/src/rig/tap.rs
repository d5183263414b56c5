//! What sits between a core and its backend in a rig.

use super::*;

/// What the wire below a [`Tap`] does to frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Damage {
    /// Chance that a frame is lost.
    pub drop: f64,
    /// Chance that a frame is cut short.
    pub cut: f64,
}

/// What a [`Tap`] does with the next frames, besides [`Damage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// Nothing.
    #[default]
    Off,
    /// Copies frames and sends them on.
    Copy,
    /// Keeps frames back: they never reach the wire.
    Withhold,
}

/// A backend that watches what leaves through another one.
pub struct Tap<B> {
    inner: B,
    rng: Rng,
    damage: Damage,
    to: SocketAddr,
    /// Last packet number in the data and the control space.
    last_pn: [Option<u64>; 2],
    /// Lost since the last flush.
    unreported: u64,
    lost: u64,
    committed: u64,
    /// What happens to the frames that follow.
    pub capture: Capture,
    /// Captured frames, oldest first.
    pub captured: Vec<Vec<u8>>,
}

impl<B: Backend> Tap<B> {
    /// A tap on `inner` whose damage follows `seed`.
    pub fn new(inner: B, damage: Damage, seed: u64) -> Tap<B> {
        Tap {
            inner,
            rng: Rng::new(seed),
            damage,
            to: A,
            last_pn: [None; 2],
            unreported: 0,
            lost: 0,
            committed: 0,
            capture: Capture::Off,
            captured: Vec::new(),
        }
    }

    /// Changes what happens to the frames that follow.
    pub fn set_damage(&mut self, damage: Damage) {
        self.damage = damage;
    }

    /// Frames that the tap kept from the wire.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Frames that the core has sent.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The packet number is the nonce: it must rise in each of the two spaces.
    fn check_nonce(&mut self, frame: &[u8]) {
        let pn = u64::from_le_bytes(frame[8..16].try_into().expect("eight bytes"));
        let last = &mut self.last_pn[(pn >> 63) as usize];
        assert!(
            last.is_none_or(|l| pn > l),
            "packet number {pn:#x} follows {last:x?}: a nonce would be used twice"
        );
        *last = Some(pn);
    }
}

impl<B: Backend> Backend for Tap<B> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize> {
        self.inner.recv(out)
    }

    fn release(&mut self, burst: Burst) {
        self.inner.release(burst);
    }

    fn claim(&mut self, to: &SocketAddr, len: usize) -> Option<TxFrame> {
        self.to = *to;
        self.inner.claim(to, len)
    }

    fn claim_marked(&mut self, to: &SocketAddr, with: (u16, u8), len: usize) -> Option<TxFrame> {
        self.to = *to;
        self.inner.claim_marked(to, with, len)
    }

    fn commit(&mut self, frame: TxFrame) {
        self.committed += 1;
        self.check_nonce(&frame);
        if self.capture != Capture::Off {
            self.captured.push(frame.to_vec());
        }
        let cut = self.rng.chance(self.damage.cut);
        let lose = self.rng.chance(self.damage.drop) || self.capture == Capture::Withhold;
        if !cut && !lose {
            return self.inner.commit(frame);
        }
        if lose {
            self.inner.cancel(frame);
        } else {
            let keep = 1 + self.rng.below(frame.len() as u64 - 1) as usize;
            let head = frame[..keep].to_vec();
            self.inner.cancel(frame);
            if let Some(mut short) = self.inner.claim(&self.to, keep) {
                short.copy_from_slice(&head);
                return self.inner.commit(short);
            }
        }
        self.unreported += 1;
        self.lost += 1;
    }

    fn cut(&mut self) {
        self.inner.cut();
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.inner.cancel(frame);
    }

    fn flush(&mut self) -> io::Result<FlushReport> {
        let mut report = self.inner.flush()?;
        // As with a wire: what is lost behind this end was sent.
        report.sent_frames += std::mem::take(&mut self.unreported);
        Ok(report)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.wait(timeout)
    }

    fn wakeup(&self) -> Arc<Wakeup> {
        self.inner.wakeup()
    }

    fn rx_capacity_bytes(&self) -> usize {
        self.inner.rx_capacity_bytes()
    }

    fn outstanding(&self) -> usize {
        self.inner.outstanding()
    }

    fn glance(&self) -> Stats {
        self.inner.glance()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}
