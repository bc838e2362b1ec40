//! Certificates and keys from strangers: what is read is read again as the same, and nothing panics.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = jit_ca::key::PublicKey::parse(text) {
        assert_eq!(jit_ca::key::PublicKey::parse(&key.to_string()).ok(), Some(key));
    }
    let _ = jit_ca::ssh::read(text);
    // The body of a certificate, without the walls of base64 around it.
    let body = data_encoding::BASE64.encode(text.as_bytes());
    let _ = jit_ca::ssh::read(&format!("ssh-ed25519-cert-v01@openssh.com {body}"));
});
