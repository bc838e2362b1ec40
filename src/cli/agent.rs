//! The ssh-agent protocol, as far as signing needs it (draft-ietf-sshm-ssh-agent).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use jit_ca::key::PublicKey;

use super::failure::Failure;
use crate::domain::key::Key;
use crate::domain::refusal::Code;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// The largest answer, in bytes.
const MAX: usize = 256 * 1024;

/// A connection to the user's agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(value)
}

fn put(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(value);
}

impl Agent {
    /// Connects to `SSH_AUTH_SOCK`; none when there is no agent.
    pub fn connect() -> Option<Self> {
        Self::at(Path::new(&std::env::var_os("SSH_AUTH_SOCK").filter(|p| !p.is_empty())?))
    }

    fn at(path: &Path) -> Option<Self> {
        let stream = UnixStream::connect(path).ok()?;
        // A touch or a confirmation may take a person a while.
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        Some(Self { stream })
    }

    fn ask(&mut self, message: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut frame = Vec::with_capacity(message.len() + 4);
        put(&mut frame, message);
        self.stream.write_all(&frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX {
            return Err(std::io::Error::other("the agent's answer is too large"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// The keys that can sign acts; certificates and RSA keys are passed over.
    pub fn keys(&mut self) -> Vec<Key> {
        let Ok(answer) = self.ask(&[REQUEST_IDENTITIES]) else { return Vec::new() };
        let Some((&IDENTITIES_ANSWER, rest)) = answer.split_first() else { return Vec::new() };
        let Some((_, mut rest)) = rest.split_first_chunk::<4>() else { return Vec::new() };
        let mut keys = Vec::new();
        while let (Some(blob), Some(_comment)) = (take(&mut rest), take(&mut rest)) {
            keys.extend(PublicKey::from_wire(blob).ok().filter(PublicKey::signs_acts).map(Key));
        }
        keys
    }

    /// Has the agent sign.
    ///
    /// # Errors
    /// [`Code::NO_KEY`] when the agent refuses.
    pub fn sign(&mut self, key: &Key, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut request = vec![SIGN_REQUEST];
        put(&mut request, &key.0.wire());
        put(&mut request, message);
        request.extend([0; 4]);
        let answer = self.ask(&request).map_err(|e| Failure::local("the ssh-agent", e))?;
        let refused = || Failure::new(Code::NO_KEY, "The ssh-agent refused to sign.");
        let Some((&SIGN_RESPONSE, mut rest)) = answer.split_first() else { return Err(refused()) };
        take(&mut rest).map(<[u8]>::to_vec).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests;
