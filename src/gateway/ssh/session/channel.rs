//! A session channel before its bytes flow: terminal and environment are collected, then shell, command or SFTP begins, if the role has it.

use std::sync::Arc;

use bytes::Bytes;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure, ChannelWriteHalf, Pty, client};
use tokio::sync::watch;

use super::live::{Live, Standing};
use super::relay::{self, Asked, CUT_STATUS, Down, Up};
use super::tape::{Kind, Tape, small};
use crate::domain::target::Allow;
use crate::gateway::ssh::ask::{Asking, Desk};
use crate::gateway::ssh::{door, lines};

/// The most environment variables of one channel.
const MAX_ENV: usize = 32;

/// A terminal as it was asked for.
struct Terminal {
    term: String,
    size: [u32; 4],
    modes: Vec<(Pty, u32)>,
}

/// What comes before the start.
#[derive(Default)]
struct Asks {
    terminal: Option<Terminal>,
    env: Vec<(String, String)>,
    /// The client was told that it has begun, because somebody was asked something first.
    started: bool,
}

/// What is to run.
enum Start {
    Shell,
    Exec(Vec<u8>),
    Sftp,
}

impl Start {
    fn needs(&self) -> (Allow, &'static str) {
        match self {
            Self::Shell => (Allow::Shell, "a shell"),
            Self::Exec(_) => (Allow::Exec, "commands"),
            Self::Sftp => (Allow::Sftp, "sftp"),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Exec(_) => "exec",
            Self::Sftp => "sftp",
        }
    }
}

/// True for a variable that is passed on.
pub fn passes(name: &str) -> bool {
    matches!(name, "LANG" | "TERM" | "COLORTERM" | "GIT_PROTOCOL")
        || name.strip_prefix("LC_").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

/// Waits for the session that a channel is of; nothing passes before that.
///
/// # Errors
/// What the person is told.
pub async fn standing(entry: &mut watch::Receiver<Standing>) -> Result<Arc<Live>, Arc<str>> {
    let begun = if let Standing::Ask(asking) = &*entry.borrow() { asking.begun() } else { None };
    if let Some(begun) = begun {
        *entry = begun;
    }
    let settled = entry.wait_for(|standing| !matches!(standing, Standing::Opening)).await;
    match settled.as_deref() {
        Ok(Standing::Open(live)) => Ok(live.clone()),
        Ok(Standing::Ask(asking)) => Err(asking.line().into()),
        Ok(Standing::Shut(line)) => Err(line.clone()),
        Ok(Standing::Opening) | Err(_) => Err("".into()),
    }
}

/// Serves one session channel.
pub async fn serve(
    mut entry: watch::Receiver<Standing>,
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    handle: Handle,
) {
    let asking = if let Standing::Ask(asking) = &*entry.borrow() { Some(asking.clone()) } else { None };
    if let Some(asking) = asking.filter(|asking| asking.begun().is_none()) {
        reply.accept().await;
        return asked(&asking, channel, handle).await;
    }
    let live = match standing(&mut entry).await {
        Ok(live) if !live.is_cut() => live,
        // ControlMaster: a connection outlives its session for a moment only, and opens nothing in it.
        Ok(_) => return reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
        Err(line) => {
            reply.accept().await;
            return explain(channel, handle, &line).await;
        }
    };
    let opened = tokio::select! {
        opened = open(&live) => opened,
        _ = live.cut() => return reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
    };
    let (upstream, up) = match opened {
        Ok(opened) => opened,
        Err(line) => {
            reply.accept().await;
            return explain(channel, handle, &line).await;
        }
    };
    reply.accept().await;
    let cut = live.clone();
    tokio::select! {
        () = started(live, channel, handle, up) => {}
        // Only for a channel that has not started: one that has hears of the end itself.
        () = async { cut.cut().await; tokio::time::sleep(std::time::Duration::from_secs(1)).await } => {}
    }
    drop(upstream);
}

/// Serves the channel of somebody who must ask first. The terminal is there before the session is.
async fn asked(asking: &Asking, mut channel: Channel<Msg>, handle: Handle) {
    let Some((mut asks, start)) = gather(&mut channel, &handle, |_| true).await else { return };
    let id = channel.id();
    let Some(terminal) = asks.terminal.as_mut().filter(|_| matches!(start, Start::Shell)) else {
        return refuse(&channel, &handle, matches!(start, Start::Sftp), &asking.line()).await;
    };
    let _ = handle.channel_success(id).await;
    let opened = async {
        let mut desk = Desk { channel: &mut channel, size: &mut terminal.size };
        let mut entry = asking.dialogue(&mut desk).await?;
        let live = standing(&mut entry).await.map_err(|line| line.to_string())?;
        let (upstream, up) = open(&live).await?;
        Ok::<_, String>((live, upstream, up))
    };
    let (live, upstream, up) = match opened.await {
        Ok(opened) => opened,
        Err(line) => {
            let _ = channel.data_bytes(Bytes::from(format!("{line}\r\n"))).await;
            let _ = channel.exit_status(CUT_STATUS).await;
            let _ = channel.close().await;
            return;
        }
    };
    asks.started = true;
    begun(live, channel, handle, up, asks, start).await;
    drop(upstream);
}

async fn open(live: &Live) -> Result<(super::upstream::Upstream, Channel<client::Msg>), String> {
    let upstream = live.upstream().await.map_err(|away| lines::told(&away.line))?;
    let channel = upstream.handle.channel_open_session().await;
    let channel = channel.map_err(|e| lines::told(&format!("{} opens no session: {e}", live.target)))?;
    Ok((upstream, channel))
}

async fn started(live: Arc<Live>, mut channel: Channel<Msg>, handle: Handle, up: Channel<client::Msg>) {
    let gathered = gather(&mut channel, &handle, |()| door::gives_terminal(&live)).await;
    if let Some((asks, start)) = gathered {
        begun(live, channel, handle, up, asks, start).await;
    }
}

/// Collects what comes before the start; nothing when the channel is closed before it.
async fn gather(channel: &mut Channel<Msg>, handle: &Handle, terminal: impl Fn(()) -> bool) -> Option<(Asks, Start)> {
    let mut asks = Asks::default();
    let start = loop {
        match channel.wait().await {
            Some(ChannelMsg::RequestPty {
                term, col_width, row_height, pix_width, pix_height, terminal_modes, ..
            }) if terminal(()) => {
                let size = [col_width, row_height, pix_width, pix_height];
                asks.terminal = Some(Terminal { term, size, modes: terminal_modes });
            }
            Some(ChannelMsg::SetEnv { variable_name, variable_value, .. })
                if passes(&variable_name) && asks.env.len() < MAX_ENV =>
            {
                asks.env.push((variable_name, variable_value));
            }
            Some(ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height }) => {
                if let Some(terminal) = &mut asks.terminal {
                    terminal.size = [col_width, row_height, pix_width, pix_height];
                }
            }
            Some(ChannelMsg::RequestShell { .. }) => break Start::Shell,
            Some(ChannelMsg::Exec { command, .. }) => break Start::Exec(command),
            Some(ChannelMsg::RequestSubsystem { name, .. }) if name == "sftp" => break Start::Sftp,
            Some(ChannelMsg::RequestSubsystem { .. }) => {
                let _ = handle.channel_failure(channel.id()).await;
            }
            Some(ChannelMsg::Close) | None => return None,
            Some(_) => {}
        }
    };
    Some((asks, start))
}

async fn begun(
    live: Arc<Live>,
    channel: Channel<Msg>,
    handle: Handle,
    up: Channel<client::Msg>,
    asks: Asks,
    start: Start,
) {
    let (allow, what) = start.needs();
    if !live.allows(allow) {
        let line = lines::not_allowed(what, live.target.as_str());
        return refuse(&channel, &handle, matches!(start, Start::Sftp), &line).await;
    }
    let id = channel.id();
    if let Err(Some(line)) = flow(live, channel, &handle, up, asks, start).await {
        let _ = handle.channel_success(id).await;
        let _ = handle.extended_data(id, 1, format!("{line}\r\n")).await;
        let _ = handle.exit_status_request(id, CUT_STATUS).await;
        let _ = handle.close(id).await;
    }
}

/// Records the beginning, starts it on the target, and lets the bytes flow.
async fn flow(
    live: Arc<Live>,
    channel: Channel<Msg>,
    handle: &Handle,
    up: Channel<client::Msg>,
    asks: Asks,
    start: Start,
) -> Result<(), Option<String>> {
    let seat = live.seat().ok_or(None)?;
    let kind = match (&start, &asks.terminal) {
        (Start::Sftp, _) => Kind::Sftp,
        (_, Some(_)) => Kind::Terminal,
        (_, None) => Kind::Exec,
    };
    let size = asks.terminal.as_ref().map(|terminal| (small(terminal.size[0]), small(terminal.size[1])));
    let command = if let Start::Exec(command) = &start { Some(command.as_slice()) } else { None };
    let tape = Tape::begin(live, seat, kind, command, size, start.word()).await;
    let tape = tape.map_err(|_| Some(lines::RECORDING_LOST.to_owned()))?;
    let (up_read, up_write) = up.split();
    let asked = ask(&up_write, asks, start).await.map_err(|_| Some(lines::told("the target went away")))?;
    let (read, write) = channel.split();
    let down = Down { read, write, handle: handle.clone() };
    relay::run(tape, down, Up { read: up_read, write: up_write }, asked).await;
    Ok(())
}

/// Sends all that was asked for in one go; the answers come in the same order.
async fn ask(up: &ChannelWriteHalf<client::Msg>, asks: Asks, start: Start) -> Result<Vec<Asked>, russh::Error> {
    let (mut asked, answer) = (Vec::new(), !asks.started);
    if let Some(terminal) = asks.terminal {
        let [cols, rows, width, height] = terminal.size;
        up.request_pty(answer, &terminal.term, cols, rows, width, height, &terminal.modes).await?;
        asked.push(Asked::Terminal);
    }
    for (name, value) in asks.env {
        up.set_env(false, name, value).await?;
    }
    match start {
        Start::Shell => up.request_shell(answer).await?,
        Start::Exec(command) => up.exec(true, command).await?,
        Start::Sftp => up.request_subsystem(true, "sftp").await?,
    }
    asked.push(Asked::Start);
    Ok(if answer { asked } else { Vec::new() })
}

/// Refuses a start. A subsystem simply fails, as its clients expect; others get a line and the status of a cut.
async fn refuse(channel: &Channel<Msg>, handle: &Handle, fails: bool, line: &str) {
    let id = channel.id();
    if fails {
        let _ = channel.extended_data_bytes(1, Bytes::from(format!("{line}\r\n"))).await;
        let _ = handle.channel_failure(id).await;
    } else {
        let _ = handle.channel_success(id).await;
        let _ = channel.extended_data_bytes(1, Bytes::from(format!("{line}\r\n"))).await;
        let _ = channel.eof().await;
        let _ = channel.exit_status(CUT_STATUS).await;
    }
    let _ = channel.close().await;
}

/// Tells why there is no session, as soon as the client has asked for something on the channel.
async fn explain(mut channel: Channel<Msg>, handle: Handle, line: &str) {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::RequestShell { .. } | ChannelMsg::Exec { .. }) => {
                return refuse(&channel, &handle, false, line).await;
            }
            Some(ChannelMsg::RequestSubsystem { .. }) => return refuse(&channel, &handle, true, line).await,
            Some(ChannelMsg::Close) | None => return,
            Some(_) => {}
        }
    }
}
