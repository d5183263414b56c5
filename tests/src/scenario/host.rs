//! A lane's two ends, and what they count.

use super::{App, FULL, HEADERS, Scenario};
use ctp96::base::Nanos;
use ctp96::base::limits::{FRAME_OVERHEAD, WINDOW_SLOTS};
use ctp96::crypto::replay::ReplayWindow;
use ctp96::proto::{
    Admit, CcConfig, LaneRx, LaneRxConfig, LaneTx, LaneTxConfig, Path, PathLane, SymbolKind,
    TxSymbol,
};
use ctp96::wire::Message;
use ctp96::wire::ack::Ack;
use std::collections::VecDeque;
use std::sync::Arc;

/// Frames that a lane may send in one round, as in the engine.
const TX_BUDGET: usize = 176;

/// Slots of a lane that can hold repair symbols at once, see `stage::bufs_per_lane`.
const REPAIR_SLOTS: usize = WINDOW_SLOTS / 6;

/// Bytes on the wire and slots, from a point in time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) first: u64,
    pub(crate) repair: u64,
    pub(crate) resent: u64,
    pub(crate) control: u64,
    /// Payload delivered in order.
    pub(crate) delivered: u64,
    pub(crate) repair_symbols: u64,
    pub(crate) resent_symbols: u64,
}

/// The sending end with its application.
pub(crate) struct Sender {
    pub(crate) tx: LaneTx,
    app: App,
    symbol_len: u16,
    pub(crate) start: Nanos,
    pushed: u64,
    next_message: Nanos,
    last_pn: Option<u64>,
}

/// The receiving end with its application, which takes every slot at once.
pub(crate) struct Receiver {
    pub(crate) rx: LaneRx,
    replay: ReplayWindow,
    released: u64,
    /// Open slots that hold repair symbols.
    with_repair: Vec<u64>,
    /// Repair symbols that found no room.
    pub(crate) refused: u64,
    /// Due time (of a message) or first transmission of slots not yet delivered, oldest first.
    pub(crate) begun: VecDeque<Nanos>,
    lens: VecDeque<u64>,
}

impl Sender {
    /// The path that a session's lanes share.
    pub(crate) fn path(s: &Scenario, session: usize) -> Arc<Path> {
        let of = &s.sessions[session];
        Path::new(&Self::cc(s, session), of.lanes.len())
    }

    fn cc(s: &Scenario, session: usize) -> CcConfig {
        CcConfig {
            kind: s.sessions[session].cc,
            max_rate: None,
            frame: u64::from(s.symbol_len()) + FRAME_OVERHEAD as u64,
            initial_rtt: s.path.rtt,
            seed: s.seed ^ ((session as u64) << 32),
        }
    }

    pub(crate) fn new(s: &Scenario, session: usize, lane: usize, path: &Arc<Path>) -> Sender {
        let symbol_len = s.symbol_len();
        let of = &s.sessions[session];
        let end = PathLane::new(path.clone(), lane);
        end.set_weight(of.weights.get(lane).copied().unwrap_or(1));
        let cfg = LaneTxConfig {
            window_slots: WINDOW_SLOTS as u8,
            symbol_len,
            inflight_limit: 256 << 10,
            repair_ahead: s.repair_ahead,
            cc: Self::cc(s, session),
        };
        Sender {
            tx: LaneTx::on_path(cfg, end),
            app: of.lanes[lane],
            symbol_len,
            start: of.start,
            pushed: 0,
            next_message: of.start,
            last_pn: None,
        }
    }

    /// The application's turn.
    fn fill(&mut self, now: Nanos, to: &mut Receiver) {
        while self.tx.can_push() {
            let (k, len) = match self.app {
                App::Bulk => (FULL, self.symbol_len),
                App::Messages { every, len } => {
                    if self.next_message > now {
                        return;
                    }
                    to.begun.push_back(self.next_message);
                    self.next_message += every;
                    (1, len)
                }
            };
            assert!(self.tx.push_slot(self.pushed, k, len));
            to.lens.push_back(u64::from(k) * u64::from(len));
            self.pushed += 1;
        }
    }

    /// One round; gives whether there may be more to send at once.
    pub(crate) fn pump(
        &mut self,
        now: Nanos,
        to: &mut Receiver,
        count: &mut Count,
        mut send: impl FnMut(u64, TxSymbol),
    ) -> bool {
        if now < self.start {
            return false;
        }
        self.fill(now, to);
        self.tx.on_timeout(now);
        for _ in 0..TX_BUDGET {
            let Some(s) = self.tx.poll_send(now) else {
                return false;
            };
            assert!(
                self.last_pn.is_none_or(|p| s.pn > p),
                "packet number used twice"
            );
            assert!(s.slot < to.rx.credit(), "sent beyond the credit");
            self.last_pn = Some(s.pn);
            let len = u64::from(s.symbol_len) + FRAME_OVERHEAD as u64 + HEADERS;
            match s.kind {
                SymbolKind::First => count.first += len,
                SymbolKind::Repair => {
                    count.repair += len;
                    count.repair_symbols += 1;
                }
                SymbolKind::Resent => {
                    count.resent += len;
                    count.resent_symbols += 1;
                }
            }
            if s.kind == SymbolKind::First && s.index == 0 && self.app == App::Bulk {
                to.begun.push_back(now);
            }
            send(len, s);
        }
        true
    }

    /// When the lane wants to act next, if nothing arrives.
    pub(crate) fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        if now < self.start {
            return Some(self.start);
        }
        let message = match self.app {
            App::Messages { .. } if self.tx.can_push() => Some(self.next_message),
            _ => None,
        };
        [self.tx.next_timeout(now), message]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn on_ack(&mut self, now: Nanos, ack: &Ack) {
        let out = self.tx.on_ack(now, ack, |_| {});
        assert_eq!(out.rejected, None, "an honest receiver's acknowledgement");
    }
}

impl Receiver {
    pub(crate) fn new(s: &Scenario) -> Receiver {
        Receiver {
            rx: LaneRx::new(LaneRxConfig {
                window_slots: WINDOW_SLOTS as u8,
                max_symbol_len: s.symbol_len(),
            }),
            replay: ReplayWindow::new(),
            released: 0,
            with_repair: Vec::with_capacity(REPAIR_SLOTS),
            refused: 0,
            begun: VecDeque::new(),
            lens: VecDeque::new(),
        }
    }

    /// A frame that verified; `now` by the receiver's clock.
    pub(crate) fn on_symbol(&mut self, now: Nanos, s: &TxSymbol, ce: bool) {
        if !self.replay.check(s.pn) || !self.repair_room(s) {
            return;
        }
        self.replay.commit(s.pn);
        if ce {
            self.rx.on_ecn(3);
        }
        match self.rx.admit(s.slot as u32, s.index, s.k, s.symbol_len) {
            Admit::Store { slot, .. } => {
                assert_eq!(slot, s.slot);
                self.rx.stored(now, slot, s.index, s.k, s.symbol_len, s.pn);
            }
            Admit::Duplicate => self.rx.duplicate(now, s.pn),
            other => panic!("{other:?}"),
        }
    }

    /// A lane core has room for the repair symbols of a sixth of its window's slots, and refuses those
    /// of others.
    fn repair_room(&mut self, s: &TxSymbol) -> bool {
        let rx = &self.rx;
        self.with_repair.retain(|&slot| rx.is_open(slot));
        if s.index < s.k || self.with_repair.contains(&s.slot) {
            return true;
        }
        let Admit::Store { slot, .. } = rx.admit(s.slot as u32, s.index, s.k, s.symbol_len) else {
            return true;
        };
        if self.with_repair.len() >= REPAIR_SLOTS {
            self.refused += 1;
            return false;
        }
        // What completes its slot is used at once.
        if rx.slot_have(slot).len() + 1 < usize::from(s.k) {
            self.with_repair.push(slot);
        }
        true
    }

    /// The application takes what is complete; gives payload bytes. `true_now` is the sender's
    /// clock, `latency` takes nanoseconds from begin to delivery of each slot.
    pub(crate) fn take(
        &mut self,
        true_now: Nanos,
        now: Nanos,
        mut latency: impl FnMut(Nanos),
    ) -> u64 {
        let mut bytes = 0;
        let base = self.rx.base();
        if base > self.released {
            for _ in self.released..base {
                if let (Some(from), Some(len)) = (self.begun.pop_front(), self.lens.pop_front()) {
                    latency(true_now.saturating_sub(from));
                    bytes += len;
                }
            }
            self.released = base;
            self.rx.released(now, base);
        }
        bytes
    }

    /// The acknowledgement that is due, and its bytes on the wire: a control frame with the witness
    /// that a daemon sends along.
    pub(crate) fn ack(&mut self, now: Nanos, inflight_limit: u32) -> Option<(u64, Ack)> {
        if !self.rx.ack_due(now) {
            return None;
        }
        let ack = self.rx.build_ack(now, self.released, inflight_limit);
        let witness = Message::Witness {
            upto: 0,
            level: 0,
            chain: [0; 32],
        };
        let body = Message::Ack(ack).encoded_len() + witness.encoded_len();
        Some(((body + FRAME_OVERHEAD) as u64 + HEADERS, ack))
    }
}
