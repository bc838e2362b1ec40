//! A recording from the broker, checked against its own chain and against the log's word on it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::super::client::Client;
use super::super::failure::Failure;
use super::super::home::private_folder;
use crate::domain::refusal::Code;
use crate::record::{Broken, Decoder};
use crate::wire::RecordedDoc;

/// How long one call waits for more of a live recording, in seconds.
const WAIT_S: u64 = 25;

/// The next piece from an offset on, and whether there may be more later. `wait` lets the broker wait for it.
pub async fn piece(client: &mut Client, doc: &RecordedDoc, from: u64, wait: Wait) -> Result<(Vec<u8>, bool), Failure> {
    let wait_s = if wait == Wait::ForMore { WAIT_S } else { 0 };
    let path = format!("/v1/sessions/{}/recording?from={from}&wait_s={wait_s}", doc.id);
    let (bytes, state) = client.bytes(&path, "jit-recording").await?;
    Ok((bytes, state.as_deref() == Some("live")))
}

/// Whether a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Takes what there is.
    No,
    /// Waits for more, for a while.
    ForMore,
}

/// The failure of a recording that is not what was recorded.
pub fn forged(doc: &RecordedDoc, broken: &Broken) -> Failure {
    Failure::new(Code::LEDGER_CORRUPT, format!("The recording of {} is not what was recorded: {broken}.", doc.id))
}

/// Checks that what was decoded is this session's.
pub fn owned(doc: &RecordedDoc, decoder: &Decoder) -> Result<(), Failure> {
    match decoder.header() {
        Some(header) if header.session != doc.id => {
            Err(forged(doc, &Broken { chunk: 0, what: "it is another session's".to_owned() }))
        }
        _ => Ok(()),
    }
}

/// Fetches a recording as far as it goes into a file without a name.
///
/// # Errors
/// As the broker says; [`Code::LEDGER_CORRUPT`] when it is not what the log sealed.
pub async fn whole(client: &mut Client, doc: &RecordedDoc) -> Result<File, Failure> {
    let home = client.home().clone();
    private_folder(&home.state)?;
    let path = home.state.join(format!("recording-{}.part", std::process::id()));
    let failed = |e: std::io::Error| Failure::local(path.display(), e);
    let _ = std::fs::remove_file(&path);
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    let mut decoder = Decoder::default();
    let mut from = 0;
    loop {
        let (bytes, _) = piece(client, doc, from, Wait::No).await?;
        if bytes.is_empty() {
            break;
        }
        file.write_all(&bytes).map_err(failed)?;
        from += bytes.len() as u64;
        decoder.push(&bytes);
        while decoder.skip().map_err(|broken| forged(doc, &broken))? {}
        owned(doc, &decoder)?;
    }
    let (length, chunks, sha256) = decoder.whole();
    if let (Some(sealed), Some(bytes)) = (doc.sha256, doc.recorded_bytes)
        && (sealed, bytes) != (sha256, length)
    {
        return Err(forged(doc, &Broken { chunk: chunks, what: "it is not what the log sealed".to_owned() }));
    }
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}
