//! What `ctp96 top` shows: two looks at the daemon, and what changed between them.

use crate::cli::LaneOrder;
use crate::hist::since;
use ctp96::control::api::{CountersReply, HistReply, HistRow, LanesReply, Request, StatusReply};
use ctp96::control::client::{Client, ClientError};
use ctp96::engine::{LaneInfo, SessionInfo};
use ctp96::obs::Counter;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One look at the daemon.
#[derive(Debug, Clone)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// The node.
    pub status: StatusReply,
    /// Lanes and sessions.
    pub lanes: LanesReply,
    /// Counters.
    pub counters: CountersReply,
    /// Histograms.
    pub hists: HistReply,
}

impl Look {
    /// Asks for everything.
    ///
    /// # Errors
    /// The daemon is not there, or refuses.
    pub fn take(client: &mut Client) -> Result<Look, ClientError> {
        Ok(Look {
            status: client.call(&Request::Status)?,
            lanes: client.call(&Request::Lanes)?,
            hists: client.call(&Request::Hist { lane: None })?,
            counters: client.call(&Request::Counters { check: false })?,
            at: Instant::now(),
        })
    }

    fn counter(&self, c: Counter) -> u64 {
        let row = self.counters.counters.iter().find(|r| r.name == c.name());
        row.map_or(0, |r| r.value)
    }
}

/// A lane is known by session and number.
pub type LaneKey = (u32, u8);

/// A lane over the last interval.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Its figures now.
    pub info: LaneInfo,
    /// Peer name.
    pub peer: String,
    /// Slots a second that the peer completed.
    pub out_slots: f64,
    /// Slots a second that the application here gave back.
    pub in_slots: f64,
}

impl Lane {
    /// What it is known by.
    pub fn key(&self) -> LaneKey {
        (self.info.session, self.info.status.lane)
    }
}

/// A stage over the last interval.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Name of its histogram, without `stage_`.
    pub name: String,
    /// Values a second.
    pub per_s: f64,
    /// Median, nanoseconds.
    pub p50: u64,
    /// 99th percentile, nanoseconds.
    pub p99: u64,
    /// Share of one core, per cent; `None` for what is no work but waiting, as a round trip.
    pub busy: Option<f64>,
}

/// What one screen says.
#[derive(Debug, Clone)]
pub struct View {
    /// The node now.
    pub status: StatusReply,
    /// Sessions now.
    pub sessions: Vec<SessionInfo>,
    /// Length of the interval.
    pub span: Duration,
    rates: HashMap<Counter, f64>,
    /// Frames that our senders found lost, a second.
    pub lost: f64,
    /// By session, then number.
    pub lanes: Vec<Lane>,
    /// In the order of the table of histograms.
    pub stages: Vec<Stage>,
}

impl View {
    /// What changed from one look to the next. A daemon that was restarted in between counts from
    /// zero.
    pub fn between(before: &Look, now: &Look) -> View {
        let span = now.at.saturating_duration_since(before.at);
        let seconds = span.as_secs_f64().max(1e-3);
        let same = before.status.engine.boot_id == now.status.engine.boot_id;
        let gained = |now: u64, before: u64| {
            let n = if same {
                now.saturating_sub(before)
            } else {
                now
            };
            n as f64 / seconds
        };
        let rate = |&c: &Counter| (c, gained(now.counter(c), before.counter(c)));
        let old: HashMap<LaneKey, &LaneInfo> = before
            .lanes
            .lanes
            .iter()
            .filter(|_| same)
            .map(|l| ((l.session, l.status.lane), l))
            .collect();
        let mut lost = 0.0;
        let lane = |l: &LaneInfo| {
            let was = old.get(&(l.session, l.status.lane)).map(|l| &l.status);
            let per_s = |now: u64, was: Option<u64>| gained(now, was.unwrap_or(0));
            lost += per_s(l.status.lost, was.map(|w| w.lost));
            let session = now.lanes.sessions.iter().find(|s| s.index == l.session);
            Lane {
                info: l.clone(),
                peer: session.map_or_else(|| "?".to_owned(), |s| s.peer.clone()),
                out_slots: per_s(l.status.tx_acked, was.map(|w| w.tx_acked)),
                in_slots: per_s(l.status.rx_released, was.map(|w| w.rx_released)),
            }
        };
        let mut lanes: Vec<Lane> = now.lanes.lanes.iter().map(lane).collect();
        lanes.sort_by_key(Lane::key);
        let stage = |row: &HistRow| {
            let was = before.hists.hists.iter().find(|b| b.name == row.name);
            let values = match was.filter(|_| same).and_then(HistRow::values) {
                Some(old) => since(&row.values()?, &old),
                None => row.values()?,
            };
            let short = row.name.strip_prefix("stage_");
            let busy = values.mean() * values.len() as f64 / (seconds * 1e9) * 100.0;
            Some(Stage {
                name: short.unwrap_or(&row.name).to_owned(),
                per_s: values.len() as f64 / seconds,
                p50: values.value_at_quantile(0.5),
                p99: values.value_at_quantile(0.99),
                busy: short.map(|_| busy),
            })
        };
        View {
            status: now.status.clone(),
            sessions: now.lanes.sessions.clone(),
            span,
            rates: Counter::ALL.iter().map(rate).collect(),
            stages: now.hists.hists.iter().filter_map(stage).collect(),
            lost,
            lanes,
        }
    }

    /// How much a counter grows in a second.
    pub fn rate(&self, c: Counter) -> f64 {
        self.rates.get(&c).copied().unwrap_or(0.0)
    }

    /// Share of the frames that left and were found lost, per cent; in an interval with few frames
    /// some of them may be of the one before.
    pub fn loss_percent(&self) -> f64 {
        let sent = self.rate(Counter::TxFramesSent);
        if sent > 0.0 {
            (self.lost / sent * 100.0).min(100.0)
        } else {
            0.0
        }
    }

    /// The lanes in an order.
    pub fn ordered(&self, order: LaneOrder) -> Vec<&Lane> {
        let mut lanes: Vec<&Lane> = self.lanes.iter().collect();
        match order {
            LaneOrder::Lane => {}
            LaneOrder::Rate => lanes.sort_by(|a, b| {
                let total = |l: &Lane| l.out_slots + l.in_slots;
                total(b).total_cmp(&total(a))
            }),
            LaneOrder::Flight => lanes.sort_by_key(|l| Reverse(l.info.status.in_flight)),
            LaneOrder::Rtt => lanes.sort_by_key(|l| Reverse(l.info.status.srtt_ns)),
            LaneOrder::Loss => lanes.sort_by_key(|l| Reverse(l.info.status.lost)),
        }
        lanes
    }

    /// Lanes of one session, by number.
    pub fn lanes_of(&self, session: u32) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(move |l| l.info.session == session)
    }
}
