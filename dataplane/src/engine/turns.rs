//! Whose turn it is on a core, and how much may leave in it: deficit round robin (Shreedhar and
//! Varghese 1995) over the core's lanes, in bytes, by weight.
//!
//! It decides where the core or its backend is the limit. Where the path is, its lanes already share
//! rate and window by weight ([`crate::proto::path`]).

/// Bytes that the heaviest lane may send in one turn: eight GSO super-packets, so that a round stays
/// short and fits the L2 cache.
const TURN_BYTES: u64 = 512 << 10;
/// Frames, however short: so many take about as long.
pub(super) const TURN_FRAMES: usize = 352;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Turns {
    /// By place of the lane: what it sent beyond its turn, as a number below zero.
    deficits: Vec<i64>,
    heaviest: u32,
    first: usize,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns {
            deficits: Vec::new(),
            heaviest: 1,
            first: 0,
        }
    }

    /// A lane takes this place.
    pub(super) fn join(&mut self, place: usize) {
        if place >= self.deficits.len() {
            self.deficits.resize(place + 1, 0);
        }
        self.deficits[place] = 0;
    }

    /// Looks at the weights of the lanes again.
    pub(super) fn weigh(&mut self, weights: impl Iterator<Item = u32>) {
        self.heaviest = weights.fold(1, u32::max);
    }

    /// The place of the `i`-th turn in this round of `n`: another one begins each time, so that a
    /// full backend starves nobody.
    pub(super) fn place(&self, i: usize, n: usize) -> usize {
        (self.first + i) % n.max(1)
    }

    /// The round is over.
    pub(super) fn next_round(&mut self, n: usize) {
        self.first = (self.first + 1) % n.max(1);
    }

    /// Bytes that the lane at `place` may send now: a frame may begin while they are above zero. The
    /// heaviest lane gets a whole quantum, the others their part of it.
    pub(super) fn begin(&self, place: usize, weight: u32) -> i64 {
        let part = TURN_BYTES * u64::from(weight) / u64::from(self.heaviest.max(weight).max(1));
        self.deficits.get(place).copied().unwrap_or(0) + part.max(1) as i64
    }

    /// The turn is over and `left` bytes of it are. What a lane does not use is not kept, what it took
    /// too much is.
    pub(super) fn end(&mut self, place: usize, left: i64) {
        if let Some(d) = self.deficits.get_mut(place) {
            *d = left.min(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes sent by lanes of (weight, frame length) that always have more, of a backend that takes
    /// `room` bytes a round.
    fn serve(lanes: &[(u32, usize)], rounds: usize, room: i64) -> Vec<i64> {
        let mut t = Turns::new();
        (0..lanes.len()).for_each(|i| t.join(i));
        t.weigh(lanes.iter().map(|&(weight, _)| weight));
        let mut sent = vec![0; lanes.len()];
        for _ in 0..rounds {
            let mut room = room;
            for i in 0..lanes.len() {
                let at = t.place(i, lanes.len());
                let (weight, frame) = lanes[at];
                let mut left = t.begin(at, weight);
                while left > 0 && room > 0 {
                    left -= frame as i64;
                    room -= frame as i64;
                    sent[at] += frame as i64;
                }
                t.end(at, left);
            }
            t.next_round(lanes.len());
        }
        sent
    }

    #[test]
    fn bytes_follow_weights_whatever_the_frames() {
        let sent = serve(&[(8, 1448), (1, 1448), (1, 104), (4, 8936)], 2000, i64::MAX);
        let unit = sent[1] as f64;
        for (got, want) in sent.iter().zip([8.0, 1.0, 1.0, 4.0]) {
            let ratio = *got as f64 / unit;
            assert!((ratio / want - 1.0).abs() < 0.01, "{sent:?}");
        }
        // The smallest part of a quantum is less than a frame: it adds up.
        let sent = serve(&[(1000, 8936), (1, 8936)], 20_000, i64::MAX);
        let ratio = sent[0] as f64 / sent[1] as f64;
        assert!((ratio / 1000.0 - 1.0).abs() < 0.02, "{ratio}");
    }

    #[test]
    fn a_full_backend_starves_nobody() {
        let sent = serve(&[(1, 1448); 5], 1000, 100_000);
        let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(*least as f64 > *most as f64 * 0.9, "{sent:?}");
    }

    #[test]
    fn nothing_is_saved_up() {
        let mut t = Turns::new();
        t.join(0);
        let whole = t.begin(0, 1);
        t.end(0, whole);
        assert_eq!(t.begin(0, 1), whole);
        t.end(0, -500);
        assert_eq!(t.begin(0, 1), whole - 500);
    }
}
