//! What of one channel goes into the recording: everything of terminals and commands, operations of SFTP, figures of tunnels.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::live::{Live, Seat};
use super::screen::Screen;
use super::sftp::Sftp;
use crate::domain::text::shown_json;
use crate::record::{Frame, RecordError};

/// What a channel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command or shell on a terminal.
    Terminal,
    /// A command without a terminal.
    Exec,
    /// The SFTP subsystem.
    Sftp,
    /// A tunnel; its content is not visible.
    Forward,
}

/// The recording of one channel.
pub struct Tape {
    /// Its session.
    pub live: Arc<Live>,
    /// What it carries.
    pub kind: Kind,
    seat: Seat,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    screen: Screen,
    sftp: Sftp,
    bytes_in: u64,
    bytes_out: u64,
}

impl Tape {
    /// Begins to record a channel.
    ///
    /// # Errors
    /// As the recorder's.
    pub async fn begin(
        live: Arc<Live>,
        seat: Seat,
        kind: Kind,
        command: Option<&[u8]>,
        size: Option<(u16, u16)>,
        what: &str,
    ) -> Result<Self, RecordError> {
        live.recorder.put(Frame::Open { channel: seat.number, what, command, size }).await?;
        Ok(Self { live, kind, seat, seen: Mutex::default() })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what the target says; it may be forwarded after that.
    ///
    /// # Errors
    /// As the recorder's; nothing may be forwarded then.
    pub async fn output(&self, data: &[u8]) -> Result<(), RecordError> {
        self.live.bytes_out.fetch_add(data.len() as u64, Ordering::Relaxed);
        let channel = self.seat.number;
        match self.kind {
            Kind::Terminal => {
                self.seen().screen.see(data);
                self.live.recorder.put(Frame::Output { channel, data }).await
            }
            Kind::Exec => self.live.recorder.put(Frame::Output { channel, data }).await,
            Kind::Sftp => {
                let told = self.seen().sftp.server(data);
                self.tell(told).await
            }
            Kind::Forward => {
                self.seen().bytes_out += data.len() as u64;
                Ok(())
            }
        }
    }

    /// Records what the target says on its error stream.
    ///
    /// # Errors
    /// As [`Tape::output`].
    pub async fn errors(&self, data: &[u8]) -> Result<(), RecordError> {
        self.live.bytes_out.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.live.recorder.put(Frame::Errors { channel: self.seat.number, data }).await
    }

    /// Records what the person says; it may be forwarded after that.
    ///
    /// # Errors
    /// As [`Tape::output`].
    pub async fn input(&self, data: &[u8]) -> Result<(), RecordError> {
        self.live.bytes_in.fetch_add(data.len() as u64, Ordering::Relaxed);
        let channel = self.seat.number;
        match self.kind {
            Kind::Terminal if !self.live.record_input => Ok(()),
            Kind::Terminal | Kind::Exec => self.live.recorder.put(Frame::Input { channel, data }).await,
            Kind::Sftp => {
                let (told, lost) = {
                    let mut seen = self.seen();
                    (seen.sftp.client(data), seen.sftp.is_lost())
                };
                self.tell(told).await?;
                if lost { Err(RecordError::Unfollowed) } else { Ok(()) }
            }
            Kind::Forward => {
                self.seen().bytes_in += data.len() as u64;
                Ok(())
            }
        }
    }

    async fn tell(&self, told: Vec<String>) -> Result<(), RecordError> {
        for json in told {
            self.live.recorder.put(Frame::FileOp { channel: self.seat.number, json: &shown_json(&json) }).await?;
        }
        Ok(())
    }

    /// Records the terminal's new size.
    ///
    /// # Errors
    /// As the recorder's.
    pub async fn resize(&self, cols: u32, rows: u32) -> Result<(), RecordError> {
        let channel = self.seat.number;
        self.live.recorder.put(Frame::Resize { channel, cols: small(cols), rows: small(rows) }).await
    }

    /// Records how the command ended.
    ///
    /// # Errors
    /// As the recorder's.
    pub async fn exit(&self, status: Option<u32>, signal: Option<&str>) -> Result<(), RecordError> {
        self.live.recorder.put(Frame::Exit { channel: self.seat.number, status, signal }).await
    }

    /// Records a line of our own.
    ///
    /// # Errors
    /// As the recorder's.
    pub async fn note(&self, text: &str) -> Result<(), RecordError> {
        self.live.recorder.put(Frame::Note { text }).await
    }

    /// True while a full-screen program has the terminal.
    pub fn is_full_screen(&self) -> bool {
        self.seen().screen.is_alternate()
    }

    /// Ends the channel in the recording.
    pub async fn end(self) {
        let told = self.seen().sftp.end();
        let _ = self.tell(told).await;
        if self.kind == Kind::Forward {
            let (bytes_in, bytes_out) = {
                let seen = self.seen();
                (seen.bytes_in, seen.bytes_out)
            };
            let figures =
                serde_json::json!({"bytes_in": bytes_in, "bytes_out": bytes_out, "content": "not visible"}).to_string();
            let _ = self.live.recorder.put(Frame::Forward { channel: self.seat.number, json: &figures }).await;
        }
        let _ = self.live.recorder.put(Frame::Close { channel: self.seat.number }).await;
    }

    /// Records where a tunnel leads.
    ///
    /// # Errors
    /// As the recorder's.
    pub async fn tunnel(&self, json: &str) -> Result<(), RecordError> {
        self.live.recorder.put(Frame::Forward { channel: self.seat.number, json }).await
    }
}

/// A size as terminals have it.
pub fn small(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}
