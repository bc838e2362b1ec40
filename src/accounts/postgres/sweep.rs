//! Comparing: what on a server carries our mark, and what only looks like it.

use super::Postgres;
use crate::accounts::ending::Found;
use crate::accounts::error::{AccountError, one_line};
use crate::accounts::marker::Marker;
use crate::domain::names::AccountName;

impl Postgres {
    /// Reads every role whose name or comment looks like ours, and tells ours from strangers. Changes nothing.
    ///
    /// # Errors
    /// What hinders the server.
    pub async fn sweep(&self) -> Result<Vec<Found>, AccountError> {
        let rows = self
            .ask(
                "SELECT r.rolname, r.rolcanlogin, d.description FROM pg_roles r LEFT JOIN pg_shdescription d \
                 ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass \
                 WHERE r.rolname LIKE '%\\_jit' OR r.rolname LIKE '%\\_jit\\_kept' OR d.description LIKE 'jit-broker v%' \
                 ORDER BY r.rolname",
            )
            .await?;
        Ok(rows.iter().map(|row| self.tell(row.text(0), row.yes(1), row.text(2))).collect())
    }

    fn tell(&self, role: &str, can_login: bool, comment: &str) -> Found {
        let marker = Marker::read(&self.key, role, comment).filter(|marker| marker.install == self.install);
        match (marker, role.parse::<AccountName>()) {
            (Some(marker), Ok(name)) => Found::Ours { name, marker, can_login },
            (Some(marker), Err(_)) => Found::Kept { role: role.to_owned(), marker },
            (None, _) => {
                let why = match (Marker::claimed(comment), AccountName::resembles(role)) {
                    (true, _) => "its marker is another installation's, or forged",
                    (false, true) => "it has no marker",
                    (false, false) => "it has no marker, and a name that keeps data",
                };
                Found::Stranger { role: one_line(role), why }
            }
        }
    }
}
