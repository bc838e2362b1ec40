//! Real client programs with what the built binary prints for them, against a broker that is served and a real PostgreSQL.

mod desk;
mod left;
mod matrix;
mod password;
mod programs;
mod rust;
