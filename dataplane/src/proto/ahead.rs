//! How many repair symbols leave with a slot, and how many more answer a deficit.
//!
//! More repair brings a slot home in half a round trip instead of one and a half, and costs bytes on
//! every slot. [`Ahead`] picks the number that makes delivery time x overhead smallest, under a bound
//! on the overhead, from the measured loss and how it clusters: in bursts, most slots lose nothing
//! and a few lose more than any sensible number of repair symbols covers, so that sending again when
//! the loss is known is the better use of the bytes.
//!
//! Of a transfer, what is to be delivered is all of it, not this slot. Nobody says how long it will
//! be; the best guess for what lasts is that it will last as long again. So the time counts that the
//! lane has had more to send than it could, as far as its window has room for slots that wait for an
//! answer: where it has none, they would hold up everything behind them.

use crate::base::limits::{MAX_DATA_SYMBOLS, MAX_REPAIR_SYMBOLS};

/// Time constant of the loss that repair is planned for, frames: some round trips' worth, so that
/// the plan follows the path and not the luck of single slots.
const LOSS_FRAMES: f32 = 4096.0;
/// Frames over which losses are counted to see how they cluster: longer than bursts are.
const CLUSTER_FRAMES: u32 = 512;
/// Such spans that the dispersion is smoothed over.
const CLUSTER_SPANS: f32 = 16.0;
/// A plan holds for so many frames.
const PLAN_FRAMES: u32 = 256;
/// Loss below which a path is clean: nothing is sent ahead.
const CLEAN: f32 = 0.0005;
/// Overhead that repair may have: so many times the loss, and a constant. With acknowledgements, at
/// most 0.4 %, that is below 1.5 x loss + 1 %.
const BUDGET: (f64, f64) = (1.5, 0.005);

/// Repair of a short slot from what the path's budget leaves is weighed at this part of its bytes: they
/// are few beside the rest of the path's.
const SPARED: f64 = 0.02;
/// Repair symbols of a short slot at most: what needs more is hit in a burst, and they with it.
const SHORT_MOST: u8 = 8;

/// Round trips of a transfer that are counted at most: beyond, repair only ever costs bytes.
const LONG_FLIGHTS: f64 = 64.0;
/// Slots in flight from which a window of 96 is short of room.
const CROWDED_SLOTS: f64 = 64.0;

/// Loss of one lane as repair sees it, and the plan made from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    loss: f32,
    frames: u64,
    span_frames: u32,
    span_lost: u32,
    /// Variance of losses in a span over what independent losses would have; 1 where they are.
    dispersion: f32,
    spans: u32,
    age: u32,
    plan: Plan,
    /// The last short slot planned for: its k, how many were in flight, its repair symbols.
    short: (u8, u64, u8),
}

/// Repair symbols for a slot of 64 data symbols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Sent with the slot.
    pub(super) ahead: u8,
    /// Sent beyond a known deficit.
    pub(super) extra: u8,
}

impl Ahead {
    pub(super) fn new() -> Ahead {
        Ahead {
            loss: 0.0,
            frames: 0,
            span_frames: 0,
            span_lost: 0,
            dispersion: 1.0,
            spans: 0,
            age: PLAN_FRAMES,
            plan: Plan::default(),
            short: (0, 0, 0),
        }
    }

    /// Takes how many of the next `n` frames were lost.
    pub(super) fn on_frames(&mut self, n: u64, lost: u64) {
        let lost = lost.min(n);
        if n == 0 {
            return;
        }
        self.frames = self.frames.saturating_add(n);
        // At first a plain mean, so that one early loss does not weigh like many.
        let n_f = n as f32;
        let weight = (n_f / LOSS_FRAMES).max(n_f / self.frames as f32).min(1.0);
        self.loss += (lost as f32 / n_f - self.loss) * weight;
        let n = n.min(u64::from(u32::MAX)) as u32;
        self.age = self.age.saturating_add(n);
        self.span_frames = self.span_frames.saturating_add(n);
        self.span_lost = self
            .span_lost
            .saturating_add(lost.min(u64::from(u32::MAX)) as u32);
        if self.span_frames >= CLUSTER_FRAMES {
            self.end_span();
        }
    }

    /// So many frames that counted as lost were only late.
    pub(super) fn on_healed(&mut self, frames: u64) {
        if frames == 0 {
            return;
        }
        let weight = (1.0 / LOSS_FRAMES).max(1.0 / self.frames.max(1) as f32);
        self.loss = (self.loss - frames as f32 * weight).max(0.0);
        let frames = frames.min(u64::from(u32::MAX)) as u32;
        self.span_lost = self.span_lost.saturating_sub(frames);
    }

    fn end_span(&mut self) {
        let n = self.span_frames as f32;
        let mean = n * self.loss;
        // Below one expected loss a span says little about clusters.
        if mean >= 1.0 {
            let off = self.span_lost as f32 - mean;
            let ratio = off * off / (mean * (1.0 - self.loss).max(0.1));
            self.spans = self.spans.saturating_add(1);
            let weight = (1.0 / CLUSTER_SPANS).max(1.0 / self.spans as f32);
            self.dispersion += (ratio.min(256.0) - self.dispersion) * weight;
        }
        (self.span_frames, self.span_lost) = (0, 0);
    }

    /// Smoothed share of frames lost, over a longer time than congestion control looks at.
    pub(super) fn loss(&self) -> f32 {
        self.loss
    }

    /// The plan for what is sent next. `in_flight` is how many slots the lane has under way: each waits for the
    /// slowest before it. `flights` is for how many round trips it has had more to send than it could.
    /// `left` is the part of the budget that other lanes of the path have not taken, 0..=1.
    pub(super) fn plan(&mut self, in_flight: u64, flights: u64, left: impl Fn() -> f64) -> Plan {
        if self.age >= PLAN_FRAMES {
            self.age = 0;
            self.short = (0, 0, 0);
            let loss = f64::from(self.loss.min(0.9));
            self.plan = plan(
                loss,
                f64::from(self.dispersion.max(1.0)),
                in_flight,
                flights,
                budget(loss) * left(),
            );
        }
        self.plan
    }

    /// Share of the bytes sent for the first time that repair and sending again may add; 0 on a
    /// clean path.
    pub(super) fn budget(&self) -> f64 {
        match self.loss {
            CLEAN.. => budget(f64::from(self.loss.min(0.9))),
            _ => 0.0,
        }
    }

    /// Repair symbols that would bring a slot of `k` symbols, of a lane with now and then a message, home
    /// at once, if the budget had them to spare.
    pub(super) fn short(&mut self, k: u8, in_flight: u64) -> u8 {
        if self.loss < CLEAN {
            return 0;
        }
        if (self.short.0, self.short.1) != (k, in_flight) {
            let loss = f64::from(self.loss.min(0.9));
            let n = short(loss, f64::from(self.dispersion.max(1.0)), k, in_flight);
            self.short = (k, in_flight, n);
        }
        self.short.2
    }
}

fn budget(p: f64) -> f64 {
    p * BUDGET.0 + BUDGET.1
}

/// The chance that any of `n` slots has what one has with `chance`.
fn any(chance: f64, n: i32) -> f64 {
    1.0 - (1.0 - chance).max(0.0).powi(n)
}

/// Chances of 0, 1, 2, ... losses of a mean and a variance: negative binomial, which is Poisson where
/// both are equal, and binomial where the variance is smaller.
struct Losses {
    x: f64,
    chance: f64,
    /// Of the recurrence `P(x + 1) = P(x) (a + b x) / (x + 1)` (Panjer's class).
    a: f64,
    b: f64,
}

impl Losses {
    fn new(mean: f64, dispersion: f64) -> Losses {
        let (a, b, none) = if !(1.0..=1.01).contains(&dispersion) {
            let r = mean / (dispersion - 1.0);
            let q = 1.0 - 1.0 / dispersion;
            (r * q, q, dispersion.powf(-r))
        } else {
            (mean, 0.0, (-mean).exp())
        };
        Losses {
            x: 0.0,
            chance: none,
            a,
            b,
        }
    }

    fn next(&mut self) -> f64 {
        let now = self.chance;
        self.chance *= (self.a + self.b * self.x) / (self.x + 1.0);
        self.x += 1.0;
        now
    }
}

fn plan(p: f64, dispersion: f64, in_flight: u64, flights: u64, budget: f64) -> Plan {
    let mut best = Plan::default();
    if p < f64::from(CLEAN) {
        return best;
    }
    let k = MAX_DATA_SYMBOLS as f64;
    let waits = in_flight.clamp(1, 96) as i32;
    let room = (1.0 - f64::from(waits) / CROWDED_SLOTS).max(0.0);
    let to_come = (flights as f64).min(LONG_FLIGHTS) * room;
    let mut least = f64::INFINITY;
    for ahead in 0..=MAX_REPAIR_SYMBOLS as u8 {
        let sent = f64::from(ahead);
        let mut losses = Losses::new((k + sent) * p, dispersion);
        let (mut fine, mut covered) = (0.0, 0.0);
        for x in 0..=ahead {
            let chance = losses.next();
            fine += chance;
            covered += chance * f64::from(x);
        }
        let late = (1.0 - fine).max(0.0);
        // Mean of what is missing beyond the repair symbols, where anything is.
        let missing = ((k + sent) * p - covered - late * sent).max(0.0);
        for extra in 0..=2u8 {
            let resent = (missing + late * f64::from(extra)) / (1.0 - p);
            let overhead = (sent + resent) / k;
            // With nothing to spare every lost answer costs another round trip.
            let answer = missing / late.max(1e-9) + f64::from(extra);
            let mut lost = Losses::new(answer * p, 1.0);
            let ok: f64 = (0..=extra).map(|_| lost.next()).sum();
            let later = late * (1.0 - ok).max(0.0);
            // Half a round trip, and another for each time that some slot before is late.
            let time = to_come + 0.5 + any(late, waits) + any(later, waits);
            let cost = time * (1.0 + overhead);
            // Where even sending again alone is beyond the budget, the cheapest is taken.
            let over = (overhead / budget.max(1e-9) - 1.0).max(0.0);
            let cost = if over > 0.0 { 1e6 * (1.0 + over) } else { cost };
            if cost < least {
                least = cost;
                best = Plan { ahead, extra };
            }
        }
        if sent / k > budget {
            break;
        }
    }
    best
}

/// See [`Ahead::short`]: the same trade for one slot, with bytes weighed by [`SPARED`].
fn short(p: f64, dispersion: f64, k: u8, in_flight: u64) -> u8 {
    let (k, waits) = (f64::from(k.max(1)), in_flight.clamp(1, 96) as i32);
    let (mut best, mut least) = (0, f64::INFINITY);
    for ahead in 0..=SHORT_MOST {
        let sent = f64::from(ahead);
        // Independent losses of a few symbols are binomial.
        let mut losses = Losses::new((k + sent) * p, dispersion * (1.0 - p));
        let fine: f64 = (0..=ahead).map(|_| losses.next()).sum();
        let cost = (0.5 + any((1.0 - fine).max(0.0), waits)) * (1.0 + SPARED * sent / k);
        if cost < least {
            (best, least) = (ahead, cost);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plan with all of the budget.
    fn plan(p: f64, dispersion: f64, in_flight: u64, flights: u64) -> Plan {
        super::plan(p, dispersion, in_flight, flights, budget(p))
    }

    #[test]
    fn a_clean_path_gets_nothing_and_a_lossy_one_stays_within_its_budget() {
        assert_eq!(plan(0.0, 1.0, 30, 0), Plan::default());
        assert_eq!(plan(0.0004, 1.0, 96, 0), Plan::default());
        // One symbol of 64 is 1.6 %: beyond what 0.1 % of loss may cost.
        assert_eq!(plan(0.001, 1.0, 30, 0).ahead, 0);
        assert_eq!(plan(0.01, 1.0, 1, 0).ahead, 1);
        // Among many slots one is late anyway: what counts is that its answer arrives.
        assert!(plan(0.01, 1.0, 60, 0).extra > 0);
        let at5 = plan(0.05, 1.0, 30, 0).ahead;
        assert!((3..=5).contains(&at5), "{at5}");
        for p in 1..40 {
            let loss = f64::from(p) / 100.0;
            let plan = plan(loss, 1.0, 30, 0);
            assert!(f64::from(plan.ahead) / 64.0 <= loss * BUDGET.0 + BUDGET.1);
        }
    }

    #[test]
    fn a_long_transfer_is_spared_what_only_hastens_a_slot() {
        for in_flight in [2, 8, 20] {
            assert_eq!(plan(0.01, 1.0, in_flight, 60), Plan::default());
        }
        // With hardly any room in the window, what waits holds up the transfer.
        assert_eq!(plan(0.01, 1.0, 80, 60), plan(0.01, 1.0, 80, 0));
        assert!(plan(0.05, 1.0, 60, 60).ahead > 0);
    }

    #[test]
    fn short_slots_are_sure_to_arrive_where_it_costs_little() {
        let at = |p, dispersion, k, in_flight| short(p, dispersion, k, in_flight);
        assert_eq!(at(0.01, 1.0, 1, 30), 1);
        assert_eq!(at(0.05, 1.0, 1, 30), 2);
        assert!((3..=5).contains(&at(0.05, 1.0, 8, 30)));
        // A burst takes the copy with the symbol.
        assert!(at(0.01, 19.0, 1, 30) <= 1);
        for loss in [0.0006, 0.3, 0.9] {
            assert!(at(loss, 256.0, 63, 96) <= SHORT_MOST);
        }
        let mut a = Ahead::new();
        assert_eq!((a.short(1, 30), a.budget()), (0, 0.0));
        a.on_frames(1000, 10);
        assert_eq!(a.short(1, 30), 1);
        assert!((a.budget() - 0.02).abs() < 1e-6);
    }

    #[test]
    fn bursts_are_answered_rather_than_prevented() {
        assert!(plan(0.05, 19.0, 30, 0).ahead < plan(0.05, 1.0, 30, 0).ahead);
        assert_eq!(plan(0.01, 19.0, 30, 0).ahead, 0);
    }

    #[test]
    fn chances_add_up() {
        for (mean, dispersion) in [(0.5, 1.0), (0.6, 0.95), (3.2, 1.0), (3.2, 5.0), (8.0, 20.0)] {
            let mut l = Losses::new(mean, dispersion);
            let (mut sum, mut expected) = (0.0, 0.0);
            for x in 0..2000 {
                let p = l.next();
                sum += p;
                expected += p * f64::from(x);
            }
            assert!((sum - 1.0).abs() < 1e-6, "{mean} {dispersion} {sum}");
            assert!((expected - mean).abs() < 1e-3, "{expected}");
        }
    }

    #[test]
    fn bursts_show_in_the_dispersion() {
        let dispersion = |burst: u64| {
            let mut a = Ahead::new();
            let mut x = 1u64;
            for _ in 0..4000 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Runs of 32 frames that lose 2 %, singly or `burst` at once.
                let chance = 0.02 * 32.0 / burst as f64;
                let hit = (x >> 11) as f64 / (1u64 << 53) as f64 <= chance;
                let lost = if hit { burst } else { 0 };
                a.on_frames(32, lost);
            }
            assert!((a.loss() - 0.02).abs() < 0.008, "{}", a.loss());
            a.dispersion
        };
        let (single, ten) = (dispersion(1), dispersion(10));
        assert!(single < 3.0 && ten > 5.0, "{single} {ten}");
    }

    #[test]
    fn nothing_breaks_at_the_ends() {
        for loss in [0.0, 0.3, 0.6, 0.9, 1.0] {
            for dispersion in [1.0, 1.02, 50.0, 256.0] {
                let p = plan(loss, dispersion, 96, 0);
                assert!(p.ahead <= 32 && p.extra <= 2);
            }
        }
        let mut a = Ahead::new();
        a.on_frames(u64::MAX, u64::MAX);
        a.on_frames(1, 0);
        a.on_frames(u64::MAX, u64::MAX);
        assert!(a.plan(0, 0, || 1.0).ahead <= 32);
    }
}
