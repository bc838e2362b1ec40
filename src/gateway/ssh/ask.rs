//! Somebody comes with a key alone and has no grant: they are asked in the terminal for what a request needs, wait for the answer, and go on
//! into the session (decisions.md 29).
//!
//! True here: the dialogue opens nothing by itself; once people have agreed the session begins as every other one does.
//! What is typed is not believed to be text: control characters never reach the request or the terminal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use russh::server::Msg;
use russh::{Channel, ChannelMsg};
use tokio::sync::watch;
use tokio::time::timeout;

use super::gate::Gate;
use super::lines;
use super::session::live::Standing;
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::{LoginName, PersonName, TargetName};
use crate::domain::span::{parse_span, show_span};
use crate::domain::text::shown;
use crate::wire::RequestDoc;

/// The most characters of one answer.
const MAX_CHARS: usize = 400;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the request is looked at, should nothing be heard of it.
const LOOK: Duration = Duration::from_secs(5);

/// What begins the session once there is a grant.
pub type Begin = Box<dyn Fn(GrantId) -> watch::Receiver<Standing> + Send + Sync>;

/// Somebody who may ask.
pub struct Asking {
    /// What all connections share.
    pub gate: std::sync::Arc<Gate>,
    /// Who it is.
    pub person: PersonName,
    /// The key that they proved to have.
    pub key: Key,
    /// Where they want to.
    pub target: TargetName,
    /// As whom.
    pub login: LoginName,
    /// Begins the session.
    pub begin: Begin,
    /// The session that was begun: what else comes by the connection is of it as well.
    pub begun: Mutex<Option<watch::Receiver<Standing>>>,
}

/// Why there is no session: the line that is told.
type Told = String;

impl Asking {
    /// What is told where nobody can be asked.
    pub fn line(&self) -> String {
        let (login, target) = (&self.login, &self.target);
        format!("jit-broker: you have no grant for {login} on {target} now; ask: jit-broker request {target}")
    }

    /// The session, once somebody has agreed to it.
    pub fn begun(&self) -> Option<watch::Receiver<Standing>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks, waits, and begins the session, if it has not begun meanwhile.
    ///
    /// # Errors
    /// The line that tells why not.
    pub async fn dialogue(&self, terminal: &mut Desk<'_>) -> Result<watch::Receiver<Standing>, Told> {
        terminal.say(&format!("You have no access to {} as {} now.\r\n", self.target, self.login)).await?;
        let reason = terminal.line("Why do you need it? ").await?;
        let span = terminal.line("For how long? (30m, 2h; empty: as long as the rule says) ").await?;
        let for_s = match span.trim() {
            "" => None,
            text => Some(parse_span(text).map_err(|refusal| lines::refused(&refusal))?),
        };
        let broker = &self.gate.broker;
        let asked = broker
            .attested_request((&self.person, &self.key), &self.target, &self.login, for_s, reason.trim())
            .await
            .map_err(|refusal| lines::refused(&refusal))?;
        terminal.say(&told(&asked)).await?;
        let grant = self.answered(terminal, asked).await?;
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(begun.get_or_insert_with(|| (self.begin)(grant)).clone())
    }

    /// Waits for the answer; Ctrl-C leaves the request as it is.
    async fn answered(&self, terminal: &mut Desk<'_>, mut doc: RequestDoc) -> Result<GrantId, Told> {
        let broker = &self.gate.broker;
        let (mut changed, mut stop) = (broker.changed(), self.gate.stop.clone());
        while doc.state == "pending" {
            tokio::select! {
                _ = timeout(LOOK, changed.changed()) => {}
                key = terminal.key() => match key? {
                    CTRL_C | CTRL_D => {
                        return Err(format!("jit-broker: the request stays; jit-broker withdraw {} takes it back", doc.id));
                    }
                    _ => {}
                },
                _ = stop.wait_for(|stop| *stop) => return Err("jit-broker: the broker is stopping; the request stays".to_owned()),
            }
            doc = broker.request_doc(&self.person, doc.id).await.map_err(|refusal| lines::refused(&refusal))?;
        }
        let live = broker.live_grant(&self.person, &self.target, &self.login).await;
        match live.filter(|_| matches!(doc.state.as_str(), "approved" | "covered")) {
            Some(grant) => {
                let by: Vec<String> = doc.steps.iter().flat_map(|s| &s.approved_by).map(ToString::to_string).collect();
                terminal.say(&format!("Agreed to by {}, for {}.\r\n", by.join(", "), show_span(doc.for_s))).await?;
                Ok(grant)
            }
            None => Err(over(&doc)),
        }
    }
}

/// What is told of a request that was made.
fn told(doc: &RequestDoc) -> String {
    let open = doc.steps.iter().find(|step| step.open);
    let who = open.map(|step| step.from.join(", ")).unwrap_or_default();
    format!(
        "Asked for {} on {} for {}: {}, code {}.\r\n{} may answer. Waiting; Ctrl-C stops waiting and the request stays.\r\n",
        doc.role,
        doc.target,
        show_span(doc.for_s),
        doc.id,
        doc.code,
        shown(&who)
    )
}

/// Why nothing came of it.
fn over(doc: &RequestDoc) -> String {
    match (&doc.denied_by, &doc.denial) {
        (Some(by), Some(why)) => format!("jit-broker: {by} said no: {}", shown(why)),
        (Some(by), None) => format!("jit-broker: {by} said no"),
        _ => format!("jit-broker: the request is {}", doc.state),
    }
}

const CTRL_C: char = '\u{3}';
const CTRL_D: char = '\u{4}';

/// The terminal of somebody who is asked.
pub struct Desk<'a> {
    /// What is typed comes by it, and what is said goes by it.
    pub channel: &'a mut Channel<Msg>,
    /// Its size now, as in RFC 4254 section 6.2: it may change while people are waited for.
    pub size: &'a mut [u32; 4],
}

impl Desk<'_> {
    async fn say(&self, text: &str) -> Result<(), Told> {
        self.channel.data_bytes(Bytes::from(text.to_owned())).await.map_err(|_| String::new())
    }

    /// What was typed next.
    async fn typed(&mut self) -> Result<Bytes, Told> {
        loop {
            match self.channel.wait().await {
                Some(ChannelMsg::Data { data }) => return Ok(data),
                Some(ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height }) => {
                    *self.size = [col_width, row_height, pix_width, pix_height];
                }
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => return Err(String::new()),
                Some(_) => {}
            }
        }
    }

    /// The next character that was typed; nothing is kept of a packet but its first character, which a person's keyboard sends alone.
    async fn key(&mut self) -> Result<char, Told> {
        loop {
            if let Some(first) = String::from_utf8_lossy(&self.typed().await?).chars().next() {
                return Ok(first);
            }
        }
    }

    /// Asks one question. The terminal is in raw mode, so that what is typed is shown from here.
    async fn line(&mut self, question: &str) -> Result<String, Told> {
        self.say(question).await?;
        let mut editor = Editor::default();
        let reading = async {
            loop {
                let keys = self.typed().await?;
                let typed = editor.typed(&String::from_utf8_lossy(&keys));
                self.say(&typed.echo).await?;
                match typed.end {
                    Some(End::Done) => return Ok(()),
                    Some(End::Stopped) => return Err("jit-broker: nothing was asked".to_owned()),
                    None => {}
                }
            }
        };
        timeout(PATIENCE, reading).await.map_err(|_| "jit-broker: nothing was said for five minutes".to_owned())??;
        Ok(editor.text)
    }
}

/// One line as it is typed.
#[derive(Debug, Default)]
pub struct Editor {
    text: String,
    escape: bool,
}

/// What came of some keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// What is shown.
    pub echo: String,
    /// Whether the line is over.
    pub end: Option<End>,
}

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By the Enter key.
    Done,
    /// By Ctrl-C or Ctrl-D.
    Stopped,
}

impl Editor {
    /// Takes keys; what follows the end of the line is dropped.
    pub fn typed(&mut self, keys: &str) -> Typed {
        let mut typed = Typed::default();
        for key in keys.chars() {
            if self.escape {
                // Of an escape sequence nothing counts, up to its final byte (ECMA-48 section 5.4).
                self.escape = key == '[' || key == 'O' || key.is_ascii_digit() || key == ';';
                continue;
            }
            match key {
                '\r' | '\n' => {
                    typed.echo.push_str("\r\n");
                    typed.end = Some(End::Done);
                    break;
                }
                CTRL_C | CTRL_D => {
                    typed.echo.push_str("\r\n");
                    typed.end = Some(End::Stopped);
                    break;
                }
                '\u{1b}' => self.escape = true,
                '\u{8}' | '\u{7f}' if self.text.pop().is_some() => typed.echo.push_str("\u{8} \u{8}"),
                key if shown(key.encode_utf8(&mut [0; 4])).chars().eq([key])
                    && self.text.chars().count() < MAX_CHARS =>
                {
                    self.text.push(key);
                    typed.echo.push(key);
                }
                _ => {}
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_what_is_seen_of_it() {
        let mut editor = Editor::default();
        assert_eq!(editor.typed("hotfiy").echo, "hotfiy");
        assert_eq!(editor.typed("\u{7f}x\u{1b}[A\u{1b}[3~ ü\u{7}").echo, "\u{8} \u{8}x ü");
        assert_eq!(editor.typed("\rls\r"), Typed { echo: "\r\n".to_owned(), end: Some(End::Done) });
        assert_eq!(editor.text, "hotfix ü");
        assert_eq!(Editor::default().typed("abc\u{3}").end, Some(End::Stopped));
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_controls_a_terminal(keys in "\\PC*|.*", cut in 0usize..40) {
            let (first, second) = keys.split_at(keys.char_indices().nth(cut).map_or(keys.len(), |(at, _)| at));
            let mut editor = Editor::default();
            let echo = [editor.typed(first).echo, editor.typed(second).echo].concat();
            let ours = echo.replace("\u{8} \u{8}", "").replace("\r\n", "");
            prop_assert!(!ours.chars().any(char::is_control), "{ours:?}");
            prop_assert!(!editor.text.chars().any(char::is_control) && editor.text.chars().count() <= MAX_CHARS);
        }
    }
}
