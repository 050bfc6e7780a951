//! `tollgate prices`: what models cost, and how lists and configurations differ.

mod diff;
mod difference;
mod show;
mod source;
mod words;

use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print what a model costs.
    ///
    /// MODEL is `provider/model` as deployments name them (`openai/gpt-4o`, `azure/gpt-4o`), or a key of the price list.
    /// Where nothing has that name, models whose names contain it are listed.
    ///
    /// Rates of tokens and characters are in USD for a million, others for one. A rate with conditions holds where all of
    /// them do; of several the one for the tier that served the call comes first, then the one for the larger input.
    ///
    /// Exits with 0, with 1 when there is no such model, with 2 when a file cannot be read.
    Show(show::Arguments),

    /// Show how prices differ: of the built-in list and FILE, of the built-in list and what a configuration makes of it, or
    /// of what a configuration makes of either list.
    ///
    /// With FILE alone, all models of the built-in list are compared with those of FILE. FILE is in the form of the
    /// built-in list (see `tollgate prices show --output lines`) or LiteLLM's `model_prices_and_context_window.json`;
    /// which one is told by its content. Price fields that Tollgate does not know are named on stderr.
    ///
    /// With --config alone, each deployment's price (with `LLMGateway.spec.prices` and its own `pricing`) is compared with
    /// the one that the built-in list has for its model.
    ///
    /// With both, each deployment's price now is compared with what it would be if FILE were the built-in list: what a
    /// newer list would change for the models that are used.
    ///
    /// Rates of tokens and characters are in USD for a million, others for one.
    ///
    /// Exits as `diff` does: with 0 when nothing differs, with 1 when something does, with 2 on trouble.
    ///
    /// Examples:
    ///
    ///   tollgate prices diff model_prices_and_context_window.json
    ///
    ///   tollgate prices diff model_prices_and_context_window.json --config /etc/tollgate
    ///
    ///   tollgate prices diff --config /etc/tollgate --output json
    Diff(diff::Arguments),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// # Errors
/// A file cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Command::Show(arguments) => show::run(arguments),
        Command::Diff(arguments) => diff::run(arguments),
    }
}
