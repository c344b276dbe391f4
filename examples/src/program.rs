//! A service as a program of its own.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use net::{LogFormat, LogLevel, exit_code, init_log};
use node_sdk::NodeBuilder;

use crate::database::Database;

/// A service, and where it keeps its data.
#[derive(Debug, Parser)]
#[command(version)]
struct ServiceArgs {
    /// The database; instances of one service may share it. A temporary file unless given.
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

/// A service without data.
#[derive(Debug, Parser)]
#[command(version)]
struct NodeArgs {
    /// Address to listen on; port 0 takes any that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: String,
    /// Where the Distributor is.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    distributor: String,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// off, error, warn, info, debug, trace, or levels per module.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
}

/// Runs a service of the shop until a signal: opens its database, listens, registers.
pub fn run(tables: &str, node: impl FnOnce(Database) -> NodeBuilder) -> ExitCode {
    let args = ServiceArgs::parse();
    let _log = init_log(args.node.log_format, &args.node.log_level);
    to_exit_code(serve_with_database(args, tables, node))
}

/// Runs a service without data until a signal: listens, registers.
pub fn run_node(node: NodeBuilder) -> ExitCode {
    let args = NodeArgs::parse();
    let _log = init_log(args.log_format, &args.log_level);
    to_exit_code(serve(args, node))
}

fn to_exit_code(ended: Result<(), Box<dyn Error>>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_code(&*error),
    }
}

fn serve_with_database(
    args: ServiceArgs,
    tables: &str,
    node: impl FnOnce(Database) -> NodeBuilder,
) -> Result<(), Box<dyn Error>> {
    // Lives, and is there, until the end of this function.
    let folder = tempfile::tempdir()?;
    let file = args.database.unwrap_or_else(|| folder.path().join("service.db"));
    let database = Database::open(&file, tables)?;
    serve(args.node, node(database))
}

fn serve(args: NodeArgs, node: NodeBuilder) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(node.listen(args.listen).distributor(args.distributor).serve())?;
    Ok(())
}
