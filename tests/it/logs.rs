//! The log at its loudest: no secret is in it or in anything else that is kept, and nobody writes a line of it but the broker.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jit_broker::domain::text::deceptive;

use crate::served::{Served, eventually, free_port};

/// What the loudest broker said, with its gateway and its metrics.
struct Loud {
    served: Served,
    log: PathBuf,
    gateway: u16,
    metrics: u16,
}

impl Loud {
    fn start(style: &str, secret: &str) -> Self {
        let mut served = Served::init();
        let (gateway, metrics, log) = (free_port(), free_port(), served.dir.join("log"));
        let text = std::fs::read_to_string(served.config()).unwrap();
        let more = format!(
            "{text}\n[gateway.ssh]\nlisten = \"127.0.0.1:{gateway}\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\
             [secrets]\ndb = {{ from = \"file:db-secret\", for = \"127.0.0.1:1\" }}\n"
        );
        std::fs::write(served.config(), more).unwrap();
        let file = served.broker_dir().join("db-secret");
        std::fs::write(&file, secret).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let tee = format!("export JIT_BROKER_LOG=trace{style}; exec \"$@\" 2> >(tee -a '{}' >&2)", log.display());
        served.before = ["bash", "-c", &tee, "--"].map(str::to_owned).into();
        served.serve();
        served.adopt();
        Self { served, log, gateway, metrics }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Bytes over TLS, whatever they are; what came back.
    fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let client = self.served.client(&self.served.alice).unwrap();
        let mut tls = client.connect().unwrap();
        let _ = tls.write_all(bytes);
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer);
        answer
    }

    /// Bytes to the gateway, as a client's first ones.
    fn ident(&self, bytes: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.gateway)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    memchr::memmem::find(bytes, canary.as_bytes()).is_some()
}

/// Sixteen characters of a key's file that are of its secret half and of nothing else.
fn private_part(pem: &str) -> String {
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let bytes = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
    // PROTOCOL.key: the secret is 32 bytes before the public half that stands last; in PKCS#8 it comes first.
    let at = if pem.contains("OPENSSH") {
        let kind = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";
        let public = bytes.windows(kind.len()).position(|part| part == kind).unwrap() + kind.len();
        let public = bytes[public..public + 32].to_vec();
        bytes.windows(32).rposition(|part| part == public).unwrap() - 32
    } else {
        36
    };
    let from = at.div_ceil(3) * 4;
    text[from..from + 16].to_owned()
}

#[test]
fn no_canary_is_kept_anywhere() {
    let secret = "canary-db-password-5d1c";
    let mut loud = Loud::start("", secret);
    let served = &loud.served;
    let mut canaries: Vec<String> =
        [secret, "canary-bearer-91aa", "canary-header-07b2", "canary-cookie-c3d4", "canary-body-e5f6"]
            .into_iter()
            .chain(["canary-verifier-1a2b", "canary-query-3c4d", "canary-basic-5e6f", "canary-path-7a8b"])
            .map(str::to_owned)
            .collect();
    let head = "host: x\r\nconnection: close\r\nx-secret: canary-header-07b2\r\ncookie: session=canary-cookie-c3d4\r\n";
    let posts = [
        ("/v1/acts", "{\"act\":\"{}\",\"password\":\"canary-body-e5f6\""),
        ("/v1/acts", "{\"act\":\"{\\\"canary-body-e5f6\\\":1}\",\"signature\":\"canary-body-e5f6\"}"),
        ("/v1/hosts/confirm", "canary-body-e5f6"),
        ("/v1/grants/gr_0/credential", "{\"key\":\"x\",\"verifier\":\"SCRAM-SHA-256$canary-verifier-1a2b\"}"),
        ("/v1/logout", "{\"token\":\"canary-body-e5f6\"}"),
    ];
    for (path, body) in posts {
        for proof in ["Bearer canary-bearer-91aa", "Basic canary-basic-5e6f"] {
            let length = body.len();
            let text = format!(
                "POST {path} HTTP/1.1\r\n{head}authorization: {proof}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            assert!(loud.raw(text.as_bytes()).starts_with(b"HTTP/1.1 4"), "{path}");
        }
    }
    for path in ["/v1/why?target=canary-query-3c4d", "/v1/requests?scope=canary-query-3c4d", "/v1/canary-path-7a8b"] {
        loud.raw(format!("GET {path} HTTP/1.1\r\n{head}authorization: Bearer canary-bearer-91aa\r\n\r\n").as_bytes());
    }
    loud.raw(b"GET / HTTP/9.9\r\nauthorization: Bearer canary-bearer-91aa\r\n\x00\r\n");
    loud.ident(b"SSH-2.0-canary-body-e5f6\r\ncanary-body-e5f6 garbage");
    // A database whose server is not there, and whose secret is read for it.
    let bundle = served.dir.join("bundle");
    let target = "\n[[target]]\nname = \"db\"\nkind = \"postgres\"\naddress = \"127.0.0.1:1\"\ndatabase = \"app\"\nmode = \"direct\"\n\
                  auth = \"password\"\nadmin = \"credential:db\"\ntls = { name = \"localhost\", ca = \"db.crt\" }\n[target.roles.ro]\n\
                  member_of = [\"pg_read_all_data\"]\n";
    let pem = std::fs::read(served.broker_dir().join("state/ca/x509_server.crt")).unwrap();
    std::fs::write(bundle.join("db.crt"), pem).unwrap();
    let mut targets = std::fs::OpenOptions::new().append(true).open(bundle.join("targets.toml")).unwrap();
    targets.write_all(target.as_bytes()).unwrap();
    served.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
    served.sign_in("bob");
    assert_ne!(served.cli("bob", "jit-broker target test db").code, Some(0));
    served.sign_in("alice");
    let client = served.client(&served.alice).unwrap();
    let grant = client.ask(600).unwrap();
    client.certificate(grant).unwrap();
    // What is secret by itself: tokens of who is signed in, and the body of every private key.
    canaries.push(client.token().unwrap().to_owned());
    let private = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains("PRIVATE KEY"));
    let keys: Vec<PathBuf> = files(&served.dir).into_iter().filter(private).collect();
    assert!(keys.len() >= 8, "{keys:?}");
    for key in &keys {
        canaries.push(private_part(&std::fs::read_to_string(key).unwrap()));
    }
    let marker = std::fs::read_to_string(served.broker_dir().join("state/marker")).unwrap();
    canaries.push(marker.trim().to_owned());
    let page = loud.metrics();
    loud.served.stop();
    let served = &loud.served;
    let said = loud.said();
    assert!(said.lines().count() > 3, "the log says something at its loudest: {said}");
    let marker = served.broker_dir().join("state/marker");
    let own = |path: &Path| keys.iter().any(|key| key == path) || path == marker || path.ends_with("db-secret");
    let kept: Vec<PathBuf> = files(&served.broker_dir()).into_iter().filter(|path| !own(path)).collect();
    assert!(kept.iter().any(|path| path.ends_with("ledger.db")));
    for canary in &canaries {
        assert!(!said.contains(canary), "{canary} is in the log");
        assert!(!page.contains(canary), "{canary} is in the metrics");
    }
    for path in &kept {
        let bytes = std::fs::read(path).unwrap();
        for canary in &canaries {
            assert!(!holds(&bytes, canary), "{canary} is in {}", path.display());
        }
    }
}

#[test]
fn nobody_writes_a_line_but_the_broker() {
    let mut loud = Loud::start("", "x");
    let forged = "\n2026-01-01T00:00:00Z ERROR jit_broker: FORGED\r\n<0>FORGED\u{2028}FORGED\x1b[2J\u{202e}FORGED";
    let agents =
        [forged.replace(['\n', '\r'], " "), "FORGED\u{2028}".to_owned(), "x".repeat(60_000), "FORGED".repeat(200_000)];
    for agent in agents {
        let text = format!("GET /v1/me HTTP/1.1\r\nhost: x\r\nconnection: close\r\nuser-agent: {agent}\r\n\r\n");
        loud.raw(text.as_bytes());
    }
    loud.raw(b"GET /v1/me HTTP/1.1\r\nhost: x\r\nuser-agent: a\0FORGED\r\n\r\n");
    loud.raw(b"GET /%0d%0aFORGED%1b%00 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for ident in [
        format!("SSH-2.0-{}\r\n", forged.replace(['\n', '\r'], " ")).into_bytes(),
        forged.as_bytes().to_vec(),
        b"SSH-2.0-\0FORGED\x1b]0;x\x07\r\n".to_vec(),
        "FORGED".repeat(200_000).into_bytes(),
        [&b"SSH-2.0-x\r\n"[..], &[0xff; 4096]].concat(),
    ] {
        loud.ident(&ident);
    }
    loud.served.sign_in("alice");
    let line = "jit-broker request web-07 --role ops --no-wait --reason \"$(printf 'a\\nERROR FORGED')\"";
    assert_eq!(loud.served.cli("alice", line).code, Some(2), "a reason has one line");
    eventually("the gateway's noise", || loud.said().contains("came to nothing"));
    loud.served.stop();
    let said = loud.said();
    assert!(!said.contains(|c| c != '\n' && deceptive(c)), "{said}");
    let longest = said.lines().map(str::len).max();
    assert!(longest.is_some_and(|bytes| bytes < 16 * 1024), "{longest:?} bytes");
    for line in said.lines() {
        let ours = ["listening on", "ssh gateway on", "metrics on"].iter().any(|word| line.starts_with(word));
        let mut words = line.split_whitespace();
        let at = words.next().is_some_and(|at| at.ends_with('Z') && at.starts_with("20") && at.len() == 20);
        let level = words.next().is_some_and(|level| ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level));
        let place = words.next().is_some_and(|place| place.starts_with("jit_broker::") && place.ends_with(':'));
        assert!(ours || at && level && place, "not a line of the broker's: {line}");
    }
}

#[test]
fn a_log_in_json_is_documents_line_by_line() {
    let mut loud = Loud::start(",json", "x");
    loud.ident(b"SSH-2.0-\0FORGED\x1b]0;x\x07\r\n");
    eventually("the gateway's noise", || loud.said().contains("came to nothing"));
    loud.served.stop();
    let said = loud.said();
    let lines = said.lines().filter(|line| line.starts_with('{')).collect::<Vec<_>>();
    assert!(!lines.is_empty(), "{said}");
    for line in lines {
        let doc: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["at", "level", "target", "message"] {
            assert!(doc[field].is_string(), "{field} in {line}");
        }
    }
}
