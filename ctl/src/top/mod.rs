//! `ctp96 top`: what the daemon does now, on one screen.

mod atlas;
mod figures;
mod model;
#[cfg(test)]
mod tests;
mod view;

use crate::cli::{LaneOrder, TopArgs};
use crate::out::{self, Failure};
use atlas::Direction;
use clap::ValueEnum;
use ctp96::control::client::{Client, ClientError};
use ctp96::obs::Counter;
use model::{Lane, LaneKey, Look, View};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

/// Columns of a frame that goes to no screen.
const ONCE_WIDTH: u16 = 100;

/// What is on the screen, and what the keys have set.
struct App {
    view: Option<View>,
    /// Why there is nothing newer to show.
    trouble: Option<String>,
    order: LaneOrder,
    selected: Option<LaneKey>,
    /// The direction of the map where a key has chosen it.
    chosen: Option<Direction>,
    paused: bool,
    help: bool,
    once: bool,
    colour: bool,
    every: Duration,
}

impl App {
    fn new(args: &TopArgs) -> App {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_some_and(|t| t == "dumb");
        App {
            view: None,
            trouble: None,
            order: args.sort,
            selected: None,
            chosen: None,
            paused: false,
            help: false,
            once: args.once,
            colour: !args.no_colour && set("NO_COLOR").is_none() && !dumb,
            every: args.every,
        }
    }

    fn order_name(&self) -> String {
        let value = self.order.to_possible_value();
        value.map_or(String::new(), |v| v.get_name().to_owned())
    }

    /// Where the selected lane is in a list; the first one where it is gone or none is selected.
    fn selected_index(&self, lanes: &[&Lane]) -> usize {
        let at = self
            .selected
            .and_then(|key| lanes.iter().position(|l| l.key() == key));
        at.unwrap_or(0)
    }

    /// The direction of the map: where a key has not chosen it, the one that more data goes in.
    fn direction(&self, view: &View) -> Direction {
        self.chosen.unwrap_or_else(|| {
            let [out, back] =
                [Counter::PayloadBytesIn, Counter::PayloadBytesOut].map(|c| view.rate(c));
            if back > out {
                Direction::In
            } else {
                Direction::Out
            }
        })
    }

    /// Does what a key asks for; `false` ends the program.
    fn key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return false;
        }
        if std::mem::take(&mut self.help) {
            return key.code != KeyCode::Char('q');
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('s') => {
                let all = LaneOrder::value_variants();
                let at = all.iter().position(|o| *o == self.order).unwrap_or(0);
                self.order = all[(at + 1) % all.len()];
            }
            KeyCode::Char('d') => {
                if let Some(view) = &self.view {
                    self.chosen = Some(self.direction(view).other());
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.select(|at, _| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(|at, _| at.saturating_sub(1)),
            KeyCode::Home => self.select(|_, _| 0),
            KeyCode::End => self.select(|_, len| len),
            _ => {}
        }
        true
    }

    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let Some(view) = &self.view else { return };
        let lanes = view.ordered(self.order);
        let at = to(self.selected_index(&lanes), lanes.len());
        let lane = lanes.get(at).or(lanes.last());
        self.selected = lane.map(|l| l.key());
    }
}

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub fn run(socket: &Path, args: &TopArgs, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Err(Failure::Usage(
            "top has no JSON form; use --json with status, lanes, counters and hist".into(),
        ));
    }
    if args.once {
        return once(socket, args);
    }
    if !io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "top draws on a terminal, and standard output is none; `ctp96 top --once` prints one \
             screen as text"
                .into(),
        ));
    }
    let mut client = Client::connect(socket)?;
    let first = Look::take(&mut client)?;
    let mut terminal = ratatui::try_init().map_err(|e| no_terminal(&e))?;
    let outcome = watch(&mut terminal, socket, args, client, first);
    ratatui::restore();
    outcome
}

fn no_terminal(e: &io::Error) -> Failure {
    Failure::Failed(format!("the terminal cannot be used: {e}"))
}

/// Two looks, one screen.
fn once(socket: &Path, args: &TopArgs) -> Result<(), Failure> {
    let mut client = Client::connect(socket)?;
    let before = Look::take(&mut client)?;
    std::thread::sleep(args.every);
    let mut app = App::new(args);
    app.view = Some(View::between(&before, &Look::take(&mut client)?));
    out::text(&page(&app)?);
    Ok(())
}

/// The screen as text, high enough for every lane.
fn page(app: &App) -> Result<String, Failure> {
    let height = app
        .view
        .as_ref()
        .map_or(view::MIN_HEIGHT, view::whole_height);
    let backend = TestBackend::new(ONCE_WIDTH, height.max(view::MIN_HEIGHT));
    let mut terminal = Terminal::new(backend).map_err(|e| Failure::Failed(e.to_string()))?;
    terminal
        .draw(|frame| view::draw(frame, app))
        .map_err(|e| Failure::Failed(e.to_string()))?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in buffer.content().chunks(usize::from(ONCE_WIDTH)) {
        let line: String = row.iter().map(|c| c.symbol()).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    Ok(text + "\n")
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    socket: &Path,
    args: &TopArgs,
    client: Client,
    first: Look,
) -> Result<(), Failure> {
    let mut app = App::new(args);
    let (mut client, mut last) = (Some(client), first);
    let mut due = Instant::now() + args.every.min(Duration::from_millis(250));
    loop {
        terminal
            .draw(|frame| view::draw(frame, &app))
            .map_err(|e| no_terminal(&e))?;
        let left = due.saturating_duration_since(Instant::now());
        if event::poll(left).map_err(|e| no_terminal(&e))? {
            if let Event::Key(key) = event::read().map_err(|e| no_terminal(&e))?
                && !app.key(key)
            {
                return Ok(());
            }
            continue;
        }
        due = Instant::now() + args.every;
        if app.paused {
            continue;
        }
        match look(&mut client, socket) {
            Ok(now) => {
                app.view = Some(View::between(&last, &now));
                app.trouble = None;
                last = now;
            }
            Err(e) => app.trouble = Some(e.to_string()),
        }
    }
}

/// Looks, over a new connection where the old one broke.
fn look(client: &mut Option<Client>, socket: &Path) -> Result<Look, ClientError> {
    let mut open = match client.take() {
        Some(c) => c,
        None => Client::connect(socket)?,
    };
    let taken = Look::take(&mut open)?;
    *client = Some(open);
    Ok(taken)
}
