//! `tollgate`: one binary. `serve` runs a gateway from files; the other commands look at the same files, or print what
//! Tollgate brings along. The only place that joins the halves of the workspace.

mod alerts;
mod background;
mod check;
mod cluster;
mod config;
mod cores;
mod crds;
mod dataplane;
mod explain;
mod feed;
mod import;
mod listening;
mod logs;
mod memory;
mod mock;
mod operator;
mod prices;
mod process;
mod ready;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

// Steady memory under churn. Without huge pages (a feature of the crate): with them an idle gateway holds twice the
// memory, most of it never written.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tollgate: an LLM gateway with virtual keys and budgets that hold.
///
/// One endpoint that speaks OpenAI, Azure OpenAI and Anthropic to clients, and to the providers behind it. Configured by
/// the same resources in a folder as in a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// What is logged to stderr: error, warn, info, debug, trace, or a filter such as `info,tollgate_dataplane=debug`.
    #[arg(long, global = true, env = "TOLLGATE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,

    /// How logs are written. Default: text on a terminal, JSON elsewhere.
    #[arg(long, global = true, env = "TOLLGATE_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<logs::Format>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway from a folder or file of resources, or from a LiteLLM config.yaml.
    ///
    /// Without --config it serves the built-in mock provider, offline, and prints a curl line that works. Files are
    /// watched: a change is live within half a second; an object whose new text is wrong keeps its last good state.
    /// Ctrl-C or SIGTERM stops taking connections and lets streams finish.
    Serve(serve::Arguments),

    /// Run the proxy of a gateway in a cluster, as the operator's Deployment does.
    ///
    /// It takes its tables from ConfigMaps and Secrets through the Kubernetes API, swaps them whole when they change, and
    /// goes on with the last good ones while the API is away.
    Dataplane(dataplane::Arguments),

    /// Run the operator of a Kubernetes cluster.
    ///
    /// It watches the resources, writes the tables that proxies run, keeps what runs for each LLMGateway, and says in every
    /// object's status what became of it. Several may run; one of them writes. Ctrl-C or SIGTERM lets another go on.
    Operator(operator::Arguments),

    /// Say everything that is wrong or worth knowing in a configuration: of files, of a cluster, or of files as if they
    /// were applied to a cluster.
    ///
    /// One line for each finding: file:line:column, severity, object, field, what it is and what to do. Exits with 1
    /// when there is an error, with 0 for warnings only. Environment variables that Secrets in files name must be set.
    ///
    /// With --cluster it reads the resources of a cluster and the Secrets that they name, compiles them as the operator
    /// does, and adds what only the cluster knows: conditions, and permissions that the operator or the proxies lack.
    /// It changes nothing. With PATH and --cluster, the files count as applied.
    Check(check::Arguments),

    /// Turn a LiteLLM config.yaml into Tollgate resources, as YAML on stdout.
    ///
    /// Whatever has no equivalent yet is reported on stderr, one line each; nothing is dropped silently. Secrets keep
    /// naming their environment variables (`${OPENAI_API_KEY}`).
    Import(import::Arguments),

    /// Say which deployments a request for a model would be sent to, in which order, and why not to the others.
    Explain(explain::Arguments),

    /// Look at what models cost, and at how price lists and configurations differ.
    Prices(prices::Arguments),

    /// Print the CustomResourceDefinitions as YAML.
    Crds(crds::Arguments),

    /// Serve the scripted mock provider alone: OpenAI, Azure OpenAI and Anthropic paths, offline.
    ///
    /// It keeps an invoice of what it would have billed: GET /_mock/invoice. Scripts (errors, delays, cut streams) are
    /// set with POST /_mock/script.
    Mock(mock::Arguments),

    /// Ask a URL and exit with 0 when it answers well, else with 1: a health check for containers.
    ///
    /// The key in the variable TOLLGATE_KEY is shown, where there is one.
    Ready(ready::Arguments),
}

fn main() -> ExitCode {
    let Arguments { command, log, log_format } = Arguments::parse();
    if let Err(error) = logs::init(&log, log_format) {
        eprintln!("tollgate: {error:#}");
        return ExitCode::from(2);
    }
    let result = match command {
        Command::Serve(arguments) => serve::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Dataplane(arguments) => dataplane::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Operator(arguments) => operator::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Check(arguments) => check::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Prices(arguments) => prices::run(&arguments),
        Command::Crds(arguments) => crds::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Mock(arguments) => mock::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Ready(arguments) => ready::run(&arguments),
    };
    match result {
        Ok(code) => code,
        // A reader that has enough (`| head`) is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn flags_of_every_command_fit_together() {
        super::Arguments::command().debug_assert();
    }
}
