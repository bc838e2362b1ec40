//! The gate in a process and user of its own: one frame of JSON an order, over a Unix socket.
//!
//! True here: a client that sends half a frame, garbage or nothing holds up nobody but itself. Never here: a reason to believe an order;
//! whoever reaches the socket can ask for no more than the log allows.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Answer, Order, Signer};
use crate::domain::refusal::{Code, Refusal};

/// The largest frame, in bytes.
const MAX_FRAME: u32 = 64 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a frame may take from its first byte to its last, and an answer until it is taken.
const STALL: Duration = Duration::from_secs(5);
/// The most connections; there is one daemon, and whoever is newest is served.
const CONNECTIONS: usize = 8;

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

/// Reads one frame: its first byte within `first` (none: whenever it comes), all of it within `whole` after that.
fn receive<T: DeserializeOwned>(
    stream: &mut UnixStream,
    first: Option<Duration>,
    whole: Duration,
) -> std::io::Result<T> {
    let mut length = [0; 4];
    stream.set_read_timeout(first)?;
    let (head, rest) = length.split_at_mut(1);
    stream.read_exact(head)?;
    let until = Instant::now() + whole;
    read_until(stream, rest, until)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME {
        return Err(std::io::Error::other("the frame is too large"));
    }
    // Grows with what arrives, so that a length alone costs nothing.
    let (mut bytes, mut piece, mut left) = (Vec::new(), vec![0; 64 << 10], length as usize);
    while left > 0 {
        let part = piece.get_mut(..left.min(64 << 10)).unwrap_or_default();
        read_until(stream, part, until)?;
        bytes.extend_from_slice(part);
        left -= part.len();
    }
    Ok(serde_json::from_slice(&bytes)?)
}

fn read_until(stream: &mut UnixStream, mut buffer: &mut [u8], until: Instant) -> std::io::Result<()> {
    while !buffer.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer = buffer.get_mut(n..).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
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
        if let Some(stream) = self.stream.take() {
            match self.ask(stream, order) {
                // It is there and does not answer: asking again would only double the wait.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(e),
                // The connection was cut, most often because the signer was restarted. Every order may be sent twice.
                Err(_) => {}
                reply => return reply,
            }
        }
        let stream = UnixStream::connect(&self.path)?;
        self.ask(stream, order)
    }

    fn ask(&mut self, mut stream: UnixStream, order: &Order) -> std::io::Result<Reply> {
        stream.set_write_timeout(Some(PATIENCE))?;
        send(&mut stream, order)?;
        let reply = receive(&mut stream, Some(PATIENCE), PATIENCE)?;
        self.stream = Some(stream);
        Ok(reply)
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

/// Serves one gate on a socket; orders are carried out one after the other, whoever sends them. Broken connections end themselves only.
pub fn serve(listener: &UnixListener, gate: &mut (dyn Signer + Send)) {
    let (gate, open) = (Mutex::new(gate), Mutex::new(Vec::<(u64, UnixStream)>::new()));
    std::thread::scope(|threads| {
        for (id, stream) in (0_u64..).zip(listener.incoming()) {
            let Ok((stream, handle)) = stream.and_then(|s| s.try_clone().map(|handle| (s, handle))) else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let mut held = open.lock().unwrap_or_else(PoisonError::into_inner);
            // SECURITY: idle connections cannot keep the daemon out: it connects anew, and then it is the newest.
            if held.len() >= CONNECTIONS {
                let (_, oldest) = held.remove(0);
                let _ = oldest.shutdown(std::net::Shutdown::Both);
            }
            held.push((id, handle));
            drop(held);
            let (gate, open) = (&gate, &open);
            let serving = std::thread::Builder::new().name("orders".to_owned()).spawn_scoped(threads, move || {
                converse(stream, gate);
                open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != id);
            });
            if serving.is_err() {
                open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != id);
            }
        }
    });
}

/// Binds the socket, which is one signer's.
///
/// # Errors
/// [`Code::PORT_TAKEN`] while another one listens on it.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, Refusal> {
    let broken = |e: std::io::Error| Refusal::new(Code::BAD_CONFIG, format!("{}: {e}.", path.display()));
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            return Err(Refusal::new(Code::PORT_TAKEN, format!("Another signer listens on {}.", path.display())));
        }
        std::fs::remove_file(path).map_err(broken)?;
    }
    // SECURITY: born closed, and opened to the group afterwards: no moment is left in which others can connect.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.map_err(broken)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(broken)?;
    Ok(listener)
}

fn converse(mut stream: UnixStream, gate: &Mutex<&mut (dyn Signer + Send)>) {
    if stream.set_write_timeout(Some(STALL)).is_err() {
        return;
    }
    loop {
        let order = match receive::<Order>(&mut stream, None, STALL) {
            Ok(order) => order,
            Err(e) => {
                if e.kind() != ErrorKind::UnexpectedEof {
                    tracing::warn!("a connection was closed: {e}");
                }
                return;
            }
        };
        let reply = match gate.lock() {
            Ok(mut gate) => gate.order(order).map_or_else(Reply::Refused, Reply::Ok),
            // SECURITY: a gate that failed in the middle of an order may have folded half of it; it signs nothing more.
            Err(_) => Reply::Refused(Refusal::new(Code::BUG, "The signer failed; restart it.")),
        };
        if let Reply::Refused(refusal) = &reply {
            tracing::warn!(code = %refusal.code, "refused: {}", refusal.message);
        }
        if send(&mut stream, &reply).is_err() {
            return;
        }
    }
}
