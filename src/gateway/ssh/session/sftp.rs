//! What an SFTP session does to files, read from its bytes as they pass (draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL).
//!
//! Pure, and never in the way: bytes are looked at, not changed. Content is hashed and not kept; what cannot be read is said to be so.

use std::collections::HashMap;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::packets::{Packets, Part, Side};

/// Requests without an answer that are remembered.
const ASKED: usize = 4096;
/// Open files that are remembered.
const FILES: usize = 4096;

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
    /// The file and direction whose content passes just now, by side.
    content: [Option<Vec<u8>>; 2],
    done: Vec<String>,
}

#[derive(Debug)]
enum Asked {
    Open { path: Vec<u8>, flags: u32 },
    List { path: Vec<u8> },
    Close { handle: Vec<u8> },
    Read { handle: Vec<u8>, at: u64 },
    Change { op: &'static str, path: Vec<u8>, other: Option<Vec<u8>> },
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
        self.client.feed(bytes, &mut |part| self.flow.asked(part));
        std::mem::take(&mut self.flow.done)
    }

    /// Looks at bytes of the server.
    pub fn server(&mut self, bytes: &[u8]) -> Vec<String> {
        self.server.feed(bytes, &mut |part| self.flow.answered(part));
        std::mem::take(&mut self.flow.done)
    }

    /// What was still open when the session ended.
    pub fn end(&mut self) -> Vec<String> {
        let mut files: Vec<_> = std::mem::take(&mut self.flow.files).into_values().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.into_iter().for_each(|file| self.flow.tell(file, None));
        std::mem::take(&mut self.flow.done)
    }
}

impl Flow {
    fn asked(&mut self, part: Part<'_>) {
        match part {
            Part::Whole(packet) => {
                if self.request(packet).is_none() {
                    self.unreadable();
                }
            }
            Part::Begin(packet) => {
                let begun = self.write(packet);
                self.content[0] = begun;
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
                let asked = fields.u32().and_then(|id| self.asked.remove(&id));
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

    fn write(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut fields = Fields(packet.get(5..)?);
        let handle = fields.string()?.to_vec();
        self.files.get_mut(&handle)?.up.at(fields.u64()?);
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
                _ => return Some(()),
            },
            _ => return Some(()),
        };
        if self.asked.len() < ASKED {
            self.asked.insert(id, asked);
        } else {
            self.unreadable();
        }
        Some(())
    }

    fn path_of(&self, handle: &[u8]) -> Vec<u8> {
        self.files.get(handle).map_or_else(|| b"?".to_vec(), |file| file.path.clone())
    }

    fn answer(&mut self, packet: &[u8]) -> Option<()> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = Fields(rest);
        let id = fields.u32()?;
        let Some(asked) = self.asked.remove(&id) else { return Some(()) };
        if *kind == 102 {
            return self.opened(asked, fields.string()?);
        }
        if *kind != 101 {
            return Some(());
        }
        let status = fields.u32()?;
        match asked {
            Asked::Open { path, .. } => self.plain("open", &path, None, status),
            Asked::List { path } => self.plain("list", &path, None, status),
            Asked::Change { op, path, other } => self.plain(op, &path, other.as_deref(), status),
            Asked::Read { .. } => {}
            Asked::Close { handle } => {
                if let Some(file) = self.files.remove(&handle) {
                    self.tell(file, Some(status));
                }
            }
        }
        Some(())
    }

    fn opened(&mut self, asked: Asked, handle: &[u8]) -> Option<()> {
        match asked {
            Asked::Open { path, flags } if self.files.len() < FILES => {
                let file = File { path, flags, up: Half::default(), down: Half::default() };
                self.files.insert(handle.to_vec(), file);
            }
            Asked::Open { path, .. } => self.plain("open", &path, None, 0),
            Asked::List { path } => self.plain("list", &path, None, 0),
            _ => {}
        }
        Some(())
    }

    fn plain(&mut self, op: &str, path: &[u8], other: Option<&[u8]>, status: u32) {
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn packet(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
        let body: Vec<u8> = [&[kind][..], &fields.concat()].concat();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    fn string(text: &[u8]) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
    }

    fn id(id: u32) -> [u8; 4] {
        id.to_be_bytes()
    }

    /// An upload of `data` in one piece to `name`.
    fn upload(name: &[u8], data: &[u8]) -> [(bool, Vec<u8>); 6] {
        [
            (true, packet(3, &[&id(1), &string(name), &id(0x1a), &id(0)])),
            (false, packet(102, &[&id(1), &string(b"h")])),
            (true, packet(6, &[&id(2), &string(b"h"), &0u64.to_be_bytes(), &string(data)])),
            (false, packet(101, &[&id(2), &id(0), &string(b""), &string(b"")])),
            (true, packet(4, &[&id(3), &string(b"h")])),
            (false, packet(101, &[&id(3), &id(0), &string(b""), &string(b"")])),
        ]
    }

    fn told(parts: &[(bool, Vec<u8>)], cut: usize) -> Vec<String> {
        let mut sftp = Sftp::default();
        let mut out = Vec::new();
        for (client, bytes) in parts {
            for piece in bytes.chunks(cut.max(1)) {
                out.extend(if *client { sftp.client(piece) } else { sftp.server(piece) });
            }
        }
        out.extend(sftp.end());
        out
    }

    #[test]
    fn an_upload_is_told_with_its_sum_and_its_name_is_harmless() {
        let told = told(&upload(b"a\n\x1b]52;\xff", b"abc"), 7);
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let document: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
        assert_eq!(document["op"], "upload");
        assert_eq!((document["bytes"].as_u64(), document["sha256"].as_str()), (Some(3), Some(sum)));
        assert_eq!(document["path"], "a\n\u{1b}]52;\\xff");
        assert!(!told[0].contains(['\n', '\u{1b}']), "{told:?}");
    }

    #[test]
    fn a_rename_and_a_failed_open_are_told() {
        let parts = [
            (true, packet(18, &[&id(1), &string(b"a"), &string(b"../../b")])),
            (false, packet(101, &[&id(1), &id(3), &string(b""), &string(b"")])),
            (true, packet(200, &[&id(2), &string(b"posix-rename@openssh.com"), &string(b"x"), &string(b"y")])),
            (false, packet(101, &[&id(2), &id(0), &string(b""), &string(b"")])),
        ];
        let told = told(&parts, 1000);
        assert_eq!(told[0], r#"{"op":"rename","path":"a","status":3,"to":"../../b"}"#);
        assert_eq!(told[1], r#"{"op":"rename","path":"x","status":0,"to":"y"}"#);
    }

    #[test]
    fn what_is_out_of_order_has_no_sum() {
        let mut parts = upload(b"f", b"abc");
        parts[2].1 = packet(6, &[&id(2), &string(b"h"), &9u64.to_be_bytes(), &string(b"abc")]);
        let document: serde_json::Value = serde_json::from_str(&told(&parts, 1000)[0]).unwrap();
        assert!(document["sha256"].is_null() && document["bytes"] == 3);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(cut in 1usize..40, data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let parts = upload(b"name", &data);
            prop_assert_eq!(told(&parts, cut), told(&parts, 100_000));
        }

        #[test]
        fn no_bytes_break_it(client in proptest::collection::vec(any::<u8>(), 0..400), server in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut sftp = Sftp::default();
            sftp.client(&client);
            sftp.server(&server);
            sftp.end();
        }

        #[test]
        fn no_packets_break_it(kinds in proptest::collection::vec((any::<bool>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..30)) {
            let mut sftp = Sftp::default();
            for (client, kind, body) in kinds {
                let bytes = packet(kind, &[&body]);
                let told = if client { sftp.client(&bytes) } else { sftp.server(&bytes) };
                for document in told {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&document).is_ok());
                }
            }
        }
    }
}
