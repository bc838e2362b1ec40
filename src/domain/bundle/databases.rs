//! What targets.toml says of databases.

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::read::{At, Problems, Roots, Table, is_certificate, meant, once};
use crate::domain::database::{Auth, CONNECTION_LIMIT, Database, DatabaseRole};
use crate::domain::names::{DatabaseName, DatabaseRoleName, SecretName};
use crate::domain::target::Address;

/// The most bytes of one file of authorities: it travels with every account, inside one entry of the log.
const MAX_CA_BYTES: usize = 8 * 1024;
/// The most roles that an account is a member of.
const MAX_MEMBER_OF: usize = 32;
/// The longest `statement_timeout`, in seconds: what PostgreSQL takes, in milliseconds, fits 31 bits.
const MAX_TIMEOUT_S: u64 = 86_400;

/// Reads what a database has besides its address.
pub(super) fn database(
    table: &mut Table<'_>,
    roots: &Roots<'_>,
    address: Option<&Address>,
    problems: &mut Problems,
) -> Option<Database> {
    let name = table.needed_text("database", problems).and_then(|t| problems.take(t.at, DatabaseName::new(t.value)));
    let auth = table.needed_text("auth", problems).and_then(|text| {
        let auth = match text.value {
            "cert" => Ok(Auth::Cert),
            "password" => Ok(Auth::Password),
            other => Err(format!("auth is cert or password{}", meant(other, ["cert", "password"]))),
        };
        problems.take(text.at, auth)
    });
    let admin = table.needed_text("admin", problems).and_then(|text| {
        let name = text.value.strip_prefix("credential:").ok_or_else(|| {
            "admin is credential:NAME; [secrets] of jit-broker.toml says where NAME comes from, and a password never stands here".to_owned()
        });
        let name = name.and_then(|name| SecretName::new(name).map_err(|e| e.to_string()));
        problems.take(text.at, name)
    });
    let tls = match table.table("tls", problems) {
        Some(tls) => tls_of(tls, roots, address, problems),
        None if table.has("tls") => None,
        None => {
            problems.add(table.at, "[[target]] has no tls: say tls = { ca = \"NAME.crt\", name = \"HOST\" }; a server is never trusted on first use");
            None
        }
    };
    let (tls_name, tls_ca) = tls?;
    Some(Database { name: name?, auth: auth?, admin: admin?, tls_name, tls_ca })
}

fn tls_of(
    mut table: Table<'_>,
    roots: &Roots<'_>,
    address: Option<&Address>,
    problems: &mut Problems,
) -> Option<(String, String)> {
    let name = match table.text("name", problems) {
        Some(text) => problems
            .take(text.at, crate::domain::target::host_name(text.value).ok_or("name is a DNS name or an address")),
        None => address.map(|address| address.host.clone()),
    };
    let ca = table.needed_text("ca", problems).and_then(|file| authorities(file, roots, problems));
    table.finish(problems);
    Some((name?, ca?))
}

/// The PEM text of a file that the bundle brings along.
fn authorities(file: At<'_, &str>, roots: &Roots<'_>, problems: &mut Problems) -> Option<String> {
    if !is_certificate(file.value) {
        problems.add(file.at, "ca is the name of a file beside this one, NAME.crt, without a folder");
        return None;
    }
    let Some(text) = roots.certificate(file.value) else {
        let guess = meant(file.value, roots.certificates());
        problems.add(file.at, format!("there is no file {} beside the bundle{guess}", file.value));
        return None;
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let whole = certificates.is_ok_and(|list| !list.is_empty());
    if text.len() > MAX_CA_BYTES || !whole || text.contains("PRIVATE KEY") {
        problems.add(
            file.at,
            format!("{} must hold certificates as PEM, at most {MAX_CA_BYTES} bytes, and no private key", file.value),
        );
        return None;
    }
    Some(text.to_owned())
}

/// Reads what a role gives on a database.
pub(super) fn role(table: &mut Table<'_>, problems: &mut Problems) -> Option<DatabaseRole> {
    let mut member_of = BTreeSet::new();
    let texts = table.needed_texts("member_of", problems).unwrap_or_default();
    if texts.len() > MAX_MEMBER_OF {
        problems.add(table.at, format!("member_of has at most {MAX_MEMBER_OF} roles"));
    }
    for text in texts {
        if let Some(name) = problems.take(text.at, DatabaseRoleName::new(text.value)) {
            once(&mut member_of, &name, text.at, "role", problems);
        }
    }
    let read_only = table.switch("read_only", true, false, problems).unwrap_or(false);
    let at = table.at;
    let statement_timeout_ms = table.span("statement_timeout", problems).and_then(|s| {
        let ms = u32::try_from(s * 1000).ok().filter(|ms| *ms > 0 && s <= MAX_TIMEOUT_S);
        if ms.is_none() {
            problems.add(at, "statement_timeout is from 1s to 1d");
        }
        ms
    });
    let limit = table.number("connection_limit", 1..=1000, problems).and_then(|n| u16::try_from(n).ok());
    (!member_of.is_empty()).then(|| DatabaseRole {
        member_of,
        read_only,
        statement_timeout_ms,
        connection_limit: limit.unwrap_or(CONNECTION_LIMIT),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::domain::bundle::{Bundle, BundleText};
    use crate::domain::target::{HostIdentity, TargetKind};

    const TARGET: &str = r#"
[[target]]
name = "db-prod"
kind = "postgres"
address = "DB-prod.corp:5432"
database = "app"
labels = { env = "prod" }
mode = "direct"
auth = "cert"
admin = "credential:db-prod-admin"
tls = { ca = "db-ca.crt" }
[target.roles.ro]
member_of = ["pg_read_all_data"]
read_only = true
statement_timeout = "60s"
narrower_than = ["rw"]
[target.roles.rw]
member_of = ["app_writer", "App-Reader"]
connection_limit = 3
"#;

    fn read(targets: &str) -> Result<Bundle, String> {
        let key = jit_ca::x509::X509Key::generate().unwrap();
        let spec = jit_ca::x509::CaSpec { name: "db".into(), serial: [1; 16], not_before: 1, not_after: 9_999_999 };
        let pem = jit_ca::x509::make_ca(&key, &spec).unwrap().pem().to_owned();
        let key = key.to_pkcs8_pem().to_string();
        let files = [
            ("targets.toml", format!("schema = 1\n{targets}")),
            ("db-ca.crt", pem),
            ("key.crt", key),
            ("empty.crt", String::new()),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text)).into();
        Bundle::parse(&BundleText { files }, &[])
            .map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_database_is_read_whole() {
        let bundle = read(TARGET).unwrap();
        let target = &bundle.targets["db-prod"];
        assert_eq!((target.kind, &target.host), (TargetKind::Postgres, &HostIdentity::Tls));
        let database = target.database.as_ref().unwrap();
        assert_eq!((database.name.as_str(), database.tls_name.as_str()), ("app", "db-prod.corp"));
        assert!(database.tls_ca.starts_with("-----BEGIN CERTIFICATE-----"));
        let ro = target.roles["ro"].database.as_ref().unwrap();
        assert_eq!((ro.read_only, ro.statement_timeout_ms, ro.connection_limit), (true, Some(60_000), 20));
        let words = target.roles["rw"].database.as_ref().unwrap().words();
        assert_eq!(words, "member of App-Reader, app_writer; at most 3 sessions");
        let other = read(&TARGET.replace("\"app\"", "\"other\"")).unwrap();
        assert_ne!(other.targets["db-prod"].digest(), target.digest(), "an approval is for one database");
    }

    #[test]
    fn what_is_wrong_with_a_database_is_told_with_its_line() {
        let cases = [
            ("database = \"app\"", "", "[[target]] has no database"),
            ("auth = \"cert\"", "auth = \"certs\"", "auth is cert or password; did you mean cert?"),
            ("credential:db-prod-admin", "hunter2", "a password never stands here"),
            ("tls = { ca = \"db-ca.crt\" }", "", "never trusted on first use"),
            (
                "db-ca.crt",
                "db-cas.crt",
                "targets.toml:12: there is no file db-cas.crt beside the bundle; did you mean db-ca.crt?",
            ),
            ("db-ca.crt", "../db-ca.crt", "without a folder"),
            ("db-ca.crt", "key.crt", "no private key"),
            ("db-ca.crt", "empty.crt", "must hold certificates"),
            ("[\"pg_read_all_data\"]", "[]", "member_of is empty"),
            ("member_of = [\"pg_read_all_data\"]", "", "has no member_of"),
            ("pg_read_all_data", "x\\\"; DROP ROLE y; --", "is not a role of a server"),
            ("\"60s\"", "\"2d\"", "statement_timeout is from 1s to 1d"),
            ("connection_limit = 3", "connection_limit = 0", "connection_limit must be from 1 to 1000"),
            ("connection_limit = 3", "logins = [\"root\"]", "unknown key logins"),
            ("mode = \"direct\"", "", "this build has no postgres gateway yet"),
            ("mode = \"direct\"", "mode = \"direct\"\nhost_ca = \"@broker\"", "unknown key host_ca"),
        ];
        for (old, new, wanted) in cases {
            let told = read(&TARGET.replacen(old, new, 1)).unwrap_err();
            assert!(told.contains(wanted), "{new}: {told}");
        }
    }
}
