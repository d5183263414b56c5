//! The screen without a terminal and without a daemon.

use super::*;
use ctp96::base::Bits96;
use ctp96::codec::Policy;
use ctp96::control::api::{
    CounterRow, CountersReply, HistReply, HistRow, LanesReply, MemoryReply, StatusReply,
};
use ctp96::engine::{EngineInfo, LaneInfo, SessionInfo};
use ctp96::obs::{Hist, Histogram};
use ctp96::stage::LaneStatus;
use ratatui::style::{Color, Modifier};

/// A lane with so many slots on their way to the peer.
pub fn lane(session: u32, number: u8, slots: usize) -> Lane {
    Lane {
        info: LaneInfo {
            session,
            status: LaneStatus {
                lane: number,
                tx_slots: Bits96::first(slots),
                in_flight: 1 << 20,
                srtt_ns: 250_000,
                ..LaneStatus::default()
            },
            closed: None,
        },
        peer: "archive".into(),
        out_slots: 0.0,
        in_slots: 0.0,
    }
}

fn status(sessions: usize, lanes: usize) -> StatusReply {
    StatusReply {
        version: "0.1.0".into(),
        pid: 1,
        listen: "192.0.2.1:9696".into(),
        uptime_s: 3.5,
        engine: EngineInfo {
            public_key: "k".into(),
            cores: vec![],
            symbol_len: 1024,
            mtu: 1500,
            mtu_discovery: true,
            ecn: true,
            window_slots: 96,
            verify: "fast".into(),
            suite: "s".into(),
            provider: "p".into(),
            provider_why: "w".into(),
            fec_kernel: "f".into(),
            backend_why: "b".into(),
            boot_id: 7,
        },
        memory: MemoryReply {
            total_bytes: 1 << 30,
            lent_bytes: 1 << 28,
            buffer_bytes: 65_536,
            buffers_per_lane: 211,
            lane_bytes: 211 << 16,
            session_bytes: 211 << 18,
            huge_pages: false,
            resident_bytes: 0,
        },
        peers: 1,
        sessions,
        lanes,
        jobs_active: 1,
        compression: Policy::None,
        state_dir: "/var/lib/ctp96".into(),
        xdp: vec![],
        paths: vec![],
    }
}

/// A look at a node with one session: everything counted stands at `n`.
fn look(at: Instant, lanes: u8, n: u64, seal: &Histogram) -> Look {
    let counters: Vec<u64> = Counter::ALL.iter().map(|_| n).collect();
    let mut infos: Vec<LaneInfo> = (0..lanes).map(|i| lane(0xbeef, i, 10).info).collect();
    for l in &mut infos {
        (l.status.tx_acked, l.status.lost) = (n / 1000, n / 100);
    }
    Look {
        at,
        status: status(1, usize::from(lanes)),
        lanes: LanesReply {
            lanes: infos,
            sessions: vec![SessionInfo {
                index: 0xbeef,
                peer: "archive".into(),
                peer_key: "k".into(),
                addr: "192.0.2.2:9696".into(),
                initiator: true,
                lanes: usize::from(lanes),
                suite: "s".into(),
                symbol_len: 1024,
                age_s: 1.0,
                quiet_s: 0.0,
                srtt_ns: 250_000,
            }],
        },
        counters: CountersReply {
            counters: CounterRow::all(&counters),
            check: None,
        },
        hists: HistReply {
            hists: vec![
                HistRow::of(Hist::Rtt, &Histogram::new().snapshot()),
                HistRow::of(Hist::StageSeal, &seal.snapshot()),
            ],
        },
    }
}

fn args() -> TopArgs {
    TopArgs {
        every: Duration::from_secs(2),
        once: false,
        sort: LaneOrder::Lane,
        no_colour: true,
    }
}

/// A node that did 5 GB each way in two seconds, on so many lanes.
fn app(lanes: u8) -> App {
    let (seal, start) = (Histogram::new(), Instant::now());
    seal.record_n(40_000_000, 10);
    let before = look(start, lanes, 0, &seal);
    seal.record_n(50_000_000, 10);
    let after = look(start + Duration::from_secs(2), lanes, 5_000_000_000, &seal);
    let mut app = App::new(&args());
    app.view = Some(View::between(&before, &after));
    app
}

fn screen(app: &App, width: u16, height: u16) -> (Vec<String>, Terminal<TestBackend>) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
    terminal.draw(|f| view::draw(f, app)).expect("it draws");
    let rows = terminal.backend().buffer().content().chunks(width.into());
    let lines = rows
        .map(|r| r.iter().map(|c| c.symbol()).collect())
        .collect();
    (lines, terminal)
}

fn press(app: &mut App, code: KeyCode) -> bool {
    app.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn everything_is_on_eighty_by_twenty_four() {
    let (lines, _) = screen(&app(4), 80, 24);
    let text = lines.join("\n");
    for want in [
        "ctp96 top  192.0.2.1:9696 up 3.50 s  1 sessions, 4 lanes",
        "out    2.50 GB/s [##......................] 10.0 % of 25 GB/s, wire 2.50 GB/s",
        "in     2.50 GB/s",
        "lost 100M (4.00 %)",
        "over 2.00 s",
        "session 0000beef archive 192.0.2.2:9696, 1.00 s old",
        ">archive      0000beef    0",
        "window out: 40 of 384 slots",
        "p00 #####.",
        "q end  p pause",
    ] {
        // 4 lanes of 25 million lost frames a second each are 100 million.
        let want = want.replace("100M", "100.0M");
        assert!(text.contains(&want), "{want}:\n{text}");
    }
    // 10 times 50 ms in 2 s are a quarter of a core.
    let seal = lines.iter().find(|l| l.starts_with("seal")).expect("a row");
    assert!(seal.contains(" 5.0 ") && seal.contains("25%"), "{seal}");
    assert!(lines.iter().any(|l| l.starts_with("rtt                -")));
    assert!(text.is_ascii());
    assert!(lines.iter().all(|l| l.len() == 80));
}

#[test]
fn many_lanes_scroll_and_the_map_shrinks() {
    let mut a = app(128);
    let (lines, _) = screen(&a, 80, 24);
    let text = lines.join("\n");
    assert!(text.contains("1-4 of 128"), "{text}");
    assert!(text.contains("1280 of 12288 slots"), "{text}");
    assert!(text.contains("p40"), "{text}");
    assert!(press(&mut a, KeyCode::End));
    let text = screen(&a, 80, 24).0.join("\n");
    assert!(text.contains("125-128 of 128"), "{text}");
    assert!(text.contains(">archive      0000beef  127"), "{text}");
    // A large terminal has room for all of them.
    let text = screen(&a, 320, 190).0.join("\n");
    assert!(!text.contains(" of 128 "), "{text}");
}

#[test]
fn keys_work() {
    let mut a = app(3);
    assert_eq!(a.selected, None);
    assert!(press(&mut a, KeyCode::Down) && press(&mut a, KeyCode::Char('j')));
    assert_eq!(a.selected, Some((0xbeef, 2)));
    assert!(press(&mut a, KeyCode::Down) && a.selected == Some((0xbeef, 2)));
    assert!(press(&mut a, KeyCode::Up) && a.selected == Some((0xbeef, 1)));
    assert!(press(&mut a, KeyCode::Home) && a.selected == Some((0xbeef, 0)));
    assert!(press(&mut a, KeyCode::Char('p')) && a.paused);
    assert!(screen(&a, 80, 24).0[0].contains("PAUSED"));
    assert!(press(&mut a, KeyCode::Char('p')) && !a.paused);
    for order in ["rate", "flight", "rtt", "loss", "lane"] {
        assert!(press(&mut a, KeyCode::Char('s')));
        assert_eq!(a.order_name(), order);
    }
    assert!(press(&mut a, KeyCode::Char('d')));
    assert!(
        screen(&a, 80, 24)
            .0
            .join("\n")
            .contains("window in: 0 of 288")
    );
    assert!(press(&mut a, KeyCode::Char('?')) && a.help);
    assert!(
        screen(&a, 80, 24)
            .0
            .join("\n")
            .contains("any key goes back")
    );
    assert!(press(&mut a, KeyCode::Char('x')) && !a.help);
    assert!(!press(&mut a, KeyCode::Char('q')));
    assert!(!a.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn without_colour_only_characters_speak() {
    let mut a = app(4);
    let colours = |a: &App| {
        let (_, terminal) = screen(a, 80, 24);
        let cells = terminal.backend().buffer().content().to_vec();
        let painted = cells
            .iter()
            .filter(|c| c.fg != Color::Reset || c.bg != Color::Reset);
        let marked = cells
            .iter()
            .filter(|c| c.modifier.contains(Modifier::REVERSED));
        (painted.count(), marked.count())
    };
    assert_eq!(colours(&a).0, 0);
    // The selected lane's row, and its 96 slots on the map.
    assert_eq!(colours(&a).1, 80 + 96 / 2);
    let plain = screen(&a, 80, 24).0;
    a.colour = true;
    assert!(colours(&a).0 > 100);
    assert_eq!(plain, screen(&a, 80, 24).0);
}

#[test]
fn nothing_to_show_and_no_room_are_said() {
    let mut a = app(0);
    let text = screen(&a, 80, 24).0.join("\n");
    assert!(text.contains("no sessions, so no lanes"), "{text}");
    assert!(text.contains("window: no session"), "{text}");
    assert!(screen(&a, 60, 10).0[0].contains("needs 80x24"));
    a.trouble = Some("no control socket at /x".into());
    assert!(screen(&a, 80, 24).0[0].contains("no control socket at /x"));
    a.view = None;
    assert!(screen(&a, 80, 24).0[0].contains("no control socket at /x"));
    assert!(press(&mut a, KeyCode::Down) && press(&mut a, KeyCode::Char('d')));
}

#[test]
fn a_page_has_every_lane_and_no_keys() {
    let mut a = app(40);
    a.once = true;
    let text = page(&a).expect("a page");
    assert_eq!(text.matches("0000beef ").count(), 40 + 1);
    assert!(!text.contains("q end") && text.ends_with('\n'));
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_restarted_daemon_counts_from_zero() {
    let (seal, start) = (Histogram::new(), Instant::now());
    seal.record(1_000);
    let before = look(start, 1, 1_000_000, &seal);
    let mut after = look(start + Duration::from_secs(1), 1, 2_000, &seal);
    after.status.engine.boot_id = 8;
    let v = View::between(&before, &after);
    assert_eq!(v.rate(Counter::TxFrames), 2_000.0);
    assert_eq!((v.lost, v.lanes[0].out_slots), (20.0, 2.0));
    assert_eq!(v.stages[1].per_s, 1.0);
}
