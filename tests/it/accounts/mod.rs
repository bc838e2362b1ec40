//! Temporary accounts on a real PostgreSQL, with exactly the files of `config/target-db`.

mod check;
mod db;
mod end;
mod faults;
mod hostile;
mod make;
