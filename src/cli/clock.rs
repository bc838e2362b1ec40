//! The operator's word that the broker's clock is right (decisions.md 20).

use std::process::ExitCode;

use clap::Subcommand;

use super::ask::me;
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, output, prompt};
use crate::domain::act::Deed;
use crate::domain::refusal::Code;

/// `jit-broker clock …`
#[derive(Debug, Subcommand)]
pub enum ClockVerb {
    /// Says that the broker's wall clock is right again, so that it grants; operators
    Confirm {
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

impl ClockVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let Self::Confirm { yes } = self;
        let mut client = Client::remembered(&Home::find()?)?;
        let now = output::instant(crate::clock::wall_s());
        let question = format!("This machine's clock says {now}. Is the broker's clock right?");
        if !yes && !prompt::confirm(&question, "--yes")? {
            return Err(Failure::new(Code::CANCELLED, "Nothing was changed."));
        }
        let deed = Deed::ConfirmClock { by: me(&client)? };
        client.act(deed, None, None).await?;
        output::done(globals.output, "clock.confirmed", "The broker grants by its wall clock again.")?;
        Ok(ExitCode::SUCCESS)
    }
}
