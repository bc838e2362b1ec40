//! The gate in a process and user of its own: one frame of JSON an order, over a Unix socket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Answer, Order, Signer};
use crate::domain::refusal::{Code, Refusal};

/// The largest frame, in bytes.
const MAX_FRAME: u32 = 64 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Ok(Answer),
    Refused(Refusal),
}

fn away(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::SIGNER_AWAY, format!("The signer does not answer: {what}."))
}

fn send<T: Serialize>(stream: &mut UnixStream, value: &T) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let length = u32::try_from(bytes.len()).ok().filter(|n| *n <= MAX_FRAME);
    let length = length.ok_or_else(|| std::io::Error::other("the frame is too large"))?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&bytes)
}

fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> std::io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME {
        return Err(std::io::Error::other("the frame is too large"));
    }
    let mut bytes = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// The daemon's end of the socket; connects anew when the signer was restarted.
#[derive(Debug)]
pub struct Remote {
    path: PathBuf,
    stream: Option<UnixStream>,
}

impl Remote {
    /// Names the socket; nothing is connected yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, stream: None }
    }

    fn exchange(&mut self, order: &Order) -> std::io::Result<Reply> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            self.stream = Some(stream);
        }
        let Some(stream) = self.stream.as_mut() else { return Err(std::io::Error::other("not connected")) };
        let result = send(stream, order).and_then(|()| receive(stream));
        if result.is_err() {
            self.stream = None;
        }
        result
    }
}

impl Signer for Remote {
    fn order(&mut self, order: Order) -> Result<Answer, Refusal> {
        match self.exchange(&order).map_err(|e| away(format!("{}: {e}", self.path.display())))? {
            Reply::Ok(answer) => Ok(answer),
            Reply::Refused(refusal) => Err(refusal),
        }
    }
}

/// Serves one gate on a socket, one connection at a time: there is one daemon.
///
/// # Errors
/// When the socket cannot be bound. Broken connections end themselves only.
pub fn serve(path: &Path, mode: u32, gate: &mut dyn Signer) -> Result<(), Refusal> {
    let broken = |e: std::io::Error| Refusal::new(Code::BAD_CONFIG, format!("{}: {e}.", path.display()));
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            return Err(Refusal::new(Code::PORT_TAKEN, format!("Another signer listens on {}.", path.display())));
        }
        std::fs::remove_file(path).map_err(broken)?;
    }
    let listener = UnixListener::bind(path).map_err(broken)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(broken)?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        while let Ok(order) = receive::<Order>(&mut stream) {
            let reply = gate.order(order).map_or_else(Reply::Refused, Reply::Ok);
            if let Reply::Refused(refusal) = &reply {
                tracing::warn!(code = %refusal.code, "refused: {}", refusal.message);
            }
            if send(&mut stream, &reply).is_err() {
                break;
            }
        }
    }
    Ok(())
}
