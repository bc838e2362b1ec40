//! What makes the command line comfortable, in real shells, terminals and agents.

mod agent;
mod apply;
mod asking;
mod doctor;
mod extend;
mod host;
mod review;
mod shells;
mod watch;
mod wrong;
