//! One admin connection: its settings, its limits, its notices.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::{AsyncMessage, SimpleQueryMessage};

use super::server::{Secret, Server};
use super::sql::Row;
use super::tls::{self, Handshake};
use crate::accounts::error::{AccountError, one_line};

/// From the first packet to a session that takes statements.
pub(super) const CONNECT_S: u64 = 5;
/// For one round trip.
pub(super) const STATEMENT_S: u64 = 10;
/// The most notices that are kept of one round trip.
const MAX_NOTICES: usize = 100;

/// What every session of ours has, whatever the server, the database or the role says.
///
/// SECURITY: with `search_path` at the catalogue no function or operator of another can be found by our statements.
/// `client_min_messages` shows NOTICE 42622 and what a CASCADE took.
const OPTIONS: &str = "-c search_path=pg_catalog,pg_temp -c standard_conforming_strings=on -c client_min_messages=notice \
    -c statement_timeout=10s -c lock_timeout=2s -c idle_in_transaction_session_timeout=15s \
    -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed -c bytea_output=hex";

/// Who a session is.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) secret: &'a Secret,
    pub(super) database: &'a str,
    /// Whether [`OPTIONS`] apply; a probe logs in as a person's program would.
    pub(super) admin: bool,
}

/// What a statement said beside its rows: SQLSTATE, message and detail.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    pub(super) sqlstate: String,
    pub(super) text: String,
}

/// An open session.
pub(super) struct Link {
    client: tokio_postgres::Client,
    notices: Arc<Mutex<Vec<Notice>>>,
    task: tokio::task::JoinHandle<()>,
    /// Whether it was used before; such a session may have died unseen.
    pub(super) used: bool,
    broken: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        // A session that hangs must not keep its socket; a healthy one says goodbye when the client goes.
        if self.broken {
            self.task.abort();
        }
    }
}

/// Whom a server would take a client certificate of: subjects, DER; nothing when it asks for none. The login comes to nothing.
pub(super) async fn asks_for(server: &Server, user: &str) -> Result<Option<Vec<Vec<u8>>>, AccountError> {
    let asked = Arc::new(tls::Asked::default());
    let config = tls::asking(&server.ca_pem, asked.clone())?;
    let name = ServerName::try_from(server.tls_name.clone()).map_err(|_| AccountError::Tls("no name".to_owned()))?;
    let stream = reach(server).await?;
    let mut login = tokio_postgres::Config::new();
    login.user(user).dbname(&server.database).application_name("jit-broker").ssl_mode(SslMode::Require);
    let refused = timeout(Duration::from_secs(CONNECT_S), login.connect_raw(stream, Handshake { config, name })).await;
    drop(refused);
    Ok(asked.subjects())
}

/// Opens the socket alone.
pub(super) async fn reach(server: &Server) -> Result<TcpStream, AccountError> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    let stream = stream.map_err(|e| AccountError::Unreachable(one_line(&e.to_string())))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

impl Link {
    /// Opens a session within 5 s.
    pub(super) async fn open(server: &Server, login: Login<'_>) -> Result<Self, AccountError> {
        let late = AccountError::Timeout { what: "a connection", limit_s: CONNECT_S };
        timeout(Duration::from_secs(CONNECT_S), Self::start(server, login)).await.unwrap_or(Err(late))
    }

    async fn start(server: &Server, login: Login<'_>) -> Result<Self, AccountError> {
        let mut config = tokio_postgres::Config::new();
        config.user(login.user).dbname(login.database).application_name("jit-broker").ssl_mode(SslMode::Require);
        if login.admin {
            config.options(OPTIONS);
        }
        let client_cert = match login.secret {
            Secret::Password(password) => {
                config.password(password.as_str()).channel_binding(ChannelBinding::Prefer);
                None
            }
            Secret::Certificate { cert_pem, key_pem } => Some((cert_pem.as_str(), key_pem.as_str())),
        };
        let name = ServerName::try_from(server.tls_name.clone())
            .map_err(|_| AccountError::Tls("the target's TLS name is not a name".to_owned()))?;
        let shake = Handshake { config: tls::config(&server.ca_pem, client_cert)?, name };
        let stream = reach(server).await?;
        let (client, mut connection) = config.connect_raw(stream, shake).await.map_err(|e| AccountError::of(&e))?;
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = notices.clone();
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let detail = notice.detail().map(|d| format!("; {d}")).unwrap_or_default();
                    let text = format!("{}{detail}", notice.message());
                    let mut list = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    if list.len() < MAX_NOTICES {
                        list.push(Notice { sqlstate: notice.code().code().to_owned(), text });
                    }
                }
            }
        });
        Ok(Self { client, notices, task, used: false, broken: false })
    }

    /// Whether it can be used again.
    pub(super) fn healthy(&self) -> bool {
        !self.broken && !self.client.is_closed()
    }

    /// Sends statements as one round trip; gives the rows of all of them.
    pub(super) async fn run(&mut self, sql: &str) -> Result<Vec<Row>, AccountError> {
        self.raw(sql).await.map_err(|error| error.0)
    }

    /// As [`Link::run`], with the server's detail of a refusal, which names objects.
    pub(super) async fn raw(&mut self, sql: &str) -> Result<Vec<Row>, (AccountError, String)> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Until the answer is there the session is in an unknown state, also when this future is dropped.
        let was_broken = std::mem::replace(&mut self.broken, true);
        let answer = timeout(Duration::from_secs(STATEMENT_S), self.client.simple_query(sql)).await;
        match answer {
            Err(_) => Err((AccountError::Timeout { what: "a statement", limit_s: STATEMENT_S }, String::new())),
            Ok(Err(error)) => {
                self.broken = was_broken || error.as_db_error().is_none() || self.client.is_closed();
                let detail = error.as_db_error().and_then(|db| db.detail()).map(one_line).unwrap_or_default();
                Err((AccountError::of(&error), detail))
            }
            Ok(Ok(messages)) => {
                self.broken = was_broken;
                Ok(messages.into_iter().filter_map(row).collect())
            }
        }
    }

    /// Sends statements as one transaction in one round trip; rolled back when one is refused.
    pub(super) async fn transact(&mut self, sql: &str, after: &str) -> Result<Vec<Row>, (AccountError, String)> {
        match self.raw(&format!("BEGIN; {sql}; COMMIT; {after}")).await {
            Ok(rows) => Ok(rows),
            Err(error) => {
                if self.healthy() && self.run("ROLLBACK").await.is_err() {
                    self.broken = true;
                }
                Err(error)
            }
        }
    }

    /// What the last round trip said beside its rows.
    pub(super) fn notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn row(message: SimpleQueryMessage) -> Option<Row> {
    match message {
        SimpleQueryMessage::Row(row) => {
            Some(Row((0..row.len()).map(|at| row.try_get(at).ok().flatten().map(str::to_owned)).collect()))
        }
        _ => None,
    }
}
