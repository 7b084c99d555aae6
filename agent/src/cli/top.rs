//! `headstart top`: workloads and their starts, live.

mod screen;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::json;

use super::args::Global;
use super::ask;
use super::format;
use crate::api::{Client, ClientError};
use crate::run::now_ms;
use screen::{Screen, Seen};

/// How often the agent is asked.
const REFRESH: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !(global.json || terminal) {
        bail!("`top` needs a terminal; `headstart workloads` lists without one");
    }
    let mut agent = ask::agent(global)?;
    let seen = look(&mut agent)?;
    if global.json {
        format::emit_json(&json!({ "status": seen.status, "workloads": seen.workloads }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut terminal = ratatui::try_init().context("taking over the terminal")?;
    let shown = show(&mut terminal, &mut agent, seen);
    // Also where the agent went away: its last words are for an ordinary terminal.
    ratatui::restore();
    shown?;
    Ok(ExitCode::SUCCESS)
}

fn look(agent: &mut Client) -> Result<Seen, ClientError> {
    Ok(Seen {
        status: agent.status()?,
        workloads: agent.workloads(true)?,
        now_ms: now_ms(),
    })
}

/// Draws until `q` is typed or the agent ends.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    agent: &mut Client,
    seen: Seen,
) -> anyhow::Result<()> {
    let mut screen = Screen::new(seen);
    let mut looked = Instant::now();
    loop {
        terminal
            .draw(|frame| screen.draw(frame))
            .context("drawing")?;
        let rest = REFRESH.saturating_sub(looked.elapsed());
        if event::poll(rest).context("waiting for a key")? {
            if let Event::Key(key) = event::read().context("reading a key")?
                && key.kind == KeyEventKind::Press
                && !typed(&mut screen, key)
            {
                return Ok(());
            }
        } else {
            screen.seen = look(agent)?;
            looked = Instant::now();
        }
    }
}

/// Does what a key says; whether to go on.
fn typed(screen: &mut Screen, key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if interrupt => return false,
        KeyCode::Char('s') => screen.sort_by_next(),
        KeyCode::Down | KeyCode::Char('j') => screen.table.select_next(),
        KeyCode::Up | KeyCode::Char('k') => screen.table.select_previous(),
        KeyCode::Home => screen.table.select_first(),
        KeyCode::End => screen.table.select_last(),
        _ => {}
    }
    true
}
