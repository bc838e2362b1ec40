//! Both directions of an SFTP session: no panic, and what is told is JSON of one line whatever the packets say.
#![no_main]
use jit_broker::gateway::ssh::session::sftp::Sftp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<(bool, Vec<u8>)>| {
    let mut sftp = Sftp::default();
    for (client, bytes) in &pieces {
        let told = if *client { sftp.client(bytes) } else { sftp.server(bytes) };
        for line in told.into_iter().chain(sftp.end()) {
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok() && !line.contains('\n'));
        }
    }
});
