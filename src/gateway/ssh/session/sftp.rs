//! What an SFTP session does to files, read from its bytes as they pass (draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL).
//!
//! Pure: bytes are looked at, not changed. Content is hashed and not kept; what cannot be read is said to be so. What no client says, and
//! after which nobody could tell any more what an answer is about, does not pass: [`Sftp::is_lost`].

use std::collections::HashMap;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::packets::{Packets, Part, Side};

/// What requests without an answer and open files may take in memory, in bytes.
const MEMORY: usize = 8 * 1024 * 1024;
/// What a request takes beside its names.
const REQUEST: usize = 128;
/// What an open file takes beside its names.
const FILE: usize = 512;
/// The longest handle (draft-ietf-secsh-filexfer-02 section 6.3), in bytes.
const HANDLE: usize = 256;

/// Follows one SFTP session.
#[derive(Debug)]
pub struct Sftp {
    client: Packets,
    server: Packets,
    flow: Flow,
}

#[derive(Debug, Default)]
struct Flow {
    asked: HashMap<u32, Asked>,
    files: HashMap<Vec<u8>, File>,
    /// How often each handle is being closed.
    closing: HashMap<Vec<u8>, u32>,
    /// What all of these take, about.
    held: usize,
    lost: bool,
    /// The file and direction whose content passes just now, by side.
    content: [Option<Vec<u8>>; 2],
    done: Vec<String>,
}

#[derive(Debug)]
enum Asked {
    Open {
        path: Vec<u8>,
        flags: u32,
    },
    List {
        path: Vec<u8>,
    },
    Close {
        handle: Vec<u8>,
    },
    Read {
        handle: Vec<u8>,
        at: u64,
    },
    Change {
        op: &'static str,
        path: Vec<u8>,
        other: Option<Vec<u8>>,
    },
    /// Whatever says nothing about files; its id is taken as well.
    Other,
}

impl Asked {
    fn size(&self) -> usize {
        let names = match self {
            // What it opens has its place from now on: by its answer there may be none.
            Self::Open { path, .. } => path.len() + FILE + HANDLE,
            Self::List { path } => path.len(),
            Self::Read { handle, .. } => handle.len(),
            Self::Close { handle } => REQUEST + 2 * handle.len(),
            Self::Change { path, other, .. } => path.len() + other.as_ref().map_or(0, Vec::len),
            Self::Other => 0,
        };
        REQUEST + names
    }
}

#[derive(Debug)]
struct File {
    path: Vec<u8>,
    flags: u32,
    up: Half,
    down: Half,
}

#[derive(Debug)]
struct Half {
    bytes: u64,
    next: u64,
    hash: Sha256,
    in_order: bool,
}

impl Default for Half {
    fn default() -> Self {
        Self { bytes: 0, next: 0, hash: Sha256::new(), in_order: true }
    }
}

impl Half {
    fn at(&mut self, at: u64) {
        self.in_order &= at == self.next;
        self.next = at;
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.next = self.next.saturating_add(bytes.len() as u64);
        if self.in_order {
            self.hash.update(bytes);
        }
    }
}

impl Default for Sftp {
    fn default() -> Self {
        Self { client: Packets::new(Side::Client), server: Packets::new(Side::Server), flow: Flow::default() }
    }
}

impl Sftp {
    /// Looks at bytes of the client; gives what is now known to have happened, as JSON documents.
    pub fn client(&mut self, bytes: &[u8]) -> Vec<String> {
        if !self.flow.lost {
            self.client.feed(bytes, &mut |part| self.flow.asked(part));
        }
        std::mem::take(&mut self.flow.done)
    }

    /// True once the client said what cannot be followed: those bytes, and all after them, must not reach the server.
    pub fn is_lost(&self) -> bool {
        self.flow.lost
    }

    /// Looks at bytes of the server.
    pub fn server(&mut self, bytes: &[u8]) -> Vec<String> {
        self.server.feed(bytes, &mut |part| self.flow.answered(part));
        std::mem::take(&mut self.flow.done)
    }

    /// What was still open when the session ended, and what was asked and not answered: the server may have done it.
    pub fn end(&mut self) -> Vec<String> {
        let mut asked: Vec<_> = std::mem::take(&mut self.flow.asked).into_iter().collect();
        asked.sort_by_key(|(id, _)| *id);
        asked.into_iter().for_each(|(_, asked)| self.flow.done_or_not(asked, None));
        let mut files: Vec<_> = std::mem::take(&mut self.flow.files).into_values().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.into_iter().for_each(|file| self.flow.tell(file, None));
        (self.flow.held, self.flow.closing) = (0, HashMap::new());
        std::mem::take(&mut self.flow.done)
    }
}

impl Flow {
    fn asked(&mut self, part: Part<'_>) {
        match part {
            _ if self.lost => {}
            Part::Whole(packet) => {
                if self.request(packet).is_none() {
                    self.unreadable();
                }
            }
            Part::Begin(packet) => {
                self.content[0] = self.write(packet);
                if self.content[0].is_none() {
                    self.lose();
                }
            }
            Part::Content(bytes) => {
                let handle = self.content[0].as_ref();
                if let Some(file) = handle.and_then(|handle| self.files.get_mut(handle)) {
                    file.up.take(bytes);
                }
            }
            Part::Broken => self.unreadable(),
        }
    }

    fn answered(&mut self, part: Part<'_>) {
        match part {
            Part::Whole(packet) => {
                if self.answer(packet).is_none() {
                    self.unreadable();
                }
            }
            Part::Begin(packet) => {
                let mut fields = Fields(packet.get(1..).unwrap_or_default());
                let asked = fields.u32().and_then(|id| self.forget(id));
                self.content[1] = None;
                if let Some(Asked::Read { handle, at }) = asked
                    && let Some(file) = self.files.get_mut(&handle)
                {
                    file.down.at(at);
                    self.content[1] = Some(handle);
                }
            }
            Part::Content(bytes) => {
                let handle = self.content[1].as_ref();
                if let Some(file) = handle.and_then(|handle| self.files.get_mut(handle)) {
                    file.down.take(bytes);
                }
            }
            Part::Broken => self.unreadable(),
        }
    }

    fn unreadable(&mut self) {
        self.done.push(json!({"op": "unreadable"}).to_string());
    }

    /// Nothing passes from here on.
    fn lose(&mut self) {
        if !std::mem::replace(&mut self.lost, true) {
            self.unreadable();
        }
    }

    /// Remembers a request until it is answered.
    ///
    /// SECURITY (T54): an answer says by its id alone what it answers. Two requests of one id would be two answers, and whoever sends
    /// them chooses which of the two is taken for which; so the second does not pass.
    fn remember(&mut self, id: u32, asked: Asked) {
        if self.asked.contains_key(&id) || self.held + asked.size() > MEMORY {
            return self.lose();
        }
        if let Asked::Close { handle } = &asked {
            *self.closing.entry(handle.clone()).or_default() += 1;
        }
        self.held += asked.size();
        self.asked.insert(id, asked);
    }

    fn forget(&mut self, id: u32) -> Option<Asked> {
        let asked = self.asked.remove(&id)?;
        self.held -= asked.size();
        if let Asked::Close { handle } = &asked
            && let Some(times) = self.closing.get_mut(handle)
        {
            *times -= 1;
            if *times == 0 {
                self.closing.remove(handle);
            }
        }
        Some(asked)
    }

    /// SECURITY (T54): a handle that is not given yet, or is being closed, may be another file's when the server comes to it: content
    /// would be told of the wrong one.
    fn write(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut fields = Fields(packet.get(1..)?);
        let id = fields.u32()?;
        let handle = fields.string()?.to_vec();
        let at = fields.u64()?;
        if self.closing.contains_key(&handle) {
            return None;
        }
        self.files.get_mut(&handle)?.up.at(at);
        self.remember(id, Asked::Other);
        Some(handle)
    }

    /// Nothing for a packet that cannot be read.
    fn request(&mut self, packet: &[u8]) -> Option<()> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = Fields(rest);
        let id = fields.u32()?;
        let change = |op, path: &[u8], other: Option<&[u8]>| Asked::Change {
            op,
            path: path.to_vec(),
            other: other.map(<[u8]>::to_vec),
        };
        let asked = match kind {
            3 => Asked::Open { path: fields.string()?.to_vec(), flags: fields.u32()? },
            4 => Asked::Close { handle: fields.string()?.to_vec() },
            5 => Asked::Read { handle: fields.string()?.to_vec(), at: fields.u64()? },
            9 => change("setstat", fields.string()?, None),
            10 => change("setstat", &self.path_of(fields.string()?), None),
            11 => Asked::List { path: fields.string()?.to_vec() },
            13 => change("remove", fields.string()?, None),
            14 => change("mkdir", fields.string()?, None),
            15 => change("rmdir", fields.string()?, None),
            18 => change("rename", fields.string()?, Some(fields.string()?)),
            // OpenSSH has the two the other way round than the draft: first what the link says, then where it is.
            20 => {
                let says = fields.string()?;
                change("symlink", fields.string()?, Some(says))
            }
            200 => match fields.string()? {
                b"posix-rename@openssh.com" => change("rename", fields.string()?, Some(fields.string()?)),
                b"hardlink@openssh.com" => change("hardlink", fields.string()?, Some(fields.string()?)),
                b"lsetstat@openssh.com" => change("setstat", fields.string()?, None),
                b"copy-data" => {
                    let from = self.path_of(fields.string()?);
                    let _ = (fields.u64()?, fields.u64()?);
                    change("copy", &from, Some(&self.path_of(fields.string()?)))
                }
                _ => Asked::Other,
            },
            _ => Asked::Other,
        };
        self.remember(id, asked);
        Some(())
    }

    fn path_of(&self, handle: &[u8]) -> Vec<u8> {
        let file = self.files.get(handle).filter(|_| !self.closing.contains_key(handle));
        file.map_or_else(|| b"?".to_vec(), |file| file.path.clone())
    }

    fn answer(&mut self, packet: &[u8]) -> Option<()> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = Fields(rest);
        let id = fields.u32()?;
        if *kind == 2 {
            // The version; other ones have other fields.
            return (id == 3).then_some(());
        }
        let Some(asked) = self.forget(id) else { return Some(()) };
        if *kind == 102 {
            return self.opened(asked, fields.string()?);
        }
        if *kind != 101 {
            return Some(());
        }
        let status = fields.u32()?;
        self.done_or_not(asked, Some(status));
        Some(())
    }

    /// A request whose answer is a status; there is none where the session ended before it.
    fn done_or_not(&mut self, asked: Asked, status: Option<u32>) {
        match asked {
            Asked::Open { path, .. } => self.plain("open", &path, None, status),
            Asked::List { path } => self.plain("list", &path, None, status),
            Asked::Change { op, path, other } => self.plain(op, &path, other.as_deref(), status),
            Asked::Read { .. } | Asked::Other => {}
            Asked::Close { handle } => {
                if let Some(file) = self.files.remove(&handle) {
                    self.held -= FILE + file.path.len() + handle.len();
                    self.tell(file, status);
                }
            }
        }
    }

    fn opened(&mut self, asked: Asked, handle: &[u8]) -> Option<()> {
        match asked {
            Asked::Open { path, flags } if handle.len() <= HANDLE => {
                self.held += FILE + path.len() + handle.len();
                let file = File { path, flags, up: Half::default(), down: Half::default() };
                if let Some(before) = self.files.insert(handle.to_vec(), file) {
                    self.held -= FILE + before.path.len() + handle.len();
                    self.tell(before, None);
                }
            }
            Asked::Open { path, .. } => {
                self.plain("open", &path, None, Some(0));
                self.lose();
            }
            Asked::List { path } => self.plain("list", &path, None, Some(0)),
            _ => {}
        }
        Some(())
    }

    fn plain(&mut self, op: &str, path: &[u8], other: Option<&[u8]>, status: Option<u32>) {
        let mut document = json!({"op": op, "path": text(path), "status": status});
        if let (Some(other), Some(map)) = (other, document.as_object_mut()) {
            map.insert("to".to_owned(), text(other).into());
        }
        self.done.push(document.to_string());
    }

    fn tell(&mut self, file: File, status: Option<u32>) {
        // SSH_FXF_READ 1, SSH_FXF_WRITE 2
        let halves = [("upload", &file.up, file.flags & 2 != 0), ("download", &file.down, file.flags & 1 != 0)];
        for (op, half, wanted) in halves {
            if half.bytes == 0 && !(wanted && (op == "upload" || file.flags & 2 == 0)) {
                continue;
            }
            let sum = half.in_order.then(|| data_encoding::HEXLOWER.encode(&half.hash.clone().finalize()));
            let document =
                json!({"op": op, "path": text(&file.path), "bytes": half.bytes, "sha256": sum, "status": status});
            self.done.push(document.to_string());
        }
    }
}

/// A name as text: bytes that are no UTF-8 are written as `\xNN`.
fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

/// The fields of a packet, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.bytes(length)
    }
}

#[cfg(test)]
#[path = "tests_sftp.rs"]
mod tests;
