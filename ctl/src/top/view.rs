//! The screen of `ctp96 top`.
//!
//! ASCII only, and everything is said by characters: colours and reversed cells only repeat it.

use super::App;
use super::atlas::{Atlas, Direction};
use super::figures::{decimal, short};
use super::model::{Lane, View};
use ctp96::base::limits::TARGET_BYTES_PER_S;
use ctp96::obs::Counter;
use ctp96::obs::text::{duration, percent_of_target, rate};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// The smallest screen that holds every part.
pub const MIN_WIDTH: u16 = 80;
/// See [`MIN_WIDTH`].
pub const MIN_HEIGHT: u16 = 24;
/// Rows above the lanes, with their heading, and those of the second heading and the keys.
const FIXED: u16 = 9;
/// Row of the heading of the lanes.
const LANES: u16 = 6;
/// Rows for stages and map: one for each histogram.
const LOWER: u16 = 11;
/// Columns of the stages.
const STAGES: u16 = 44;
/// Columns before the first cell of the map.
const PAGE_LABEL: usize = 4;
/// Characters of a rate's bar.
const BAR: usize = 24;
/// From an empty cell of the map to a full one.
const HEAT: [Color; 8] = [
    Color::DarkGray,
    Color::Blue,
    Color::Cyan,
    Color::Green,
    Color::LightGreen,
    Color::Yellow,
    Color::LightRed,
    Color::Red,
];

/// Rows that show every lane, for a frame that goes to no screen.
pub fn whole_height(view: &View) -> u16 {
    let lanes = u16::try_from(view.lanes.len().max(3)).unwrap_or(u16::MAX);
    lanes.min(1024) + FIXED + LOWER
}

/// Draws everything.
pub fn draw(frame: &mut Frame, app: &App) {
    let (area, buf) = (frame.area(), frame.buffer_mut());
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        let text = format!(
            "ctp96 top needs {MIN_WIDTH}x{MIN_HEIGHT}, this terminal has {}x{}; q ends",
            area.width, area.height
        );
        put(buf, 0, 0, area.width, Line::raw(text));
        return;
    }
    let look = Look {
        colour: app.colour,
        area,
    };
    if app.help {
        return help(buf, &look);
    }
    let Some(view) = &app.view else {
        let text = app
            .trouble
            .as_deref()
            .unwrap_or("looking for the first time ..");
        put(
            buf,
            0,
            0,
            area.width,
            Line::raw(format!("ctp96 top: {text}")),
        );
        keys(buf, &look, app);
        return;
    };
    title(buf, &look, app, view);
    bar(
        buf,
        &look,
        1,
        "out",
        view.rate(Counter::PayloadBytesIn),
        view.rate(Counter::TxBytes),
    );
    bar(
        buf,
        &look,
        2,
        "in",
        view.rate(Counter::PayloadBytesOut),
        view.rate(Counter::RxBytes),
    );
    totals(buf, &look, view);
    let lower = LOWER;
    let list = area.height - FIXED - lower;
    // What the lanes do not need is the map's.
    let list = list.min(u16::try_from(view.lanes.len().max(3)).unwrap_or(u16::MAX));
    let heading = LANES + 1 + list;
    session(buf, &look, app, view);
    lanes(buf, &look, app, view, list);
    stages(buf, &look, view, heading);
    map(buf, &look, app, view, heading);
    keys(buf, &look, app);
}

struct Look {
    colour: bool,
    area: Rect,
}

impl Look {
    fn paint(&self, color: Color) -> Style {
        if self.colour {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    /// Green where it is nothing, yellow where it is something.
    fn alarm(&self, n: f64) -> Style {
        self.paint(if n > 0.0 { Color::Yellow } else { Color::Green })
    }
}

fn heading() -> Style {
    Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
}

fn put(buf: &mut Buffer, x: u16, y: u16, width: u16, line: Line) {
    buf.set_line(x, y, &line, width);
}

/// A heading over the whole width that it is given.
fn put_heading(buf: &mut Buffer, x: u16, y: u16, width: u16, text: &str) {
    let text = format!("{text:<width$.width$}", width = usize::from(width));
    put(buf, x, y, width, Line::styled(text, heading()));
}

fn title(buf: &mut Buffer, look: &Look, app: &App, view: &View) {
    let s = &view.status;
    let mut spans = vec![
        Span::styled("ctp96 top", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(
            "  {} up {}  {} sessions, {} lanes, {} transfers",
            s.listen,
            duration((s.uptime_s.max(0.0) * 1e9) as u64),
            s.sessions,
            s.lanes,
            s.jobs_active,
        )),
    ];
    if let Some(text) = &app.trouble {
        spans = vec![Span::styled(
            format!("ctp96 top: {text}"),
            look.paint(Color::Red).add_modifier(Modifier::BOLD),
        )];
    } else if app.paused {
        spans.push(Span::styled(
            "  PAUSED",
            look.paint(Color::Yellow).add_modifier(Modifier::BOLD),
        ));
    }
    put(buf, 0, 0, look.area.width, Line::from(spans));
}

/// `out   1.20 GB/s [###       ]  4.8 % of 25 GB/s  wire 1.25 GB/s`
fn bar(buf: &mut Buffer, look: &Look, y: u16, name: &str, bytes_per_s: f64, wire: f64) {
    let share = (bytes_per_s / TARGET_BYTES_PER_S).clamp(0.0, 1.0);
    let full = (share * BAR as f64).round() as usize;
    // Something is never drawn as nothing.
    let full = if bytes_per_s > 0.0 { full.max(1) } else { 0 };
    let line = Line::from(vec![
        Span::raw(format!("{name:<4}{:>12} [", rate(bytes_per_s))),
        Span::styled("#".repeat(full), look.paint(Color::Green)),
        Span::raw(format!(
            "{}] {:>6} of {:.0} GB/s, wire {}",
            ".".repeat(BAR - full),
            percent_of_target(bytes_per_s),
            TARGET_BYTES_PER_S / 1e9,
            rate(wire)
        )),
    ]);
    put(buf, 0, y, look.area.width, line);
}

fn totals(buf: &mut Buffer, look: &Look, view: &View) {
    let r = |c| view.rate(c);
    let line = Line::from(vec![
        Span::raw(format!(
            "frames/s out {} in {}  ",
            decimal(r(Counter::TxFramesSent)),
            decimal(r(Counter::RxFrames))
        )),
        Span::styled(
            format!("lost {} ({:.2} %)", decimal(view.lost), view.loss_percent()),
            look.alarm(view.lost),
        ),
        Span::raw(format!(
            "  repair {}  resent {}",
            decimal(r(Counter::TxSymbolsRepair)),
            decimal(r(Counter::TxSymbolsResent))
        )),
    ]);
    put(buf, 0, 3, look.area.width, line);
    let dropped = r(Counter::RxSocketDropped) + r(Counter::TxFramesDropped);
    let refused = r(Counter::RxAuthFailed) + r(Counter::RxForeign) + r(Counter::RxMalformed);
    let count = |name: &str, n: f64| format!("{name} {}/s  ", decimal(n));
    let line = Line::from(vec![
        Span::raw(count("decoded", r(Counter::RxSlotsDecoded))),
        Span::raw(count("timeouts", r(Counter::PtoFired))),
        Span::styled(count("dropped", dropped), look.alarm(dropped)),
        Span::styled(count("refused", refused), look.alarm(refused)),
        Span::raw(format!("over {:.2} s", view.span.as_secs_f64())),
    ]);
    put(buf, 0, 4, look.area.width, line);
}

/// The session of the selected lane.
fn session(buf: &mut Buffer, look: &Look, app: &App, view: &View) {
    let all = view.ordered(app.order);
    let lane = all.get(app.selected_index(&all));
    let found = lane.and_then(|l| view.sessions.iter().find(|s| s.index == l.info.session));
    let Some(s) = found else { return };
    let ns = |seconds: f64| duration((seconds.max(0.0) * 1e9) as u64);
    let text = format!(
        "session {:08x} {} {}, {} old, heard {} ago, {}",
        s.index,
        s.peer,
        s.addr,
        ns(s.age_s),
        ns(s.quiet_s),
        s.suite
    );
    put(buf, 0, 5, look.area.width, Line::raw(text));
}

fn lanes(buf: &mut Buffer, look: &Look, app: &App, view: &View, rows: u16) {
    let head = format!(
        " {:<12} {:<8}{:>5}{:>5}{:>7}{:>7}{:>9}{:>9}{:>9}{:>7}  lanes by {}",
        "peer",
        "session",
        "lane",
        "core",
        "out/s",
        "in/s",
        "flight",
        "cwnd",
        "RTT",
        "lost",
        app.order_name()
    );
    put_heading(buf, 0, LANES, look.area.width, &head);
    let all = view.ordered(app.order);
    if all.is_empty() {
        let text = " no sessions, so no lanes";
        return put(buf, 0, LANES + 1, look.area.width, Line::raw(text));
    }
    let at = app.selected_index(&all);
    // The selected lane stays in sight.
    let rows = usize::from(rows);
    let first = (at + 1)
        .saturating_sub(rows)
        .min(all.len().saturating_sub(rows));
    for (i, lane) in all.iter().enumerate().skip(first).take(rows) {
        let style = if i == at {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        let text = format!(
            "{:<width$}",
            lane_text(lane, i == at),
            width = usize::from(look.area.width)
        );
        let y = LANES + 1 + u16::try_from(i - first).unwrap_or(0);
        put(buf, 0, y, look.area.width, Line::styled(text, style));
    }
    if all.len() > rows {
        let text = format!(" {}-{} of {} ", first + 1, first + rows, all.len());
        let width = u16::try_from(text.len()).unwrap_or(0);
        let x = look.area.width.saturating_sub(width);
        put(buf, x, LANES, width, Line::styled(text, heading()));
    }
}

fn lane_text(lane: &Lane, selected: bool) -> String {
    let s = &lane.info.status;
    let name = format!(
        "{}{:<12.12} {:08x}{:>5}{:>5}",
        if selected { '>' } else { ' ' },
        lane.peer,
        lane.info.session,
        s.lane,
        s.core
    );
    match &lane.info.closed {
        Some(why) => format!("{name}  closed: {why}"),
        None => format!(
            "{name}{:>7}{:>7}{:>9}{:>9}{:>9}{:>7}",
            decimal(lane.out_slots),
            decimal(lane.in_slots),
            short(s.in_flight),
            short(s.cwnd),
            duration(s.srtt_ns),
            decimal(s.lost as f64),
        ),
    }
}

fn stages(buf: &mut Buffer, look: &Look, view: &View, y: u16) {
    let head = format!(
        "{:<13}{:>7}{:>9}{:>9}{:>5}",
        "stage", "/s", "p50", "p99", "core"
    );
    // As wide as the rows below, so that the two headings do not touch.
    put_heading(buf, 0, y, STAGES - 1, &head);
    let room = usize::from(look.area.height.saturating_sub(y + 2));
    for (i, s) in view.stages.iter().take(room).enumerate() {
        let busy = s.busy.map_or("-".to_owned(), |b| format!("{b:.0}%"));
        let text = if s.per_s > 0.0 {
            format!(
                "{:<13}{:>7}{:>9}{:>9}{busy:>5}",
                s.name,
                decimal(s.per_s),
                duration(s.p50),
                duration(s.p99),
            )
        } else {
            format!("{:<13}{:>7}", s.name, "-")
        };
        let style = match s.busy {
            Some(b) if b >= 50.0 => look.paint(Color::Red),
            Some(b) if b >= 20.0 => look.paint(Color::Yellow),
            _ => Style::new(),
        };
        let row = y + 1 + u16::try_from(i).unwrap_or(0);
        put(buf, 0, row, STAGES - 1, Line::styled(text, style));
    }
}

fn map(buf: &mut Buffer, look: &Look, app: &App, view: &View, y: u16) {
    let all = view.ordered(app.order);
    let (x, width) = (STAGES, look.area.width - STAGES);
    let Some(selected) = all.get(app.selected_index(&all)) else {
        return put_heading(buf, x, y, width, "window: no session");
    };
    let direction = app.direction(view);
    let rows = usize::from(look.area.height.saturating_sub(y + 2));
    let (session, number) = selected.key();
    let atlas = Atlas::draw(
        view.lanes_of(session),
        direction,
        Some(number),
        usize::from(width) - PAGE_LABEL,
        rows,
    );
    let way = match direction {
        Direction::Out => "out",
        Direction::In => "in",
    };
    let each = if atlas.scale == 1 {
        String::new()
    } else {
        format!(", each {}", atlas.scale)
    };
    let head = format!("window {way}: {} of {} slots{each}", atlas.used, atlas.of);
    put_heading(buf, x, y, width, &head);
    for (i, (page, cells)) in atlas.rows().enumerate() {
        let mut spans = vec![Span::raw(match page {
            Some(p) => format!("p{p:02} "),
            None => " ".repeat(PAGE_LABEL),
        })];
        for c in cells {
            let mut style = look.paint(HEAT[c.heat()]);
            if c.selected {
                style = style.add_modifier(Modifier::REVERSED);
            }
            spans.push(Span::styled(c.shade().to_string(), style));
        }
        let row = y + 1 + u16::try_from(i).unwrap_or(0);
        put(buf, x, row, width, Line::from(spans));
    }
}

fn keys(buf: &mut Buffer, look: &Look, app: &App) {
    if app.once {
        return;
    }
    let text = format!(
        "q end  p {}  s order  up/down lane  d direction  ? help   every {}",
        if app.paused { "go on" } else { "pause" },
        duration(u64::try_from(app.every.as_nanos()).unwrap_or(u64::MAX)),
    );
    let style = Style::new().add_modifier(Modifier::DIM);
    put(
        buf,
        0,
        look.area.height - 1,
        look.area.width,
        Line::styled(text, style),
    );
}

const HELP: &[&str] = &[
    "out, in   application bytes a second, and their share of 25 GB/s; wire: with",
    "          headers, tags, repair and what was sent again",
    "lost      frames that senders here found lost, of those sent; decoded: slots",
    "          that repair completed; timeouts: of probes; dropped: by sockets of",
    "          this host; refused: foreign, malformed or forged frames",
    "",
    "lanes     out/s, in/s: slots a second; flight: bytes sent and not acknowledged;",
    "          cwnd: what congestion control allows; lost: since the lane was opened",
    "stages    in the last interval; core: share of one core. recv, open, seal and",
    "          send are one batch each, the others one slot or symbol",
    "window    96 slots for each lane of the selected lane's session. Out: not yet",
    "          complete at the peer. In: incomplete here, or not yet taken by the",
    "          application. . is empty, # is full, : - = + * % are in between.",
    "          p00, p01, ..: pages of 256 slots. The selected lane is reversed.",
    "",
    "q end     p pause     s next order: lane, rate, flight, rtt, loss",
    "up, down (k, j), home, end: select a lane     d: window out or in",
];

fn help(buf: &mut Buffer, look: &Look) {
    put_heading(buf, 0, 0, look.area.width, "ctp96 top");
    for (y, text) in (2u16..).zip(HELP) {
        put(buf, 0, y, look.area.width, Line::raw(*text));
    }
    let text = "any key goes back";
    put(
        buf,
        0,
        look.area.height - 1,
        look.area.width,
        Line::raw(text),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_fits_the_smallest_screen() {
        assert!(HELP.len() + 3 <= usize::from(MIN_HEIGHT));
        for text in HELP {
            assert!(text.len() <= usize::from(MIN_WIDTH), "{text}");
        }
    }
}
